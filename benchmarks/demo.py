"""Time and peak memory of `re-llm demo`, beside the demo with one recording at a time."""

from __future__ import annotations

import json
import sys

from _common import COMMAND, child, head, row

REPEATS = 3
ONE_BY_ONE = """
from re_llm.audio import waveform as audio
from re_llm.inference import engine
from re_llm.apps.demo import MAX_NEW_TOKENS, listing
from re_llm.core.records import Utterance
from re_llm.inference.reply import ReplyOptions
from re_llm.inference.systems import text_system
folder = engine.shipped_recordings()
cascade, model = text_system("cascade", llm="mini:llm", whisper="mini:whisper"), engine.load()
for entry in listing(folder):
    samples = audio.load(folder / entry["recording"])
    model.respond(samples, max_new_tokens=MAX_NEW_TOKENS)
    row = Utterance(key="k", corpus="mini", split="test", audio=entry["recording"])
    cascade.respond_rows([row], [samples], ReplyOptions(max_new_tokens=MAX_NEW_TOKENS))
"""


def main() -> None:
    head("The demo, from a cold start")
    runs = [child([COMMAND, "demo", "--json"]) for _ in range(REPEATS)]
    print(f"{len(json.loads(runs[0].stdout))} recordings\n")
    batched = row("re-llm demo", [run.seconds for run in runs])
    row("  its peak memory", [run.peak for run in runs], unit="GB", scale=1e-9)
    single = [child([sys.executable, "-c", ONE_BY_ONE]) for _ in range(REPEATS)]
    one = row("one recording at a time", [run.seconds for run in single])
    print(f"\nbatched, the whole demo is {one / batched:.1f} times faster, start-up included")


if __name__ == "__main__":
    main()
