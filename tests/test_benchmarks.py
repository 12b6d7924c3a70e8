"""The benchmark of the real sizes runs, at tiny sizes, wherever the tests run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def test_the_gpu_benchmark_runs_at_tiny_sizes() -> None:
    found = subprocess.run([sys.executable, SCRIPT, "--tiny"], capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    for measured in ("BLSP alignment, batch 2, cached states", "encoders run, trimmed", "first token, batch 1, full"):
        assert measured in found.stdout
    assert "the figures mean nothing" in found.stdout
