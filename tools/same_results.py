"""Whether a change of the code left the results as they were.

    python tools/same_results.py keep before.json        # on the commit before
    python tools/same_results.py compare before.json     # on the commit after; exit code 1 when something differs

Runs the command line over what ships: the demo, the conversion of the golden checkpoints, a training of 30 steps, the
replies of the trained checkpoint, `score` and `report`. Only values are compared, never the names of fields or files:
renaming something is no difference. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "re_llm" / "mini" / "assets"
GOLDEN = ("blsp_a_nolora", "blsp_b_lora_audio", "blsp_c_cformer", "rellm")
TOLERANCE = 2e-4  # of a number in float32 after 30 steps; the digits beyond depend on the threads


def run(*arguments: object) -> str:
    """Standard output of one command of re-llm."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "re_llm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def leaves(value: Any) -> Iterator[float | str]:
    """Numbers and words of a JSON value, without the keys."""
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, str):
        yield value


def values(value: Any, folder: Path) -> list[float | str]:
    """Sorted leaves of a JSON value; strings that hold a path of this run are left out."""
    found = [each for each in leaves(value) if not (isinstance(each, str) and str(folder) in each)]
    return sorted(found, key=lambda each: (isinstance(each, str), each))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tensors(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor of a checkpoint."""
    from safetensors.torch import load_file

    return {
        f"{file.name} {name}": hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def conversions(folder: Path) -> dict[str, dict[str, str]]:
    found = {}
    for case in GOLDEN:
        out = folder / case
        encoder = ("--emotion-encoder", ROOT / "tests/golden/audeering") if case == "rellm" else ()
        run("convert", ROOT / "tests" / "golden" / case, out, "--tokenizer", ASSETS / "llm", *encoder)
        found[case] = tensors(out)
    return found


def table(folder: Path) -> Path:
    """The shipped recordings of one sentence as a table: six to train on, four to answer."""
    rows = json.loads((ASSETS / "recordings" / "recordings.json").read_text(encoding="utf-8"))[:10]
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["audio", "text", "emotion", "split", "speaker", "valence", "arousal", "dominance"])
        for number, row in enumerate(rows):
            audio = os.path.relpath(ASSETS / "recordings" / row["recording"], folder)
            split = "train" if number < 6 else "test"
            label, speaker, sentence = row["reference"], row["speaker"], row["sentence"]
            out.writerow([audio, sentence, label, split, speaker, 0.3, 0.5, 0.6])
    return path


def results(folder: Path) -> dict[str, Any]:
    """Every value that is compared, by piece of work."""
    found: dict[str, Any] = {"demo": values(json.loads(run("demo", "--json")), folder)}
    found["convert"] = conversions(folder)
    manifest, targets, trained = folder / "manifest.jsonl", folder / "continuations.jsonl", folder / "trained"
    replies, scores, report = folder / "replies.jsonl", folder / "scores.jsonl", folder / "report"
    other = folder / "other.scores.jsonl"
    run("prepare", "table", "--root", table(folder), "--out", manifest)
    run("continue", manifest, "--out", targets, "--llm", "mini:llm", "--prompt", "continue-emotion")
    found["continue"] = values([row["output"] for row in lines(targets)], folder)
    options = {"max_steps": 30, "batch_size": 4, "precision": "fp32", "warmup": 3}
    changes = [f"stages.finetune.{name}={value}" for name, value in options.items()]
    # The chat task reads continuations of its own, which this small run has not.
    changes.append("stages.finetune.tasks=[{prompt: continue-speech}, {prompt: recognize, target: emotion}]")
    sets = [word for change in changes for word in ("--set", change)]
    run("train", "mini", "--stage", "finetune", "--data", targets, "--out", trained, *sets)
    steps = [entry for entry in lines(trained / "log.jsonl") if "learning_rate" in entry]
    names = ("loss", "response_ce", "adapter_ctc", "input_er", "input_er_avd", "learning_rate")
    found["train"] = [[step[name] for name in names] for step in steps]
    run("respond", manifest, "--model", trained, "--out", replies, "--recognize", "--system", "trained")
    run("respond", manifest, "--model", "mini:re-llm", "--out", folder / "other.jsonl", "--recognize", "--system", "a")
    rows = [*lines(replies), *lines(folder / "other.jsonl")]
    found["respond"] = values([{k: v for k, v in row.items() if k != "source"} for row in rows], folder)
    run("score", replies, "--out", scores)
    run("score", folder / "other.jsonl", "--out", other)
    found["score"] = values([row["value"] for row in lines(scores) + lines(other)], folder)
    run(
        "report",
        scores,
        other,
        "--replies",
        replies,
        "--replies",
        folder / "other.jsonl",
        "--baseline",
        "a",
        "--out",
        report,
    )
    made = json.loads((report / "results.json").read_text(encoding="utf-8"))
    made.pop("provenance", None)
    found["report"] = [each for each in values(made, folder) if isinstance(each, float)]
    return found


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """What two values differ in; numbers are equal within `TOLERANCE`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            if name not in before or name not in after:
                yield f"{where} {name}: only {'after' if name in after else 'before'}"
            else:
                yield from differences(before[name], after[name], f"{where} {name}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{where}: {len(before)} values before, {len(after)} after"
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            yield from differences(old, new, f"{where}[{number}]")
    elif isinstance(before, float) and isinstance(after, float):
        if abs(before - after) > TOLERANCE * max(1.0, abs(before)):
            yield f"{where}: {before} before, {after} after"
    elif before != after:
        yield f"{where}: {str(before)[:80]!r} before, {str(after)[:80]!r} after"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Through JSON, as the kept values went.
        found = json.loads(json.dumps(results(Path(folder).resolve())))
    if options.what == "keep":
        options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print({name: len(each) for name, each in found.items()})
        return
    before = json.loads(options.file.read_text(encoding="utf-8"))
    wrong = list(differences(before, found))
    print("\n".join(wrong[:40]) or "the same")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
