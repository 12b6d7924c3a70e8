"""OMG-Empathy: ten listeners to eight stories, who said afterwards how they had felt (Barros et al. 2019).

`Training/Videos/Subject_1_Story_2.mp4` and `Training/Annotations/Subject_1_Story_2.csv`: a column `valence` on -1..1
with a row for each frame of the video, at 25 a second. One video has both people in it, and the valence is that of the
listener, who says little. Videos are cut into windows (option `window`, seconds) with the mean of their frames; there
are no words. Recordings of the audio alone, which are wanted without the extra `av`, may lie anywhere in `Training`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan, dimensions
from re_llm.data.corpora.files import read_table, recordings, visible

INFO = CorpusInfo(
    name="omg_empathy",
    title="OMG-Empathy (valence of listeners)",
    languages=("en",),
    hours=8,
    licence="CC BY-NC-SA 3.0 DE; to be asked for by e-mail",
    get="https://github.com/knowledgetechnologyuhh/OMGEmpathyChallenge",
    citation="Barros et al., The OMG-Empathy Dataset, ACII 2019",
    root="Training and Validation, with Videos and Annotations in each",
    options={"window": "seconds of a window (10)"},
    dimensions=True,
)

FRAMES = 25  # annotations a second
SCALE = (-1.0, 1.0)
SHORTEST = 1.0  # seconds of the last window of a video
SPLITS = {"training": "train", "validation": "dev", "test": "test", "testing": "test"}
_NAME = re.compile(r"(Subject_\d+)_(Story_\d+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Windows by part, listener and story."""
    root = scan.path_root(lambda p: any(p.glob("*/Annotations/*.csv")), f"expected {INFO.root} in it")
    window = scan.option("window", 10.0, float)
    if window < SHORTEST:
        raise RellmError(f"option window={window:g}", allowed=f"{SHORTEST:g} or more")
    for folder in visible(root.glob("*/Annotations")):
        # Of a video and a recording of its sound, the latter.
        sounds: dict[str, Path] = {}
        for path in recordings(folder.parent):
            name = path.name.split(".")[0]
            if name not in sounds or sounds[name].suffix.lower() in waveform.WITH_AV:
                sounds[name] = path
        for table in visible(folder.glob("*.csv")):
            yield from _windows(scan, table, sounds.get(table.stem), round(window * FRAMES))


def _windows(scan: Scan, table: Path, sound: Path | None, length: int) -> Iterator[Utterance]:
    name = _NAME.fullmatch(table.stem)
    if name is None or sound is None:
        scan.problem(table, "the name is not Subject_N_Story_N" if name is None else f"no recording {table.stem}")
        return
    frames = _valence(scan, table)
    part = table.parent.parent.name
    for first in range(0, len(frames), length):
        own = [value for value in frames[first : first + length] if value is not None]
        if len(own) < SHORTEST * FRAMES:
            scan.drop(f"window with less than {SHORTEST:g} s of valence")
            continue
        yield INFO.utterance(
            sound, key=f"{part}-{table.stem}-{first // length:03}", split=SPLITS.get(part.lower(), "all"),
            start=first / FRAMES, duration=len(frames[first : first + length]) / FRAMES, speaker=name[1], story=name[2],
            **dimensions(scan, {"valence": fmean(own)}, SCALE, table, first + 2),
        )  # fmt: skip


def _valence(scan: Scan, table: Path) -> list[float | None]:
    """Valence of each frame; None where the row is none, which is a problem."""
    frames: list[float | None] = []
    for line, row in read_table(scan, table, ["valence"]):
        try:
            frames.append(float(row["valence"]))
        except ValueError:
            scan.problem(table, f"valence {row['valence']!r} is no number", line)
            frames.append(None)
    return frames
