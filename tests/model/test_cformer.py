"""The CFormer adapter: its recorded answers and files, and what must hold for any of them.

Its recorded outputs, losses and gradients are compared in test_golden_recordings.py.
"""

import golden_decoding as decoding
import golden_world as golden
import pytest
import tiny_world
import torch
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.model import AdapterOptions, ReLlmForConditionalGeneration, losses
from re_llm.model.cformer import CFormer, integrate
from re_llm.model.convert.run import convert

C = "blsp_c_cformer"
LENGTHS = torch.tensor([40, 33, 4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("cformer") / "converted"
    report = convert(golden.FOLDER / C, target, progress=False)
    assert list(report.left_out) == ["adapter.lm_head.weight"]
    return target


@pytest.fixture(scope="module")
def model(folder):
    return ReLlmForConditionalGeneration.from_pretrained(folder)


@torch.no_grad()
def test_golden_cformer_answers(model):
    """The way in for an adapter whose length depends on the recording: hear first, then lay out the row."""
    features, frames = golden.features()
    for i in range(len(frames)):
        speech = model.encode_speech(model.encode_audio(features[[i]], frames[[i]]))
        row = decoding.single_prompt(C, i, int(speech.lengths[0]))
        found = model.generate(
            input_ids=row, attention_mask=torch.ones_like(row), speech=speech, do_sample=False,
            max_new_tokens=decoding.new_tokens(C), min_new_tokens=1,
            eos_token_id=list(golden.special()), pad_token_id=golden.special().last,
        )[0, row.shape[1] :].tolist()  # fmt: skip
        recorded = golden.outputs(C)[f"gen_single{i}_ids"][0, 1:].tolist()
        assert found == recorded[: len(found)]
        assert set(recorded[len(found) :]) <= {golden.special().last}


def test_golden_cformer_round_trip(folder, tmp_path):
    convert(folder, tmp_path / "back", to="blsp-emo", progress=False)
    back = load_file(tmp_path / "back" / "model.safetensors")
    original = load_file(golden.FOLDER / C / "model.safetensors")
    assert original.keys() - back.keys() == {"adapter.lm_head.weight"}
    assert all(torch.equal(back[name], original[name]) for name in back)
    convert(tmp_path / "back", tmp_path / "again", progress=False)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


# --- what must hold for any of them ---


def made() -> CFormer:
    torch.manual_seed(0)
    options = AdapterOptions(kind="cformer", pre_layers=1, post_layers=1)
    adapter = CFormer(16, 24, options, tiny_world.whisper_config()).eval()
    adapter.pre_cif_layers[0].fc2.bias.data[-1] = -1.0  # a few states a token
    return adapter


def states(length: int = 40) -> torch.Tensor:
    return torch.randn(3, length, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("known", [None, torch.tensor([7, 3, 1])])
def test_batch_equals_single_whatever_stands_in_the_padding(known):
    adapter, inputs = made(), states()
    batch = adapter(inputs, LENGTHS, token_lengths=known)
    for i, length in enumerate(LENGTHS.tolist()):
        one = slice(i, i + 1)
        alone = adapter(inputs[one, :length], LENGTHS[one], token_lengths=None if known is None else known[one])
        tokens = int(alone.lengths[0])
        assert batch.lengths[i] == tokens == alone.embeddings.shape[1]
        torch.testing.assert_close(batch.embeddings[i, :tokens], alone.embeddings[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.pooled[i], alone.embeddings[0].mean(0), atol=1e-5, rtol=1e-4)
        assert not batch.embeddings[i, tokens:].any()


def test_integration_deals_out_every_unit_once():
    weights = torch.tensor([[0.6, 0.6, 0.5, 0.3, 0.0], [0.25, 0.25, 0.5, 0.0, 0.0]])
    values = torch.eye(5).expand(2, 5, 5)
    tokens = integrate(values, weights, torch.tensor([2, 1]))
    expected = [[[0.6, 0.4, 0, 0, 0], [0, 0.2, 0.5, 0.3, 0]], [[0.25, 0.25, 0.5, 0, 0], [0, 0, 0, 0, 0]]]
    torch.testing.assert_close(tokens, torch.tensor(expected))


def test_a_silent_recording_gives_one_token():
    adapter = made()
    adapter.pre_cif_layers[0].fc2.bias.data[-1] = -30.0
    speech = adapter(states(), LENGTHS)
    assert speech.lengths.tolist() == [1, 1, 1]
    assert speech.embeddings.isfinite().all()


def test_every_weight_of_the_adapter_can_learn():
    adapter = made()
    speech = adapter(states(), LENGTHS, token_lengths=torch.tensor([7, 3, 2]))
    (speech.embeddings.square().sum() + losses.cif(speech.fired, torch.tensor([7, 3, 2]))).backward()
    assert [name for name, p in adapter.named_parameters() if p.grad is None] == []


def test_counting_tokens_beforehand_is_refused(world, tmp_path):
    options = {"adapter": {"kind": "cformer", "pre_layers": 1, "post_layers": 1}}
    with pytest.raises(RellmError, match=r"depends on the recording.*encode_speech first"):
        world.processor(**options).speech_token_count(16_000)
    model = world.model(**options)
    model.save_pretrained(tmp_path / "saved")
    saved = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved.adapter.cif_proj.weight, model.adapter.cif_proj.weight)
    with pytest.raises(RellmError, match="cannot start this one"):
        world.model(emotion=False).continue_from(tmp_path / "saved")
    with pytest.raises(RellmError, match="multiples of 8"):
        CFormer(12, 24, AdapterOptions(kind="cformer"), tiny_world.whisper_config())
