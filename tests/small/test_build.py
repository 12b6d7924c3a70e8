"""The build: listening, gates, and stages one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.assets import mini_assets
from re_llm.core.errors import RellmError
from re_llm.core.records import read_records, write_records
from re_llm.evaluate.word_errors import plain
from re_llm.inference.transcribe import Transcriber
from re_llm.small import build as builder
from re_llm.small.build import Gate, Job, build, choose_engines
from re_llm.small.dialogues import Dialogue, write_dialogues
from re_llm.small.listen import VoiceErrors, keep_understood, listen
from re_llm.small.render import Spoken
from re_llm.small.text import Sentence


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    rows = []
    for speaker in ("clear", "mumbling"):
        for number in range(3):
            name = f"{speaker}{number}.flac"
            # The level tells the listener below which voice it hears.
            soundfile.write(tmp_path / name, np.full(8000, 0.5 if speaker == "clear" else 0.1), 16_000)
            text = "We met at 7:30." if number == 2 else "We met at noon."
            rows.append(
                Spoken(key=name, corpus="c", split="train", audio=name, duration=0.5, text=text, speaker=speaker,
                       source="s", unseen_voice=False)
            )  # fmt: skip
    write_records(tmp_path / "rendered.jsonl", rows)
    return tmp_path / "rendered.jsonl"


class Listener:
    """A recogniser that understands loud voices."""

    def transcribe(self, samples: list[np.ndarray]) -> list[str]:
        assert len(samples) == 2, "sentences with figures are left out"
        return ["we met at noon" if wave[0] > 0.3 else "wet cat soon" for wave in samples]


def test_voices_that_are_not_understood_are_left_out(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transcriber, "load", lambda *_, **__: Listener())
    heard = listen(rendered, tmp_path, tmp_path / "voices.jsonl")
    assert {voice.key: voice.wer for voice in heard} == {"clear": 0.0, "mumbling": 1.0}
    assert keep_understood(rendered, heard, tmp_path / "manifest.jsonl") == ["mumbling"]
    assert {row.speaker for row in read_records(tmp_path / "manifest.jsonl", Spoken)} == {"clear"}
    monkeypatch.setattr(Transcriber, "load", lambda *_, **__: pytest.fail("all voices have been heard"))
    assert listen(rendered, tmp_path, tmp_path / "voices.jsonl") == heard


def test_no_voice_is_understood(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="none of the voices"):
        keep_understood(rendered, [VoiceErrors(key="clear", utterances=1, words=4, wer=0.9)], tmp_path / "m.jsonl")


def test_dialogues_go_on_in_whole_batches(tmp_path: Path) -> None:
    out, llm = tmp_path / "d.jsonl", mini_assets() / "llm"
    write_dialogues(llm, out, count=3, seed=0, batch=2, tokens=4)
    first = list(read_records(out, Dialogue))
    assert len(first) == 4
    write_dialogues(llm, out, count=6, seed=0, batch=2, tokens=4)
    more = list(read_records(out, Dialogue))
    write_dialogues(llm, tmp_path / "e.jsonl", count=6, seed=0, batch=2, tokens=4)
    assert more[:4] == first and more == list(read_records(tmp_path / "e.jsonl", Dialogue))
    with pytest.raises(RellmError, match="no model"):
        write_dialogues(tmp_path, out, count=8, seed=0)


def test_gates_stop_the_build_and_figures_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def stage(name: str, hours: float):  # type: ignore[no-untyped-def]
        return lambda job, say: ran.append(name) or {"hours": hours}

    gate = (Gate("hours", 10),)
    stages = {"a": (stage("a", 12.0), gate), "b": (stage("b", 4.0), gate), "c": (stage("c", 99.0), gate)}
    monkeypatch.setattr(builder, "STAGES", stages)
    with pytest.raises(RellmError, match=r"stage b ended with hours 4\.0.*10 or more"):
        build(Job(tmp_path), stages=tuple(stages))
    assert ran == ["a", "b"]
    written = json.loads((tmp_path / "build.json").read_text())["stages"]
    assert written["a"]["hours"] == 12.0 and "seconds" in written["a"]
    build(Job(tmp_path, scale=0.3), stages=("b", "c"))
    assert set(json.loads((tmp_path / "build.json").read_text())["stages"]) == {"a", "b", "c"}
    with pytest.raises(RellmError, match="no stage 'd'"):
        build(Job(tmp_path), stages=("d",))


def test_engines_can_be_left_out() -> None:
    assert "flite" not in choose_engines(["flite"]) and len(choose_engines(["flite"])) == 3
    with pytest.raises(RellmError, match="no synthesiser 'festival'"):
        choose_engines(["festival"])
    with pytest.raises(RellmError, match="no synthesiser is left"):
        choose_engines(builder.ENGINES)


@pytest.mark.slow
def test_the_command_writes_and_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text by the miniature's LLM and grammar, speech by espeak-ng."""
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed (extra mini)")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "llm-base").symlink_to(mini_assets() / "llm")
    monkeypatch.setattr(builder, "FACTS", 0)  # num2words
    monkeypatch.setattr(builder, "WORDS", 0)  # wordfreq
    monkeypatch.setattr(builder, "MINIATURE", 100_000)
    monkeypatch.setenv("RE_LLM_SMALL", str(parts))
    arguments = ["small", "build", "--out", str(tmp_path / "out"), "--scale", "0.002", "--json"]
    others = [word for name in ("piper", "kokoro", "flite") for word in ("--without", name)]
    done = CliRunner().invoke(app, [*arguments, *others, "--stage", "text", "--stage", "speech"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    texts = [row.text for row in read_records(tmp_path / "out" / "text" / "sentences.jsonl", Sentence)]
    assert figures["text"]["sentences"] == len(texts) == len({plain(text) for text in texts}) > 150
    assert figures["speech"]["train_hours"] >= 0.04 and figures["speech"]["train_voices"] >= 12
    rows = list(read_records(tmp_path / "out" / "speech" / "rendered.jsonl", Spoken))
    assert {row.text for row in rows} <= set(texts)
    assert not {row.text for row in rows if row.split == "train"} & {row.text for row in rows if row.split != "train"}
