"""Packed linear layers: the same bits, and ordinary layers for whoever looks inside."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import tiny_world
import torch
from torch import nn

from re_llm.inference.batch import Row, RunningBatch
from re_llm.inference.conversation import Turn, lay_out
from re_llm.inference.decoding import Decoding
from re_llm.inference.engine import Engine, load
from re_llm.llm.completion import Completion
from re_llm.llm.device import can_pack
from re_llm.llm.packed import PackedLinear, pack
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import load_processor

pytestmark = pytest.mark.skipif(
    not can_pack(torch.zeros(1, 1, dtype=torch.bfloat16)), reason="oneDNN multiplies no bfloat16 on this processor"
)


def model(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96, bias=bias), nn.GELU(), nn.Linear(96, 33, bias=bias)).to(torch.bfloat16)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(70, 32), nn.Linear(32, 70, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.embed(ids))
        return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (1, 1, 48), (3, 7, 48), (64, 48), (0, 48)])
@torch.inference_mode()
def test_a_packed_layer_gives_the_same_bits(bias: bool, shape: tuple[int, ...]) -> None:
    plain = model(bias)
    packed = copy.deepcopy(plain)
    assert pack(packed) == 2 and pack(packed) == 0
    states = torch.randn(shape).bfloat16()
    assert torch.equal(packed(states), plain(states))
    assert isinstance(packed[0], PackedLinear)  # a pass leaves it packed


def test_the_packed_form_takes_the_place_of_the_weight_and_comes_back() -> None:
    plain = model()
    packed = copy.deepcopy(plain)
    pack(packed)
    assert [name for name, _ in packed.named_parameters()] == ["0.bias", "2.bias"]
    stored = packed.state_dict()
    assert stored.keys() == plain.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in plain.state_dict().items())
    assert isinstance(packed[0], PackedLinear)
    assert torch.equal(packed[0].weight, plain[0].weight) and type(packed[0]) is nn.Linear
    moved = packed.to(torch.float32)
    assert type(moved[2]) is nn.Linear and torch.equal(moved[2].weight, plain[2].weight.float())


def test_weights_can_be_loaded_into_a_packed_layer() -> None:
    packed, other = model(), model()
    nn.init.ones_(other[0].weight)
    pack(packed)
    packed.load_state_dict(other.state_dict())
    assert torch.equal(packed[0].weight, other[0].weight)


def test_gradients_and_other_dtypes_pass_through_the_plain_layer() -> None:
    packed = model()
    pack(packed)
    states = torch.randn(2, 48, dtype=torch.bfloat16, requires_grad=True)
    packed(states).float().sum().backward()
    assert states.grad is not None and states.grad.abs().sum() > 0


def test_a_weight_of_the_embeddings_stays_theirs() -> None:
    tied = Tied().to(torch.bfloat16)
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        wanted = tied(ids)
        assert pack(tied) == 1
        assert torch.equal(tied(ids), wanted)
    assert isinstance(tied.head, PackedLinear) and [*dict(tied.named_parameters())] == ["embed.weight"]
    assert tied.head.weight is tied.embed.weight


def test_copies_share_the_packed_weights_and_pickles_hold_them() -> None:
    packed = model()
    pack(packed)
    copied, read = copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))
    assert copied[0]._packed is packed[0]._packed
    states = torch.randn(2, 48).bfloat16()
    with torch.inference_mode():
        assert torch.equal(copied(states), packed(states)) and torch.equal(read(states), packed(states))


def test_a_compiled_model_calls_packed_layers_from_outside() -> None:
    plain = model()
    packed = copy.deepcopy(plain)
    pack(packed)
    states = torch.randn(2, 48).bfloat16()
    with torch.inference_mode():
        assert torch.equal(torch.compile(packed, backend="eager")(states), plain(states))
    assert isinstance(packed[0], PackedLinear)


def test_float32_and_lora_are_left_alone() -> None:
    assert pack(model().float()) == 0
    layers = nn.ModuleDict({"base_layer": model()[0], "lora_A": model()[0]})
    assert pack(layers) == 1 and type(layers["lora_A"]) is nn.Linear


@pytest.fixture(scope="module")
def half(tiny_checkpoint: Path) -> Engine:
    return load(tiny_checkpoint, device="cpu", dtype="bfloat16")


def unpacked(folder: Path) -> Engine:
    """The engine as it was before it was packed."""
    model = ReLlmForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    return Engine(model, load_processor(folder), name="plain")


def layers(found: Engine) -> list[str]:
    return [name for name, each in found.model.named_modules() if isinstance(each, PackedLinear)]


def test_an_engine_answers_alike_packed_and_stays_packed(half: Engine, tiny_checkpoint: Path) -> None:
    waves, before = [tiny_world.wave(0.6, 1), tiny_world.wave(1.4, 2)], layers(half)
    assert before and all(name.startswith("language_model.") for name in before)
    plain = unpacked(tiny_checkpoint)
    options = {"max_new_tokens": 12, "recognize": "recognize"}
    assert half.respond_many(waves, **options) == plain.respond_many(waves, **options)
    assert layers(half) == before


def test_a_batch_that_is_decoded_together_uses_the_packed_weights(half: Engine, tiny_checkpoint: Path) -> None:
    texts = []
    for each in (half, unpacked(tiny_checkpoint)):
        batch, done = RunningBatch(each), list[Completion]()
        turns = [Turn("user", tuple(each.encode([tiny_world.wave(0.9, 3)])))]
        row = Row(*lay_out(each, turns, "chat", None, Decoding(9)), lambda piece: None, done.append)
        batch.join(row)
        while len(batch):
            batch.step()
        texts.append(done[0].text)
    assert texts[0] == texts[1] and layers(half)


def test_a_packed_engine_is_saved_as_it_was_loaded(half: Engine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = layers(half)
    half.model.save_pretrained(tmp_path)
    wanted = unpacked(tiny_checkpoint).model.state_dict()
    found = ReLlmForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert layers(half) == before
