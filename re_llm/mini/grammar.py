"""The miniature text world: everyday utterances, and what a kind listener would answer.

Half of the utterances are neutral in words, so that only the voice can tell the emotion; the others carry one
emotional cue (interjection, clause, adjective or adverb) on top of such a neutral core. Answers are functions of
topic, category and emotion alone, and always name the topic: whether a system understood the words and whether it
understood the emotion can then be read off its answer separately.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, product

from re_llm.core.answer_parser import parse_answer
from re_llm.core.emotions import PROMPT_EMOTIONS, canonical
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of
from re_llm.llm.prompts import EMPATHETIC, EMPATHETIC_PAPER, get_prompt
from re_llm.mini import answers
from re_llm.mini import lexicon as lex

DEV_PERCENT, TEST_PERCENT = 3, 8
WORDS = range(6, 17)
"""Allowed length of an utterance in words: about 2.5 to 5 seconds of speech."""
CATEGORY_NAMES = tuple(lex.CATEGORIES)
EMOTIONAL = tuple(e for e in PROMPT_EMOTIONS if e != "neutral")


@dataclass(frozen=True)
class Sentence:
    """One utterance of the world."""

    id: int
    text: str
    """Written form: sentence case, final full stop."""
    topic: str
    """The noun it is about; one of `lexicon.TOPICS`."""
    words_emotion: str
    """What the words alone tell: one of `PROMPT_EMOTIONS`."""
    core: str
    """The text without its emotional words; equal to `text` when the words are neutral."""
    category: str
    split: str
    """"train", "dev" or "test"; all sentences with the same core are in the same split."""


# ── sentences ──

_FRAMES = (
    "{who} {verb} {np} {place} {time}",
    "{who} {verb} {np} {time}",
    "{who} {verb} {np} {place}",
    "{time}, {who} {verb} {np} {place}",
    "{time}, {expert} {verb} {np}",
    "{who} {asked} {other} about {np} {time}",
    "{who} {asked} {other} about {np} {place}",
    "{expert} called about {np} {time}",
    "{expert} showed {other} {np} {place} {time}",
    "{name} heard that {expert} {verb} {np} {time}",
    "{who} said that {expert} {verb} {np} {place}",
    "{np} {place} was {participle} by {expert}",
    "{np} was {participle} by {who2} {time}",
    "{np} {place} came {source}",
    "{who} got {np} {source} {time}",
    "there was {message} from {expert} about {np} {time}",
    "{name} left {message} about {np} {place}",
    "{who} {small} {np} {while}",
    "{who} {verb} {np} and then {then}",
    "{expert} {verb} {np} and {name} {then}",
    "it was {name} who {verb} {np} {place} {time}",
    "this is {np} that {who2} {verb} {time}",
    "as for {np}, {expert} {verb} it {time}",
    "{name} {plan} {np} {future}",
    "{expert} {plan} {np} {place} {future}",
    "{while}, {who} {small} {np}",
    "{name} and {who2} {small} {np} {time}",
    "before {who2} {then}, {who} {verb} {np}",
    "according to {name}, {expert} {verb} {np} {time}",
    "{who} {verb} {np} with {name} {place}",
)
_DETERMINERS = ("the", "the", "the", "the", "our", "this", "that", "a")
# A kind of cue, and where it stands; an adjective fills the place that the template keeps for it.
_CUED = (
    ("interjection", "{cue}, {text}"), ("interjection", "{text}, {cue}"), ("clause", "{text}, {cue}"),
    ("prefix", "{cue} {text}"), ("adjective", "{text}"), ("adverb", "{cue}, {text}"),
)  # fmt: skip


def _noun_phrase(rng: random.Random, topic: str, category: lex.Category) -> str:
    """`the second parcel`; the article `a` becomes `an` when the sentence is put together."""
    kind = rng.random()
    modifier = rng.choice(category.adjectives) if kind < 0.2 else rng.choice(lex.MODIFIERS) if kind < 0.35 else ""
    determiner = rng.choice(_DETERMINERS)
    if modifier in ("same", "other", "next", "latest", "usual", "first", "second", "third") and determiner == "a":
        determiner = "the"
    return " ".join(filter(None, (determiner, "{cue}", modifier, topic)))


def _core_template(rng: random.Random, topic: str) -> str:
    """A neutral sentence without capital and full stop, with `{cue}` before the topic's noun phrase."""
    category = lex.CATEGORIES[lex.TOPICS[topic]]
    past, _, participle = rng.choice(category.verbs).partition("/")
    name = rng.choice(lex.NAMES)
    people = [*lex.FAMILY, *category.people]
    who, who2 = rng.sample([*people, "I", "I", "I", "we", "we"], 2)
    while who2 in ("I", "we"):
        who2 = rng.choice(people)
    others = [*lex.OTHERS, *lex.FAMILY, *(() if who in ("I", "we") else ("me", "us", "me", "us"))]
    return rng.choice(_FRAMES).format(
        who=who, who2=who2, name=name, expert=rng.choice(category.people), other=rng.choice(others),
        verb=past, participle=participle or past, np=_noun_phrase(rng, topic, category),
        place=rng.choice(category.places), time=rng.choice(lex.TIMES), future=rng.choice(lex.FUTURE),
        source=rng.choice(lex.SOURCES),
        asked=rng.choice(lex.SPEAKING), message=rng.choice(lex.MESSAGES), small=rng.choice(lex.SMALL_TALK),
        then=rng.choice(lex.THEN), plan=rng.choice(lex.PLANS), **{"while": rng.choice(lex.WHILE)},
    )  # fmt: skip


def _finish(template: str, adjective: str = "") -> str:
    """Fill the cue, choose between `a` and `an`, write sentence case and the full stop."""
    text = " ".join(template.replace("{cue}", adjective).split())
    text = re.sub(r"\ba (?=[aeiou])(?!uni|one)", "an ", text)
    return text[0].upper() + text[1:] + "."


def _with_cue(rng: random.Random, template: str, emotion: str) -> str:
    """The sentence with one emotional cue of a random kind."""
    kind, form = rng.choice(_CUED)
    cue = rng.choice(lex.CUES[emotion][kind])
    return _finish(form.format(cue=cue, text=template), cue if kind == "adjective" else "")


def _topic_sentences(rng: random.Random, topic: str) -> Iterator[tuple[str, str, str]]:
    """Endless (text, emotion of the words, core) about one topic, neutral and emotional in turn."""
    seen: set[str] = set()
    emotions = list(EMOTIONAL)
    templates: list[str] = []
    neutral_first = rng.random() < 0.5
    while True:
        rng.shuffle(emotions)
        for emotion in (e for other in emotions for e in (("neutral", other) if neutral_first else (other, "neutral"))):
            for _ in range(1000):
                reuse = emotion != "neutral" and templates and rng.random() < 0.5
                template = rng.choice(templates) if reuse else _core_template(rng, topic)
                core = _finish(template)
                text = core if emotion == "neutral" else _with_cue(rng, template, emotion)
                if text not in seen and all(len(each.split()) in WORDS for each in (core, text)):
                    break
            else:
                raise RellmError(
                    f"the grammar has no further sentence about the {topic}", todo="Ask for a smaller world (`size`)"
                )
            seen.add(text)
            templates.append(template)
            yield text, emotion, core


def _split(seed: int, core: str) -> str:
    place = zlib.crc32(f"{seed} {core}".encode()) % 100
    if place < TEST_PERCENT:
        return "test"
    return "dev" if place < TEST_PERCENT + DEV_PERCENT else "train"


@cache
def _world(seed: int, size: int) -> tuple[Sentence, ...]:
    rng = random.Random(f"re-llm miniature world {seed}")
    sources = {topic: _topic_sentences(random.Random(rng.random()), topic) for topic in lex.TOPICS}
    topics = list(lex.TOPICS)
    rng.shuffle(topics)
    sentences = []
    for number in range(size):
        topic = topics[number % len(topics)]
        text, emotion, core = next(sources[topic])
        sentences.append(Sentence(number, text, topic, emotion, core, lex.TOPICS[topic], _split(seed, core)))
    return tuple(sentences)


def world(seed: int = 0, size: int = 24000) -> list[Sentence]:
    """The first `size` sentences of the world with this seed; a larger world begins with the smaller one.

    Consecutive sentences are about different topics. No text occurs twice; no core occurs in two splits.

    Raises:
        RellmError: `size` is not positive, or larger than the grammar can fill.
    """
    if size < 1:
        raise RellmError(f"the world cannot have {size} sentences", allowed="1 or more")
    return list(_world(seed, size))


# ── answers ──


def _cell(sentence: Sentence, emotion: str) -> tuple[str, int]:
    """The emotion, and the number of the sentence's category: where its answers stand in `answers`."""
    return canonical(emotion, PROMPT_EMOTIONS), CATEGORY_NAMES.index(sentence.category)


def reply(sentence: Sentence, emotion: str, empathetic: bool) -> str:
    """What a listener answers to the sentence said with this emotion; warmer and longer if `empathetic`.

    Raises:
        RellmError: the emotion is none of `PROMPT_EMOTIONS`.
    """
    emotion, number = _cell(sentence, emotion)
    if empathetic:
        heads = answers.EMPATHETIC_HEADS[emotion]
        text = f"{heads[number % len(heads)].text} {answers.EMPATHETIC_TAILS[emotion][number].text}"
    else:
        plain = answers.PLAIN_REPLIES[emotion]
        text = plain[number % len(plain)].text
    return text.format(t=sentence.topic)


def continuation(sentence: Sentence, emotion: str) -> str:
    """How the speaker of the sentence continues, in the tone of this emotion.

    Raises:
        RellmError: the emotion is none of `PROMPT_EMOTIONS`.
    """
    emotion, number = _cell(sentence, emotion)
    heads, tails = answers.CONTINUATION_HEADS[emotion], answers.CONTINUATION_TAILS[emotion]
    return (heads[number % len(heads)] + tails[number // len(heads)]).format(t=sentence.topic)


def respond_to(prompt_id: str, sentence: Sentence, emotion: str | None = None, *, heard: bool = False) -> str:
    """The answer the miniature chat LLM is taught for a prompt of `re_llm.llm.prompts`.

    `emotion` counts only where the prompt names it, or where it is `heard` in a voice; there it overrides the words.
    Elsewhere the words decide.

    Raises:
        RellmError: the prompt is unknown, or needs an emotion and has none.
    """
    prompt = get_prompt(prompt_id)
    filled = prompt.with_emotion(emotion)  # which needs one
    told = heard or filled is not prompt
    named = canonical(str(emotion), PROMPT_EMOTIONS) if told else sentence.words_emotion
    if prompt_id.startswith("recognize"):
        return named
    if prompt_id.startswith("continue"):
        return continuation(sentence, named)
    # The cascade prompts state the emotion and ask for a response to it, which is a call for empathy as well.
    return reply(sentence, named, prompt.system in (EMPATHETIC, EMPATHETIC_PAPER) or prompt_id.startswith("cascade"))


# ── reading answers ──

_TOPIC_PATTERN = re.compile(r"\b(" + "|".join(lex.TOPICS) + r")\b", re.IGNORECASE)


def topics_of(answer: str) -> set[str]:
    """The topics that an answer names."""
    return {m.lower() for m in _TOPIC_PATTERN.findall(answer)}


def right_topic(answer: str, sentence: Sentence) -> bool:
    """Whether the answer names the sentence's topic and no other."""
    return topics_of(answer) == {sentence.topic}


@cache
def _levels() -> dict[str, answers.Part]:
    """Every reply of this world with `{t}` for its topic, any head with any tail, and the higher levels of the two."""
    heads = list(chain.from_iterable(answers.EMPATHETIC_HEADS.values()))
    tails = list(chain.from_iterable(answers.EMPATHETIC_TAILS.values()))
    whole = {
        f"{head.text} {tail.text}": answers.Part("", *map(max, head[1:], tail[1:]))
        for head, tail in product(heads, tails)
    }
    return whole | {part.text: part for part in chain.from_iterable(answers.PLAIN_REPLIES.values())}


def gold_levels(answer: str) -> dict[str, int] | None:
    """The levels `er`, `ip` and `ex` (0 to 2) of a reply, as its templates have them; None if it is no reply of ours.

    A reply has the higher level of its head and its tail. Capitals of the topic and surrounding spaces are the only
    differences that are overlooked.
    """
    part = _levels().get(_TOPIC_PATTERN.sub("{t}", answer.strip()))
    return None if part is None else {"er": part.er, "ip": part.ip, "ex": part.ex}


def levels_hash() -> str:
    """Hash of all replies with their levels."""
    return hash_of(f"{text} {part.er} {part.ip} {part.ex}" for text, part in _levels().items())


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", _TOPIC_PATTERN.sub("topic", text.lower().replace("{t}", "topic")))
    return set(zip(words, words[1:], words[2:], strict=False))


@cache
def _telltales() -> dict[tuple[str, ...], str]:
    """Word trigrams that occur in the templates of one emotion only."""
    owners: dict[tuple[str, ...], set[str]] = {}
    parts = (answers.EMPATHETIC_HEADS, answers.EMPATHETIC_TAILS, answers.PLAIN_REPLIES)
    for emotion in PROMPT_EMOTIONS:
        single = (part.text for templates in parts for part in templates[emotion])
        joined = map("".join, product(answers.CONTINUATION_HEADS[emotion], answers.CONTINUATION_TAILS[emotion]))
        for text in chain(single, joined, [answers.REMEMBERED_EMOTION[emotion]]):
            for gram in _trigrams(text):
                owners.setdefault(gram, set()).add(emotion)
    return {gram: next(iter(emotions)) for gram, emotions in owners.items() if len(emotions) == 1}


def emotion_of(answer: str) -> str | None:
    """Which emotion an answer of this world is about; None when it is not clear.

    Up to three words are read as an answer to a recognition prompt. Longer ones are decided by the majority of
    their word trigrams that only one emotion's templates use.
    """
    if len(answer.split()) <= 3:
        return parse_answer(answer)
    telltales = _telltales()
    votes = Counter(telltales[gram] for gram in _trigrams(answer) if gram in telltales).most_common(2)
    if not votes or votes[0][1] < 2 or (len(votes) > 1 and votes[0][1] == votes[1][1]):
        return None
    return votes[0][0]
