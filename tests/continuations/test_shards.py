"""Shards of a run, and their merge: nothing missing, nothing doubled, and the bytes of one uninterrupted run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_world
from chat_world import Echo, write_manifest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.continuations import Shard, continue_manifest, merge_shards
from re_llm.continuations.plan import Plan
from re_llm.core.appending import log_path
from re_llm.core.errors import RellmError

ROWS, CHUNK, COUNT = 50, 4, 3


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "corpus" / "m.jsonl", ROWS)


@pytest.fixture
def shards(manifest: Path, tmp_path: Path) -> list[Path]:
    """In a folder of their own, so that audio paths have to be told anew."""
    paths = [tmp_path / "parts" / "deep" / f"c.{i}.jsonl" for i in range(COUNT)]
    for i, path in enumerate(paths):
        continue_manifest(manifest, path, llm=Echo(), shard=f"{i}/{COUNT}", chunk=CHUNK)
    return paths


def files(out: Path) -> list[bytes]:
    return [out.read_bytes(), out.with_suffix(".dropped.jsonl").read_bytes()]


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def edit_settings(path: Path, **changes: object) -> None:
    side = path.with_suffix(".provenance.json")
    document = json.loads(side.read_text())
    document["settings"] |= changes
    side.write_text(json.dumps(document))


def test_merged_shards_are_the_bytes_of_one_run(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole.jsonl", tmp_path / "merged.jsonl"
    one = continue_manifest(manifest, whole, llm=Echo(), chunk=CHUNK)
    assert all(path.stat().st_size for path in shards)
    report = merge_shards(manifest, [shards[2], shards[0], shards[1]], merged)
    assert files(merged) == files(whole)
    assert (report.rows, report.dropped, report.early_stops) == (one.rows, one.dropped, one.early_stops)
    assert b'"audio":"corpus/wav/0.wav"' in merged.read_bytes()
    again = Echo()  # the merged file is that of a finished run
    assert continue_manifest(manifest, merged, llm=again, chunk=CHUNK).resumed == one.rows and not again.asked


def test_in_bfloat16_too(tmp_path: Path) -> None:
    """Where the company of a row in its batch changes its last bits, shards and a resumed run keep the company."""
    manifest = write_manifest(tmp_path / "m.jsonl", 30)
    llm = str(tiny_world.save_llm(tmp_path / "llm"))
    options = {"llm": llm, "device": "cpu", "dtype": "bfloat16", "batch_size": 3, "chunk": 6, "max_new_tokens": 6}
    whole, broken, merged = (tmp_path / f"{name}.jsonl" for name in ("whole", "broken", "merged"))
    continue_manifest(manifest, whole, **options)
    assert '"bfloat16"' in whole.with_suffix(".provenance.json").read_text()
    continue_manifest(manifest, broken, **options)
    edit(broken, lambda lines: lines[:14])
    continue_manifest(manifest, broken, **options)
    paths = [tmp_path / f"c.{i}.jsonl" for i in range(2)]
    for i, path in enumerate(paths):
        continue_manifest(manifest, path, shard=Shard(i, 2), **options)
    merge_shards(manifest, paths, merged)
    assert files(merged) == files(whole) == files(broken)


def test_an_interrupted_shard_goes_on_with_its_own_rows(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    before = files(shards[1])
    edit(shards[1], lambda lines: lines[:3])
    with pytest.raises(RellmError, match=r"rows are missing, the first is 'u16', which belongs to shard 1/3 .*c\.1"):
        merge_shards(manifest, shards, tmp_path / "out.jsonl")
    edit(shards[1], lambda lines: [*lines, '{"key":"u1'])
    with pytest.raises(RellmError, match=r"c\.1\.jsonl:4: not a record\. Run shard 1/3 again"):
        merge_shards(manifest, shards, tmp_path / "out.jsonl")
    continue_manifest(manifest, shards[1], llm=Echo(), shard="1/3", chunk=CHUNK)
    assert files(shards[1]) == before


def test_shards_are_whole_chunks_and_together_everything(manifest: Path) -> None:
    parts = [list(Plan(manifest, None, CHUNK, Shard(i, COUNT)).chunks()) for i in range(COUNT)]
    whole = list(Plan(manifest, None, CHUNK).chunks())
    assert [parts[i % COUNT][i // COUNT] for i in range(len(whole))] == whole
    assert [row.key for rows in whole for row in rows] == [f"u{i}" for i in range(ROWS)]
    assert {len(rows) for rows in whole[:-1]} == {CHUNK}


def test_more_shards_than_chunks(manifest: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"c.{i}.jsonl" for i in range(3)]
    for i, path in enumerate(paths):
        continue_manifest(manifest, path, llm=Echo(), shard=Shard(i, 3), chunk=40)
    assert paths[2].read_bytes() == b""
    assert merge_shards(manifest, paths, tmp_path / "all.jsonl").rows == 44


def test_what_is_wrong_with_the_shards_is_named(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    def refused(message: str, paths: list[Path] = shards) -> None:
        with pytest.raises(RellmError, match=message):
            merge_shards(manifest, paths, tmp_path / "out.jsonl")
        assert not (tmp_path / "out.jsonl").exists()

    refused("1 of 3 shards are missing, the first is 1/3", [shards[0], shards[2]])
    refused("are both shard 0/3", [shards[0], shards[1], shards[2], shards[0]])
    refused("no such file", [shards[0], shards[1], tmp_path / "c.9.jsonl"])
    refused("no shard", [])
    texts = [path.read_text() for path in shards]

    def broken(number: int, change: Callable[[list[str]], list[str]], message: str) -> None:
        edit(shards[number], change)
        refused(message)
        shards[number].write_text(texts[number])

    broken(0, lambda lines: lines[1:], r"1 rows are missing, the first is 'u0', which belongs to shard 0/3 .*c\.0")
    broken(1, lambda lines: [*lines, lines[2]], r"the key 'u7' stands twice: in .*c\.1.jsonl and in .*c\.1.jsonl:1")
    broken(1, lambda lines: [*lines, texts[2].splitlines(True)[0]], r"'u8' stands twice: in .*c\.1.* and in .*c\.2")
    broken(0, lambda lines: [*lines, lines[0].replace("u0", "u99")], r"c\.0.*holds the key 'u99', which the manifest")
    broken(2, lambda lines: [*lines, "torn"], r"c\.2\.jsonl:\d+: not a record")
    log_path(shards[2]).unlink()  # as an earlier version left a shard that it did not finish
    side = shards[2].with_suffix(".provenance.json")
    side.write_text(json.dumps({**json.loads(side.read_text()), "complete": False}))
    broken(2, lambda lines: [lines[0].replace('"llm":"echo"', '"llm":"bat"'), *lines[1:]], "has the llm 'bat'")
    broken(2, lambda lines: [lines[0].replace("Line 8", "Lime 8"), *lines[1:]], "has the text 'Lime 8 of 50'")
    broken(2, lambda lines: [lines[0].replace('"early_stop"', '"no_stop"'), *lines[1:]], "'u8' is not a valid record")


def test_a_row_in_the_wrong_shard_is_named(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    first = shards[0].read_text().splitlines(keepends=True)[0]
    edit(shards[0], lambda lines: lines[1:])
    edit(shards[1], lambda lines: [first, *lines])
    with pytest.raises(RellmError, match=r"the key 'u0' belongs to shard 0/3 and stands in .*c\.1\.jsonl"):
        merge_shards(manifest, shards, tmp_path / "out.jsonl")


def test_an_edited_shard_is_not_merged(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    edit(shards[1], lambda lines: [lines[0].replace('"output":"', '"output":"Well. '), *lines[1:]])
    with pytest.raises(RellmError, match=r"row 1 of .*c\.1\.jsonl was changed"):
        merge_shards(manifest, shards, tmp_path / "merged.jsonl")
    log_path(shards[1]).unlink()
    with pytest.raises(RellmError, match=r"c\.1\.jsonl was changed after it was written"):
        merge_shards(manifest, shards, tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm": "another"}, "made with llm 'another', and .* with 'echo'"),
        ({"max_new_tokens": 12}, "made with max_new_tokens 12"),
        ({"shard": "1/4"}, "is shard 1/4, and .* is shard 0/3"),
        ({"manifest": "0" * 64}, "made with manifest"),
        ({"splits": None}, "made with splits None"),
        ({"shard": "soon"}, "'soon' is not a shard"),
    ],
)
def test_shards_of_different_runs_are_not_merged(
    manifest: Path, shards: list[Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    edit_settings(shards[1], **changes)
    with pytest.raises(RellmError, match=message):
        merge_shards(manifest, shards, tmp_path / "out.jsonl")


def test_a_merge_needs_the_manifest_of_the_shards(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    edit(manifest, lambda lines: lines[:-1])
    with pytest.raises(RellmError, match="the manifest has changed since"):
        merge_shards(manifest, shards, tmp_path / "out.jsonl")


def test_a_merge_overwrites_nothing(manifest: Path, shards: list[Path]) -> None:
    before = files(shards[0])
    with pytest.raises(RellmError, match="exists"):
        merge_shards(manifest, shards, shards[0])
    assert files(shards[0]) == before


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "0/0", "1/2/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(RellmError, match=r"shard.*Allowed: I/N"):
        Shard.parse(text)


def test_the_command(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    done = CliRunner().invoke(app, ["continue-merge", *map(str, [manifest, *shards]), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["rows"], report["dropped"]) == (44, {"no-text": 6})
    assert json.loads(out.with_suffix(".provenance.json").read_text())["settings"]["shard"] == "0/1"
