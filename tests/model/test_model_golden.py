"""The recorded outputs of the original systems, reproduced."""

import golden_world as golden
import pytest
import torch
from golden_world import close, padded_pass

from re_llm.model import losses
from re_llm.model.adapter import Subsampler
from re_llm.model.components import load_emotion_encoder
from re_llm.model.configuration import AdapterSettings
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.recordings import normalized

pytestmark = pytest.mark.skipif(not golden.FOLDER.is_dir(), reason=f"no recordings in {golden.FOLDER}")
CASES = ("blsp_a_nolora", "blsp_b_lora_audio", "rellm")
BLSP = CASES[:2]


@pytest.fixture(scope="module")
def models():
    return {case: golden.model(case) for case in CASES}


# --- audio in ---


def test_golden_log_mel(models):
    import tiny_world

    processor = ReLlmProcessor(golden.feature_extractor(), tiny_world.tokenizer(), emotion_input="normalized")
    found, (expected, frames) = processor.audio_inputs(golden.waves()), golden.features()
    assert found["feature_lengths"].tolist() == frames.tolist() == [130, 270, 410]
    close(found["input_features"], expected, atol=1e-4)
    for i in range(3):
        close(found["emotion_values"][i, :256], golden.outputs("audeering")[f"normalised_head_{i}"], atol=1e-5)


@torch.no_grad()
def test_golden_emotion_encoder():
    encoder = load_emotion_encoder(golden.FOLDER / "audeering", torch.float32)
    expected = golden.outputs("audeering")
    waves = [torch.from_numpy(normalized(wave)) for wave in golden.waves()]
    values = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    pooled = encoder(values, lengths)
    close(pooled, expected["pooled_embedding"])
    close(encoder.regress(pooled), expected["arousal_dominance_valence"][:, [2, 0, 1]])
    frames, counts = encoder.frames(values, lengths)
    assert counts.tolist() == golden.scalars("audeering")["n_frames"]
    close(frames[0, :64], expected["last_hidden_state_0"])
    naive = expected["naive_padded_batch.pooled_embedding"]
    assert (naive - expected["pooled_embedding"]).abs().max() > 1e-3  # the recording shows what masking prevents


@torch.no_grad()
@pytest.mark.parametrize("case", ["blsp_a_nolora", "rellm"])
def test_golden_whisper_states(models, case):
    features, frames = golden.features()
    expected = golden.outputs(case)
    states, lengths = models[case].speech_encoder(features, frames, keep_padding=True)
    assert lengths.tolist() == expected["whisper_lengths"].tolist()
    close(states, expected["whisper_last_hidden"])


def subsampler(case: str, in_width: int, name: str = "adapter.") -> Subsampler:
    made = Subsampler(in_width, 64, AdapterSettings(bottleneck=32))
    made.load_state_dict(golden.adapter_weights(case, name))
    return made.eval()


@torch.no_grad()
def test_golden_adapter():
    expected = golden.outputs("blsp_a_nolora")
    adapter = subsampler("blsp_a_nolora", 32)
    states, lengths = expected["whisper_last_hidden"], expected["whisper_lengths"]
    found = adapter(states, lengths, keep_padding=True)
    assert torch.equal(found.mask().long(), expected["adapter_mask"])
    close(found.embeddings, expected["adapter_embeds"])
    # The longest utterance has no padding: there both conventions agree; in the others ours equals the single item.
    ours = adapter(states, lengths)
    close(ours.embeddings[2], expected["adapter_embeds"][2])
    alone = adapter(states[:1, :65], lengths[:1])
    close(ours.embeddings[0, : alone.lengths[0]], alone.embeddings[0], atol=1e-5)
    assert (ours.embeddings[0, :9] - expected["adapter_embeds"][0, :9]).abs().max() > 1e-3


@torch.no_grad()
def test_golden_fused_adapter_and_heads(models):
    expected, model = golden.outputs("rellm"), models["rellm"]
    states, lengths = expected["whisper_last_hidden"], expected["whisper_lengths"]
    fused = torch.cat([states, expected["w2v2_pooled"][:, None].expand(-1, states.shape[1], -1)], dim=-1)
    speech = model.adapter(fused, lengths, keep_padding=True)
    close(speech.embeddings, expected["adapter_embeds"])
    close(speech.pooled, expected["pooled_speech"])
    emotions, dimensions = model.perceive(speech)
    close(emotions, expected["er_logits"])
    close(dimensions, expected["avd_pred_arousal_valence_dominance"][:, [1, 0, 2]])


@torch.no_grad()
def test_golden_from_waveform_to_heads(models):
    """The longest utterance has no padding in the recorded batch: all of hearing, our way, against the original."""
    model, expected = models["rellm"], golden.outputs("rellm")
    features, frames = golden.features()
    waves = [torch.from_numpy(normalized(wave)) for wave in golden.waves()]
    values = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    encoded = model.encode_audio(features, frames, values, torch.tensor([len(wave) for wave in waves]))
    close(encoded.emotion_states, expected["w2v2_pooled"])
    speech = model.encode_speech(encoded=encoded)
    assert speech.lengths.tolist() == expected["adapter_mask"].sum(1).tolist()
    emotions, dimensions = model.perceive(speech)
    close(speech.embeddings[2], expected["adapter_embeds"][2])
    close(emotions[2], expected["er_logits"][2])
    close(dimensions[2], expected["avd_pred_arousal_valence_dominance"][2, [1, 0, 2]])


# --- the LLM ---


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_golden_logits(models, case):
    model, expected = models[case], golden.outputs(case)
    ids, mask, _ = golden.text_rows()
    real = mask.bool()
    close(padded_pass(model, ids, mask)[real], expected["text_logits"][real])
    ids, mask, _ = golden.speech_rows(case, expected["adapter_mask"])
    real = mask.bool()
    found = padded_pass(model, ids, mask, expected["adapter_embeds"])
    recorded = expected["nocast.speech_logits" if case == "rellm" else "speech_logits"]
    close(found[real], recorded[real])


@torch.no_grad()
@pytest.mark.parametrize("scope", ["text", "global"])
def test_golden_other_lora_scopes(scope):
    case = "blsp_b_lora_audio"
    model, expected = golden.model(case, scope=scope), golden.outputs(case)
    ids, text_mask, _ = golden.text_rows()
    text = padded_pass(model, ids, text_mask)
    close(
        text[:, -3:][text_mask[:, -3:].bool()], expected[f"scope_{scope}.text_logits_last3"][text_mask[:, -3:].bool()]
    )
    ids, mask, _ = golden.speech_rows(case, expected["adapter_mask"])
    speech = padded_pass(model, ids, mask, expected["adapter_embeds"])
    real = mask[:, -3:].bool()
    close(speech[:, -3:][real], expected[f"scope_{scope}.speech_logits_last3"][real])
    recorded = golden.scalars(case)[f"losses_scope_{scope}"]
    check_response_losses(speech, text, expected["adapter_mask"], recorded)


def check_response_losses(speech_logits, text_logits, adapter_mask, recorded):
    _, _, labels = golden.speech_rows("", adapter_mask)
    ce = losses.response_ce(speech_logits, losses.next_labels(labels))
    assert ce.item() == pytest.approx(recorded["response_ce"], rel=1e-4)
    student = speech_logits[losses.response_positions(labels, shifted=False)]
    teacher = text_logits[losses.response_positions(golden.text_rows()[2], shifted=False)]
    assert losses.response_kl(student, teacher).item() == pytest.approx(recorded["response_kl"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_golden_response_losses(case):
    expected, recorded = golden.outputs(case), golden.scalars(case)["losses"]
    check_response_losses(expected["speech_logits"], expected["text_logits"], expected["adapter_mask"], recorded)


@pytest.mark.parametrize("case", CASES)
def test_golden_emotion_losses(case):
    expected, recorded = golden.outputs(case), golden.scalars(case)["losses"]
    embeddings, mask = expected["adapter_embeds"], expected["adapter_mask"][..., None]
    pooled = (embeddings * mask).sum(1) / mask.sum(1)
    logits = pooled @ golden.weights(case)["hidden2emotion.weight"].T
    found = losses.input_er(logits, golden.inputs()["emotion_labels"])
    assert found.item() == pytest.approx(recorded["input_er"], rel=1e-4)
    if case == "rellm":
        estimate = expected["avd_pred_arousal_valence_dominance"][:, [1, 0, 2]]
        targets = dict(zip(("arousal", "valence", "dominance"), golden.inputs()["avd_labels"].T, strict=True))
        assert losses.input_er_avd(estimate, targets).item() == pytest.approx(recorded["input_er_avd"], rel=1e-4)
        terms = {"input_er": found, "response_ce": torch.tensor(recorded["response_ce"])}
        terms["input_er_avd"] = losses.input_er_avd(estimate, targets)
        total = losses.weighted_sum(terms, dict.fromkeys(terms, 1.0)).total
        assert total.item() == pytest.approx(recorded["input_er+response_ce+input_er_avd"], rel=1e-4)


def test_golden_cif_loss():
    case = "blsp_c_cformer"
    found = losses.cif(golden.outputs(case)["train.cformer_alphas_sum"], golden.inputs()["input_mask"].sum(1))
    assert found.item() == pytest.approx(golden.scalars(case)["losses_train"]["cif"], rel=1e-4)


@pytest.mark.parametrize("case", BLSP)
def test_golden_gradients(models, case):
    """Of response_ce, through LLM, LoRA and adapter."""
    model, expected = models[case], golden.outputs(case)
    adapter_mask = expected["adapter_mask"]
    model.zero_grad()
    speech = model.adapter(
        golden.outputs("blsp_a_nolora")["whisper_last_hidden"], expected["whisper_lengths"], keep_padding=True
    )
    ids, mask, labels = golden.speech_rows(case, adapter_mask)
    logits = padded_pass(model, ids, mask, speech.embeddings)
    losses.response_ce(logits, losses.next_labels(labels)).backward()
    close(model.adapter.norm.weight.grad, expected["grad.response_ce.adapter.speech_ln.weight"])
    if case == "blsp_b_lora_audio":
        name = "grad.response_ce.qwen_model.model.transformer.h.{}.default.weight".format
        layers = model.language_model.model.layers
        found = layers[1].mlp.down_proj.lora_A["default"].weight.grad
        close(found, expected[name("1.mlp.c_proj.lora_A")])
        parts = [getattr(layers[0].self_attn, f"{n}_proj").lora_B["default"].weight.grad for n in "qkv"]
        close(torch.cat(parts), expected[name("0.attn.c_attn.lora_B")])


# --- generation ---


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sample", range(3))
def test_golden_generation(models, case, sample):
    """From the recorded spectrogram and waveform to the recorded ids, through the one public way in."""
    given, model = golden.inputs(), models[case]
    features, frames = golden.features()
    one = slice(sample, sample + 1)
    audio = {"input_features": features[one], "feature_lengths": frames[one]}
    if case == "rellm":
        wave = normalized(golden.waves()[sample])
        audio |= {"emotion_values": torch.from_numpy(wave)[None], "emotion_lengths": torch.tensor([len(wave)])}
    prefix, suffix = (
        given[f"gen_{n}_ids"][sample][given[f"gen_{n}_mask"][sample].bool()] for n in ("prefix", "suffix")
    )
    count = int(golden.outputs(case)["adapter_mask"][sample].sum())
    ids = torch.cat([prefix, torch.full((count,), golden.SPEECH_ID), suffix])[None]
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **audio,
        max_new_tokens=12, min_new_tokens=1, do_sample=False, eos_token_id=golden.EOS, pad_token_id=golden.EOS,
    )  # fmt: skip
    recorded = golden.outputs(case)[f"{'nocast.' if case == 'rellm' else ''}gen_single{sample}_ids"]
    assert found[0, ids.shape[1] :].tolist() == recorded[0, 1:].tolist()  # the first is a bos the LLM never saw
