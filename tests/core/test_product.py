"""Products: absent, unfinished, the same, or made from something else; what may be overwritten, and what is said."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from re_llm.core.appending import RecordAppender, log_path
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of
from re_llm.core.product import Made, Overwrite, Product, State, read_sidecar, sidecar_path, write_sidecar
from re_llm.core.records import ReplyRecord


@dataclass
class Report(Made):
    out: Path
    rows: int = 0
    listed: Path | None = None


@pytest.fixture
def product(tmp_path: Path) -> Product:
    settings = {"lr": 0.1, "stage": {"steps": 4}, "targets": None}
    return Product(tmp_path / "a.jsonl", "toy 1", {"manifest": hash_of("a")}, settings, {"lr": "--lr"})


def make(product: Product, text: str = "rows", overwrite: Overwrite = Overwrite.NO, rows: int = 1) -> Report:
    with product.making(overwrite, run={"device": "cpu"}) as before:
        if before.state is State.SAME:
            return product.stored(Report)
        product.out.write_text(text)
        report = Report(out=product.out, rows=rows, listed=product.out.with_name("b"), remade=before.why)
        product.finish(report)
    return report


def changed(product: Product) -> Product:
    return replace(product, inputs={"manifest": hash_of("b")}, settings={**product.settings, "lr": 0.2})


def test_the_same_again_is_skipped_and_gives_the_report_that_was(product: Product, tmp_path: Path) -> None:
    assert product.standing().state is State.ABSENT
    make(product, rows=7)
    again = make(product, "other", rows=9)
    assert product.out.read_text() == "rows"
    assert again == Report(out=product.out, rows=7, listed=tmp_path / "b", skipped=True)
    # A folder may be moved.
    (tmp_path / "there").mkdir()
    for path in (product.out, sidecar_path(product.out)):
        path.rename(tmp_path / "there" / path.name)
    moved = make(replace(product, out=tmp_path / "there" / "a.jsonl"))
    assert (moved.skipped, moved.listed) == (True, tmp_path / "there" / "b")


def test_another_one_is_refused_and_all_that_differs_is_named(product: Product) -> None:
    make(product)
    before = product.out.read_bytes(), sidecar_path(product.out).read_bytes()
    with pytest.raises(RellmError) as caught:
        make(changed(product), "new")
    assert "manifest has changed; --lr was 0.1, and is 0.2 now" in caught.value.what
    assert "--overwrite" in str(caught.value.todo)
    assert (product.out.read_bytes(), sidecar_path(product.out).read_bytes()) == before
    other = replace(product, stage="toy 2", settings={**product.settings, "stage": {"steps": 5}})
    assert other.standing().differences == (
        "it was made by `toy 1`, and this is `toy 2`", "stage.steps was 4, and is 5 now",
    )  # fmt: skip


def test_what_is_outdated_is_made_again_and_says_why(product: Product) -> None:
    make(product)
    report = make(changed(product), "new", Overwrite.OUTDATED)
    assert product.out.read_text() == "new" and report.remade.startswith("manifest has changed; --lr was")
    assert make(changed(product)).skipped


@pytest.mark.parametrize("damage", ["edited", "no sidecar", "broken sidecar", "deep sidecar"])
def test_what_nobody_can_vouch_for_goes_only_on_demand(product: Product, damage: str) -> None:
    make(product)
    if damage == "edited":
        product.out.write_text("by hand")
    elif damage == "no sidecar":
        sidecar_path(product.out).unlink()
    else:
        sidecar_path(product.out).write_text("{}" if damage == "broken sidecar" else "[" * 10_000)
    before = product.out.read_text()
    for overwrite in (Overwrite.NO, Overwrite.OUTDATED):
        with pytest.raises(RellmError, match=r"changed after it was written|is missing|does not tell how"):
            make(product, "new", overwrite)
    assert product.out.read_text() == before
    make(product, "new", Overwrite.YES)
    assert product.out.read_text() == "new" and make(product).skipped


def test_the_sidecar_never_says_complete_before_it_is(product: Product) -> None:
    """A kill at any moment: before the file, after it, and while an outdated one is replaced."""
    with pytest.raises(KeyboardInterrupt), product.making():
        raise KeyboardInterrupt
    assert not sidecar_path(product.out).exists()  # nothing was made, so nothing is told
    with pytest.raises(KeyboardInterrupt), product.making():
        product.out.write_text("rows")
        assert read_sidecar(product.out)["complete"] is False
        raise KeyboardInterrupt
    assert product.standing().state is State.UNFINISHED
    make(product)
    with pytest.raises(KeyboardInterrupt), changed(product).making(Overwrite.OUTDATED):
        raise KeyboardInterrupt
    assert product.out.read_text() == "rows"  # a file stays until the new one takes its place, and counts as none
    assert changed(product).standing().state is State.UNFINISHED
    assert product.standing().state is State.DIFFERENT
    runs = read_sidecar(product.out)["runs"]
    assert runs[0]["versions"]["re-llm"] and not sidecar_path(product.out).with_suffix(".tmp").exists()


def test_a_file_that_grows_goes_on_and_its_runs_are_listed(product: Product) -> None:
    growing = replace(product, grows=True)
    make(growing, "1\n2\n")
    growing.out.write_text("1\n")  # rows were cut off: they are written again
    assert growing.standing().state is State.UNFINISHED
    make(growing, "1\n2\n")
    assert [run["device"] for run in read_sidecar(growing.out)["runs"]] == ["cpu", "cpu"]
    dropped = growing.out.with_name("dropped")
    dropped.write_text("3\n")
    beside = replace(growing, beside=(dropped,), settings={})
    with beside.making(Overwrite.YES):
        assert not growing.out.exists() and not dropped.exists()


def test_an_edited_row_of_a_complete_file_is_noticed(product: Product) -> None:
    growing = replace(product, grows=True)
    make(growing, "1\n2\n")
    growing.out.write_text("1\n3\n")
    with pytest.raises(RellmError, match="changed after it was written"), growing.making(Overwrite.OUTDATED):
        pass
    with growing.making(Overwrite.YES) as before:
        assert before.state is State.DIFFERENT


def row(number: int, reply: str = "Yes.") -> ReplyRecord:
    return ReplyRecord(key=f"a{number}", system="toy", response=reply)


@pytest.fixture(params=[True, False], ids=["finished", "killed"])
def grown(request: pytest.FixtureRequest, product: Product) -> Product:
    """A file of five rows, in two writes."""
    growing = replace(product, grows=True)
    with contextlib.suppress(KeyboardInterrupt), growing.making():
        with RecordAppender(growing.out, logged=True) as rows:
            rows.append([row(1), row(2)])
            rows.append([row(3), row(4), row(5)])
        if not request.param:
            raise KeyboardInterrupt
        growing.finish()
    assert growing.standing().state is (State.SAME if request.param else State.UNFINISHED)
    return growing


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        ([row(1), row(2), row(4), row(5)], None),  # rows that are gone are made again
        ([row(5), row(1)], None),
        ([row(1), row(2, "No."), row(3), row(4), row(5)], 2),
        ([row(1), row(2, "No."), row(3), row(5)], 2),  # one edited, another gone
        ([row(1), row(3), row(4), row(5, "No.")], 4),
        ([row(1), row(6), row(2), row(3), row(4), row(5)], 2),  # one more than there were
    ],
)
def test_rows_may_be_gone_and_none_may_be_changed(grown: Product, rows: list[ReplyRecord], changed: int | None) -> None:
    grown.out.write_text("".join(each.to_line() for each in rows))
    standing = grown.standing()
    if changed is None:
        assert standing.state is State.UNFINISHED
        with grown.making(), RecordAppender(grown.out, logged=True) as file:
            file.append([row(7)])
            grown.finish()
        assert grown.standing().state is State.SAME
    else:
        assert standing.why == f"row {changed} of a.jsonl was changed after it was written, or added"
        with pytest.raises(RellmError, match="was changed after"), grown.making(Overwrite.OUTDATED):
            pass
        with grown.making(Overwrite.YES):
            assert not list(grown.out.parent.glob(".*.rows"))


def test_a_file_without_a_log_goes_on(grown: Product) -> None:
    """One of an earlier version, or copied without the hidden file."""
    log_path(grown.out).unlink()
    grown.out.write_text("".join(each.to_line() for each in (row(1), row(2))))
    assert grown.standing().state is State.UNFINISHED
    with pytest.raises(KeyboardInterrupt), grown.making(), RecordAppender(grown.out, logged=True) as file:
        file.append([row(3)])
        raise KeyboardInterrupt
    assert grown.standing().state is State.UNFINISHED
    grown.out.write_text("".join(each.to_line() for each in (row(1), row(2, "No."))))
    assert grown.standing().state is State.DIFFERENT


def test_rows_that_outlived_their_log_in_a_power_cut_are_kept(product: Product) -> None:
    growing = replace(product, grows=True)
    with pytest.raises(KeyboardInterrupt), growing.making(), RecordAppender(growing.out, logged=True) as file:
        file.append([row(1), row(2), row(3)])
        raise KeyboardInterrupt
    log = log_path(growing.out)
    log.write_bytes(log.read_bytes()[:12])
    assert growing.standing().state is State.UNFINISHED
    with growing.making(), RecordAppender(growing.out, logged=True) as file:
        assert file.rows == 3 and log.stat().st_size == 24
        growing.finish()


def test_of_a_folder_only_the_parts_of_the_product_go(tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    product = Product(out, "toy 1", {}, {"a": 1}, parts=("config.json", "*.safetensors", "checkpoints"))
    (out / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "notes.txt", "checkpoints/1"):
        (out / name).write_text(name)
    with (
        pytest.raises(RellmError, match=r"provenance\.json, which tells how it was made, is missing"),
        product.making(),
    ):
        pass
    with product.making(Overwrite.YES):
        assert sorted(p.name for p in out.iterdir()) == [".lock", "notes.txt", "provenance.json"]


def test_two_at_once_are_one(product: Product) -> None:
    pytest.importorskip("fcntl")
    with product.making(), pytest.raises(RellmError, match="another process is writing"), product.making():
        pass


def test_a_sidecar_holds_no_paths(product: Product, tmp_path: Path) -> None:
    make(product)
    assert str(tmp_path) not in sidecar_path(product.out).read_text()


def test_a_copy_on_another_disk_is_the_same_product(product: Product, tmp_path: Path) -> None:
    make(product)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: ["copy"])
    assert replace(product, out=tmp_path / "copy" / "a.jsonl").standing().state is State.SAME


def test_a_sidecar_written_by_hand_is_read(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "c.jsonl", {"settings": {}, "runs": [], "complete": False})
    assert json.loads((tmp_path / "c.provenance.json").read_text())["complete"] is False
    assert read_sidecar(tmp_path / "c.jsonl") == {"settings": {}, "runs": [], "complete": False}
