"""Label files in unknown encodings, tables, and lists of objects."""

import csv
import gzip
from functools import partial

import corpus_worlds as worlds
import pytest

from re_llm.core.errors import RellmError
from re_llm.data.corpora import files
from re_llm.data.corpora.base import Scan, length_in_words, pseudo_random_order

FRENCH = "0016_000001\tLe café où je déjeune l'été.\tHappy\n" * 3
CHINESE = "0001_000001\t打开窗户吧。今天的天气真不错。\t中立\n" * 3


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "utf-8"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        (FRENCH, "latin-1"),
        (CHINESE, "utf-8"),
        (CHINESE, "gb2312"),
        (CHINESE, "gb18030"),
        (CHINESE, "utf-16"),
    ],
)
def test_encodings(tmp_path, text, encoding):
    assert files.decode_text(text.encode(encoding)) == text
    (tmp_path / "t.txt").write_bytes(text.encode(encoding))
    assert list(files.read_lines(tmp_path / "t.txt"))[2] == (3, text.splitlines()[2])


def table(tmp_path, data, **kwargs):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    scan = Scan(tmp_path)
    return list(files.read_table(scan, path, ("a", "b"), **kwargs)), scan.problems


def test_tables(tmp_path):
    data = '\ufeffa , b\r\n"1,5",it\u2019s\r\n\r\nlonely\r\n2,"two\nlines"\r\n'.encode()
    rows, problems = table(tmp_path, data)
    assert rows == [(2, {"a": "1,5", "b": "it\u2019s"}), (6, {"a": "2", "b": "two\nlines"})]
    assert [(p.line, p.what) for p in problems] == [(4, "1 columns instead of 2")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_in_other_encodings(tmp_path, encoding, end):
    text = end.join(["a,b", *(f"sample_{n},今天的天气真不错我们出去走走" for n in range(40))])
    rows, problems = table(tmp_path, text.encode(encoding))
    assert problems == [] and len(rows) == 40 and rows[7] == (9, {"a": "sample_7", "b": "今天的天气真不错我们出去走走"})


def test_a_table_in_latin_1(tmp_path):
    rows, _ = table(tmp_path, "a,b\r\nL'été,déjà vu\r\n".encode("latin-1"))
    assert rows == [(2, {"a": "L'été", "b": "déjà vu"})]


def test_damaged_apostrophes(tmp_path):
    # cp1252 bytes as they are, and as Latin-1 decoded and then written as UTF-8.
    rows, _ = table(tmp_path, b"a,b\nit\x92s,it\xc2\x92s\n")
    assert rows[0][1] == {"a": "it\u2019s", "b": "it\u2019s"}


def test_quotes_that_quote_nothing(tmp_path):
    assert table(tmp_path, b'a\tb\n"so\tx\n', delimiter="\t", quoted=False)[0][0][1] == {"a": '"so', "b": "x"}


def test_tables_that_are_none(tmp_path, monkeypatch, request):
    with pytest.raises(RellmError, match=r"t\.csv:1: no column b\. Allowed: found: a, c"):
        table(tmp_path, b"a,c\n1,2\n")
    with pytest.raises(RellmError, match="cannot read"):
        list(files.read_table(Scan(tmp_path), tmp_path / "none.csv", ()))
    monkeypatch.setattr(files, "FIELD_BYTES", 100)
    request.addfinalizer(partial(csv.field_size_limit, csv.field_size_limit()))
    with pytest.raises(RellmError, match=r"t\.csv:\d: field larger than field limit"):
        table(tmp_path, b"a,b\n1," + b"x" * 200 + b"\n")
    monkeypatch.setattr(files, "TEXT_BYTES", 10)
    with pytest.raises(RellmError, match="at most 10"):
        list(files.read_lines(tmp_path / "t.csv"))


def test_packed_lines(tmp_path):
    (tmp_path / "l.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n\nnonsense\n{"a": 2}\n'))
    scan = Scan(tmp_path)
    assert list(files.read_json_lines(scan, tmp_path / "l.jsonl.gz")) == [(1, {"a": 1}), (4, {"a": 2})]
    assert [p.line for p in scan.problems] == [3]
    (tmp_path / "x.jsonl.gz").write_bytes(b"not packed at all")
    with pytest.raises(RellmError, match="cannot read"):
        list(files.read_json_lines(scan, tmp_path / "x.jsonl.gz"))


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    outside = tmp_path / "elsewhere"
    for path in ("corpus/a/1.wav", "elsewhere/2.wav", "elsewhere/deep/3.wav"):
        worlds.sound(tmp_path / path, 0.1)
    root = tmp_path / "corpus"
    (root / "b").symlink_to(outside, target_is_directory=True)
    (root / "c").symlink_to(outside, target_is_directory=True)  # the same again
    (outside / "deep" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "self").symlink_to(root / "a", target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "absent", target_is_directory=True)
    found = [path.relative_to(root).as_posix() for path in files.recordings(root)]
    assert found == ["a/1.wav", "b/2.wav", "b/deep/3.wav"]


def test_a_recording_in_another_format(tmp_path):
    flac, wav = worlds.sound(tmp_path / "a.flac", 0.1), tmp_path / "a.wav"
    assert files.any_format(wav) == flac and files.any_format(flac) == flac
    worlds.sound(wav, 0.1)
    assert files.any_format(wav) == wav and files.any_format(tmp_path / "b.wav") == tmp_path / "b.wav"
    (tmp_path / "a.mp4").touch()
    assert files.any_format(tmp_path / "a.mp4") == wav, "of a video, the sound beside it"
    assert files.any_format(tmp_path / ("x" * 300)).name == "x" * 300


@pytest.mark.parametrize(
    ("text", "language", "length"),
    [("Well, I - never!", "en", 3), ("", "en", 0), ("今天。天气好", "zh", 5), ("今天。天气好", "en", 1)],
)
def test_length_in_words(text, language, length):
    assert length_in_words(text, language) == length


def test_an_order_that_does_not_depend_on_what_else_is_there():
    whole = pseudo_random_order(range(100), 0, "x")
    assert sorted(whole) == list(range(100)) and whole != list(range(100))
    assert pseudo_random_order(range(50), 0, "x") == [n for n in whole if n < 50]
    assert pseudo_random_order(range(100), 1, "x") != whole
