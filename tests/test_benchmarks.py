"""The benchmarks of speed and memory run, at tiny sizes, wherever the tests run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])}


def test_the_gpu_benchmark_runs_at_tiny_sizes() -> None:
    found = run("gpu.py", "--tiny")
    for measured in ("BLSP alignment, batch 2, cached states", "encoders run, trimmed", "first token, batch 1, full"):
        assert measured in found
    assert "the figures mean nothing" in found


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, FOLDER / script, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_every_benchmark_finds_what_it_imports() -> None:
    code = "import runpy, sys; [runpy.run_path(name, run_name='imported') for name in sys.argv[1:]]"
    files = sorted(str(file) for file in FOLDER.glob("*.py"))
    command = [sys.executable, "-c", code, *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=ENVIRONMENT)
    assert len(files) > 15 and found.returncode == 0, found.stderr[-2000:]


def test_every_benchmark_runs_without_arguments() -> None:
    """As `make bench` runs them: one that needs some ends all behind it."""
    needed = re.compile(r'add_argument\("[a-z](?![^\n]*nargs="[*?]")|\bfor \w+ in sys\.argv\[1:\]')
    asking = [file.name for file in FOLDER.glob("*.py") if needed.search(file.read_text(encoding="utf-8"))]
    assert asking == []


def test_every_stage_of_the_papers_fits_a_card_of_24_gb() -> None:
    _, table = run("scale.py", "--card", "24").split("One card of 24 GB")
    taken = {line[:22].strip(): float(line[22:29]) for line in table.splitlines()[2:]}
    assert set(taken) == {"blsp alignment", "blsp_emo emotion", "re_llm finetune"}
    assert max(taken.values()) <= 24 and "no option" not in table
    _, small = run("scale.py", "--card", "8").split("One card of 8 GB")
    assert small.count("no option is enough") == 3


@pytest.mark.slow
def test_the_benchmark_of_one_core_runs_at_tiny_sizes(tmp_path: Path) -> None:
    found = run("laptop.py", "--tiny", "--repeats", "1", "--growth", str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").stat().st_size > 1000
    for measured in ("training step, cached states (s)", "decoding, batch 4 (tokens/s)", "peak memory, training (MB)"):
        assert measured in found
    assert found.count("    ours float32 full") == found.count("    plain") == 9


def test_starting_a_training_is_measured(tmp_path: Path) -> None:
    found = run("start_training.py", "--rows", "200", "--picture", str(tmp_path / "curves.png"))
    assert "      200" in found and (tmp_path / "curves.png").stat().st_size > 1000
