"""What people get wrong, through the real command line and the shipped miniature.

Every mistake gives one message (what, where, what to do), exit code 2 and no traceback, and costs nothing that was
done before. Plain mistakes in options are in test_cli.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner, Result

from re_llm.cli import app
from re_llm.core.product import write_sidecar
from re_llm.core.records import Continuation, ReplyRecord, Utterance, read_records, write_records
from re_llm.inference import engine


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="re-llm")


def refused(*arguments: object, code: int = 2) -> str:
    """Standard error of a command that must fail with one message and print nothing else."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def one_model(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded once for all commands of this file that are not about loading it."""
    monkeypatch.setattr(engine, "load", _loaded)


@cache
def _loaded(name: str, load=engine.load, **options: str | None) -> engine.Engine:
    return load(name, **options)


def hum(seconds: float, rate: int = 16_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 170 * time) + np.random.default_rng(0).normal(0, 0.01, len(time))


def write_bad(folder: Path) -> None:
    """Recordings in which nothing can be heard, by what is wrong with them."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is a letter, not a recording.\n" * 20)
    soundfile.write(folder / "blip.wav", hum(0.01), 16_000)
    soundfile.write(folder / "silent.wav", np.full(32_000, 0.2), 16_000)
    samples = hum(1.0).astype(np.float32)
    samples[7:9] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(folder / "eleven-minutes.wav", hum(660, 2_000), 2_000)


BAD = {
    "missing.wav": "no such file: missing.wav",
    "empty.wav": "empty.wav is empty (0 bytes)",
    "text.wav": "text.wav is not audio that can be read",
    "blip.wav": "blip.wav is too short: 0.010 s",
    "silent.wav": "silent.wav is silent",
    "nan.wav": "nan.wav holds 2 samples that are not finite",
    "eleven-minutes.wav": "eleven-minutes.wav is too long: 660.0 s",
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_bad(folder)
    shutil.copy(assets / "recordings" / "0018-sad.flac", folder / "good.flac")
    return folder


@pytest.fixture
def here(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(recordings)
    return recordings


# ---- recordings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_cannot_be_heard(name: str, here: Path, one_model: None) -> None:
    for command in ("respond", "recognize"):
        told = refused(command, "good.flac", name)
        assert BAD[name] in told
        assert len(told.splitlines()) > 1 or "finite" in told, "it says what is allowed, or what to do"


def test_chat_tells_the_same_and_goes_on(here: Path, one_model: None) -> None:
    lines = "".join(f"{name}\n" for name in BAD) + "good.flac\n"
    done = CliRunner().invoke(app, ["chat", "--max-new-tokens", "8"], input=lines, prog_name="re-llm")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    assert {name for name, told in BAD.items() if told not in shown} == set()
    assert "valence" in shown


def test_the_server_tells_the_same(here: Path, one_model: None) -> None:
    pytest.importorskip("fastapi")
    import base64

    from fastapi.testclient import TestClient

    from re_llm.apps.serve.app import build
    from re_llm.apps.serve.options import ServeOptions

    loaded = engine.load(engine.SHIPPED_MODEL, device="auto", dtype="auto")
    told = {}
    with TestClient(build(loaded, ServeOptions(max_body_mb=40))) as client:
        for name in BAD:
            if not (here / name).is_file():
                continue
            data = base64.b64encode((here / name).read_bytes()).decode()
            part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
            answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
            assert answer.status_code == 400
            told[name] = answer.json()["error"]
    assert {error["param"] for error in told.values()} == {"messages[0].content[0]"}
    assert "is silent" in told["silent.wav"]["message"]


@pytest.mark.parametrize(
    ("channels", "rate", "seconds"), [(8, 16_000, 1.0), (1, 8_000, 1.0), (1, 96_000, 1.0), (1, 16_000, 0.06)]
)
def test_unusual_recordings_are_heard(
    channels: int, rate: int, seconds: float, tmp_path: Path, one_model: None
) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, np.stack([hum(seconds, rate)] * channels, axis=1), rate)
    result = call("recognize", path, "--json")
    assert result.exit_code == 0, result.output
    (reply,) = json.loads(result.stdout)
    assert sum(reply["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_bad_recordings_of_a_manifest_are_listed_and_the_rest_is_answered(here: Path, one_model: None) -> None:
    rows = [Utterance(key=name, corpus="c", split="test", audio=name) for name in (*BAD, "good.flac")]
    write_records("m.jsonl", rows)
    result = call("respond", "m.jsonl", "--out", "out/r.jsonl", "--max-new-tokens", 8)
    assert result.exit_code == 0, result.output
    assert f"{len(BAD)} recordings could not be used, or got no reply: out/r.dropped.jsonl" in result.stdout
    assert [reply.key for reply in read_records("out/r.jsonl", ReplyRecord)] == ["good.flac"]
    dropped = {row.key: row.model_extra["dropped"] for row in read_records("out/r.dropped.jsonl", Utterance)}
    assert {name for name, told in BAD.items() if told not in dropped[name]} == set()


# ---- files of records and recipes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("respond", "broken.jsonl", "--out", "r.jsonl"),
        ("continue", "broken.jsonl", "--out", "c.jsonl", "--llm", "mini:llm"),
        ("score", "broken.jsonl", "--out", "s.jsonl"),
        ("train", "mini", "--stage", "finetune", "--data", "broken.jsonl", "--out", "checkpoint"),
    ],
    ids=lambda command: command[0],
)
def test_a_broken_line_is_named_by_file_and_number(
    command: tuple[str, ...], tmp_path: Path, one_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = {
        "key": "a", "corpus": "c", "split": "test", "audio": "a.wav", "system": "s", "text": "hello", "response": "hi",
        "instruction": "i", "output": "o", "early_stop": False, "llm": "l", "emotion": "sad", "valence": 0.5,
        "arousal": 0.5, "dominance": 0.5,
    }  # fmt: skip
    line = json.dumps(whole)
    Path("broken.jsonl").write_text(f"{line}\n{line[:40]}\n{line}\n")
    told = refused(*command)
    assert "broken.jsonl:2: not a valid" in told
    out = Path(command[command.index("--out") + 1])
    assert not out.is_file() and not list(out.rglob("*"))


def test_an_unknown_emotion_label_is_told(tmp_path: Path) -> None:
    manifest, out = tmp_path / "m.jsonl", tmp_path / "c.jsonl"
    rows = [
        Utterance(key=key, corpus="c", split="train", audio="a.wav", text="My train was late.", emotion=emotion)
        for key, emotion in (("good", "sad"), ("bad", "grumpy"))
    ]
    write_records(manifest, rows)
    result = call("prepare", "check", manifest, "--no-audio")
    assert result.exit_code == 1
    assert "m.jsonl:2: bad: unknown emotion 'grumpy'" in result.stdout
    result = call("continue", manifest, "--out", out, "--llm", "mini:llm", "--max-new-tokens", 4)
    assert "unknown-emotion" in result.stdout
    assert [row.key for row in read_records(out, Continuation)] == ["good"]
    recipe = Path(__file__).parents[2] / "recipes" / "mini.yaml"
    (tmp_path / "wrong.yaml").write_text(recipe.read_text() + "\nemotions: [neutral, grumpy]\n")
    assert "unknown emotion 'grumpy'" in refused("doctor", tmp_path / "wrong.yaml")


@pytest.mark.parametrize("command", ["doctor", "reproduce", "train"])
def test_an_unknown_key_of_a_recipe_is_named_with_its_line(command: str, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "mini.yaml"
    text = recipe.read_text() + "\nwrkers: 2\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    more = {
        "reproduce": ("--out", tmp_path / "run"),
        "train": ("--stage", "finetune", "--data", "c.jsonl", "--out", tmp_path / "run"),
    }
    told = refused(command, path, *more.get(command, ()))
    assert f"mine.yaml:{len(text.splitlines())}: unknown key 'wrkers'" in told
    assert "workers" in told
    assert not (tmp_path / "run").exists()


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(assets: Path, tmp_path: Path) -> Path:
    """A copy of the shipped checkpoint, beside links to its components."""
    for part in ("llm", "whisper", "emotion"):
        (tmp_path / part).symlink_to(assets / part)
    shutil.copytree(assets / "re-llm", tmp_path / "re-llm")
    return tmp_path / "re-llm"


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "adapter_model.safetensors", "processor_config.json", "tokenizer.json"],
)
@pytest.mark.parametrize("harm", ["missing", "truncated", "empty"])
def test_a_checkpoint_with_a_bad_file(name: str, harm: str, checkpoint: Path, recordings: Path) -> None:
    path = checkpoint / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if harm == "truncated" else 0])
    told = refused("respond", recordings / "good.flac", "--model", checkpoint)
    assert str(checkpoint) in told
    assert name in told or name in ("tokenizer.json", "processor_config.json")


@pytest.mark.parametrize("part", ["llm", "whisper", "emotion"])
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_component_with_bad_weights(part: str, harm: str, checkpoint: Path, assets: Path, recordings: Path) -> None:
    folder = checkpoint.parent / part
    folder.unlink()
    shutil.copytree(assets / part, folder)
    weights = folder / "model.safetensors"
    if harm == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1000])
    told = refused("respond", recordings / "good.flac", "--model", checkpoint)
    assert f"/{part}" in told


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_llm_with_a_missing_file(name: str, assets: Path, tmp_path: Path) -> None:
    shutil.copytree(assets / "llm", tmp_path / "llm")
    (tmp_path / "llm" / name).unlink()
    write_records(
        tmp_path / "m.jsonl", [Utterance(key="a", corpus="c", split="train", audio="a.wav", text="Hi.", emotion="sad")]
    )
    told = refused("continue", tmp_path / "m.jsonl", "--out", tmp_path / "c.jsonl", "--llm", tmp_path / "llm")
    assert str(tmp_path / "llm") in told


# ---- a full disk ------------------------------------------------------------------------------------------------


def limited(kilobytes: int, *arguments: object) -> subprocess.CompletedProcess:
    """The command in a process whose files may grow to a size: its writes fail as on a full disk."""
    resource = pytest.importorskip("resource")
    size = kilobytes * 1024
    return subprocess.run(
        [sys.executable, "-m", "re_llm", *map(str, arguments)],
        capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


def told_of_the_disk(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert "Free space or choose another --out" in done.stderr
    return done.stderr


def test_a_full_disk_costs_respond_nothing_that_was_written(assets: Path, tmp_path: Path, one_model: None) -> None:
    files = sorted((assets / "recordings").glob("*.flac"))
    rows = [Utterance(key=file.stem, corpus="c", split="test", audio=str(file), text="x" * 500) for file in files]
    manifest, out, whole = (tmp_path / name for name in ("m.jsonl", "r.jsonl", "whole.jsonl"))
    write_records(manifest, rows)
    options = ("--max-new-tokens", 6, "--batch-size", 4)
    assert call("respond", manifest, "--out", whole, *options).exit_code == 0
    assert whole.stat().st_size > 8 * 1024 > whole.with_suffix(".provenance.json").stat().st_size
    told_of_the_disk(limited(8, "respond", manifest, "--out", out, *options))
    kept = out.read_text()
    assert 0 < kept.count("\n") < len(rows)
    assert kept.endswith("\n")
    again = call("respond", manifest, "--out", out, *options, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["resumed"] == kept.count("\n")
    assert out.read_text().startswith(kept)
    assert {r.key: r.response for r in read_records(out, ReplyRecord)} == {
        r.key: r.response for r in read_records(whole, ReplyRecord)
    }


def test_a_full_disk_leaves_the_former_scores(tmp_path: Path) -> None:
    replies, scores = tmp_path / "r.jsonl", tmp_path / "s.jsonl"
    rows = [
        ReplyRecord(key=f"{i}", system="s", text="I lost my job.", response="That is hard. Why?") for i in range(60)
    ]
    write_records(replies, rows[:3])
    assert call("score", replies, "--out", scores).exit_code == 0
    before = scores.read_bytes()
    write_records(replies, rows)
    told_of_the_disk(limited(8, "score", replies, "--out", scores, "--overwrite"))
    assert scores.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_while_training(tiny_checkpoint: Path, tmp_path: Path, recording) -> None:
    parts = tiny_checkpoint.parent
    recipe = {
        "name": "tiny", "title": "Tiny",
        "components": {
            role: str(parts / name)
            for role, name in (("llm", "llm"), ("speech_encoder", "whisper"), ("emotion_encoder", "emotion"))
        },
        "model": {"adapter": {"bottleneck": 16}, "lora": {"r": 2}, "speech_window": "trimmed"},
        "stages": {"emotion": {
            "continuation": "continue-emotion", "losses": {"response_ce": 1.0}, "lr": 1e-3, "batch_size": 2,
            "max_steps": 2, "warmup": 0, "precision": "fp32", "min_seconds": 0.5,
        }},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    rows = [
        Continuation(key=f"{i}", audio=str(recording(f"{i}.wav", seed=i)), text="hello", emotion="sad", instruction="i",
                     output="oh", early_stop=False, llm="l", duration=1.0, split="train")
        for i in range(4)
    ]  # fmt: skip
    write_records(tmp_path / "c.jsonl", rows)
    options = (tmp_path / "tiny.yaml", "--stage", "emotion", "--data", tmp_path / "c.jsonl", "--out", tmp_path / "out")
    told_of_the_disk(limited(16, "train", *options))
    assert not (tmp_path / "out" / "report.json").exists()
    write_sidecar(tmp_path / "c.jsonl", {"settings": {}, "runs": [], "complete": False})
    done = call("train", *options)
    assert done.exit_code == 0
    assert "c.jsonl is unfinished" in " ".join(done.stderr.split())
