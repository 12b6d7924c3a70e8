"""Reading recordings: formats, segments, archives, and every way a file can be wrong."""

import hashlib
import io
import re
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from re_llm import audio
from re_llm.errors import MissingExtra, RellmError


def tone(seconds=0.5, rate=16_000, channels=1, hertz=440.0):
    wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave] * channels, axis=1)


def saved(path, samples, rate=16_000, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def spectrum_peak(samples, rate=16_000):
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_every_format_and_rate_gives_the_same_tone(tmp_path, name, options, rate):
    path = saved(tmp_path / name, tone(0.5, rate, 2), rate, **options)
    samples = audio.load(path)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(8000, abs=1500 if name.endswith("mp3") else 50)
    assert spectrum_peak(samples) == pytest.approx(440, abs=5)
    header = audio.info(path)
    assert (header.rate, header.channels) == (rate, 2) and header.seconds == pytest.approx(0.5, abs=0.1)


def test_wav_is_read_bit_for_bit(tmp_path):
    whole = np.arange(-16_000, 16_000, 4, dtype=np.int16)
    path = saved(tmp_path / "a.wav", whole)
    np.testing.assert_array_equal(audio.load(path), whole.astype(np.float32) / 32768)


def test_channels_become_their_mean(tmp_path):
    eight = np.zeros((8000, 8))
    eight[:, 3] = 0.8
    path = saved(tmp_path / "a.wav", eight, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(path), 0.1, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_segment_is_the_segment(tmp_path, name):
    ramp = np.linspace(-0.5, 0.5, 32_000)
    path = saved(tmp_path / name, ramp)
    whole = audio.load(path)
    np.testing.assert_array_equal(audio.load(path, start=0.5, duration=0.25), whole[8000:12000])
    np.testing.assert_array_equal(audio.load(path, start=1.5), whole[24000:])
    # Annotated times are rounded: a little over the end is the end.
    assert len(audio.load(path, start=1.5, duration=0.55)) == 8000


def test_a_long_file_is_not_decoded_for_a_short_segment(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.flac", np.zeros(60 * 16_000) + 0.1)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames=-1, **kw: read.append(frames) or original(self, frames, **kw)
    )
    assert len(audio.load(path, start=30, duration=1, max_seconds=5)) == 16_000
    assert sum(read) == 16_000


@pytest.mark.parametrize(
    ("start", "duration", "words"),
    [
        (2.0, None, r"starts at 2 s, but .* is only 1\.00 s long"),
        (0.5, 0.7, "runs over the end"),
        (-1.0, None, "not a segment"),
        (0.0, 0.0, "not a segment"),
        (0.5, 0.01, "too short"),
    ],
)
def test_impossible_segments(tmp_path, start, duration, words):
    path = saved(tmp_path / "a.wav", tone(1.0))
    with pytest.raises(RellmError, match=words):
        audio.load(path, start=start, duration=duration)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_archives(tmp_path, kind):
    plain = saved(tmp_path / "a.flac", tone())
    archive = tmp_path / f"many.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
            out.writestr("first.txt", "other things")
            out.write(plain, "a.flac")
    else:
        with tarfile.open(archive, "w") as out:
            out.add(plain, "a.flac")
    offset = archive.read_bytes().index(b"fLaC")
    member = f"many.{kind}:{offset}:{plain.stat().st_size}"
    np.testing.assert_array_equal(audio.load(member, root=tmp_path), audio.load(plain))
    np.testing.assert_array_equal(audio.load(member, root=tmp_path, start=0.25), audio.load(plain, start=0.25))
    assert audio.info(member, root=tmp_path) == audio.info(plain)
    assert audio.sha256(member, root=tmp_path) == hashlib.sha256(plain.read_bytes()).hexdigest()
    with pytest.raises(RellmError, match="ends before the member"):
        audio.load(f"many.{kind}:{offset}:999999999", root=tmp_path)
    with pytest.raises(RellmError, match="not audio"):
        audio.load(f"many.{kind}:1:40", root=tmp_path)


def test_bytes_of_a_file(tmp_path):
    path = saved(tmp_path / "a.flac", tone())
    np.testing.assert_array_equal(audio.load(path.read_bytes()), audio.load(path))
    with pytest.raises(RellmError, match="0 bytes"):
        audio.load(b"")


def test_what_is_not_a_recording(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is a letter, not a sound\n" * 20)
    saved(tmp_path / "short.wav", tone(0.01))
    saved(tmp_path / "none.wav", np.zeros(0))
    for name, words in {
        "missing.wav": "no such file",
        "empty.wav": "is empty",
        "text.wav": "not audio",
        ".": "is a folder",
        "short.wav": r"too short: 0\.010 s",
        "none.wav": "too short",
    }.items():
        with pytest.raises(RellmError, match=words) as error:
            audio.load(name, root=tmp_path)
        assert name == "." or name in str(error.value)


def test_too_long_names_the_limit_and_the_option(tmp_path):
    path = saved(tmp_path / "long.flac", np.zeros(601 * 8000), 8000)
    with pytest.raises(RellmError, match=re.escape("max_seconds = 600 s")):
        audio.load(path)
    assert len(audio.load(path, max_seconds=700)) == 601 * 16_000


def test_a_file_that_breaks_off(tmp_path):
    path = saved(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 64_000))
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(RellmError, match=r"breaks off|not audio"):
        audio.load(path)


def test_values_that_are_not_finite(tmp_path):
    broken = tone()[:, 0]
    broken[100] = np.nan
    path = saved(tmp_path / "a.wav", broken, subtype="FLOAT")
    with pytest.raises(RellmError, match="1 samples that are not finite"):
        audio.load(path)


def test_an_absurd_header_is_refused():
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), 16_000, format="WAV")
    data = bytearray(buffer.getvalue())
    data[24:28] = (2_000_000_000).to_bytes(4, "little")
    with pytest.raises(RellmError, match="2000000000 Hz"):
        audio.load(bytes(data))


def test_problems():
    good = tone()[:, 0].astype(np.float32)
    assert audio.problems(good) == []
    assert audio.problems(good[:0]) == ["empty"]
    assert audio.problems(np.zeros(100, np.float32)) == ["silent"]
    assert audio.problems(np.full(100, 0.3, np.float32)) == ["silent"], "a constant cannot be heard"
    assert audio.problems(np.array([0.1, np.inf], np.float32)) == ["samples that are not finite"]
    assert audio.problems(np.clip(good * 20, -1, 1))[0].startswith("clipped")
    assert audio.problems(good / 0.4) == [], "full scale alone is not clipping"


def test_m4a_asks_for_its_extra(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "re-llm[av]"')):
        audio.load(tmp_path / "a.m4a")


def test_m4a_is_read_with_its_extra(tmp_path):
    av = pytest.importorskip("av", reason="the extra `av` is not installed")
    path = tmp_path / "a.m4a"
    wave = tone(1.0, 44_100)[:, 0].astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        for at in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
            frame.rate, frame.pts = 44_100, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert audio.info(path).rate == 44_100
    samples = audio.load(path, start=0.25, duration=0.5)
    assert len(samples) == 8000 and spectrum_peak(samples) == pytest.approx(440, abs=5)
    path.write_bytes(b"no such thing")
    with pytest.raises(RellmError, match="not audio"):
        audio.info(path)
