"""How well a speech LLM hears: words by a greedy read-out and by prompt, emotion by head and by prompt, tone.

Shapes: S speech tokens, D width of the LLM, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np

from re_llm.audio.waveform import load
from re_llm.core.errors import RellmError
from re_llm.core.records import Record, Utterance, read_records
from re_llm.evaluate.word_errors import error_rate, plain
from re_llm.inference.careful import read_out
from re_llm.inference.engine import Engine
from re_llm.inference.estimate import EncodedSpeech
from re_llm.inference.reply import DEFAULT_PROMPT, RECOGNITION_PROMPT, Reply
from re_llm.small.tone import names_topic, repeated, tone

REPEAT = "repeat"
REPLY_TOKENS = 64


class Checked(Record):
    """What became of one recording."""

    text: str
    read: str
    """Words that stand in the speech tokens themselves."""
    repeat: str
    reply: str
    speaker: str | None = None
    emotion: str | None = None
    predicted_emotion: str | None = None
    named_emotion: str | None = None


@dataclass(frozen=True)
class SpeechFigures:
    """Fractions; None where the recordings have no such labels.

    Attributes:
        word_errors: of the greedy read-out of the speech tokens against the LLM's embeddings, over all words.
        repeated: content words in the answer to "repeat"; topic: replies that name one.
        ua_prompt, ua_head: unweighted accuracy of the emotion that the LLM names, and of the categorical head.
        tone: replies whose tone is that of the label.
        four_of_five: pairs of a speaker and a text whose replies fit in four emotions of five.
    """

    recordings: int
    word_errors: float
    repeated: float
    topic: float
    ua_prompt: float | None
    ua_head: float | None
    tone: float | None
    four_of_five: float | None

    def summary(self) -> str:
        """One line."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in known.items()
        )


def check_speech(
    engine: Engine,
    rows: Sequence[Utterance],
    samples: Sequence[np.ndarray],
    *,
    batch_size: int = 16,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[Checked]:
    """Asks a model everything about recordings (16 kHz mono) whose words are known.

    Raises:
        RellmError: the model was trained without `adapter_ctc`, so its tokens are none of the LLM's.
    """
    _refuse_without_words(engine)
    found: list[Checked] = []
    for first in range(0, len(rows), batch_size):
        some = rows[first : first + batch_size]
        waves = list(samples[first : first + batch_size])
        encoded = engine.encode(waves)
        replies = engine.respond_many(
            waves, prompt=DEFAULT_PROMPT, recognize=RECOGNITION_PROMPT, max_new_tokens=REPLY_TOKENS
        )
        again = engine.answer(encoded, REPEAT, max_new_tokens=REPLY_TOKENS)
        parts = zip(some, encoded, replies, again, strict=True)
        found += [_checked(engine, row, speech, reply, said.text) for row, speech, reply, said in parts]
        on_batch(len(some))
    return found


def _refuse_without_words(engine: Engine) -> None:
    if engine.model.ctc_blank is None:
        raise RellmError("this model has no CTC blank", todo="Train a stage with the loss adapter_ctc")


def _checked(engine: Engine, row: Utterance, speech: EncodedSpeech, reply: Reply, again: str) -> Checked:
    return Checked(
        key=row.key,
        text=row.text or "",
        read=engine.tokenizer.decode(read_out(engine.model, speech.heard).ids, clean_up_tokenization_spaces=False),
        repeat=again,
        reply=reply.response,
        speaker=row.speaker,
        emotion=row.emotion,
        predicted_emotion=reply.predicted_emotion,
        named_emotion=reply.named_emotion,
    )


def figures(found: Sequence[Checked]) -> SpeechFigures:
    """Figures of what was found."""
    labelled = [each for each in found if each.emotion is not None]
    words = [plain(each.text).split() for each in found]
    return SpeechFigures(
        recordings=len(found),
        word_errors=error_rate(words, [plain(each.read).split() for each in found]),
        repeated=fmean(repeated(each.repeat, each.text) for each in found),
        topic=fmean(names_topic(each.reply, each.text) for each in found),
        ua_prompt=_unweighted(labelled, "named_emotion"),
        ua_head=_unweighted(labelled, "predicted_emotion"),
        tone=fmean(_fits(each) for each in labelled) if labelled else None,
        four_of_five=_four_of_five(labelled),
    )


def _fits(each: Checked) -> bool:
    return tone(each.reply, each.text) == each.emotion


def _four_of_five(labelled: Iterable[Checked]) -> float | None:
    """Of the speakers and texts that occur in five emotions; an emotion counts when most of its replies fit."""
    groups: dict[tuple[str | None, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for each in labelled:
        groups[each.speaker, each.text][str(each.emotion)].append(_fits(each))
    whole = [emotions for emotions in groups.values() if len(emotions) == 5]
    good = [sum(2 * sum(fits) >= len(fits) for fits in emotions.values()) >= 4 for emotions in whole]
    return fmean(good) if good else None


def _unweighted(labelled: Sequence[Checked], field: str) -> float | None:
    hits: dict[str, list[bool]] = defaultdict(list)
    for each in labelled:
        hits[str(each.emotion)].append(getattr(each, field) == each.emotion)
    return fmean(fmean(values) for values in hits.values()) if hits else None


def check_manifest(
    engine: Engine, manifest: Path, *, split: str, emotions: Sequence[str], limit: int | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[Checked]:  # fmt: skip
    """`check_speech` of the rows of a split; of those with a label, the ones that the model knows."""
    wanted = (
        row for row in read_records(manifest, Utterance)
        if row.split == split and row.text and (row.emotion is None or row.emotion in emotions)
    )  # fmt: skip
    rows = list(islice(wanted, limit or None))
    if not rows:
        raise RellmError(f"{manifest} has no rows of the split {split!r} with a text")
    return check_speech(engine, rows, [load(row.audio, root=manifest.parent) for row in rows], on_batch=on_batch)


def words_limit(engine: Engine, manifest: Path, *, split: str, miss: float, limit: int | None = None) -> float:
    """The confidence of the words that all but a fraction `miss` of understood speech has: `words_unsure_below`.

    Args:
        manifest: speech of a language that the model knows, by voices that it does not; no training row.

    Raises:
        RellmError: the split has no row, or the model was trained without `adapter_ctc`.
    """
    _refuse_without_words(engine)
    rows = [row for row in read_records(manifest, Utterance) if row.split == split][:limit]
    if not rows:
        raise RellmError(f"{manifest} has no rows of the split {split!r}")
    found = []
    for row in rows:
        (speech,) = engine.encode([load(row.audio, root=manifest.parent)])
        found.append(read_out(engine.model, speech.heard).confidence)
    return float(np.quantile(found, miss))
