"""What the doctor counts and what it finds missing."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from re_llm.apps import doctor
from re_llm.apps import machine as this_machine
from re_llm.core.errors import RellmError
from re_llm.recipe.files import load_recipe


@pytest.fixture(scope="module")
def machine() -> doctor.Machine:
    return doctor.examine_machine()


def test_the_machine(machine: doctor.Machine) -> None:
    assert all(machine.packages[name] for name in this_machine.CORE)
    assert machine.cores >= 1
    assert machine.disk_free > 0
    assert {"serve", "mini", "data", "av", "dev"} <= set(machine.extras)
    assert machine.extras["dev"] == []


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    save_file({"encoder.a": np.zeros((3, 4)), "decoder.b": np.zeros(5)}, tmp_path / "one.safetensors")
    save_file({"encoder.c": np.zeros((2, 2), np.float16)}, tmp_path / "two.safetensors")
    assert doctor.count_parameters(tmp_path) == 21
    assert doctor.count_parameters(tmp_path, "encoder.") == 16
    assert doctor.count_parameters(tmp_path / "nothing") is None


@pytest.mark.parametrize("content", [b"\xff" * 8 + b"{}", b"\x05\0\0\0\0\0\0\0{oops", b""])
def test_a_broken_weight_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RellmError, match=r"model\.safetensors is not in safetensors format"):
        doctor.count_parameters(tmp_path)


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_cache_is_where_hugging_face_keeps_it(variable: str, below: str, tmp_path: Path) -> None:
    variables = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    environment[variable] = str(tmp_path)
    command = [sys.executable, "-c", "from re_llm.apps.machine import hub_cache; print(hub_cache())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / below


def test_a_recipe_on_a_small_machine(machine: doctor.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("re_llm")
    small = replace(machine, memory=4 * 10**9, device_memory=None, disk_free=10**9)
    needs = doctor.examine_recipe(recipe, small)
    lines = " | ".join(needs.missing)
    assert "memory: about" in lines
    assert "disk: 22 GB to download" in lines
    assert needs.memory["bf16"] > needs.memory["8-bit"] > needs.memory["4-bit"]
    assert "corpus iemocap: no folder data/IEMOCAP_full_release" in lines
    assert "stage" not in lines and "train it, or convert a released one: re-llm convert DOWNLOAD checkpoints" in lines


def test_local_components_are_measured(machine: doctor.Machine, tiny_checkpoint: Path) -> None:
    root = tiny_checkpoint.parent
    parts = {"llm": "llm", "speech_encoder": "whisper", "emotion_encoder": "emotion"}
    changes = {f"components.{role}": str(root / name) for role, name in parts.items()}
    needs = doctor.examine_recipe(load_recipe("re_llm", changes), machine)
    assert all(part.here and part.parameters for part in needs.parts)
    llm = needs.parts[0]
    assert llm.memory["bf16"] == 2 * llm.parameters


def test_fetched_parts(machine: doctor.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)
    names = {"llm": "small:llm-base", "speech_encoder": "small:whisper"}
    recipe = load_recipe("re_llm", {f"components.{role}": name for role, name in names.items()})
    needs = doctor.examine_recipe(recipe, machine)
    line = next(line for line in needs.missing if line.startswith("llm: small:llm-base"))
    assert line.endswith("is not here; Fetch it, 93 MB, with: re-llm parts get llm-base")
    parts = {part.name: part for part in needs.parts}
    assert not parts["small:whisper"].here and parts["small:whisper"].download == 133_343_666
    folder = tmp_path / "parts" / "whisper"
    folder.mkdir(parents=True)
    save_file({"model.encoder.a": np.zeros((3, 4)), "model.decoder.b": np.zeros(5)}, folder / "model.safetensors")
    found = {part.name: part for part in doctor.examine_recipe(recipe, machine).parts}["small:whisper"]
    assert found.here and found.parameters == 12 and found.licence == "MIT"


def test_without_the_package_installed_there_are_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise this_machine.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(this_machine.metadata, "requires", missing)
    assert this_machine.extra_packages() == {}


def test_extras_are_listed_with_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        'pyyaml>=6; extra == "serve"',
        'no-such-package; extra == "small-build"',
        "numpy",
        're-llm[av]; extra == "dev"',
    ]
    monkeypatch.setattr(this_machine.metadata, "requires", lambda name: lines)
    found = this_machine.examine_machine()
    assert found.extras == {"serve": [], "small-build": ["no-such-package"]}
    assert found.sizes["serve"] > 100_000 and found.sizes["small-build"] == 0


@pytest.mark.parametrize(
    ("device", "cuda", "said"),
    [("cpu, 2 threads", "13.0", True), ("cpu, 2 threads", None, False), ("cuda: 1 x", "13.0", False)],
)
def test_a_build_for_cuda_without_a_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, device: str, cuda: str | None, said: bool
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(this_machine.platform, "system", lambda: "Linux")
    assert (this_machine.CPU_WHEEL in this_machine._advice(device)) == said
