"""One choice of device and dtype, which knows CUDA, Apple's MPS and the CPU."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from test_imports import FILES

from re_llm.core.errors import RellmError
from re_llm.llm.device import ATTENTIONS, HALF_FROM, pick_attention, pick_device, pick_dtype
from re_llm.recipe.stages import StageOptions


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest_there_is(cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    device = pick_device("auto")
    assert device.type == chosen
    assert pick_dtype("auto", device) == (torch.float32 if chosen == "cpu" else torch.bfloat16)


@pytest.mark.parametrize(("amx", "avx", "chosen"), [(True, False, 2), (False, True, 2), (False, False, 4)])
def test_a_wide_model_on_a_processor_with_bfloat16(
    amx: bool, avx: bool, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu, width=HALF_FROM).itemsize == chosen
    assert pick_dtype("auto", cpu, width=HALF_FROM - 1) == pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("float32", cpu, width=HALF_FROM) == torch.float32


def test_names_are_checked() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(RellmError, match="Allowed: auto, cpu, cuda, cuda:N, mps"):
        pick_device("tpu-of-mine")
    with pytest.raises(RellmError, match=r"unknown dtype .half.\. Allowed: auto, float32, bfloat16, float16"):
        pick_dtype("half", torch.device("cpu"))


def test_no_other_module_looks_for_a_device() -> None:
    """A second choice would forget one of the devices: two of four once forgot MPS."""
    looking = [name for name, file in FILES.items() if "is_available()" in file.read_text(encoding="utf-8")]
    assert looking == ["re_llm.llm.device"]


def test_attention_is_chosen_by_device_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_attention("auto", cpu, training=True) == "eager"
    assert pick_attention("auto", cpu) is pick_attention("auto", gpu, training=True) is None
    assert pick_attention("sdpa", cpu, training=True) == "sdpa"
    assert set(ATTENTIONS) == set(get_args(StageOptions.model_fields["attention"].annotation))
    with pytest.raises(RellmError, match=r"unknown attention .flash.\. Allowed: auto, eager, sdpa, flash_attention_2"):
        pick_attention("flash", cpu)
    with pytest.raises(RellmError, match=r"does not run on cpu\. Allowed: auto, eager, sdpa"):
        pick_attention("flash_attention_2", cpu)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RellmError, match="pip install flash-attn"):
        pick_attention("flash_attention_2", gpu)
