"""Reading recordings: formats, segments, archives, and every way a file can be wrong."""

import hashlib
import io
import re
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
from sounds import encoded, tone

from re_llm.audio import source, waveform
from re_llm.audio.source import moved
from re_llm.core.errors import MissingExtra, RellmError


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
    samples = waveform.load(path)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(8000, abs=1500 if name.endswith("mp3") else 50)
    assert spectrum_peak(samples) == pytest.approx(440, abs=5)
    header = waveform.info(path)
    assert (header.rate, header.channels) == (rate, 2) and header.seconds == pytest.approx(0.5, abs=0.1)


def test_wav_is_read_bit_for_bit(tmp_path):
    whole = np.arange(-16_000, 16_000, 4, dtype=np.int16)
    path = saved(tmp_path / "a.wav", whole)
    np.testing.assert_array_equal(waveform.load(path), whole.astype(np.float32) / 32768)


def test_channels_become_their_mean(tmp_path):
    eight = np.zeros((8000, 8))
    eight[:, 3] = 0.8
    path = saved(tmp_path / "a.wav", eight, subtype="FLOAT")
    np.testing.assert_allclose(waveform.load(path), 0.1, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_segment_is_the_segment(tmp_path, name):
    ramp = np.linspace(-0.5, 0.5, 32_000)
    path = saved(tmp_path / name, ramp)
    whole = waveform.load(path)
    np.testing.assert_array_equal(waveform.load(path, start=0.5, duration=0.25), whole[8000:12000])
    np.testing.assert_array_equal(waveform.load(path, start=1.5), whole[24000:])
    # Annotated times are rounded: a little over the end is the end.
    assert len(waveform.load(path, start=1.5, duration=0.55)) == 8000


def test_a_long_file_is_not_decoded_for_a_short_segment(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.flac", np.zeros(60 * 16_000) + 0.1)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames=-1, **kw: read.append(frames) or original(self, frames, **kw)
    )
    assert len(waveform.load(path, start=30, duration=1, max_seconds=5)) == 16_000
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
        waveform.load(path, start=start, duration=duration)


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
    np.testing.assert_array_equal(waveform.load(member, root=tmp_path), waveform.load(plain))
    np.testing.assert_array_equal(waveform.load(member, root=tmp_path, start=0.25), waveform.load(plain, start=0.25))
    assert waveform.info(member, root=tmp_path) == waveform.info(plain)
    assert waveform.sha256(member, root=tmp_path) == hashlib.sha256(plain.read_bytes()).hexdigest()
    with pytest.raises(RellmError, match="ends before the member"):
        waveform.load(f"many.{kind}:{offset}:999999999", root=tmp_path)
    with pytest.raises(RellmError, match="not audio"):
        waveform.load(f"many.{kind}:1:40", root=tmp_path)


def test_bytes_of_a_file(tmp_path):
    path = saved(tmp_path / "a.flac", tone())
    np.testing.assert_array_equal(waveform.load(path.read_bytes()), waveform.load(path))
    with pytest.raises(RellmError, match="0 bytes"):
        waveform.load(b"")


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
            waveform.load(name, root=tmp_path)
        assert name == "." or name in str(error.value)


def test_too_long_names_the_limit_and_the_option(tmp_path):
    path = saved(tmp_path / "long.flac", np.zeros(601 * 8000), 8000)
    with pytest.raises(RellmError, match=re.escape("max_seconds = 600 s")):
        waveform.load(path)
    assert len(waveform.load(path, max_seconds=700)) == 601 * 16_000


def test_a_file_that_breaks_off(tmp_path):
    path = saved(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 64_000))
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(RellmError, match=r"breaks off|not audio"):
        waveform.load(path)


def test_values_that_are_not_finite(tmp_path):
    broken = tone()[:, 0]
    broken[100] = np.nan
    path = saved(tmp_path / "a.wav", broken, subtype="FLOAT")
    with pytest.raises(RellmError, match="1 samples that are not finite"):
        waveform.load(path)


def test_values_that_overflow_when_they_are_resampled(tmp_path):
    huge = np.where(np.arange(8000) % 2, 3e38, -3e38)
    with pytest.raises(RellmError, match="not finite"):
        waveform.load(saved(tmp_path / "a.wav", huge, 8000, subtype="FLOAT"))


def test_an_absurd_header_is_refused():
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), 16_000, format="WAV")
    data = bytearray(buffer.getvalue())
    data[24:28] = (2_000_000_000).to_bytes(4, "little")
    with pytest.raises(RellmError, match="2000000000 Hz"):
        waveform.load(bytes(data))


def test_problems():
    good = tone()[:, 0].astype(np.float32)
    assert waveform.problems(good) == []
    assert waveform.problems(good[:0]) == ["empty"]
    assert waveform.problems(np.zeros(100, np.float32)) == ["silent"]
    assert waveform.problems(np.full(100, 0.3, np.float32)) == ["silent"], "a constant cannot be heard"
    assert waveform.problems(np.array([0.1, np.inf], np.float32)) == ["samples that are not finite"]
    assert waveform.problems(np.clip(good * 20, -1, 1))[0].startswith("clipped")
    assert waveform.problems(good / 0.4) == [], "full scale alone is not clipping"


def test_m4a_asks_for_its_extra(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "re-llm[av]"')):
        waveform.load(tmp_path / "a.m4a")


CONTAINERS = [
    ("a.m4a", "ipod", "aac", True), ("a.mp4", "mp4", "aac", True), ("a.aac", "adts", "aac", True),
    ("a.avi", "avi", "pcm_s16le", True), ("a.mkv", "matroska", "libopus", True), ("a.webm", "webm", "libopus", True),
    ("recorded-in-a-browser.webm", "webm", "libopus", False), ("a.opus", "ogg", "libopus", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "codec", "seekable"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_containers(tmp_path, name, kind, codec, seekable):
    path = tmp_path / name
    path.write_bytes(encoded(kind, codec, tone(1.0, 48_000)[:, 0], 48_000, seekable=seekable))
    header = waveform.info(path)
    assert (header.rate, header.channels) == (48_000, 1) and header.seconds == pytest.approx(1.0, abs=0.06)
    samples = waveform.load(path, start=0.25, duration=0.5)
    assert len(samples) == 8000 and spectrum_peak(samples) == pytest.approx(440, abs=5)
    # Whatever it is called: bytes have no name, members of archives and wrongly named files another one.
    assert len(waveform.load(path.read_bytes(), start=0.25, duration=0.5)) == 8000
    renamed = path.rename(tmp_path / "renamed.wav")
    assert waveform.info(renamed) == header and spectrum_peak(waveform.load(renamed)) == pytest.approx(440, abs=5)
    whole = tmp_path / "b.zip"
    with zipfile.ZipFile(whole, "w") as out:
        out.write(renamed, name)
        offset = 30 + len(name)
    assert waveform.info(f"{whole}:{offset}:{renamed.stat().st_size}") == header


def test_counting_a_recording_without_a_length_ends_at_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "recorded-in-a-browser.webm"
    path.write_bytes(encoded("webm", "libopus", tone(8.0, 48_000)[:, 0], 48_000, seekable=False))
    counted = []
    probe = waveform.audio_av.probe
    monkeypatch.setattr(waveform.audio_av, "probe", lambda *args: counted.append(probe(*args)) or counted[-1])
    with pytest.raises(RellmError, match="too long"):
        waveform.load(path, max_seconds=1.0)
    assert 2.0 < counted[0][1] / 48_000 < 2.5
    assert len(waveform.load(path, start=5.0, duration=2.5, max_seconds=3.0)) == 40_000


def test_broken_containers(tmp_path):
    whole = encoded("ipod", "aac", tone(2.0, 48_000)[:, 0], 48_000)
    for name, data in {
        "a.m4a": b"no such thing",
        "b.mp4": whole[: len(whole) // 2],
        "c.webm": b"\x1a\x45\xdf\xa3",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RellmError, match=r"not audio|breaks off"):
            waveform.load(tmp_path / name)


def test_a_recording_opens_no_other_file(tmp_path):
    pytest.importorskip("av", reason="the extra `av` is not installed")
    saved(tmp_path / "secret.wav", tone())
    lists = {
        "a.m4a": f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        "b.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(RellmError, match="not audio"):
            waveform.load(tmp_path / name)


def test_a_compressed_member(tmp_path, monkeypatch):
    plain = saved(tmp_path / "a.wav", tone())
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.write(plain, "a.wav")
        size = out.getinfo("a.wav").compress_size
    np.testing.assert_array_equal(waveform.load(tmp_path / f"a.zip:35:{size}:deflate"), waveform.load(plain))
    assert waveform.sha256(tmp_path / f"a.zip:35:{size}:deflate") == waveform.sha256(plain)
    for place, words in {
        f"a.zip:35:{size}": "ends in :deflate",
        f"a.zip:36:{size}:deflate": "cannot be unpacked",
        f"a.zip:35:{size - 9}:deflate": "end too early",
    }.items():
        with pytest.raises(RellmError, match=words):
            waveform.load(tmp_path / place)
    monkeypatch.setattr(source, "MAX_UNPACKED", 1000)
    with pytest.raises(RellmError, match="more than 1000 bytes"):
        waveform.load(tmp_path / f"a.zip:35:{size}:deflate")


def test_hours_are_read_by_segment_with_little_memory(tmp_path):
    path = tmp_path / "day.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as out:
        for _ in range(180):
            out.write(np.zeros(60 * 8_000, np.int16))
    assert waveform.info(path).seconds == 3 * 3600
    assert len(waveform.load(path, start=10_000, duration=2)) == 32_000
    with pytest.raises(RellmError, match="too long: 10800"):
        waveform.load(path)


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav", "a.zip:" + "9" * 5000 + ":1", "a.zip:" + "9" * 18 + ":1"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(RellmError):
        waveform.load(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.wav", "../old/a.wav"), ("x:y.wav", "../old/x:y.wav"), ("b.zip:12:34:deflate", "../old/b.zip:12:34:deflate")],
)
def test_a_name_relative_to_another_folder(tmp_path, name, expected):
    assert moved(name, tmp_path / "old", tmp_path / "new") == expected
