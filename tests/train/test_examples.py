"""Examples of files: what is held, what is read again, and that it is what a list of them would be."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny_world

from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, write_records
from re_llm.recipe.stages import StageOptions, TaskOptions, ValidationOptions
from re_llm.train.data import load_examples
from re_llm.train.examples import Examples, KeyIndex
from re_llm.train.identity import recordings_hash, segment_ids
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.validation import held_out

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
TALK = [
    Earlier(role="user", text="the sun", key="u3", emotion="sad", prompt="cascade-dialogue"),
    Earlier(role="assistant", text="so nice"),
    Earlier(role="user", text="a stranger", key="gone"),
    Earlier(role="assistant", text="who"),
]


def continuation(i: int, **changes: object) -> Continuation:
    base = {
        "key": f"u{i}", "corpus": "toy", "audio": f"{i}.wav", "text": f"it rains {i} times", "emotion": EMOTIONS[i % 5],
        "duration": [2.0, None, 0.5, 3.5][i % 4], "start": i / 7, "instruction": "go on", "output": f"I stay {i}",
        "early_stop": i % 3 == 0, "llm": "x", "speaker": f"s{i % 4}", "split": ["train", "dev", None][i % 3],
    }  # fmt: skip
    return Continuation(**{**base, **changes})


def stage(**changes: object) -> StageOptions:
    return StageOptions(**{"losses": {"response_ce": 1.0}, "lr": 1e-3, **changes})


TALKING = [
    TaskOptions(prompt="continue", fraction=0.5),
    TaskOptions(prompt="chat-empathetic", continuation="cascade-dialogue", history="mixed", fraction=0.5),
]
KINDS = ("one file", "dialogues", "exchange")


@pytest.fixture(params=KINDS)
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Path], StageOptions]:
    kinds = {
        "one file": ({"toy": [continuation(i) for i in range(24)]}, stage()),
        "dialogues": (
            {
                "toy.continue": [continuation(i, prompt="continue", corpus=None) for i in range(24)],
                "toy.cascade-dialogue": [
                    continuation(i, prompt="cascade-dialogue", corpus=None, history=TALK[: 4 - 2 * (i % 3)])
                    for i in reversed(range(24))
                ],
            },
            stage(tasks=TALKING),
        ),
        "exchange": (
            {
                "toy": [continuation(i) for i in range(24)],
                "flat": [continuation(i, corpus="flat") for i in range(5)],
                "gift": [continuation(i, corpus="gift") for i in range(8)],
            },
            stage(exchange=("flat",), donors=("gift",), data=("toy", "flat", "gift")),
        ),
    }
    files, options = kinds[request.param]
    for name, rows in files.items():
        write_records(tmp_path / f"{name}.jsonl", rows)
    for i in range(24):
        (tmp_path / f"{i}.wav").write_bytes(bytes([i // 2]))  # two recordings hold the same
    return [tmp_path / f"{name}.jsonl" for name in files], options


def load(files: list[Path], options: StageOptions) -> Examples:
    return load_examples(files, options, EMOTIONS, tiny_world.tokenizer()).examples


def test_files_give_what_a_list_gives(manifest: tuple[list[Path], StageOptions], tmp_path: Path) -> None:
    found = load(*manifest)
    listed = Examples.of(list(found))
    assert len(found) > 10 and list(listed) == list(found) and list(listed.sources()) == list(found.sources())
    for name in ("roles", "emotions", "unnamed", "wordless", "talks"):
        assert np.array_equal(getattr(listed, name), getattr(found, name)), name
    assert np.array_equal(listed.durations, found.durations, equal_nan=True)
    maker = RowMaker(tiny_world.tokenizer(), manifest[1])
    one, other = (TrainingRows(each, maker, seed=1) for each in (found, listed))
    places = [(epoch, place) for epoch in range(2) for place in range(len(one))]
    assert [one[place] for place in places] == [other[place] for place in places]
    assert one.earlier_tokens(1) == other.earlier_tokens(1)
    segments = [segment_ids(each, tmp_path / "memory") for each in (found, listed)]
    assert recordings_hash(found, segments[0]) == recordings_hash(listed, segments[1])
    for options in (ValidationOptions(fraction=0.3), ValidationOptions(fraction=0.3, by="row")):
        sides = [held_out(each, options, seed=3) for each in (found, listed)]
        assert [list(side) for side in sides[0]] == [list(side) for side in sides[1]]


def test_some_of_them_in_another_order(tmp_path: Path) -> None:
    write_records(tmp_path / "toy.jsonl", [continuation(i, duration=2.0) for i in range(9)])
    found = load([tmp_path / "toy.jsonl"], stage())
    assert [each.key for each in found.take([5, 2])] == ["toy/u5", "toy/u2"]
    assert [each.key for each in found[3:5].then(found[:1])] == ["toy/u3", "toy/u4", "toy/u0"]
    assert found[-1].key == "toy/u8" and found.find("toy/u8") == 8 and found[4:].find("toy/u3") is None
    with pytest.raises(IndexError):
        found[9]
    assert list(pickle.loads(pickle.dumps(found))) == list(found)  # loaders that are not forked get it so


def test_a_row_that_is_edited_meanwhile_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "toy.jsonl"
    write_records(file, [continuation(i, duration=2.0) for i in range(3)])
    found, whole = load([file], stage()), file.read_bytes()
    file.write_bytes(whole.replace(b"I stay 1", b"I leave1"))
    assert found[0].targets["continue"].output == "I stay 0"
    with pytest.raises(RellmError, match=r"toy\.jsonl has changed since it was read"):
        found[1]
    file.write_bytes(whole[:-5])
    with pytest.raises(RellmError, match=r"toy\.jsonl has changed since it was read"):
        found[2]
    file.write_bytes(whole + b'{"key": "more"}\n')  # what is appended changes nothing
    assert [each.text for each in found] == [f"it rains {i} times" for i in range(3)]


def test_a_file_that_is_written_anew_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "toy.jsonl"
    write_records(file, [continuation(i, duration=2.0) for i in range(3)])
    found = load([file], stage())
    write_records(file, [continuation(9)])
    assert [each.key for each in found] == ["toy/u0", "toy/u1", "toy/u2"]
    monkeypatch.delattr("os.pread")  # as on Windows
    assert [each.key for each in found] == ["toy/u0", "toy/u1", "toy/u2"]


def test_memory_does_not_grow_with_texts_and_answers(tmp_path: Path) -> None:
    """Rows of two kilobytes take less than 400 bytes each."""
    rows, file = 3000, tmp_path / "toy.jsonl"
    write_records(file, (continuation(i, duration=2.0, output="so I stay " * 200) for i in range(rows)))
    load([file], stage())  # what is held once
    tracemalloc.start()
    found = load([file], stage())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == rows and file.stat().st_size > 2000 * rows
    assert held < 400 * rows and peak < 800 * rows


@pytest.mark.parametrize("recent", [1, 7, 1000])
def test_keys_are_found_by_their_last_place(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("re_llm.train.examples.RECENT", recent)
    keys = [f"k{i}" for i in range(50)] + ["k7"]
    found = KeyIndex(keys)
    assert [found.find(key) for key in keys[:9]] == [0, 1, 2, 3, 4, 5, 6, 50, 8] and found.find("no") is None
    wanted = [*keys[:9], "no", "k49"]
    assert found.find_all(wanted).tolist() == [0, 1, 2, 3, 4, 5, 6, 50, 8, -1, 49] and len(found) == 51
    found.add("no")
    assert found.find("no") == 51 and found.find_all(["no"]).tolist() == [51]
    assert KeyIndex([]).find("k") is None and KeyIndex([]).find_all(["k"]).tolist() == [-1]
    # Half of the hash is the same: the other half tells them apart.
    monkeypatch.setattr("re_llm.train.examples.key_digest", lambda key: bytes(8) + key.encode().ljust(8, b"."))
    found = KeyIndex(["a", "b", "a"])
    assert [found.find(key) for key in "abc"] == [2, 1, None] and found.find_all("abc").tolist() == [2, 1, -1]
    assert [found.find(key) for key in "abc"] == [2, 1, None]  # sorted now


def test_recordings_of_other_folders_and_links(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    for folder in (rows, tmp_path / "real"):
        folder.mkdir()
    (rows / "link").symlink_to(tmp_path / "real")
    names = ["../audio/a.wav", "link/b.wav", str(tmp_path / "c.wav"), "set.zip:10:20", "/d.wav", "link//e.wav"]
    write_records(rows / "toy.jsonl", [continuation(4 * i, audio=name) for i, name in enumerate(names)])
    wanted = [tmp_path / "audio/a.wav", tmp_path / "real/b.wav", tmp_path / "c.wav", rows / "set.zip:10:20"]
    wanted += [Path("/d.wav"), tmp_path / "real/e.wav"]
    found = load([rows / "toy.jsonl"], stage())
    assert [each.audio for each in found] == [source.audio for source in found.sources()] == list(map(str, wanted))


def test_a_wrong_line_is_named_by_its_number_among_empty_ones(tmp_path: Path) -> None:
    file = tmp_path / "toy.jsonl"
    lines = [continuation(0).to_line(), "\n", continuation(4, emotion="smug").to_line()]
    file.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(RellmError, match=r"toy\.jsonl:3"):
        load([file], stage())


def test_rows_behind_a_byte_order_mark_and_without_a_last_line_end_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "toy.jsonl"
    lines = "".join(continuation(i, duration=2.0).to_line() for i in range(3))
    file.write_bytes(b"\xef\xbb\xbf" + lines.rstrip("\n").encode())
    assert [each.text for each in load([file], stage())] == [f"it rains {i} times" for i in range(3)]
