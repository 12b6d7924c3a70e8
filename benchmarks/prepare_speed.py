"""How fast corpora become manifests and are checked, beside what a user would pick instead.

The corpus is made for it: as many clips as RAVDESS speech, under its names. Rates are per second of the processor,
which on an idle core is a second of the clock, so that other work on the machine does not count; files are in the page
cache.
`datasets` (extra `data`) and `librosa` (extra `bench`) are left out, and said so, where they are not installed.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
from _common import child, head, row

from re_llm.audio import waveform as audio
from re_llm.core.product import Overwrite
from re_llm.data.check import check
from re_llm.data.corpora import prepare

SECONDS, RATE = 3.0, 48_000  # of a clip; RAVDESS has 3.7 s at 48 kHz
ACTORS, DECODED = 24, 2  # actors in the corpus, and of those that are decoded
ROWS = 100_000  # of the large manifest
MANY = 1_000_000  # of the largest, which is checked once
REPEATS = 5
AGAIN = Overwrite.YES  # a manifest that is complete would not be made again
BEGIN = "import sys, time; from re_llm.data.check import check; from re_llm.data.manifest import read_manifest; "
END = "; print(time.process_time())"
STREAM = BEGIN + "sum(1 for _ in read_manifest(sys.argv[1]))" + END
CHECK = BEGIN + "assert check(sys.argv[1], decode=False).ok" + END


def make_corpus(root: Path) -> list[Path]:
    """Noise that differs from clip to clip, under the names of RAVDESS."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(2 * int(SECONDS * RATE))).astype(np.float32)
    files = []
    codes = itertools.product(range(1, ACTORS + 1), range(1, 9), (1, 2), (1, 2), (1, 2))
    for number, (actor, emotion, intensity, statement, repetition) in enumerate(codes):
        if (emotion, intensity) == (1, 2):  # there is no strong neutral
            continue
        name = f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}.wav"
        path = root / f"Actor_{actor:02}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise[number : number + int(SECONDS * RATE)], RATE)
        files.append(path)
    return files


def make_manifest(path: Path, rows: int) -> Path:
    """A manifest whose recordings are not there: what is measured reads rows alone."""
    with path.open("w", encoding="utf-8") as out:
        for n in range(rows):
            row = {
                "key": f"utterance-{n:06}", "corpus": "many", "split": "test" if n % 5 == 0 else "train",
                "audio": f"clips/{n:06}.wav", "duration": 1 + n % 700 / 100, "sample_rate": 16_000, "language": "en",
                "text": f"this is what somebody said in utterance number {n}", "speaker": f"speaker-{n % 995}",
                "emotion": ("neutral", "happy", "sad")[n % 3], "valence": 0.5, "arousal": 0.25, "dominance": 0.75,
                "vad_source": "annotated", "sha256": f"{n:064x}",
            }  # fmt: skip
            out.write(json.dumps(row) + "\n")
    return path


def rates(name: str, work: Callable[[], object], amount: float, unit: str) -> float:
    """Prints and returns the median of `amount` per second of the processor, after one call that is not counted."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        found.append(amount / (time.process_time() - began))
    return row(name, found, unit=unit)


def times_faster(ours: float, theirs: float | None, what: str) -> None:
    if theirs is not None:
        print(f"  {ours / theirs:.1f} times as fast as {what}")


def installed(package: str, extra: str) -> bool:
    there = find_spec(package) is not None
    if not there:
        print(f"{package} is not installed and left out: pip install 're-llm[{extra}]'")
    return there


def scanning(root: Path, work: Path, files: list[Path]) -> None:
    print(f"\nA corpus of {len(files)} clips becomes a manifest")
    theirs = None
    if installed("datasets", "data"):
        import datasets

        datasets.disable_progress_bars()
        logging.getLogger("datasets").setLevel(logging.ERROR)

        def load() -> None:  # streamed and not decoded: what it does without torchcodec
            found = datasets.load_dataset("audiofolder", data_dir=str(root), split="train", streaming=True)
            rows = found.cast_column("audio", datasets.Audio(decode=False))
            assert sum(1 for _ in rows) == len(files)

        theirs = rates("datasets, load_dataset('audiofolder')", load, len(files), "utt/s")
    out = work / "manifest.jsonl"
    ours = rates(
        "prepare, no hashes",
        lambda: prepare("ravdess", root, out, hash=False, overwrite=AGAIN),
        len(files),
        "utt/s",
    )
    times_faster(ours, theirs, "load_dataset, which reads neither lengths nor labels")
    rates("prepare, with SHA-256", lambda: prepare("ravdess", root, out, overwrite=AGAIN), len(files), "utt/s")


def decoding(root: Path, work: Path, files: list[Path]) -> None:
    some = [path for path in files if int(path.parent.name[-2:]) <= DECODED]
    seconds = len(some) * SECONDS
    print(f"\n{len(some)} clips of {SECONDS:g} s at {RATE} Hz, in seconds of sound a second")
    theirs = None
    if installed("librosa", "bench"):
        import librosa

        def load() -> None:
            for path in some:
                librosa.load(path, sr=audio.RATE)

        theirs = rates("librosa.load to 16 kHz mono", load, seconds, "s/s")
    ours = rates(
        "re_llm.audio.waveform.load to 16 kHz mono", lambda: [audio.load(path) for path in some], seconds, "s/s"
    )
    times_faster(ours, theirs, "librosa.load")
    out = work / "some.jsonl"
    prepare("ravdess", root, out, options={"limit": len(some)}, overwrite=AGAIN)
    rates("check: decode, hash, judge", lambda: check(out), seconds, "s/s")


def large_manifest(work: Path, rows: int, repeats: int) -> None:
    print(f"A manifest of {rows:,} rows, a process of its own, its start included")
    path = str(make_manifest(work / f"{rows}.jsonl", rows))
    for name, code in (("streamed", STREAM), ("checked without its recordings", CHECK)):
        runs = [child([sys.executable, "-c", code, path]) for _ in range(repeats)]
        row(name, [float(run.stdout) for run in runs])
        row("  peak of memory", [run.peak / 2**20 for run in runs], unit="MiB")


def main() -> None:
    head("Preparing and checking manifests")
    with tempfile.TemporaryDirectory() as folder:
        root, work = Path(folder, "RAVDESS"), Path(folder, "work")
        work.mkdir()
        # First: a child's peak counts what its parent held when it was started.
        large_manifest(work, ROWS, REPEATS)
        large_manifest(work, MANY, 1)
        files = make_corpus(root)
        scanning(root, work, files)
        decoding(root, work, files)


if __name__ == "__main__":
    main()
