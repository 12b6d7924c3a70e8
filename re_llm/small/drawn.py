"""Every recording of the training with an emotion drawn for it, in which it is to be answered.

The voices are synthetic and say it neutrally; a stage with `exchange` gives each the emotion embedding of a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.norms import with_norm
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.mini.voices import generator
from re_llm.small.turned import content_words


def draw_emotions(manifest: Path, out: Path, *, seed: int) -> int:
    """Writes the training rows that say something, each with a drawn emotion and its norms.

    Returns:
        The number of rows.
    """
    return write_records(out, _drawn(manifest, Path("..") / manifest.parent.name, seed))


def _drawn(manifest: Path, folder: Path, seed: int) -> Iterator[Utterance]:
    for row in read_records(manifest, Utterance):
        if row.split != "train" or not content_words(row.text or ""):
            continue
        emotion = PROMPT_EMOTIONS[int(generator(seed, f"{row.key} emotion").integers(len(PROMPT_EMOTIONS)))]
        yield with_norm(row.model_copy(update={"emotion": emotion, "audio": str(folder / row.audio)}))
