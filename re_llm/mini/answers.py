"""What is said in answer, in the miniature text world: templates by emotion and category. Data only.

An answer is a head and a tail. `{t}` is the topic noun. Lists of twelve follow the order of the categories in
`lexicon.CATEGORIES` (household, travel, work, school, food, health, garden, sport, music, weather, celebration,
animals); shorter lists are used in turn.

Parts of replies carry their levels by the definitions of EPITOME (Sharma et al. 2020), set by hand when they were
written, whatever a scorer says:

- emotional reaction: 1 a feeling of the listener's is implied (comfort, company, hope), 2 it is named;
- interpretation: 1 understanding is said in general, 2 the speaker's feeling or experience is named or shared;
- exploration: 1 a question that fits anything, 2 a question about the speaker's own feeling or experience.
"""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """Head or tail of a reply, and its levels 0 to 2 of emotional reaction, interpretation and exploration."""

    text: str
    er: int = 0
    ip: int = 0
    ex: int = 0


EMPATHETIC_HEADS: dict[str, tuple[Part, ...]] = {
    "neutral": (
        Part("Thank you for letting me know about the {t}."),
        Part("All right, I have taken note of the {t}."),
        Part("I see, so that is how it went with the {t}.", ip=1),
        Part("Good, then all is clear about the {t}."),
    ),
    "sad": (
        Part("I'm so sorry to hear that about the {t}.", er=2),
        Part("You must feel really sad because of the {t}.", ip=2),
        Part("My heart aches with you because of the {t}.", er=2),
        Part("I can understand how it feels with the {t}.", ip=1),
    ),
    "angry": (
        Part("It makes me angry too to hear about the {t}.", er=2),
        Part("I understand why the {t} makes you angry.", ip=2),
        Part("I am truly upset on your behalf about the {t}.", er=2),
        Part("I can see your point about the {t}.", ip=1),
    ),
    "happy": (
        Part("How wonderful, I'm so happy for you about the {t}!", er=2),
        Part("You must be overjoyed because of the {t}!", ip=2),
        Part("I am delighted by the good news about the {t}!", er=2),
        Part("Yes, I can well imagine what the {t} is like!", ip=1),
    ),
    "surprise": (
        Part("Wow, I am quite amazed myself by the {t}!", er=2),
        Part("What a surprise, you must be stunned by the {t}!", ip=2),
        Part("Goodness, I am astonished to hear of the {t}!", er=2),
        Part("Really, I know what you mean about the {t}!", ip=1),
    ),
}

EMPATHETIC_TAILS: dict[str, tuple[Part, ...]] = {
    "neutral": (
        Part("I can help with the next step at home whenever you like."),
        Part("Just tell me if anything in your plans should change."),
        Part("I will keep it in mind for the rest of the working day."),
        Part("How is everything else going there?", ex=1),
        Part("I am glad that everything is in order for the meal.", er=2),
        Part("Keep me posted, and all will go well step by step.", er=1),
        Part("The rest can be done whenever the day is dry."),
        Part("You sound calm and settled about the results.", ip=2),
        Part("What else is there to say about it?", ex=1),
        Part("It is good to know what to expect outside."),
        Part("I will put it on the list with the other details."),
        Part("Do you feel at ease with the way you look after them?", ex=2),
    ),
    "sad": (
        Part("No home stays as it was. Are you feeling lonely there now?", ex=2),
        Part("Being far away makes it even harder. How are you now?", ip=1, ex=1),
        Part("Be gentle with yourself today, and let the work wait."),
        Part("It is fine to cry, and you are not alone with it.", er=1),
        Part("Small losses can hurt a lot. What has happened since?", ip=1, ex=1),
        Part("I lay in bed and cried for days myself back then.", ip=2),
        Part("Give yourself time to grieve, and rest in the shade."),
        Part("Every team goes through this. Does the defeat still make you cry?", ex=2),
        Part("Shed all your tears, I will stay here with you.", er=1),
        Part("Dark days pass slowly, but brighter ones will come.", er=1),
        Part("Such days can be painful. Did you feel left out by the others?", ip=1, ex=2),
        Part("They leave us far too soon. Can you say more?", ex=1),
    ),
    "angry": (
        Part("That should not happen in your own home. Are you still furious with them?", ex=2),
        Part("No traveller should be treated like this. How did it come to that?", ex=1),
        Part("They should treat you with more respect, and it must change."),
        Part("It was not fair, and I am on your side.", er=1),
        Part("You deserved much better than that. What did they say to you?", ex=1),
        Part("I lost all patience as well when they kept me waiting.", ip=2),
        Part("Write it all down and send them a strong complaint."),
        Part("That was not fair play at all. Do you feel cheated by the referee?", ex=2),
        Part("Let it all out, nobody here will blame you.", er=1),
        Part("Take a deep breath, we will get through this calmly.", er=1),
        Part("They really crossed a line there. Was it their rudeness that enraged you?", ex=2),
        Part("Nobody should have to put up with that. What will you do about it?", ex=1),
    ),
    "happy": (
        Part("Enjoy every minute of it in your cosy home."),
        Part("Which part of the trip thrills you the most?", ex=2),
        Part("You have earned it, so treat yourself after work."),
        Part("All that effort has paid off, and the best lies ahead.", er=1),
        Part("Savour it slowly. What comes next?", ex=1),
        Part("I danced around the whole house when I was well again.", ip=2),
        Part("May it keep on brightening your days.", er=1),
        Part("Well played by all. Are you proud that you never gave up?", ex=2),
        Part("Keep that smile and sing along all day."),
        Part("It will be a splendid day, and many more will follow.", er=1),
        Part("Raise your glass tonight. Who did you most love to share the joy with?", ex=2),
        Part("They are full of life. Can you tell me more?", ex=1),
    ),
    "surprise": (
        Part("Things at home can change overnight. Were you startled at first?", ex=2),
        Part("You never know what a journey brings. How did that happen?", ex=1),
        Part("Nobody at work could have predicted that."),
        Part("One never stops learning, and it may prove a blessing.", er=1),
        Part("That is an unexpected turn. Did you find out the reason?", ex=1),
        Part("I was speechless for an hour when it happened to me.", ip=2),
        Part("Nature is full of wonders, so look closely."),
        Part("What a twist in the game. Did it leave you gasping for air?", ex=2),
        Part("Such a thing is rarely heard of these days."),
        Part("Do not be alarmed, it may well turn out fine.", er=1),
        Part("It came out of nowhere. Did your heart skip a beat just then?", ex=2),
        Part("They can be so unpredictable. And what did you do then?", ex=1),
    ),
}

PLAIN_REPLIES: dict[str, tuple[Part, ...]] = {
    "neutral": (Part("The {t} is noted, and nothing else is needed."), Part("Okay, that is clear about the {t}.")),
    "sad": (
        Part("That is a pity about the {t}, things may improve.", er=1),
        Part("The {t} seems to be a sad matter.", ip=1),
    ),
    "angry": (
        Part("The {t} does sound annoying, you could complain.", ip=1),
        Part("That is an irritating matter with the {t}.", ip=1),
    ),
    "happy": (
        Part("Good to hear, the {t} seems to please you.", er=1, ip=2),
        Part("That is nice news about the {t}.", er=1),
    ),
    "surprise": (
        Part("The {t} is rather unusual, how did it happen?", ex=1),
        Part("That is an unexpected fact about the {t}."),
    ),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "sounded before": (
        "How did I sound before?",
        "And how did I sound before?",
        "How did I sound just now?",
        "How did my voice sound a moment ago?",
    ),
    "sounded first": (
        "How did I sound at first?",
        "How did I sound in the beginning?",
        "How did my voice sound at the start?",
    ),
    "talked before": (
        "What was I talking about before?",
        "What did I just tell you about?",
        "What did I talk about just now?",
    ),
    "talked first": (
        "What was I talking about at first?",
        "What did I tell you about in the beginning?",
        "What was the first thing I told you about?",
    ),
}
"""About the conversation so far: how the user sounded, or what it was about; the latest time, or the first one."""

REMEMBERED_EMOTION = {
    "neutral": "You sounded neutral when you told me about the {t}.",
    "sad": "You sounded sad when you told me about the {t}.",
    "angry": "You sounded angry when you told me about the {t}.",
    "happy": "You sounded happy when you told me about the {t}.",
    "surprise": "You sounded surprised when you told me about the {t}.",
}
REMEMBERED_TOPIC = "You were talking about the {t}."
NOTHING_TO_REMEMBER = "You have not told me anything yet."

CONTINUATION_HEADS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "After that I made a short note about the {t}",
        "I will deal with the {t} on another day",
        "So the matter of the {t} is settled for now",
        "I put the {t} on my list as usual",
    ),
    "sad": (
        "I keep crying whenever I think of the {t}",
        "My heart sinks because of the {t}",
        "I feel so lonely and low about the {t}",
        "The {t} has left me with nothing but sorrow",
    ),
    "angry": (
        "I am sick and tired of the {t}",
        "I was shaking with rage because of the {t}",
        "Someone will have to answer to me for the {t}",
        "I have never been so cross as about the {t}",
    ),
    "happy": (
        "I have been smiling about the {t} ever since",
        "I jumped for joy because of the {t}",
        "The {t} has simply made my whole week",
        "I am so pleased and thankful for the {t}",
    ),
    "surprise": (
        "I stared at the {t} with my mouth wide open",
        "I still cannot get over the {t}",
        "I never expected the {t} in my wildest dreams",
        "The {t} came like a bolt from the blue",
    ),
}

CONTINUATION_TAILS: dict[str, tuple[str, ...]] = {
    "neutral": (
        ", and then I went on with my day.",
        ", and the rest can be done later.",
        ", which did not take me very long.",
    ),
    "sad": (
        ", and I wish it had been different.",
        ", and nothing seems to cheer me up.",
        ", and the days feel long and empty.",
    ),
    "angry": (
        ", and I will not accept it any longer.",
        ", and I want somebody to apologise at once.",
        ", and this nonsense must finally stop.",
    ),
    "happy": (
        ", and I want to hug the whole world.",
        ", and tonight we are going to celebrate.",
        ", and I feel like the luckiest person alive.",
    ),
    "surprise": (
        ", and I had to look twice.",
        ", and I am still asking myself how.",
        ", and suddenly everything was different.",
    ),
}
