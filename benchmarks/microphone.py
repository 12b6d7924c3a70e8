"""How many of the shipped recordings keep their emotion at other levels, with silence around them, as 16 kbit/s Opus.

Each is heard as a file, by its samples and by the same code path as the server and the page use (`Engine.samples`).
"""

from __future__ import annotations

import io

import numpy as np
from _common import head

from re_llm.apps.demo import listing
from re_llm.audio.waveform import RATE, load
from re_llm.inference.engine import SHIPPED_MODEL, Engine, shipped_recordings
from re_llm.inference.engine import load as load_engine

SILENCE = np.zeros(2 * RATE, np.float32)
OPUS_RATE = 16_000  # bit/s


def opus(wave: np.ndarray) -> bytes:
    """Ogg Opus at 16 kbit/s, for voice, as a browser or a telephone would send it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono", options={"application": "voip"})
        stream.bit_rate = OPUS_RATE
        frame = av.AudioFrame.from_ndarray(np.clip(wave, -1, 1)[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def emotions(engine: Engine, items: list[np.ndarray] | list[bytes]) -> list[str | None]:
    return [each.estimate.predicted_emotion for each in engine.encode([engine.samples(item) for item in items])]


def main() -> None:
    head("The shipped recordings, disturbed")
    engine, folder = load_engine(SHIPPED_MODEL), shipped_recordings()
    entries = listing(folder)
    waves = [load(folder / entry["recording"]) for entry in entries]
    spoken = [entry["reference"] for entry in entries]
    files = emotions(engine, waves)
    cases = {
        "as files": waves,
        "x 0.3": [0.3 * wave for wave in waves],
        "x 0.5": [0.5 * wave for wave in waves],
        "x 2, clipped": [np.clip(2 * wave, -1, 1) for wave in waves],
        "x 3, clipped": [np.clip(3 * wave, -1, 1) for wave in waves],
        "2 s of silence behind": [np.concatenate([wave, SILENCE]) for wave in waves],
        "2 s of silence at both ends": [np.concatenate([SILENCE, wave, SILENCE]) for wave in waves],
        "Opus, 16 kbit/s": [opus(wave) for wave in waves],
    }
    print(f"{len(waves)} recordings\n\n| disturbed | emotion as a file | emotion as spoken |\n|---|---|---|")
    for name, items in cases.items():
        found = emotions(engine, items)
        same = sum(a == b for a, b in zip(found, files, strict=True))
        right = sum(a == b for a, b in zip(found, spoken, strict=True))
        print(f"| {name} | {same} | {right} |")


if __name__ == "__main__":
    main()
