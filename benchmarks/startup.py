"""How long a command takes before it can do anything: the help, and a first answer in a new process.

Beside it: importing transformers' model classes eagerly, which is what `--help` would cost if the command line did.
"""

from __future__ import annotations

import sys

from _common import COMMAND, child, head, row

from re_llm.inference.engine import shipped_recordings

REPEATS = 7
EAGER = "from transformers import AutoModelForCausalLM, WhisperModel, Wav2Vec2Model; from peft import LoraConfig"


def main() -> None:
    head("Start-up")
    child([COMMAND, "--help"])
    help_ = row("re-llm --help", [child([COMMAND, "--help"]).seconds for _ in range(REPEATS)])
    eager = row("eager imports", [child([sys.executable, "-c", EAGER]).seconds for _ in range(3)])
    print(f"the help is {eager / help_:.1f} times faster than the eager imports alone\n")
    imports = [child([sys.executable, "-c", "import re_llm.inference.engine"]).seconds for _ in range(3)]
    row("imports of `re-llm respond`", imports)
    recording = str(next(shipped_recordings().glob("*.flac")))
    answers = [child([COMMAND, "respond", recording]) for _ in range(3)]
    row("re-llm respond, one recording, cold", [answer.seconds for answer in answers])
    row("  its peak memory", [answer.peak for answer in answers], unit="GB", scale=1e-9)


if __name__ == "__main__":
    main()
