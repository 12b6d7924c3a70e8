"""Where work is done: engines, addresses, work in this process, what travels to another one; no Ray unasked."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import test_imports
import tiny_world
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.cluster.engines import HERE, Where
from re_llm.cluster.work import batched, run_batches, run_rows
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.data.pseudo_vad import DimensionEstimator


class Twice:
    """Work that counts how often it is started."""

    device = folder = None

    def __init__(self) -> None:
        self.starts = 0

    def start(self):
        self.starts += 1
        return lambda batch: [2 * each for each in batch]


def test_in_this_process_work_is_started_once_and_keeps_the_order() -> None:
    work = Twice()
    assert list(run_batches(work, batched(range(7), 3))) == [[0, 2, 4], [6, 8, 10], [12]]
    assert list(run_rows(work, range(100), workers=3)) == [2 * each for each in range(100)]
    assert work.starts == 2


def test_rows_go_to_a_cluster_in_batches_that_do_not_depend_on_it() -> None:
    class Backwards:
        def map(self, work, batches):
            kept = list(batches)
            self.sizes = [len(batch) for batch in kept]
            return map(work.start(), kept)

    cluster = Backwards()
    assert list(run_rows(Twice(), range(150), cluster=cluster)) == [2 * each for each in range(150)]
    assert cluster.sizes == [64, 64, 22]


def test_here_is_no_cluster() -> None:
    with HERE.connect() as cluster:
        assert cluster is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "unknown engine 'spark'"),
        ({"engine": "local", "address": "auto"}, "--ray-address is for --engine ray"),
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, str], message: str) -> None:
    with pytest.raises(RellmError, match=message):
        Where(**options)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"re-llm\[data\]"):
        Where("ray")
    assert Where("local") == HERE


@pytest.mark.parametrize("command", ["prepare ravdess --root .", "prepare check m.jsonl", "continue m.jsonl --llm x"])
def test_commands_know_the_engines(command: str, tmp_path: Path) -> None:
    end = [] if "check" in command else ["--out", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(app, [*command.split(), *end, "--engine", "dask"])
    assert done.exit_code == 2 and "unknown engine 'dask'" in done.stderr and "local, gpus, ray" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1", "ray://127.0.0.1:1000", "host:99999"])
def test_what_is_no_address_of_a_cluster(address: str) -> None:
    pytest.importorskip("ray", reason="the extra `data` is not installed")
    with pytest.raises(RellmError, match="is not an address of a Ray cluster"), Where("ray", address).connect():
        pass


@pytest.mark.slow
def test_a_cluster_that_is_not_there() -> None:
    pytest.importorskip("ray", reason="the extra `data` is not installed")
    with socket.socket() as kept:  # taken and not listened to, so that no cluster of another test can have the port
        kept.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{kept.getsockname()[1]}"
        with (
            pytest.raises(RellmError, match=r"no Ray cluster answers at 127\.0\.0\.1"),
            Where("ray", address).connect(),
        ):
            pass


def test_few_modules_import_ray_and_nobody_loads_it_unasked() -> None:
    users = [name for name in test_imports.MODULES if any(n.split(".")[0] == "ray" for n in test_imports.direct(name))]
    assert users == ["re_llm.apps.serve.front", "re_llm.apps.serve.ray_serve", "re_llm.cluster.ray_engine"]
    code = "import sys, re_llm, re_llm.cli, re_llm.data.corpora, re_llm.continuations, re_llm.cluster.work"
    code += ", re_llm.apps.serve.app, re_llm.apps.serve.run"
    code += "; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    "error", [RellmError("a", allowed="b", todo="c."), MissingExtra("ray", "data", "--engine ray")]
)
def test_errors_travel(error: RellmError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error)
    assert (back.what, back.allowed, back.todo) == (error.what, error.allowed, error.todo)


def test_an_estimator_travels_by_name(tmp_path: Path) -> None:
    estimate = DimensionEstimator.load(str(tiny_world.save_emotion(tmp_path / "emotion")), device="cpu")
    sent = pickle.dumps(estimate)
    waves = [tiny_world.wave(0.5, 1)]
    assert len(sent) < 1000 and pickle.loads(sent)(waves) == estimate(waves)
