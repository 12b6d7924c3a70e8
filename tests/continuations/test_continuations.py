"""The LLM's continuations: what is asked, what is dropped and counted, and that a kill costs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import tiny_world
from chat_world import Echo, serving, write_manifest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.continuations import continue_manifest, continue_rows, refusal
from re_llm.continuations.cleaning import without_reasoning
from re_llm.core.appending import RecordAppender, log_path
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Record, Utterance, read_records, write_records
from re_llm.llm.completion import Completion
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import Prompt, get_prompt
from re_llm.llm.rows import batches_by_length


class Parrot:
    """Answers with the transcript; counts what it is asked."""

    name = "parrot"

    def __init__(self, dies_after: int | None = None, says: str = ""):
        self.asked: list[tuple[Prompt, str]] = []
        self.dies_after, self.says = dies_after, says

    def answer(self, rows: Sequence[tuple[Prompt, str]], *, on_batch=None, **_: object) -> list[Completion]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += rows
        if on_batch:
            on_batch(len(rows))
        return [
            Completion(self.says or f"and then {text}", 5, "length" if "long" in text else "stop") for _, text in rows
        ]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    base = {"corpus": "toy", "split": "train", "emotion": "sad", "speaker": "s1", "valence": 0.1}
    rows = [Utterance(**{**base, "key": f"u{i}", "audio": f"wav/{i}.wav", "text": f"line {i}"}) for i in range(7)] + [
        Utterance(**{**base, "key": "long", "audio": "wav/l.wav", "text": "a long line"}),
        Utterance(**{**base, "key": "mute", "audio": "wav/m.wav", "text": " "}),
        Utterance(**{**base, "key": "blank", "audio": "wav/b.wav", "text": "x", "emotion": None}),
        Utterance(**{**base, "key": "held-out", "audio": "wav/t.wav", "text": "x", "split": "test"}),
    ]
    (tmp_path / "corpus").mkdir()
    write_records(tmp_path / "corpus" / "manifest.jsonl", rows)
    return tmp_path / "corpus" / "manifest.jsonl"


def test_rows_carry_what_training_needs(manifest: Path, tmp_path: Path) -> None:
    parrot = Parrot()
    report = continue_manifest(manifest, tmp_path / "out" / "c.jsonl", llm=parrot)
    rows = {r.key: r for r in read_records(tmp_path / "out" / "c.jsonl", Continuation)}
    assert set(rows) == {*(f"u{i}" for i in range(7)), "long"}  # test utterances are never continued
    first = rows["u0"]
    assert (first.audio, first.text, first.emotion, first.valence) == ("../corpus/wav/0.wav", "line 0", "sad", 0.1)
    assert first.output == "and then line 0" and first.llm == "parrot"
    assert first.instruction.startswith("Continue the following sentence that reflects a sad emotion tone")
    assert not first.early_stop and rows["long"].early_stop and report.early_stops == 1
    assert dict(report.dropped) == {"no-text": 1, "no-emotion": 1}
    assert report.dropped_file is not None and "mute" in report.dropped_file.read_text()


def test_a_killed_run_goes_on_and_equals_a_whole_one(manifest: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    continue_manifest(manifest, whole, llm=Parrot(), chunk=3)
    with pytest.raises(KeyboardInterrupt):
        continue_manifest(manifest, broken, llm=Parrot(dies_after=3), chunk=3)
    with broken.open("ab") as out:  # and the last line was torn
        out.write(b'{"key":"u4","audio"')
    again = Parrot()
    report = continue_manifest(manifest, broken, llm=again, chunk=3)
    assert broken.read_bytes() == whole.read_bytes()
    assert len(again.asked) == 5 and report.resumed == 3
    assert broken.with_suffix(".dropped.jsonl").read_bytes() == whole.with_suffix(".dropped.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("I'm sorry, but I cannot go on.", "sorry-cannot"),
        ("I'm sorry, but I'm not sure.", "sorry-not-sure"),
        ("As an AI language model I have no feelings.", "as-an-ai"),
        ("Well, i'm sorry, but I must go.", "sorry-but-i"),
        ("I'm not sure what you mean.", "not-sure-what-you"),
        ("  ", "empty"),
        ("I'm sorry to hear that.", None),
    ],
)
def test_refusals_are_recognised(output: str, name: str | None) -> None:
    assert refusal(output) == name


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("It ended.", "It ended."),
        ("<think>a</think> <think>b</think>\nIt ended.", "It ended."),
        ("a </THINKING>It ended. ", "It ended."),
        ("[THINK]a[/THINK]It ended.", "It ended."),
        ("<reasoning>\na", None),
        ("a</think><think>b", None),
        (" I <think> so.", " I <think> so."),
        ("<thinker> he was.", "<thinker> he was."),
        ("a</think>", ""),
    ],
)
def test_reasoning_is_cut_off(output: str, answer: str | None) -> None:
    assert without_reasoning(output) == answer


def test_refusals_are_kept_aside_and_counted(manifest: Path, tmp_path: Path) -> None:
    report = continue_manifest(manifest, tmp_path / "c.jsonl", llm=Parrot(says="I'm sorry, but I cannot."))
    assert report.rows == 0 and report.dropped["sorry-cannot"] == 8


def test_a_repeated_key_is_an_error(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0] + "\n")
    with pytest.raises(RellmError, match="'u0'"):
        continue_manifest(manifest, tmp_path / "c.jsonl", llm=Parrot())


def test_batched_answers_are_those_of_single_rows(tmp_path: Path) -> None:
    llm = ChatLlm.load(str(tiny_world.save_llm(tmp_path / "llm")), device="cpu")
    rows = [(Prompt("chat"), text) for text in ("a", "a much longer line", "so", "words and words and words")]
    together = llm.answer(rows, max_new_tokens=8, batch_size=4)
    assert together == [a for row in rows for a in llm.answer([row], max_new_tokens=8)]
    assert any(a.text for a in together)


def test_an_llm_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="nothing-here"):
        ChatLlm.load(str(tmp_path / "nothing-here"))
    with pytest.raises(RellmError, match="tpu"):
        ChatLlm.load(str(tiny_world.save_llm(tmp_path / "llm")), device="tpu")


def test_batches_are_of_similar_length_longest_first() -> None:
    assert list(batches_by_length([3, 9, 1, 7], 2)) == [[1, 3], [0, 2]]


def _writes(manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bytes]]:
    """What a run writes, in order: (file, bytes)."""
    written: list[tuple[Path, bytes]] = []
    append = RecordAppender.append

    def watched(self: RecordAppender, records: Iterable[Record]) -> None:
        batch = list(records)
        written.append((self.path, "".join(record.to_line() for record in batch).encode()))
        append(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RecordAppender, "append", watched)
        continue_manifest(manifest, out, llm=Echo(), chunk=4)
    return written


def test_a_kill_at_any_byte_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a run wrote up to some byte is there, and nothing after it: the next run writes the rest."""
    manifest = write_manifest(tmp_path / "m.jsonl", 21)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    written = _writes(manifest, whole, monkeypatch)
    side = whole.with_suffix(".provenance.json").read_text()
    monkeypatch.setattr("re_llm.core.provenance.git_revision", lambda: None)  # a process each time
    total = sum(len(data) for _, data in written)
    for cut in range(0, total, 97):
        left = cut
        out.write_bytes(b"")
        out.with_suffix(".dropped.jsonl").write_bytes(b"")
        for path, data in written:
            with (out if path == whole else out.with_suffix(".dropped.jsonl")).open("ab") as file:
                file.write(data[:left])
            left = max(0, left - len(data))
        out.with_suffix(".provenance.json").write_text(side.replace('"complete": true', '"complete": false'))
        continue_manifest(manifest, out, llm=Echo(), chunk=4)
        for suffix in (".jsonl", ".dropped.jsonl"):
            assert out.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes(), cut


def test_chunks_are_the_same_after_a_kill(tmp_path: Path) -> None:
    """A chunk that was written in part is asked again as a whole: its batches round as they did."""
    manifest = write_manifest(tmp_path / "m.jsonl", 16)
    whole = Echo()
    continue_manifest(manifest, tmp_path / "c.jsonl", llm=whole, chunk=4)
    text = (tmp_path / "c.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "c.jsonl").write_text("".join(text[:5]))
    again = Echo()
    continue_manifest(manifest, tmp_path / "c.jsonl", llm=again, chunk=4)
    assert again.asked == whole.asked[4:] and (tmp_path / "c.jsonl").read_text() == "".join(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "continue"}, "--prompt was continue-emotion, and is continue now"),
        ({"max_new_tokens": 12}, "--max-new-tokens was 48, and is 12 now"),
        ({"llm": Echo("bat")}, "--llm/--model was echo, and is bat now"),
        ({"splits": None}, "--split was .*train.*, and is null now"),
        ({"splits": ("train", "dev")}, "--split was .*train.*, and is .*dev.*train"),
        ({"chunk": 5}, "--chunk was 4, and is 5 now"),
        ({"shard": "0/2"}, "--shard was 0/1, and is 0/2 now"),
        (
            {"llm": Echo(decoding={"backend": "local", "dtype": "bfloat16", "tokens": "joined"})},
            "--server was server, and is local now",
        ),
    ],
)
def test_another_run_does_not_go_on_with_the_file(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 9), tmp_path / "c.jsonl"
    options = {"llm": Echo(), "chunk": 4}
    continue_manifest(manifest, out, **options)
    out.write_text(out.read_text().splitlines(keepends=True)[0])
    before = out.read_bytes()
    with pytest.raises(RellmError, match=message):
        continue_manifest(manifest, out, **options | changes)
    assert out.read_bytes() == before
    continue_manifest(manifest, out, **options, batch_size=3)  # another batch size may go on; it is written down
    runs = json.loads(out.with_suffix(".provenance.json").read_text())["runs"]
    assert len(runs) == 2 and all(run["versions"]["re-llm"] for run in runs)


def test_another_llm_in_the_same_folder_is_noticed(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 3), tmp_path / "c.jsonl"
    folder = tiny_world.save_llm(tmp_path / "llm")
    options = {"llm": str(folder), "device": "cpu", "max_new_tokens": 2, "chunk": 1}
    continue_manifest(manifest, out, **options)
    out.write_text(out.read_text().splitlines(keepends=True)[0])
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(RellmError, match="the LLM has changed"):
        continue_manifest(manifest, out, **options)


def test_a_changed_manifest_or_a_file_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 9), tmp_path / "c.jsonl"
    continue_manifest(manifest, out, llm=Echo())
    write_manifest(manifest, 9, emotion="happy")
    with pytest.raises(RellmError, match=r"m\.jsonl has changed"):
        continue_manifest(manifest, out, llm=Echo())
    side = out.with_suffix(".provenance.json")
    side.write_text("{}")
    with pytest.raises(RellmError, match=r"c\.provenance\.json does not tell how c\.jsonl was made"):
        continue_manifest(manifest, out, llm=Echo())
    side.unlink()
    with pytest.raises(RellmError, match=r"c\.provenance\.json, which tells how it was made, is missing"):
        continue_manifest(manifest, out, llm=Echo())


def test_rows_that_are_not_of_this_run_are_found(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 9), tmp_path / "c.jsonl"
    continue_manifest(manifest, out, llm=Echo())
    text = out.read_text()
    lines = text.splitlines(keepends=True)
    for wrong, message in ((text + lines[0], "a key twice"), (text + lines[0].replace("u0", "u77"), "'u77', which is")):
        out.write_text(wrong)
        with pytest.raises(RellmError, match=message):
            continue_manifest(manifest, out, llm=Echo())
    out.write_text(text + lines[0].replace("u0", "u4"))
    with pytest.raises(RellmError, match=r"row 9 of c\.jsonl was changed after it was written, or added"):
        continue_manifest(manifest, out, llm=Echo())
    log_path(out).unlink()  # as one that an earlier version wrote
    with pytest.raises(RellmError, match="'u4' stands in"):
        continue_manifest(manifest, out, llm=Echo())


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 9), tmp_path / "c.jsonl"
    with RecordAppender(out), pytest.raises(RellmError, match="another process is writing"):
        continue_manifest(manifest, out, llm=Echo())
    assert continue_manifest(manifest, out, llm=Echo()).rows == 8


def test_one_batch_of_rows_without_any_file() -> None:
    """What other engines build on."""
    base = {"corpus": "toy", "split": "train", "audio": "a.wav"}
    rows = [
        Utterance(key="a", text="so", emotion="sad", **base),
        Utterance(key="b", text=" ", emotion="sad", **base),
        Utterance(key="c", text="and", **base),
        Utterance(key="d", text="well", emotion="happy", **base),
    ]
    llm = Echo()
    outcomes = continue_rows(rows, llm, "continue-emotion")
    assert [(each.key, each.dropped) for each in outcomes] == [
        ("a", None), ("b", "no-text"), ("c", "no-emotion"), ("d", None),
    ]  # fmt: skip
    assert llm.asked == ["so", "well"] and isinstance(outcomes[3].record, Continuation)
    assert outcomes[3].record.instruction.startswith("Continue the following sentence that reflects a happy emotion")
    assert continue_rows(rows[1:3], llm, "continue-emotion")[0].filed().model_dump()["dropped"] == "no-text"
    plain = continue_rows(rows, llm, "continue")
    assert [each.dropped for each in plain] == [None, "no-text", None, None]
    assert plain[2].record.model_dump()["instruction"] == "Continue the following sentence in a coherent style: "
    code = continue_rows(rows[:1], llm, "continue-emotion-code")[0].record
    assert "reflects a 'sad' emotion tone" in code.model_dump()["instruction"]


def test_no_row_in_the_splits_is_an_error(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", 3, split="test")
    with pytest.raises(RellmError, match=r"no utterance in train\. Allowed: test"):
        continue_manifest(manifest, tmp_path / "c.jsonl", llm=Echo())


def test_joined_tokens_are_those_of_the_whole_turn(assets: Path) -> None:
    pieces, joined = (ChatLlm.load("mini:llm", device="cpu", tokens=way) for way in ("pieces", "joined"))
    prompt, text = get_prompt("continue"), "I missed the bus."
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.before + text}]
    whole = joined.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert joined._ids(prompt, text) == joined.tokenizer(whole)["input_ids"] != pieces._ids(prompt, text)
    assert joined.tokenizer.decode(pieces._ids(prompt, text)) == whole
    assert joined.name == "mini:llm" and joined.decoding["tokens"] == "joined"
    with pytest.raises(RellmError, match="Allowed: pieces, joined"):
        ChatLlm.load("mini:llm", device="cpu", tokens="letters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no LLM is named"),
        (["--server", "http://127.0.0.1:9/v1"], "no LLM is named"),
        (["--llm", "a", "--server", "http://127.0.0.1:9/v1", "--model", "b"], "--llm is an option of a model of this"),
        (["--server", "http://127.0.0.1:9/v1", "--model", "b", "--device", "cpu"], "--device is an option of a model"),
        (["--llm", "a", "--rate", "9"], "--rate is an option of --server, which is not given"),
        (["--llm", "a", "--shard", "4/4"], "there is no shard 4/4"),
        (["--server", "http://127.0.0.1:9/v1", "--model", "b", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["--server", "http://127.0.0.1:9/v1", "--model", "b"], "cannot be reached"),
    ],
)
def test_the_command_tells_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", 3)
    done = CliRunner().invoke(app, ["continue", str(manifest), "--out", str(tmp_path / "c.jsonl"), *arguments])
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_the_command_through_a_server(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "m.jsonl", 9), tmp_path / "c.jsonl"
    with serving() as world:
        arguments = ["continue", manifest, "--out", out, "--server", world.url, "--model", "echo", "--json"]
        done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["dropped"], report["retries"]) == (8, {"no-text": 1}, {})
    continue_manifest(manifest, tmp_path / "local.jsonl", llm=Echo())
    assert out.read_bytes() == (tmp_path / "local.jsonl").read_bytes()
