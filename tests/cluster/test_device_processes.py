"""`--engine gpus` with the CPU in the place of GPUs: the same results in the same order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_world
import torch
from ending_work import EndingWork

from re_llm.cluster import engines
from re_llm.cluster.device_processes import DeviceProcesses, visible_gpus
from re_llm.cluster.engines import Where
from re_llm.continuations.work import ContinueWork
from re_llm.core.errors import Failed, RellmError
from re_llm.llm.prompts import get_prompt
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.train.examples import Example
from re_llm.train.features import build_features
from re_llm.train.identity import segment_ids


def test_results_keep_their_order_and_every_process_has_its_device() -> None:
    found = list(DeviceProcesses(["first", "second"]).map(EndingWork(), iter(range(40))))
    assert [number for number, _ in found] == list(range(40))
    assert {device for _, device in found} <= {"first", "second"}


def test_a_process_that_is_killed_ends_the_run_with_a_message() -> None:
    results = DeviceProcesses(["cpu"]).map(EndingWork(), [1, -1, 2])
    assert next(results)[0] == 1
    with pytest.raises(Failed, match="a process of --engine gpus was ended"):
        list(results)


KILLED = """
import time
from ending_work import EndingWork
from re_llm.cluster.device_processes import DeviceProcesses

if __name__ == "__main__":
    results = DeviceProcesses(["cpu"]).map(EndingWork(), [1, 2])
    next(results)
    time.sleep(600)
"""


def test_a_command_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(KILLED)
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[1] / "worlds")])
    command = subprocess.Popen(
        [sys.executable, tmp_path / "command.py"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    command.kill()
    command.wait()
    for _ in range(600):
        if not alive(worker):
            return
        time.sleep(0.1)
    pytest.fail("the process goes on")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_an_error_of_a_process_is_the_users() -> None:
    work = ContinueWork("no-such-llm-anywhere", get_prompt("continue"), 4, 2, "auto", "float32", "pieces")
    with pytest.raises(RellmError, match="cannot load the LLM 'no-such-llm-anywhere'"):
        list(DeviceProcesses(["cpu"]).map(work, [[]]))


@pytest.mark.slow
def test_encoder_states_are_those_of_one_process(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "visible_gpus", lambda: ["cpu", "cpu"])
    monkeypatch.setattr("re_llm.train.features.READ_AHEAD", 2)
    examples = []
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", tiny_world.wave(0.5 + 0.1 * i, i), 16_000)
        examples.append(Example(str(i), str(tmp_path / f"{i}.wav"), 0.0, None, "a hum", {}, "sad", 1, None))
    model = ReLlmForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = ReLlmProcessor.from_pretrained(tiny_checkpoint)
    made = []
    for name in ("local", "gpus"):
        ids = segment_ids(examples, tmp_path / name)
        found = build_features(tmp_path / name, examples, ids, model, processor, progress=False, where=Where(name))
        made.append([found.speech.get(ids[each.key]) for each in examples])
    for one, other in zip(*made, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)  # float16; another number of threads rounds differently


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RellmError, match="no GPU is visible"), Where("gpus").connect():
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["cuda:0", "cuda:1"]
    with pytest.raises(RellmError, match="--ray-address is for --engine ray"):
        Where("gpus", "auto")
