"""The CFormer adapter: its recorded outputs, losses, gradients and answers, and what must hold for any of them."""

import golden_world as golden
import pytest
import torch
from golden_world import close, padded_pass
from safetensors.torch import load_file

from re_llm.errors import RellmError
from re_llm.model import AdapterSettings, ReLlmForConditionalGeneration, losses
from re_llm.model.cformer import CFormer, integrate
from re_llm.model.convert import convert
from re_llm.model.convert_names import Layout, join

recorded = pytest.mark.skipif(not golden.FOLDER.is_dir(), reason=f"no recordings in {golden.FOLDER}")
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


def transcript():
    return golden.inputs()["input_mask"].sum(1)


def hear(model, known=None):
    features, frames = golden.features()
    states, lengths = model.speech_encoder(features, frames, keep_padding=True)
    return model.adapter(states, lengths, keep_padding=True, token_lengths=known)


@recorded
@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "train."])
def test_golden_cformer_tokens_and_logits(model, prefix):
    expected = golden.outputs(C)
    speech = hear(model, transcript() if prefix else None)
    mask = expected[f"{prefix}adapter_mask"]
    assert torch.equal(speech.mask().long(), mask)
    close(speech.embeddings[mask.bool()], expected[f"{prefix}adapter_embeds"][mask.bool()])
    close(speech.fired, expected[f"{prefix}cformer_alphas_sum"])
    ids, keep, labels = golden.speech_rows(C, mask)
    found = padded_pass(model, ids, keep, speech.embeddings)
    close(found[keep.bool()], expected[f"{prefix}speech_logits"][keep.bool()])
    given = golden.scalars(C)["losses_train" if prefix else "losses_eval"]
    text_ids, text_mask, text_labels = golden.text_rows()
    text = padded_pass(model, text_ids, text_mask)
    student = found[losses.response_positions(labels, shifted=False)]
    teacher = text[losses.response_positions(text_labels, shifted=False)]
    assert losses.response_kl(student, teacher).item() == pytest.approx(given["response_kl"], rel=1e-4)
    ce = losses.response_ce(found, losses.next_labels(labels))
    assert ce.item() == pytest.approx(given["response_ce"], rel=1e-4)
    er = losses.input_er(model.perceive(speech)[0], golden.inputs()["emotion_labels"])
    assert er.item() == pytest.approx(given["input_er"], rel=1e-4)
    assert losses.cif(speech.fired, transcript()).item() == pytest.approx(given["cif"], rel=1e-4)


def input_kl(model, speech, *, whole):
    """KL at the transcript tokens, over whole rows or over rows that end with the speech."""
    given = golden.inputs()
    text_ids, text_mask, _ = golden.text_rows()
    ids, mask, _ = golden.speech_rows(C, speech.mask().long())
    tokens = [given[name + "_ids"].shape[1] for name in ("start", "instruction", "audio_instruction", "input")]
    text_at, speech_at = tokens[0] + tokens[1], tokens[0] + tokens[2]
    if not whole:
        text_ids = torch.cat([given["start_ids"], given["input_ids"]], dim=1)
        text_mask = torch.cat([given["start_mask"], given["input_mask"]], dim=1)
        ids = torch.cat([given["start_ids"], torch.full_like(speech.mask().long(), golden.SPEECH_ID)], dim=1)
        mask = torch.cat([given["start_mask"], speech.mask().long()], dim=1)
        text_at = speech_at = tokens[0]
    with torch.no_grad():
        text = padded_pass(model, text_ids, text_mask)
    found = padded_pass(model, ids, mask, speech.embeddings)
    real = given["input_mask"].bool()
    student = found[:, speech_at : speech_at + speech.embeddings.shape[1]][speech.mask()]
    return losses.input_kl(student, text[:, text_at : text_at + tokens[3]][real]), found, text


@recorded
def test_golden_cformer_input_kl_and_gradients(folder):
    model = ReLlmForConditionalGeneration.from_pretrained(folder)
    model.set_trainable(("adapter", "heads", "speech_encoder", "llm"))
    given = golden.scalars(C)["losses_train"]
    speech = hear(model, transcript())
    alone, _, _ = input_kl(model, speech, whole=False)
    assert alone.item() == pytest.approx(given["input_kl"], rel=1e-4)
    shared, found, text = input_kl(model, speech, whole=True)
    _, _, labels = golden.speech_rows(C, speech.mask().long())
    student = found[losses.response_positions(labels, shifted=False)]
    teacher = text[losses.response_positions(golden.text_rows()[2], shifted=False)]
    total = shared + losses.response_kl(student, teacher) + losses.cif(speech.fired, transcript())
    assert total.item() == pytest.approx(given["input_kl+response_kl+cif"], rel=1e-4)
    total.backward()
    layout, groups = Layout.of(golden.weights(C), plain_adapter=True), {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            piece = layout.find(name)
            groups.setdefault(piece.name, []).append((piece, parameter.grad))
    norms = golden.scalars(C)["grad_norms_train"]["input_kl+response_kl+cif"]
    # Whisper's positions are fixed here, and trained in the recording.
    expected = {name: norm for name, norm in norms.items() if "embed_positions" not in name and norm > 1e-6}
    assert expected.keys() <= groups.keys()
    for name, norm in expected.items():
        assert join(groups[name]).norm().item() == pytest.approx(norm, rel=5e-3, abs=1e-4), name


@recorded
@torch.no_grad()
@pytest.mark.parametrize("sample", range(3))
def test_golden_cformer_answers(model, sample):
    """The way in for an adapter whose length depends on the recording: hear first, then lay out the row."""
    given = golden.inputs()
    features, frames = golden.features()
    one = slice(sample, sample + 1)
    speech = model.encode_speech(features[one], frames[one])
    around = [given[f"gen_{n}_ids"][sample][given[f"gen_{n}_mask"][sample].bool()] for n in ("prefix", "suffix")]
    row = torch.cat([around[0], torch.full((int(speech.lengths[0]),), golden.SPEECH_ID), around[1]])[None]
    found = model.generate(
        input_ids=row, attention_mask=torch.ones_like(row), speech_embeddings=speech.embeddings,
        speech_lengths=speech.lengths, max_new_tokens=12, min_new_tokens=1, do_sample=False,
        eos_token_id=golden.EOS, pad_token_id=golden.EOS,
    )  # fmt: skip
    assert found[0, row.shape[1] :].tolist() == golden.outputs(C)[f"gen_single{sample}_ids"][0, 1:].tolist()


@recorded
def test_golden_cformer_batch_with_the_padding_of_the_original(model):
    expected = golden.outputs(C)
    assert golden.decode(model, C).tolist() == expected["gen_batch_ids"][:, 1:].tolist()
    stop = golden.scalars(C)["stop_word_id"]
    assert golden.decode(model, C, stops=(stop,)).tolist() == expected["gen_stop_ids"][:, 1:].tolist()


@recorded
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
    adapter = CFormer(16, 24, AdapterSettings("cformer", pre_layers=1, post_layers=1, feed_forward=32)).eval()
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
        world.model(emotion=False, init_adapter_from=tmp_path / "saved")
    with pytest.raises(RellmError, match="multiples of 8"):
        CFormer(12, 24, AdapterSettings("cformer"))
