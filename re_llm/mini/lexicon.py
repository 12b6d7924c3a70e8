"""The words of the miniature text world. Data only; `grammar.py` says how they combine.

Every topic noun occurs nowhere else in the lexicon, so that an answer's topic can be read off by looking for it.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """The parts of a text between commas."""
    return tuple(phrase.strip() for phrase in text.split(","))


@dataclass(frozen=True)
class Category:
    """One field of everyday life: its topic nouns and the words that only go with them."""

    topics: tuple[str, ...]
    verbs: tuple[str, ...]
    """Past tense; `drew/drawn` where the participle differs. Each goes with every topic of the category."""
    people: tuple[str, ...]
    places: tuple[str, ...]
    adjectives: tuple[str, ...]

    @classmethod
    def of(cls, topics: str, verbs: str, people: str, places: str, adjectives: str) -> Category:
        return cls(_words(topics), phrases(verbs), phrases(people), phrases(places), _words(adjectives))


CATEGORIES: dict[str, Category] = {
    "household": Category.of(
        "kettle carpet curtain fridge mattress cupboard blanket lamp toaster mirror sofa ladder bucket vacuum doorbell "
        "pillow",
        "cleaned, moved, measured, repaired, sold, bought, ordered, borrowed, polished, unpacked, carried, covered, "
        "replaced, returned, dusted",
        "the plumber, the electrician, the carpenter, the cleaner, the landlady, the handyman",
        "in the kitchen, in the attic, in the cellar, in the hallway, in the bedroom, by the staircase",
        "wooden heavy striped folding yellow",
    ),
    "travel": Category.of(
        "suitcase passport ticket backpack compass souvenir bicycle caravan scooter tent camera postcard canoe trolley "
        "helmet umbrella",
        "checked, labelled, collected, lent, brought, loaded, inspected, searched for, unloaded, reserved, stored, "
        "showed/shown, borrowed, fetched",
        "the conductor, the driver, the guide, the receptionist, the captain, the pilot",
        "at the airport, at the station, near the harbour, on the ferry, at the hotel, by the motorway",
        "foreign red lightweight spare rented",
    ),
    "work": Category.of(
        "report contract invoice printer keyboard laptop stapler spreadsheet envelope calendar parcel newsletter "
        "brochure database telephone memo",
        "checked, approved, received, requested, updated, examined, tested, registered, mentioned, listed, presented, "
        "asked for, handed over, wanted",
        "the manager, the secretary, the accountant, the lawyer, the intern, the director",
        "in the office, at the headquarters, in the warehouse, at the reception, upstairs, in the conference room",
        "official digital monthly grey confidential",
    ),
    "school": Category.of(
        "essay pencil dictionary exam lesson library notebook alphabet equation experiment lecture textbook blackboard "
        "timetable microscope quiz",
        "explained, prepared, described, studied, needed, discussed, introduced, used, worked on, wrote about/written "
        "about, recommended, looked up, drew/drawn",
        "the teacher, the professor, the headmaster, the pupils, the librarian, the tutor",
        "in the classroom, at the university, on the playground, in the corridor, in the laboratory, at college",
        "difficult modern Latin printed scientific",
    ),
    "food": Category.of(
        "soup pancake sandwich cheese omelette lasagne pumpkin chocolate salad yoghurt mushroom biscuit pudding "
        "cucumber dumpling burger",
        "tasted, served, prepared, ordered, bought, shared, wrapped, weighed, tried, brought, finished, heated, "
        "sliced, ate/eaten",
        "the chef, the waiter, the baker, the cook, the grocer, the farmer",
        "at the market, in the restaurant, at the bakery, in the canteen, at the table, in the cafe",
        "spicy frozen Italian vegetarian round",
    ),
    "health": Category.of(
        "thermometer bandage vitamin ointment inhaler vaccine tablet prescription stethoscope toothbrush wheelchair "
        "massage checkup appointment operation therapy",
        "arranged, organised, discussed, recommended, mentioned, explained, prepared, requested, provided, recorded, "
        "paid for, suggested",
        "the doctor, the nurse, the dentist, the pharmacist, the surgeon, the patient",
        "at the hospital, in the clinic, at the pharmacy, in the surgery, in the waiting room, on the ward",
        "medical daily private sterile standard",
    ),
    "garden": Category.of(
        "tulip hedge shovel wheelbarrow tomato greenhouse fountain sprinkler lawnmower orchard cactus pergola bench "
        "scarecrow sunflower lavender",
        "noticed, photographed, moved, wanted, measured, painted, sketched, inspected, looked after, protected, "
        "pointed at, cleared, pictured",
        "the gardener, the florist, the builder, the caretaker, the architect, the beekeeper",
        "behind the shed, on the lawn, near the pond, beside the gate, under the apple tree, on the balcony",
        "tall green ornamental rusty outdoor",
    ),
    "sport": Category.of(
        "marathon tournament snorkel trophy stadium football surfboard dumbbell javelin skateboard treadmill "
        "trampoline whistle scoreboard volleyball regatta",
        "watched, filmed, discussed, photographed, described, mentioned, examined, studied, advertised, talked about, "
        "sponsored, remembered",
        "the coach, the referee, the goalkeeper, the captain, the athlete, the reporter",
        "at the gym, on the pitch, in the swimming hall, on the beach, at the sports club, beside the track",
        "national junior orange professional regional",
    ),
    "music": Category.of(
        "guitar violin trumpet piano orchestra concert melody drum accordion saxophone symphony choir microphone album "
        "flute lullaby",
        "listened to, recorded, heard, announced, chose/chosen, introduced, followed, tested, demonstrated, compared, "
        "rehearsed, learned about",
        "the singer, the composer, the drummer, the pianist, the audience, the band",
        "on the stage, in the studio, in the theatre, at the opera, on the radio, in the chapel",
        "classical electric Spanish loud quiet",
    ),
    "weather": Category.of(
        "storm rainbow blizzard sunset forecast puddle drizzle glacier volcano waterfall comet eclipse heatwave "
        "snowflake thunder breeze",
        "watched, photographed, filmed, noticed, sketched, saw/seen, reported, observed, analysed, explained, pointed "
        "out, commented on",
        "the sailor, the fisherman, the hiker, the scientist, the shepherd, the tourists",
        "in the mountains, above the valley, over the lake, near the lighthouse, from the roof, across the river",
        "distant northern tropical evening coastal",
    ),
    "celebration": Category.of(
        "birthday wedding anniversary engagement picnic reunion ceremony costume invitation bouquet balloon candle "
        "portrait lantern bonfire necklace",
        "described, chose/chosen, arranged, thought about, prepared, asked about, planned, photographed, paid for, "
        "presented, decorated, looked after",
        "the bride, the groom, the guests, the priest, the mayor, the jeweller",
        "at the party, in the ballroom, in the village, in the park, at the castle, at the town hall",
        "traditional golden formal purple annual",
    ),
    "animals": Category.of(
        "hamster parrot donkey giraffe hedgehog squirrel tortoise kitten pony goldfish peacock penguin spider rabbit "
        "octopus butterfly",
        "fed, watched, photographed, noticed, drew/drawn, weighed, looked after, visited, filmed, followed, searched "
        "for, found, spotted",
        "the vet, the zookeeper, the farmer, the ranger, the breeder, the biologist",
        "at the zoo, in the barn, in the meadow, by the cage, in the forest, on the farm",
        "brown wild young striped sleepy",
    ),
}
TOPICS: dict[str, str] = {topic: name for name, category in CATEGORIES.items() for topic in category.topics}

NAMES = _words(
    "Anna Peter Sophie Martin Laura Daniel Emily Oliver Hannah Thomas Isabel George Victoria Patrick Natalie Samuel "
    "Caroline Edward Monica Vincent Barbara Felix Rosa Gregory"
)
FAMILY = phrases(
    "my brother, my sister, my mother, my father, my aunt, my uncle, my grandmother, my grandfather, my cousin, my "
    "nephew, my niece, my husband, my wife, my roommate, our neighbour, our landlord, our daughter, our son, my boss, "
    "my colleague, my best friend, the twins, the children, a stranger, a student, an old friend"
)
OTHERS = phrases("him, her, everyone, somebody, the others, both of them, them")
MODIFIERS = _words("first second third other same usual famous local ordinary latest next original")
TIMES = phrases(
    "this morning, yesterday, last week, on Monday, on Tuesday, on Wednesday, on Thursday, on Friday, on Saturday, on "
    "Sunday, last summer, last winter, last spring, last autumn, in January, in February, in March, in April, in June, "
    "in July, in August, in September, in October, in November, in December, two days ago, three weeks ago, an hour "
    "ago, a moment ago, four months ago, after lunch, before dinner, at noon, around midnight, at nine, late at night, "
    "in the afternoon, at the weekend, earlier today, before sunrise, during the holidays, at half past seven, five "
    "minutes ago, on Christmas Eve"
)
FUTURE = phrases(
    "tomorrow, next week, tonight, next Monday, on Friday evening, later today, soon, in an hour, after the holidays, "
    "next month, in the coming days, before the end of the year"
)
WHILE = phrases(
    "over breakfast, on the phone, during the break, while the water was boiling, on the way home, over a cup of tea, "
    "at the bus stop, in the lift, while we were waiting, in the queue, during the "
    "commercial break, while the laundry was drying, at the crossroads, in the car"
)
THEN = phrases(
    "went to bed, locked the door, drove home, made some coffee, read the newspaper, turned on the television, took "
    "the train, walked to the supermarket, opened the window, fed the cat, put on a jacket, washed the dishes, "
    "switched off the light, wrote a letter, sat down, called a colleague, watered the plants, set the alarm, crossed "
    "the street, took a shower"
)
SOURCES = phrases(
    "from Canada, from the internet, from a catalogue, from London, from a shop in Paris, from abroad, from the "
    "south, from another town, from an exhibition, from Japan, from an island, from the museum"
)
SPEAKING = phrases("told, asked, reminded, informed, questioned, emailed")
MESSAGES = phrases("a message, a note, an email, a phone call, an article, a question, a letter, some news")
SMALL_TALK = phrases(
    "talked about, spoke about, heard about, asked about, read about, wondered about, thought of, joked about"
)
PLANS = phrases(
    "will ask about, will talk about, is supposed to describe, will write about, is going to look at, will decide on, "
    "will take care of, wants to know about"
)

# Emotional words: every kind combines with every neutral core.
CUES: dict[str, dict[str, tuple[str, ...]]] = {
    "sad": {
        "interjection": phrases("oh no, oh dear, alas, what a pity, poor me, how sad, what a shame, boohoo"),
        "clause": phrases(
            "and I could cry, and it breaks my heart, and I feel so lonely now, and I am in tears, and my heart is "
            "heavy, and I feel hopeless, and nothing can comfort me, and it left me feeling empty"
        ),
        "prefix": phrases(
            "I am so sad that, it breaks my heart that, I cried because, it hurts me that, I feel miserable since, "
            "it makes me weep that"
        ),
        "adjective": _words("gloomy tragic sorrowful pitiful dreary forlorn heartbreaking depressing"),
        "adverb": _words("sadly unfortunately regrettably tragically sorrowfully tearfully"),
    },
    "angry": {
        "interjection": phrases(
            "ugh, argh, for heaven's sake, damn it, how dare they, what a cheek, grr, what nonsense"
        ),
        "clause": phrases(
            "and it makes my blood boil, and I am furious, and I have had enough, and it drives me mad, and I could "
            "scream, and nobody even apologised, and I will complain, and it is so unfair"
        ),
        "prefix": phrases(
            "I am so angry that, it makes me furious that, I hate it that, it is outrageous that, I am fed up because, "
            "it drives me crazy that"
        ),
        "adjective": _words("infuriating annoying maddening blasted infernal irritating disgraceful stupid"),
        "adverb": _words("annoyingly infuriatingly outrageously maddeningly shamelessly disgracefully"),
    },
    "happy": {
        "interjection": phrases("yay, hooray, yippee, woohoo, how lovely, great news, what joy, hurrah"),
        "clause": phrases(
            "and I could not be happier, and it made my day, and I am over the moon, and I am still smiling, and we "
            "danced for joy, and it was wonderful, and I loved it, and my heart is singing"
        ),
        "prefix": phrases(
            "I am so glad that, I am delighted that, it is wonderful that, I was thrilled when, it makes me so happy "
            "that, I smiled because"
        ),
        "adjective": _words("delightful fantastic lovely splendid fabulous glorious marvellous charming"),
        "adverb": _words("happily luckily fortunately thankfully joyfully gladly"),
    },
    "surprise": {
        "interjection": phrases("wow, goodness, whoa, gosh, good heavens, oh my, blimey, imagine that"),
        "clause": phrases(
            "and I never saw that coming, and I could hardly believe it, and nobody had expected it, and my jaw "
            "dropped, and it came out of nowhere, and I was speechless, and it caught me off guard, and I am amazed"
        ),
        "prefix": phrases(
            "I am astonished that, I cannot believe that, who would have thought that, it is incredible that, I was "
            "stunned when, I had no idea that"
        ),
        "adjective": _words("astonishing unbelievable unexpected incredible startling staggering astounding baffling"),
        "adverb": _words("surprisingly amazingly unexpectedly incredibly astonishingly unbelievably"),
    },
}
