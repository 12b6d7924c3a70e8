"""What starting a training takes with 1,000 to 2,000,000 rows: seconds of the processor and of the clock, peak memory.

    python benchmarks/start_training.py [--rows 1000 10000 100000] [--picture start_training.png]

Everything in front of the first batch that grows with the rows, in a process each: reading continuations and the
filters, hashes of rows and recordings, the tasks, and the order of the first epoch. The recordings are members of one
archive, so that no sound has to be written; recordings in files of their own are hashed as well, which takes as long as
reading them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from _common import child, head, peak_memory

ROWS = (1_000, 10_000, 100_000, 1_000_000, 2_000_000)
TEXT = "I walked all the way to the station, and the train had already left when I came."
ANSWER = "That sounds frustrating, after such a long walk. Is there another train that you could still take today?"


def write_rows(folder: Path, count: int) -> Path:
    """Continuations as `re-llm continue` writes them."""
    row = {
        "corpus": "many", "text": TEXT, "emotion": "sad", "valence": 0.2, "arousal": 0.6, "dominance": 0.4,
        "instruction": "Continue the following English sentence in a coherent style: ", "output": ANSWER,
        "early_stop": False, "llm": "Qwen/Qwen2.5-7B-Instruct", "prompt": "continue", "speaker": "s12",
        "split": "train", "duration": 4.5,
    }  # fmt: skip
    (folder / "many.zip").write_bytes(bytes(range(256)))
    path = folder / "continuations.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for i in range(count):
            out.write(json.dumps({"key": f"many-{i:08d}", "audio": f"many.zip:{i * 64}:64", **row}) + "\n")
    return path


def start(path: Path) -> dict[str, float]:
    """As `re-llm train` begins; what a child does. Returns seconds of the processor by step, and peak memory in MB."""
    from re_llm.core.assets import resolve_component
    from re_llm.core.files import file_hash
    from re_llm.model.inputs import load_tokenizer
    from re_llm.recipe.stages import StageOptions
    from re_llm.train.data import load_examples
    from re_llm.train.identity import recordings_hash, segment_ids
    from re_llm.train.order import BucketedSampler
    from re_llm.train.rows import RowMaker, TrainingRows
    from re_llm.train.setup import _lengths

    stage = StageOptions(losses={"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0}, lr=2e-5, features="none")
    tokenizer = load_tokenizer(Path(resolve_component("mini:llm")))
    libraries, found, begun, clock = peak_memory(), dict[str, float](), time.process_time(), time.monotonic()

    def done(step: str) -> None:
        nonlocal begun
        found[step], begun = time.process_time() - begun, time.process_time()

    examples = load_examples([path], stage, ("neutral", "sad", "angry", "happy", "surprise"), tokenizer).examples
    done("read")
    segments = segment_ids(examples, path.parent / "features")
    file_hash(path)
    recordings_hash(examples, segments)
    done("hash")
    rows = TrainingRows(examples, RowMaker(tokenizer, stage), seed=0)
    places = list(islice(BucketedSampler(_lengths(rows, None), 16, seed=0), 16))
    assert len([rows[place] for place in places]) == 16
    done("order")
    return {**found, "memory": peak_memory(), "libraries": libraries, "clock": time.monotonic() - clock}


def draw(found: dict[int, dict[str, float]], file: Path) -> None:
    """Growth of time and memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    rows = list(found)
    seconds.loglog(rows, [sum(found[n][step] for step in ("read", "hash", "order")) for n in rows], marker="o")
    memory.semilogx(rows, [found[n]["memory"] for n in rows], marker="o", label="all")
    memory.semilogx(rows, [found[n]["libraries"] for n in rows], linestyle=":", label="Python and libraries")
    seconds.axhline(60, linestyle="--", color="grey")
    memory.axhline(2000, linestyle="--", color="grey")
    for axes, title in ((seconds, "seconds of one core to the first batch"), (memory, "peak memory, MB")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("rows")
        axes.grid(alpha=0.3)
    memory.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--picture", type=Path, help="file for the curves")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start:
        return print(json.dumps(start(given.start)))
    head("Starting a training")
    print("rows        read s   hash s  order s    all s  clock s  microseconds/row  peak MB  of them libraries")
    found = {}
    for count in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            done = child([sys.executable, __file__, "--start", str(write_rows(Path(folder), count))])
        each = found[count] = json.loads(done.stdout.splitlines()[-1])
        steps = [each[step] for step in ("read", "hash", "order")]
        numbers = "  ".join(f"{seconds:7.2f}" for seconds in (*steps, sum(steps), each["clock"]))
        print(
            f"{count:9}  {numbers}  {1e6 * sum(steps) / count:16.1f}  {each['memory']:7.0f}  {each['libraries']:7.0f}"
        )
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
