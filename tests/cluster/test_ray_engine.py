"""A Ray cluster of two machines, one of which is lost in the middle: the files are those of one process, all bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import pytest

pytest.importorskip("ray", reason="the extra `data` is not installed")
pytest.importorskip("pyarrow", reason="the extra `data` is not installed")

import tiny_world
import torch
from corpus_worlds import sound, write
from ray.exceptions import WorkerCrashedError
from ray_world import Machines, Watched, machines

from re_llm.cluster import ray_engine
from re_llm.cluster import work as cluster_work
from re_llm.cluster.engines import HERE, Where
from re_llm.continuations import continue_manifest
from re_llm.continuations.work import ContinueWork
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records
from re_llm.data import corpora
from re_llm.data.check import check
from re_llm.data.corpora import recordings
from re_llm.data.pseudo_vad import DimensionEstimator
from re_llm.llm.prompts import get_prompt
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.train import features
from re_llm.train.examples import Example, Examples
from re_llm.train.identity import SegmentIds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker with one CPU has: sums of floats depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with machines() as made:
        yield made


@pytest.fixture
def dying(cluster: Machines, tmp_path: Path) -> Watched:
    """Two machines; the second is lost after its first result."""
    return cluster.watched(tmp_path / "mark")


def files(folder: Path) -> dict[str, bytes]:
    """What the files of `folder` hold, by name, but for the second in which each was made."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: re.sub(rb'"made": "[^"]*"', b'"made": ""', content) for name, content in contents.items()}


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    """96 recordings of RAVDESS's layout; one is empty, one is no recording, one is too short."""
    root = tmp_path / "ravdess"
    for actor in (1, 2):
        for emotion in range(1, 9):
            for statement, repetition, intensity in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 2, 2)):
                name = f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}.wav"
                sound(root / f"Actor_{actor:02}" / name, 0.3 + 0.01 * emotion)
    (root / "Actor_01" / "03-01-03-01-01-01-01.wav").write_bytes(b"")
    write(root / "Actor_02" / "03-01-05-01-02-01-02.wav", "no recording")
    sound(root / "Actor_01" / "03-01-08-01-02-02-01.wav", 0.01)
    return root


def test_prepare_loses_a_machine_and_nothing_else(
    dying: Watched, ravdess: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_work, "ROWS", 6)
    alone = corpora.prepare("ravdess", ravdess, tmp_path / "alone" / "m.jsonl")
    many = corpora.prepare("ravdess", ravdess, tmp_path / "many" / "m.jsonl", cluster=dying)
    dying.check()
    assert files(tmp_path / "many") == files(tmp_path / "alone")
    assert (many.rows, many.dropped, many.by_emotion) == (alone.rows, alone.dropped, alone.by_emotion)
    assert len(many.problems) == 3 and many.problems == alone.problems
    checked, again = (check(tmp_path / "many" / "m.jsonl", cluster=each) for each in (None, dying.cluster))
    assert checked.ok and again.problems == checked.problems and again.summary == checked.summary


def test_the_command_joins_a_cluster_and_prints_json_alone(cluster: Machines, ravdess: Path, tmp_path: Path) -> None:
    """Relative paths are those of the command's folder, for the workers too."""
    command = [sys.executable, "-m", "re_llm", "prepare", "ravdess", "--root", "ravdess", "--out", "many/m.jsonl"]
    where = ["--engine", "ray", "--ray-address", cluster.address, "--json"]
    done = subprocess.run([*command, *where], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = corpora.prepare("ravdess", ravdess, tmp_path / "alone" / "m.jsonl")
    assert (tmp_path / "many" / "m.jsonl").read_bytes() == (tmp_path / "alone" / "m.jsonl").read_bytes()
    assert json.loads(done.stdout)["rows"] == report.rows == 93


def test_pseudo_labels_survive_a_machine(dying: Watched, ravdess: Path, tmp_path: Path) -> None:
    estimate = DimensionEstimator.load(str(tiny_world.save_emotion(tmp_path / "emotion")), device="cpu")
    paths = sorted(ravdess.rglob("*.wav"))
    utterances = [Utterance(key=path.stem, corpus="toy", split="train", audio=str(path)) for path in paths]
    work = recordings.PseudoLabelWork(estimate)

    def labelled(where: Watched | None) -> list[tuple[str, str | None]]:
        batches = cluster_work.batched([row.model_copy() for row in utterances], 6)
        outcomes = [each for batch in cluster_work.run_batches(work, batches, where) for each in batch]
        return [(row.to_line(), error and error.what) for row, error in outcomes]

    alone, many = labelled(None), labelled(dying)
    dying.check()
    assert many == alone and sum(error is not None for _, error in many) == 3
    assert len({process for _, process in dying.workers}) <= 3  # one on each machine, and the first one again


def test_continue_loses_a_machine_and_nothing_else(dying: Watched, assets: Path, tmp_path: Path) -> None:
    rows = [
        Utterance(
            key=f"u{i}", corpus="toy", split="train", audio=f"wav/{i}.wav", emotion="sad",
            text=None if i % 9 == 4 else f"My {'neighbour' if i % 2 else 'sister'} lost number {i} today.",
        )
        for i in range(40)
    ]  # fmt: skip
    write_records(tmp_path / "m.jsonl", rows)
    options = {"llm": "mini:llm", "chunk": 4, "batch_size": 2, "max_new_tokens": 8, "device": "cpu", "progress": False}
    alone = continue_manifest(tmp_path / "m.jsonl", tmp_path / "alone" / "c.jsonl", **options)
    (tmp_path / "many").mkdir()
    half = (tmp_path / "alone" / "c.jsonl").read_bytes().splitlines(keepends=True)[:5]
    many = continue_manifest(tmp_path / "m.jsonl", tmp_path / "many" / "c.jsonl", cluster=dying, **options)
    dying.check()
    assert many.rows == alone.rows == 36 and many.dropped == alone.dropped == {"no-text": 4}
    for name in ("c.jsonl", "c.dropped.jsonl"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    # What one engine began, the other one ends.
    (tmp_path / "many" / "c.jsonl").write_bytes(b"".join(half) + b'{"key": "torn')
    continue_manifest(tmp_path / "m.jsonl", tmp_path / "many" / "c.jsonl", **options)
    assert (tmp_path / "many" / "c.jsonl").read_bytes() == (tmp_path / "alone" / "c.jsonl").read_bytes()


def ids_of(hums: list[Example]) -> SegmentIds:
    return SegmentIds(Examples.of(hums), b"".join(i.to_bytes(16, "big") for i in range(len(hums))))


@pytest.fixture
def hums(tmp_path: Path) -> list[Example]:
    examples = []
    for i in range(24):
        path = sound(tmp_path / "wav" / f"{i}.wav", 0.3 + 0.05 * (i % 7))
        examples.append(Example(str(i), str(path), 0.0, None, "a hum", {}, "sad", 1, None))
    return examples


def test_features_lose_a_machine_and_nothing_else(
    dying: Watched, hums: list[Example], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "READ_AHEAD", 3)
    model = ReLlmForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    processor = ReLlmProcessor.from_pretrained(tiny_checkpoint)

    class There:
        @contextmanager
        def connect(self) -> Iterator[Watched]:
            yield dying

    for name, where in (("alone", HERE), ("many", There())):
        store = features.build_features(
            tmp_path / name / "store", hums, ids_of(hums), model, processor,
            batch_size=2, progress=False, where=where, device="cpu",
        )  # fmt: skip
        assert store.batch(["3", "9"]).speech_states.shape[0] == 2
    dying.check()
    assert files(tmp_path / "many") == files(tmp_path / "alone")
    (index,) = (tmp_path / "many" / "store").glob("emotion-*/index.txt")
    assert len(index.read_text().splitlines()) == len(hums)


def test_a_recording_that_is_missing_is_the_same_error(
    cluster: Machines, hums: list[Example], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = ReLlmForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    processor = ReLlmProcessor.from_pretrained(tiny_checkpoint)
    Path(hums[5].audio).unlink()
    told = []
    for where in (HERE, Where("ray")):
        with pytest.raises(RellmError) as raised:
            features.build_features(
                tmp_path / "store", hums, ids_of(hums), model, processor, progress=False, where=where, device="cpu"
            )
        told.append((raised.value.what, raised.value.todo))
    assert told[0] == told[1] and "5.wav" in told[0][0]
    assert not list((tmp_path / "store").glob("*/index.txt"))


def test_a_machine_without_the_folder_is_named(cluster: Machines, tmp_path: Path) -> None:
    work = recordings.HeaderWork(tmp_path / "elsewhere", hashed=True)
    with pytest.raises(RellmError, match=r"does not see .*elsewhere") as raised:
        list(ray_engine.RayCluster().map(work, [[]]))
    assert "every machine" in str(raised.value.todo)


def lossy(monkeypatch: pytest.MonkeyPatch, *rounds: list[int]) -> list[list[int]]:
    """Executions that give the results of these batches only, and then are lost."""
    asked: list[list[int]] = []

    def execute(work: object, batches: dict[int, str], crew: object) -> Iterator[tuple[int, str]]:
        asked.append(list(batches))
        for number in rounds[len(asked) - 1]:
            yield number, batches.get(number, "again").upper()
        if set(batches) - set(rounds[len(asked) - 1]):
            raise WorkerCrashedError

    monkeypatch.setattr(ray_engine, "_execute", execute)
    monkeypatch.setattr(ray_engine, "_crew", lambda work, batches: ray_engine._Crew(1, {}))
    return asked


def test_only_what_is_missing_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lossy(monkeypatch, [1, 0, 3], [], [2, 3], [4])
    found = list(ray_engine.RayCluster().map(recordings.HeaderWork(Path(), hashed=False), iter("abcde")))
    assert found == list("ABCDE")
    assert asked == [[0, 1, 2, 3, 4], [2, 4], [2, 4], [4]]


def test_results_do_not_pile_up_behind_one_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lossy(monkeypatch, [0, *range(2, 26)], [1, *range(14, 26)])
    results = ray_engine.RayCluster().map(recordings.HeaderWork(Path(), hashed=False), iter(ascii_lowercase))
    assert "".join(results) == ascii_uppercase
    waited = ray_engine.SLACK + 2 * ray_engine.IN_FLIGHT + 1
    assert [len(each) for each in asked] == [26, 25 - waited] and asked[1][0] == 1


def test_a_cluster_that_gives_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy(monkeypatch, [0], [], [], [])
    results = ray_engine.RayCluster().map(recordings.HeaderWork(Path(), hashed=False), iter("abc"))
    assert next(results) == "A"
    with pytest.raises(RellmError, match="gives no results any more"):
        next(results)


@pytest.mark.parametrize(
    ("nodes", "device", "size", "needs"),
    [
        ([{"CPU": 8.0}, {"CPU": 16.0}], "auto", 3, {"num_cpus": 8}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0}], "auto", 3, {"num_cpus": 1, "num_gpus": 1}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], "cpu", 3, {"num_cpus": 4}),
        ([{"CPU": 64.0}, {"memory": 1.0}], "auto", 1, {"num_cpus": 64}),
    ],
)
def test_a_model_gets_a_gpu_or_its_part_of_the_cpus(
    nodes: list[dict[str, float]], device: str, size: int, needs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [{"Alive": True, "Resources": each} for each in nodes] + [{"Alive": False, "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr(ray_engine.ray, "nodes", lambda: machines)
    work = ContinueWork("llm", get_prompt("continue"), 48, 32, device, "float32", "pieces")
    crew = ray_engine._crew(work, 100)
    assert (crew.size, crew.needs) == (size, needs)
    assert ray_engine._crew(work, 2).size == min(size, 2)  # no more than there are batches
