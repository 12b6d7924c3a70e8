"""Damaged recordings, and files that are none: the only error is that of a user."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from fuzz_audio import KINDS, read_broken
from sounds import encoded, tone, with_list_chunk, written

from re_llm.audio import waveform
from re_llm.core.errors import RellmError


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_recordings_raise_nothing_else(suffix, tmp_path):
    if suffix in waveform.WITH_AV:
        pytest.importorskip("av", reason="the extra `av` is not installed")
    assert read_broken(suffix, tmp_path, seed=0, count=60) > 30


def test_an_unknown_codec_is_named():
    wav = bytearray(written("WAV", tone()))
    wav[20:22] = (0x4242).to_bytes(2, "little")  # the format tag
    with pytest.raises(RellmError, match="not audio that can be read"):
        waveform.load(bytes(wav))


def test_titles_that_are_not_utf_8(tmp_path):
    pytest.importorskip("av", reason="the extra `av` is not installed")
    whole = encoded("ipod", "aac", tone(0.5, 48_000)[:, 0], 48_000, title="Kaffee" * 3)
    path = tmp_path / "a.m4a"
    path.write_bytes(whole.replace(b"Kaffee", b"\xcd\xff\xfe\xe9!!"))
    assert path.read_bytes() != whole and len(waveform.load(path)) == pytest.approx(8000, abs=700)
    assert len(waveform.load(with_list_chunk(written("WAV", tone()), b"\xff\xfe\xe9t\xe9"))) == 8000


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC", "MP3", "OGG VORBIS", "OGG OPUS"])
def test_truncated_recordings_are_refused(kind):
    whole = written(kind.split()[0], tone(2.0), subtype=kind.partition(" ")[2] or None)
    assert len(waveform.load(whole)) == pytest.approx(32_000, abs=1500)
    for fraction in (0.5, 0.8):
        with pytest.raises(RellmError, match=r"breaks off|not audio"):
            waveform.load(whole[: int(fraction * len(whole))])
    if kind.startswith(("WAV", "OGG")):
        with pytest.raises(RellmError, match="breaks off"):
            waveform.info(whole[: len(whole) // 2])


def test_an_ogg_file_that_ends_with_a_whole_page():
    whole = written("OGG", tone(20.0), subtype="VORBIS")
    with pytest.raises(RellmError, match="its last page is missing"):
        waveform.load(whole[: whole.rfind(b"OggS")])


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000, 16_044])
def test_sizes_that_are_not_meant(length):
    """Written to a pipe, or by a program that counts the header."""
    wav = bytearray(written("WAV", tone()))
    wav[40:44] = length.to_bytes(4, "little")
    assert len(waveform.load(bytes(wav))) == 8000


def test_samples_are_bounded_whatever_the_rate(tmp_path):
    path = tmp_path / "fast.flac"
    soundfile.write(path, np.zeros(4_000_000, np.int16), 655_350)
    with pytest.raises(RellmError, match=r"too long: 6\.1 s at 655350 Hz\. .*= 5 s at 48000 Hz or less"):
        waveform.load(path, max_seconds=5.0)  # 240,000 samples at 48 kHz
    assert len(waveform.load(path, duration=0.3, max_seconds=5.0)) == 4800


def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
        for path in (tmp_path / "pipe.wav", tmp_path / "socket.wav", "/dev/zero"):
            for read in (waveform.info, waveform.load, waveform.sha256):
                # In a thread: to open a pipe waits for ever.
                with ThreadPoolExecutor(1) as pool, pytest.raises(RellmError, match="not a recording"):
                    pool.submit(read, path).result(timeout=20)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a"])
def test_a_sparse_file_is_refused_at_once(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(920_000_000)
    for read in (waveform.info, waveform.load, waveform.sha256):
        with pytest.raises(RellmError, match="begins with 4096 zeros"):
            read(tmp_path / name)
