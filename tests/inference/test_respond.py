"""The stage that answers a manifest: resumable, nothing lost in silence, for speech and for text systems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.inference import engine
from re_llm.inference.encoding import encode_batch
from re_llm.inference.estimate import Estimate
from re_llm.inference.reply import Models, Reply, ReplyOptions, System
from re_llm.inference.reply_records import to_record
from re_llm.inference.respond import respond_files, respond_manifest, respond_rows, rows_for
from re_llm.inference.systems import TextSystem
from re_llm.llm.completion import Completion


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def manifest(tmp_path: Path, recording) -> Path:
    """Five utterances of different lengths; two are segments of one file, the last is not there."""
    recording("audio/long.wav", 3.0)
    recording("audio/short.wav", 0.6, seed=1)
    rows = [
        {"key": "long", "audio": "audio/long.wav", "split": "train", "emotion": "sad"},
        {"key": "head", "audio": "audio/long.wav", "duration": 1.0, "text": "hello"},
        {"key": "tail", "audio": "audio/long.wav", "start": 1.5, "duration": 1.0},
        {"key": "short", "audio": "audio/short.wav"},
        {"key": "gone", "audio": "audio/gone.wav"},
    ]
    path = tmp_path / "manifest.jsonl"
    write_records(path, [Utterance(**{"corpus": "c", "split": "test", **row}) for row in rows])
    return path


def test_files_are_heard_alike_on_the_screen_and_in_a_file_and_a_manifest_as_it_is(
    loaded: engine.Engine, recording, tmp_path: Path
) -> None:
    wave, rate = soundfile.read(recording())
    soundfile.write(tmp_path / "around.wav", np.pad(wave, 2 * rate), rate)
    rows, options = rows_for([tmp_path / "around.wav"]), ReplyOptions(max_new_tokens=2)
    shown = respond_files(loaded, rows, options)[0].probabilities
    respond_rows(loaded, rows, tmp_path, tmp_path / "replies.jsonl", options)
    (written,) = read_records(tmp_path / "replies.jsonl", ReplyRecord)
    assert written.probabilities == pytest.approx(shown, abs=1e-4)
    write_records(tmp_path / "m.jsonl", [rows[0].model_copy(update={"corpus": "c", "audio": "around.wav"})])
    respond_manifest(loaded, tmp_path / "m.jsonl", tmp_path / "whole.jsonl", options)
    (whole,) = read_records(tmp_path / "whole.jsonl", ReplyRecord)
    assert whole.probabilities != pytest.approx(shown, abs=1e-3)


def test_batched_replies_are_those_of_single_recordings(loaded: engine.Engine, manifest: Path, tmp_path: Path) -> None:
    batched, single = tmp_path / "batched.jsonl", tmp_path / "single.jsonl"
    for out, size in ((batched, 4), (single, 1)):
        options = ReplyOptions(batch_size=size, recognize="recognize", max_new_tokens=6)
        respond_manifest(loaded, manifest, out, options)
    by_key = [{reply.key: reply for reply in read_records(path, ReplyRecord)} for path in (batched, single)]
    assert set(by_key[0]) == {"long", "head", "tail", "short"}
    for key, reply in by_key[0].items():
        other = by_key[1][key]
        assert (reply.response, reply.answer, reply.predicted_emotion) == (
            other.response,
            other.answer,
            other.predicted_emotion,
        )
        assert reply.probabilities == pytest.approx(other.probabilities, abs=2e-4)
    assert by_key[0]["head"].probabilities != by_key[0]["short"].probabilities


def test_what_could_not_be_used_is_counted_listed_and_tried_again(
    loaded: engine.Engine, manifest: Path, tmp_path: Path, recording
) -> None:
    out = tmp_path / "replies.jsonl"
    report = respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3), splits=["test"])
    assert (report.rows, report.resumed, report.dropped) == (3, 0, 1)
    (gone,) = read_records(report.dropped_file, Utterance)
    assert gone.key == "gone"
    assert "gone.wav" in gone.model_extra["dropped"]
    assert "1 recordings could not be used" in report.summary()
    recording("audio/gone.wav")
    again = respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3), splits=["test"])
    assert (again.rows, again.resumed, again.dropped, again.dropped_file) == (4, 3, 0, None)
    assert not out.with_suffix(".dropped.jsonl").exists()


def test_silence_and_what_the_llm_cannot_read_are_listed_and_cost_nobody_else(
    loaded: engine.Engine, tmp_path: Path, recording
) -> None:
    recording("good.wav", 1.0)
    recording("long.wav", 90.0, rate=8000)
    soundfile.write(tmp_path / "silent.wav", np.full(16000, 0.1), 16000)
    names = ("good", "long", "silent")
    rows = [Utterance(key=n, corpus="c", split="test", audio=f"{n}.wav") for n in names]
    write_records(tmp_path / "m.jsonl", rows)
    report = respond_manifest(loaded, tmp_path / "m.jsonl", tmp_path / "r.jsonl", ReplyOptions(max_new_tokens=100))
    assert (report.rows, report.dropped) == (1, 2)
    reasons = {row.key: row.model_extra["dropped"] for row in read_records(report.dropped_file, Utterance)}
    assert "is silent" in reasons["silent"]
    assert "too long for this LLM: 90.0 s" in reasons["long"]
    # The limit that is told is the true one.
    longest = float(reasons["long"].partition("up to ")[2].split()[0])
    noise = np.random.default_rng(0).normal(0, 0.1, round((longest + 1) * 16000)).astype(np.float32)
    room = loaded.max_seconds(("chat-empathetic", 100))
    assert room == longest
    with pytest.raises(RellmError, match="tokens"):
        loaded.answer(encode_batch(loaded.model, loaded.processor, [noise]), max_new_tokens=100)


def test_a_file_goes_on_only_with_what_it_was_begun_with(
    loaded: engine.Engine, manifest: Path, tmp_path: Path, recording
) -> None:
    out = tmp_path / "replies.jsonl"
    respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3), splits=["train"])
    before = out.read_bytes()
    for changed, told in (
        ({"prompt": "chat"}, "--prompt was chat-empathetic, and is chat now"),
        ({"system": "other"}, "--system"),
        ({"max_new_tokens": 4}, "--max-new-tokens was 3"),
        ({"recognize": "recognize"}, "--recognize was null"),
        ({"recognize_tokens": 16}, "the length of the answer to --recognize was 128"),
        ({"repetition_penalty": 1.1}, "the repetition penalty was null"),
    ):
        with pytest.raises(RellmError, match=told):
            respond_manifest(loaded, manifest, out, ReplyOptions(**{"max_new_tokens": 3, **changed}))
    shutil.copytree(Path(loaded.name).parent, tmp_path / "moved")
    retrained = tmp_path / "moved" / Path(loaded.name).name
    other = engine.Engine(loaded.model, loaded.processor, str(retrained))
    weights = (retrained / "model.safetensors").read_bytes()
    (retrained / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(RellmError, match=r"the model .*re-llm has changed"):
        respond_manifest(other, manifest, out, ReplyOptions(max_new_tokens=3))
    assert out.read_bytes() == before
    (retrained / "model.safetensors").write_bytes(weights)
    assert (
        respond_manifest(other, manifest, out, ReplyOptions(max_new_tokens=3)).resumed == 1
    )  # a copy is the same model
    made = json.loads(out.with_suffix(".provenance.json").read_text())
    assert [run["splits"] for run in made["runs"]] == [["train"], []]
    assert (made["complete"], made["report"]["rows"], made["report"]["dropped"]) == (True, 4, 1)
    out.with_suffix(".provenance.json").unlink()
    with pytest.raises(RellmError, match=r"replies\.provenance\.json, which tells how it was made, is missing"):
        respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3))


def test_rows_that_nobody_could_tell_apart_are_refused(loaded: engine.Engine, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_records(path, [Utterance(key="a", corpus="c", split="test", audio=f"{n}.wav") for n in (1, 2)])
    with pytest.raises(RellmError, match="holds the key 'a' twice"):
        respond_manifest(loaded, path, tmp_path / "r.jsonl", ReplyOptions())
    path.write_text("")
    with pytest.raises(RellmError, match="holds no utterance"):
        respond_manifest(loaded, path, tmp_path / "r.jsonl", ReplyOptions())
    assert not (tmp_path / "r.jsonl").exists()


def test_strict_stops_at_the_first_unusable_recording(loaded: engine.Engine, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"gone\.wav"):
        respond_manifest(loaded, manifest, tmp_path / "r.jsonl", ReplyOptions(), strict=True)


def test_a_torn_last_line_is_answered_again(loaded: engine.Engine, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "replies.jsonl"
    respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3), splits=["test"])
    whole = out.read_text()
    out.write_text(whole[:-20])
    report = respond_manifest(loaded, manifest, out, ReplyOptions(max_new_tokens=3), splits=["test"])
    assert report.resumed == 2
    assert sorted(out.read_text().splitlines()) == sorted(whole.splitlines())


def test_an_unknown_split_is_refused_with_those_there_are(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="Allowed: test, train"):
        respond_manifest(None, manifest, tmp_path / "r.jsonl", ReplyOptions(), splits=["tset"])


class EchoLlm:
    """Says what it is asked, and remembers it."""

    name, model = "echo", SimpleNamespace(dtype="torch.float32")

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.decoding: list[tuple[int, float | None]] = []

    def answer(self, rows, *, max_new_tokens, batch_size, repetition_penalty):
        self.seen += [(prompt.id, text) for prompt, text in rows]
        self.decoding.append((max_new_tokens, repetition_penalty))
        return [Completion(text, 1) for _, text in rows]


def test_a_text_system_needs_no_recordings(manifest: Path, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"text": f"the {row.key} one"}) for row in read_records(manifest, Utterance)]
    write_records(manifest, rows)
    llm, out = EchoLlm(), tmp_path / "replies.jsonl"
    report = respond_manifest(TextSystem(llm), manifest, out, ReplyOptions("text", "chat", "recognize", seed=3))
    assert (report.rows, report.dropped) == (5, 0)
    assert llm.seen == [(prompt, row.text) for prompt in ("chat", "recognize") for row in rows]
    head = next(reply for reply in read_records(out, ReplyRecord) if reply.key == "head")
    assert (head.response, head.system, head.seed) == ("the head one", "text", 3)
    assert (head.predicted_emotion, head.probabilities, head.transcript) == (None, None, None)
    assert (head.named_emotion, head.answer) == (None, "the head one")


def test_a_text_system_is_asked_with_the_same_limits() -> None:
    row = Utterance(key="a", corpus="c", split="test", audio="a.wav", text="I won.")
    options = {"max_new_tokens": 9, "recognize_tokens": 4, "repetition_penalty": 1.1}
    llm = EchoLlm()
    TextSystem(llm).respond_rows([row], None, ReplyOptions("s", "chat", "recognize", **options))
    assert llm.decoding == [(9, 1.1), (4, 1.1)]


def test_a_prompt_with_the_label_is_not_asked_for_the_emotion() -> None:
    row = Utterance(key="a", corpus="c", split="test", audio="a.wav", text="I won.", emotion="happy")
    llm = EchoLlm()
    (reply,) = TextSystem(llm).respond_rows([row], None, ReplyOptions("s", "cascade", "recognize"))
    assert llm.seen == [("cascade", "I won.")] and reply.answer is None
    with pytest.raises(RellmError, match="utterance 'a' has the emotion None, and prompt 'cascade' needs one"):
        TextSystem(llm).respond_rows([row.model_copy(update={"emotion": None})], None, ReplyOptions("s", "cascade"))
    with pytest.raises(RellmError, match="utterance 'a' has no text"):
        TextSystem(llm).respond_rows([row.model_copy(update={"text": None})], None, ReplyOptions())


def test_speech_and_text_systems_have_one_interface(loaded: engine.Engine) -> None:
    wanted = {name for kind in (Models, System) for name in vars(kind) if not name.startswith("_")}
    assert {"names", "needs_audio", "dtype", "quantized", "max_seconds", "respond_rows"} == wanted
    for system in (loaded, TextSystem(EchoLlm())):
        assert [name for name in wanted if not hasattr(system, name)] == []


def test_files_keep_their_order_and_names(loaded: engine.Engine, recording) -> None:
    names = [recording("b.wav", 0.8), recording("a.wav", 1.2)]
    replies = respond_files(loaded, rows_for(names), ReplyOptions(max_new_tokens=3))
    assert [reply.key for reply in replies] == [str(name) for name in names]
    with pytest.raises(RellmError, match="named twice"):
        rows_for([names[0], names[0]])


def test_dimensions_outside_of_the_scale_are_stored_at_its_end() -> None:
    row = Utterance(key="k", corpus="c", split="test", audio="a.wav", speaker="0019")
    estimate = Estimate(
        probabilities={"sad": 0.7, "happy": 0.3}, valence=-0.02, arousal=1.07, dominance=0.5,
        named_emotion="sad", answer="It is sad.",
    )  # fmt: skip
    record = to_record(row, Reply.of(estimate, Completion("Oh.")), ReplyOptions("s", None))
    assert record.dimensions() == (0.0, 1.0, 0.5)
    assert (record.predicted_emotion, record.named_emotion, record.finish_reason, record.speaker) == (
        "sad",
        "sad",
        None,
        "0019",
    )


def test_a_cascade_is_known_by_both_of_its_models(assets: Path) -> None:
    llm = SimpleNamespace(name="mini:llm", model=SimpleNamespace(dtype="torch.float32"))
    cascade, alone = (
        ReplyOptions().product(Path("r.jsonl"), TextSystem(llm, transcriber=transcriber))
        for transcriber in (SimpleNamespace(name="mini:whisper"), None)
    )
    models = [cascade.inputs["model 1"], cascade.inputs["model 2"]]
    assert len(set(models)) == 2 and None not in models
    assert (alone.inputs["model 1"], cascade.settings["dtype"]) == (models[0], "float32")
    assert "model 2" not in alone.inputs


def test_a_row_or_a_recording_that_changed_is_not_passed_over(
    loaded: engine.Engine, manifest: Path, tmp_path: Path, recording
) -> None:
    """The same keys: the label of one row, the recording of another, and a row that the manifest lost."""
    out, options = tmp_path / "replies.jsonl", ReplyOptions(max_new_tokens=3)
    respond_manifest(loaded, manifest, out, options)
    assert respond_manifest(loaded, manifest, out, options).skipped  # also what could not be used is the same
    before, text = out.read_bytes(), manifest.read_text()
    for changed, told in (
        (text.replace('"sad"', '"angry"'), "'long' changed after the reply"),
        ("".join(text.splitlines(keepends=True)[1:]), "a reply to 'long', which the manifest does not have"),
    ):
        manifest.write_text(changed)
        with pytest.raises(RellmError, match=told):
            respond_manifest(loaded, manifest, out, options)
    manifest.write_text(text)
    recording("audio/long.wav", 3.0, seed=7)
    with pytest.raises(RellmError, match="'long' and 2 more changed after the reply"):
        respond_manifest(loaded, manifest, out, options)
    assert out.read_bytes() == before
    report = respond_manifest(loaded, manifest, out, options, overwrite=Overwrite.YES)
    assert report.rows == 4 and "'long' and 2 more" in report.remade and out.read_bytes() != before
