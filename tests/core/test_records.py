"""Records and their files: what survives, what is repaired, what is refused."""

from __future__ import annotations

import codecs
import errno
from pathlib import Path

import pytest

from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.files import disk_error
from re_llm.core.records import MAX_LINE_BYTES, Score, Utterance, read_records, write_records


def row(key: str, **fields: object) -> Utterance:
    return Utterance(**{"key": key, "corpus": "c", "split": "train", "audio": f"{key}.wav", **fields})


def test_an_unknown_field_survives_a_round_trip(tmp_path: Path) -> None:
    write_records(tmp_path / "m.jsonl", [row("a", microphone="headset")])
    (back,) = read_records(tmp_path / "m.jsonl", Utterance)
    write_records(tmp_path / "n.jsonl", [back])
    assert (tmp_path / "n.jsonl").read_text() == (tmp_path / "m.jsonl").read_text()
    assert '"microphone":"headset"' in (tmp_path / "n.jsonl").read_text()


def test_a_broken_line_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(row("a").to_line() + '{"key": "b", "corpus": "c"}\n')
    with pytest.raises(RellmError, match=rf"{path}:2: .*split"):
        list(read_records(path, Utterance))
    path.write_text(row("a").to_line() + "not json\n" + row("c").to_line())
    seen: list[int] = []
    kept = list(read_records(path, Utterance, on_error=lambda line, _: seen.append(line)))
    assert ([r.key for r in kept], seen) == (["a", "c"], [2])


@pytest.mark.parametrize(("field", "value"), [("valence", 1.2), ("duration", 0.0), ("start", -1.0)])
def test_values_out_of_range_are_refused(tmp_path: Path, field: str, value: float) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(row("a").to_line().replace("}", f', "{field}": {value}}}'))
    with pytest.raises(RellmError, match=field):
        list(read_records(path, Utterance))


def test_dimensions_are_all_or_nothing() -> None:
    assert row("a", valence=0.1, arousal=0.2).dimensions() is None
    assert row("a", valence=0.1, arousal=0.2, dominance=0.3).dimensions() == (0.1, 0.2, 0.3)


def test_a_torn_last_line_is_repaired_and_its_row_written_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes((row("a").to_line() + row("b").to_line()[:20]).encode())
    with RecordAppender(path) as out:
        assert out.keys == {"a"}
        out.append([row("b")])
    assert [r.key for r in read_records(path, Utterance)] == ["a", "b"]


def test_appending_to_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for notes in ("my notes\n", "my notes", '{"my": "notes"', '{"key":"' + "x" * MAX_LINE_BYTES):
        path.write_text(notes)
        with pytest.raises(RellmError, match="not a record"):
            RecordAppender(path)
        assert path.read_text() == notes


@pytest.mark.parametrize("torn", ["", "{", '{"key":"b","corp', "\0\0\0"])
def test_only_the_beginning_of_a_record_is_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(row("a").to_line() + torn)
    with RecordAppender(path) as out:
        assert (out.keys, out.rows) == ({"a"}, 1)
    assert path.read_text() == row("a").to_line()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with (
        RecordAppender(tmp_path / "m.jsonl"),
        pytest.raises(RellmError, match="another process is writing"),
    ):
        RecordAppender(tmp_path / "m.jsonl")
    RecordAppender(tmp_path / "m.jsonl").close()


def test_a_full_disk_keeps_the_whole_lines_that_fitted(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk; both fail in the middle of a write."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "m.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = len(row("r0").to_line())
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * line + 7, limits[1]))
    try:
        with pytest.raises(RellmError, match=r"cannot write .*m\.jsonl: File too large"), RecordAppender(path) as out:
            out.append([row("r0")])
            out.append(row(f"r{i}") for i in range(1, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "".join(row(f"r{i}").to_line() for i in range(3))
    with RecordAppender(path) as out:
        out.append(row(f"r{i}") for i in range(5) if f"r{i}" not in out.keys)
    assert [r.key for r in read_records(path, Utterance)] == [f"r{i}" for i in range(5)]


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_records(path, [row("old")])

    def rows():
        yield row("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RellmError, match="No space left"):
        write_records(path, rows())
    assert [r.key for r in read_records(path, Utterance)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_what_to_do() -> None:
    error = disk_error(Path("out.jsonl"), OSError(errno.ENOSPC, "No space left on device"))
    assert "out.jsonl" in str(error) and "finished rows are kept" in str(error)


def test_scores_are_finite() -> None:
    with pytest.raises(ValueError, match="finite number"):
        Score(key="a", system="s", metric="ER", value=float("nan"))


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RellmError, match="cannot write"):
        write_records(tmp_path / "taken" / "manifest.jsonl", [])
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_byte_order_mark_of_an_editor_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b"\r\n".join(row(key).to_line().strip().encode() for key in "ab"))
    assert [each.key for each in read_records(path, Utterance)] == ["a", "b"]
