"""How many of the shipped recordings keep their emotion at other levels, with silence around them, as 16 kbit/s Opus.

Each is heard as a file, by its samples and by the same code path as the server and the page use (`Engine.samples`).
`--manifest FILE` takes 80 test recordings of a manifest as well (every fourth), for Opus alone, and lets one of the two
encoders hear them coded at a time. With `--page` the shipped ones are played into the microphone of the server's page
as well, in Chromium (needs playwright and a Chromium on the PATH; half a minute of wall time for four).
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from _common import head

from re_llm.apps.demo import listing
from re_llm.audio import pyav
from re_llm.audio.waveform import RATE, load, resample
from re_llm.core.records import Utterance, read_records
from re_llm.inference.engine import SHIPPED_MODEL, Engine, shipped_recordings
from re_llm.inference.engine import load as load_engine

SILENCE = np.zeros(2 * RATE, np.float32)
OPUS_RATE = 16_000  # bit/s
MICROPHONE_RATE = 48_000  # Hz
PATIENCE = 120_000  # ms
SAID_INTO_THE_PAGE = ("as files", "x 0.3", "x 3, clipped", "2 s of silence at both ends")


def opus(wave: np.ndarray) -> bytes:
    """Ogg Opus at 16 kbit/s, for voice, as a browser or a telephone would send it."""
    return pyav.opus(wave, RATE, OPUS_RATE)


def emotions(engine: Engine, items: list[np.ndarray] | list[bytes]) -> list[str | None]:
    return [each.estimate.predicted_emotion for each in engine.encode([engine.samples(item) for item in items])]


def coded(engine: Engine, manifest: Path) -> None:
    """How many recordings of a manifest keep their emotion as Opus, and where one encoder alone hears them coded."""
    rows = [row for row in read_records(manifest, Utterance) if row.split == "test"][::4][:80]
    plain = [engine.samples(manifest.parent / row.audio) for row in rows]
    opuses = [engine.samples(opus(wave)) for wave in plain]

    def heard(waves: list[np.ndarray], emotion_from: list[np.ndarray]) -> list[str | None]:
        return [
            each.estimate.predicted_emotion
            for wave, other in zip(waves, emotion_from, strict=True)
            for each in engine.encode([wave], [other])
        ]

    files = heard(plain, plain)
    cases = {"both": (opuses, opuses), "emotion encoder": (plain, opuses), "speech encoder": (opuses, plain)}
    for name, pair in cases.items():
        same = sum(a == b for a, b in zip(heard(*pair), files, strict=True)) / len(rows)
        print(f"{manifest}: {len(rows)} recordings, Opus in {name}: {same:.2f} keep their emotion")


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of the shipped model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "re_llm", "serve", "--port", str(port), "--model", SHIPPED_MODEL]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            if not any("Application startup complete" in line for line in server.stderr):
                sys.exit("the server did not start")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


def spoken_into_the_page(address: str, waves: Sequence[np.ndarray]) -> list[str | None]:
    """What the page shows as the emotion of recordings that its microphone is given, one after the other."""
    from playwright.sync_api import expect, sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("there is no Chromium on the PATH")
    found: list[str | None] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        for number, wave in enumerate(waves):
            file = Path(folder) / f"{number}.wav"
            sound = np.clip(resample(wave, RATE, MICROPHONE_RATE), -1, 1)
            soundfile.write(file, np.pad(sound, (MICROPHONE_RATE // 2, 10 * MICROPHONE_RATE)), MICROPHONE_RATE)
            fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            arguments = ["--no-sandbox", *fake, f"--use-file-for-fake-audio-capture={file}%noloop"]
            browser = play.chromium.launch(executable_path=browser_path, args=arguments)
            page = browser.new_page()
            page.goto(address)
            page.click("#mic")
            expect(page.locator("#level")).to_be_visible(timeout=PATIENCE)
            page.wait_for_timeout(1000 * len(wave) / RATE + 1500)
            page.click("#mic")
            expect(page.locator("article .answer:not(.busy)")).to_have_count(1, timeout=PATIENCE)
            top = page.locator(".bar.top b")
            found.append(top.inner_text() if top.count() else None)
            browser.close()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--manifest", type=Path, help="Opus on test recordings of this manifest as well")
    arguments.add_argument("--page", action="store_true", help="also through the microphone of the page, in Chromium")
    given = arguments.parse_args()
    head("The shipped recordings, disturbed")
    engine, folder = load_engine(SHIPPED_MODEL), shipped_recordings()
    entries = listing(folder)
    waves = [load(folder / entry["recording"]) for entry in entries]
    spoken = [entry["reference"] for entry in entries]
    files = emotions(engine, waves)
    cases: dict[str, list[np.ndarray] | list[bytes]] = {
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

    def row(name: str, found: Sequence[str | None]) -> None:
        same = sum(a == b for a, b in zip(found, files, strict=True))
        right = sum(a == b for a, b in zip(found, spoken, strict=True))
        print(f"| {name} | {same} | {right} |", flush=True)

    for name, items in cases.items():
        row(name, emotions(engine, items))
    if given.manifest:
        coded(engine, given.manifest)
    if given.page:
        with served() as address:
            for name in SAID_INTO_THE_PAGE:
                row(f"page's microphone, {name}", spoken_into_the_page(address, cases[name]))


if __name__ == "__main__":
    main()
