"""Utterances per second of a warm engine: one batch beside a loop over files, both with the same replies.

The recordings are the shipped ones, repeated; the model is the shipped miniature.
"""

from __future__ import annotations

from _common import head, row, timed

from re_llm.audio import waveform as audio
from re_llm.inference import engine

BATCH = 56
REPEATS = 3
MAX_NEW_TOKENS = 64


def main() -> None:
    head("Throughput of a warm engine")
    files = sorted(engine.shipped_recordings().glob("*.flac"))
    files = (files * (BATCH // len(files) + 1))[:BATCH]
    seconds = sum(audio.info(file).seconds for file in files)
    loaded = engine.load()
    print(f"{len(files)} recordings, {seconds / len(files):.1f} s on average, device {loaded.device}\n")

    def batch() -> list[str]:
        replies = loaded.respond_many(files, batch_size=BATCH, max_new_tokens=MAX_NEW_TOKENS)
        return [reply.response for reply in replies]

    def loop() -> list[str]:
        return [loaded.respond(file, max_new_tokens=MAX_NEW_TOKENS).response for file in files]

    assert batch() == loop(), "a batch must answer what single recordings are answered"
    rates = [
        row(name, [len(files) / each for each in timed(work, REPEATS)], unit="utt/s")
        for name, work in ((f"one batch of {BATCH}", batch), ("a loop over files", loop))
    ]
    print(f"\nthe batch is {rates[0] / rates[1]:.1f} times faster than the loop")
    print(f"a second of computing answers {rates[0] * seconds / len(files):.0f} s of speech")


if __name__ == "__main__":
    main()
