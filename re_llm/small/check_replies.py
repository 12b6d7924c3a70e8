"""How kindly and to the point an LLM answers text: held-out sentences, each in every emotion, judged by rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import read_records
from re_llm.core.risk import at_risk
from re_llm.llm.completion import TextLlm
from re_llm.llm.prompts import get_prompt
from re_llm.small.text import Sentence
from re_llm.small.tone import all_different, names_topic, repeated, tone
from re_llm.small.turned import content_words

SENTENCES = 100
TOKENS = 64
Said = tuple[str, str, str]  # sentence, emotion, reply


@dataclass(frozen=True)
class ReplyFigures:
    """Fractions of all replies; of the sentences for `different`.

    Attributes:
        topic: names a content word of what was said.
        tone: the rules recognise the emotion that it answers.
        different: no two of the replies to a sentence are the same.
        finished: ended by itself.
        repeated: content words of the sentence in the answer when it is to be repeated.
    """

    sentences: int
    topic: float
    tone: float
    different: float
    finished: float
    repeated: float

    def summary(self) -> str:
        """One line."""
        return ", ".join(f"{name} {value:.3g}" for name, value in asdict(self).items())


def check(llm: str, text: Path, *, sentences: int, prompt: str, device: str) -> tuple[ReplyFigures, list[Said]]:
    """`check_replies` of an LLM by its name, on the held-out sentences of a build."""
    from re_llm.llm.local import ChatLlm

    return check_replies(ChatLlm.load(llm, device=device), held_out(text, sentences), prompt=prompt)


def held_out(sentences: Path, count: int = SENTENCES) -> list[str]:
    """Test sentences with two content words or more, in the order of the file; none about harming oneself."""
    rows = (row.text for row in read_records(sentences, Sentence) if row.split == "test")
    return list(islice((text for text in rows if len(content_words(text)) > 1 and not at_risk(text)), count))


def check_replies(
    llm: TextLlm, sentences: Sequence[str], *, prompt: str = "cascade", batch_size: int = 50
) -> tuple[ReplyFigures, list[Said]]:
    """Figures, and the replies."""
    asked = [(text, emotion) for text in sentences for emotion in PROMPT_EMOTIONS]
    rows = [(get_prompt(prompt).with_emotion(emotion), text) for text, emotion in asked]
    answers = llm.answer(rows, max_new_tokens=TOKENS, batch_size=batch_size)
    said = [(text, emotion, answer.text) for (text, emotion), answer in zip(asked, answers, strict=True)]
    again = llm.answer(
        [(get_prompt("repeat"), text) for text in sentences], max_new_tokens=TOKENS, batch_size=batch_size
    )
    by_sentence = [[reply for text, _, reply in said if text == one] for one in sentences]
    figures = ReplyFigures(
        sentences=len(sentences),
        topic=_mean(names_topic(reply, text) for text, _, reply in said),
        tone=_mean(tone(reply, text) == emotion for text, emotion, reply in said),
        different=_mean(all_different(replies) for replies in by_sentence),
        finished=_mean(answer.finish_reason == "stop" for answer in answers),
        repeated=_mean(repeated(answer.text, text) for answer, text in zip(again, sentences, strict=True)),
    )
    return figures, said


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return round(sum(found) / len(found), 4) if found else float("nan")
