"""The recorded original systems, converted from their own folders: what they said, the converted ones say."""

import json
import shutil

import golden_world as golden
import pytest
import torch
from golden_world import close, padded_pass, released_rounding
from safetensors.torch import load_file

from re_llm.errors import RellmError
from re_llm.model import ReLlmConfig, ReLlmForConditionalGeneration, losses
from re_llm.model.convert import convert
from re_llm.model.convert_names import Layout, join
from re_llm.model.recordings import normalized

pytestmark = pytest.mark.skipif(not golden.FOLDER.is_dir(), reason=f"no recordings in {golden.FOLDER}")
CASES = ("blsp_a_nolora", "blsp_b_lora_audio", "rellm")
A, B, D, RELLM = "blsp_a_nolora", "blsp_b_lora_audio", "blsp_d_longctx", "rellm"


def emotion_encoder(case):
    return golden.FOLDER / "audeering" if case == RELLM else None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    for case in CASES:
        convert(golden.FOLDER / case, root / case, emotion_encoder=emotion_encoder(case), progress=False)
    return {case: root / case for case in CASES}


@pytest.fixture(scope="module")
def models(folders):
    return {case: ReLlmForConditionalGeneration.from_pretrained(folder) for case, folder in folders.items()}


def changed(case, tmp_path, **config):
    """A converted copy of a case whose config says something else."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(golden.FOLDER / case / "model.safetensors", source)
    given = json.loads((golden.FOLDER / case / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**given, **config}))
    convert(source, tmp_path / "converted", emotion_encoder=emotion_encoder(case), progress=False)
    return ReLlmForConditionalGeneration.from_pretrained(tmp_path / "converted")


@pytest.mark.parametrize("case", CASES)
def test_golden_conversion_gives_the_weights_of_the_mapping_by_hand(models, case):
    expected, found = golden.model(case).state_dict(), models[case].state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name != "dimension_head.weight" or case == RELLM:  # BLSP-Emo has no such head
            assert torch.equal(found[name], value), name


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_golden_converted_logits_and_losses(models, case):
    model, expected = models[case], golden.outputs(case)
    ids, text_mask, text_labels = golden.text_rows()
    text = padded_pass(model, ids, text_mask)
    close(text[text_mask.bool()], expected["text_logits"][text_mask.bool()])
    features, frames = golden.features()
    states, lengths = model.speech_encoder(features, frames, keep_padding=True)
    if case == RELLM:
        states = torch.cat([states, expected["w2v2_pooled"][:, None].expand(-1, states.shape[1], -1)], dim=-1)
    tokens = model.adapter(states, lengths, keep_padding=True)
    ids, mask, labels = golden.speech_rows(case, tokens.mask().long())
    speech = padded_pass(model, ids, mask, tokens.embeddings)
    real = mask.bool()
    close(speech[real], expected["nocast.speech_logits" if case == RELLM else "speech_logits"][real])
    recorded = golden.scalars(case)["losses_nocast" if case == RELLM else "losses"]
    ce = losses.response_ce(speech, losses.next_labels(labels))
    assert ce.item() == pytest.approx(recorded["response_ce"], rel=1e-4)
    student = speech[losses.response_positions(labels, shifted=False)]
    teacher = text[losses.response_positions(text_labels, shifted=False)]
    assert losses.response_kl(student, teacher).item() == pytest.approx(recorded["response_kl"], rel=1e-4)
    er = losses.input_er(model.perceive(tokens)[0], golden.inputs()["emotion_labels"])
    assert er.item() == pytest.approx(recorded["input_er"], rel=1e-4)


@torch.no_grad()
def test_golden_converted_rellm_with_the_rounding_of_the_released_code(models):
    """Ours does not round to bfloat16; with the two roundings put in, the plain recordings are met."""
    model, expected = models[RELLM], golden.outputs(RELLM)
    ids, mask, labels = golden.speech_rows(RELLM, expected["adapter_mask"])
    real = mask.bool()
    with released_rounding(model):
        found = padded_pass(model, ids, mask, expected["adapter_embeds"])
    close(found[real], expected["speech_logits"][real], atol=2e-2, rtol=1e-2)
    assert (expected["speech_logits"] - expected["nocast.speech_logits"])[real].abs().max() > 2e-2
    ce = losses.response_ce(found, losses.next_labels(labels))
    assert ce.item() == pytest.approx(golden.scalars(RELLM)["losses"]["response_ce"], rel=2e-3)


@pytest.mark.parametrize("scope", ["text", "global"])
@torch.no_grad()
def test_golden_converted_lora_scopes(tmp_path, scope):
    model, expected = changed(B, tmp_path, lora_scope=scope), golden.outputs(B)
    assert model.config.lora["scope"] == scope
    ids, text_mask, _ = golden.text_rows()
    speech_ids, mask, _ = golden.speech_rows(B, expected["adapter_mask"])
    for kind, rows, keep, embeddings in (
        ("text", ids, text_mask, None), ("speech", speech_ids, mask, expected["adapter_embeds"]),
    ):  # fmt: skip
        real = keep[:, -3:].bool()
        found = padded_pass(model, rows, keep, embeddings)[:, -3:]
        close(found[real], expected[f"scope_{scope}.{kind}_logits_last3"][real])


# --- gradients ---


@pytest.mark.parametrize("case", [A, B])
@pytest.mark.parametrize("loss", ["response_ce", "response_kl", "input_er+response_ce"])
def test_golden_converted_gradient_norms(folders, case, loss):
    """Of every parameter, from the recorded spectrogram; q, k and v are put together again."""
    model = ReLlmForConditionalGeneration.from_pretrained(folders[case])
    parts = ("adapter", "heads", "speech_encoder", "lora" if case == B else "llm")
    model.set_trainable(parts)
    features, frames = golden.features()
    speech = model.adapter(*model.speech_encoder(features, frames, keep_padding=True), keep_padding=True)
    ids, mask, labels = golden.speech_rows(case, speech.mask().long())
    student = padded_pass(model, ids, mask, speech.embeddings)
    if loss == "response_kl":
        text_ids, text_mask, text_labels = golden.text_rows()
        with model.teacher():
            teacher = padded_pass(model, text_ids, text_mask)
        total = losses.response_kl(
            student[losses.response_positions(labels, shifted=False)],
            teacher[losses.response_positions(text_labels, shifted=False)],
        )
    else:
        total = losses.response_ce(student, losses.next_labels(labels))
        if loss.startswith("input_er"):
            total = total + losses.input_er(model.perceive(speech)[0], golden.inputs()["emotion_labels"])
    total.backward()
    found = released_gradients(model, case)
    recorded = golden.scalars(case)["grad_norms"][loss]
    # Whisper's positions are fixed here, and trained in the recording.
    expected = {name: norm for name, norm in recorded.items() if "embed_positions" not in name and norm > 1e-7}
    assert expected.keys() <= found.keys()
    for name, norm in expected.items():
        assert found[name].norm().item() == pytest.approx(norm, rel=2e-3, abs=2e-5), name


def released_gradients(model, case):
    """Gradients under the names of the released checkpoint."""
    layout = Layout.of(golden.weights(case))
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        bare = name.replace(".base_layer.", ".").replace(".default.", ".")
        if ".lora_" in name:
            piece = layout.find_lora("base_model.model." + bare.removeprefix("language_model."))
        else:
            piece = layout.find(bare)
        groups.setdefault(piece.name, []).append((piece, parameter.grad))
    # The one A of the original is three equal ones here: their gradients add up.
    return {
        name: sum(grad for _, grad in parts) if ".lora_A." in name else join(parts) for name, parts in groups.items()
    }


def test_golden_converted_rellm_gradients(models):
    model, expected = models[RELLM], golden.outputs(RELLM)
    model.zero_grad()
    states = expected["whisper_last_hidden"]
    fused = torch.cat([states, expected["w2v2_pooled"][:, None].expand(-1, states.shape[1], -1)], dim=-1)
    speech = model.adapter(fused, expected["whisper_lengths"], keep_padding=True)
    ids, mask, labels = golden.speech_rows(RELLM, speech.mask().long())
    emotions, dimensions = model.perceive(speech)
    targets = dict(zip(("arousal", "valence", "dominance"), golden.inputs()["avd_labels"].T, strict=True))
    total = losses.response_ce(padded_pass(model, ids, mask, speech.embeddings), losses.next_labels(labels))
    total = total + losses.input_er(emotions, golden.inputs()["emotion_labels"])
    (total + losses.input_er_avd(dimensions, targets)).backward()
    found = released_gradients(model, RELLM)
    prefix = "grad_nocast.input_er+response_ce+input_er_avd."
    recorded = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    assert len(recorded) == 4 + ("w2v2cat_adapter.speech_ln.weight" in recorded)
    for name, value in recorded.items():
        close(found[name], value)


# --- generation ---


@pytest.mark.parametrize("case", CASES)
def test_golden_converted_batch_with_the_padding_of_the_original(models, case):
    expected = golden.outputs(case)
    prefix = "nocast." if case == RELLM else ""
    found = golden.decode(models[case], case)
    assert found.tolist() == expected[f"{prefix}gen_batch_ids"][:, 1:].tolist()
    stop = golden.scalars(case)[f"{prefix}stop_word_id"]
    stopped = golden.decode(models[case], case, stops=(stop,))
    recorded = expected[f"{prefix}gen_stop_ids"][:, 1:]
    assert stopped.tolist() == recorded.tolist()
    assert (recorded == stop).any()


def test_golden_converted_batch_with_the_rounding_of_the_released_code(models):
    with released_rounding(models[RELLM]):
        found = golden.decode(models[RELLM], RELLM)
    assert found.tolist() == golden.outputs(RELLM)["gen_batch_ids"][:, 1:].tolist()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sample", range(3))
def test_golden_converted_answers(models, case, sample):
    """From the recorded spectrogram and waveform to the recorded ids, as a user would ask; and with a stop word."""
    given, model, expected = golden.inputs(), models[case], golden.outputs(case)
    features, frames = golden.features()
    one = slice(sample, sample + 1)
    audio = {"input_features": features[one], "feature_lengths": frames[one]}
    if case == RELLM:
        wave = normalized(golden.waves()[sample])
        audio |= {"emotion_values": torch.from_numpy(wave)[None], "emotion_lengths": torch.tensor([len(wave)])}
    around = [given[f"gen_{n}_ids"][sample][given[f"gen_{n}_mask"][sample].bool()] for n in ("prefix", "suffix")]
    speech = torch.full((int(expected["adapter_mask"][sample].sum()),), golden.SPEECH_ID)
    ids = torch.cat([around[0], speech, around[1]])[None]
    options = {"max_new_tokens": 12, "min_new_tokens": 1, "do_sample": False, "pad_token_id": golden.EOS}
    recorded = expected[f"{'nocast.' if case == RELLM else ''}gen_single{sample}_ids"][0, 1:].tolist()
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **audio, eos_token_id=golden.EOS, **options
    )[0, ids.shape[1] :].tolist()
    assert found == recorded
    others = [token for token in recorded if token != recorded[0]]
    if not others:  # one token over and over: there is no later stop word to choose
        return
    # Behind a stop word the original writes one end token, which says nothing more.
    stopped = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **audio, eos_token_id=[golden.EOS, others[0]], **options
    )[0, ids.shape[1] :].tolist()
    assert stopped == recorded[: recorded.index(others[0]) + 1]


# --- long context ---


@torch.no_grad()
def test_golden_rows_beyond_seq_length_are_refused(tmp_path):
    """There the original changes its attention (log-n, dynamic NTK); up to there it is the same as without."""
    given = json.loads((golden.FOLDER / D / "config.json").read_text())
    model = changed(B, tmp_path, qwen_config=given["qwen_config"])
    assert model.config.text_config.max_position_embeddings == 32
    ids, mask, _ = golden.text_rows()
    keep = mask[0].bool()
    row = ids[:1, keep]
    assert row.shape[1] <= 32
    expected = golden.outputs(D)["text_logits"]
    other = golden.outputs(B)["text_logits"]
    found = model.text_forward(ids[:1, :32]).logits
    close(found, padded_pass(golden.model(B), ids[:1, :32], torch.ones_like(ids[:1, :32])))
    assert (expected - other)[:, 32:][mask[:, 32:].bool()].abs().max() > 1e-2  # what is refused does matter
    with pytest.raises(RellmError, match="a row of 40 tokens, and this LLM was trained up to 32"):
        model.text_forward(ids, mask)
    short = {"input_ids": ids[:1, :30], "attention_mask": torch.ones(1, 30).long()}
    with pytest.raises(RellmError, match="trained up to 32"):
        model.generate(**short, max_new_tokens=6, do_sample=False, eos_token_id=None)


# --- back ---


@pytest.mark.parametrize("case", CASES)
def test_golden_round_trip_is_exact(folders, tmp_path, case):
    report = convert(folders[case], tmp_path / "back", to="blsp-emo", progress=False)
    original, back = (
        load_file(golden.FOLDER / case / "model.safetensors"),
        load_file(tmp_path / "back/model.safetensors"),
    )
    unused = ("adapter.", "w2v2_hidden2emotion.") if case == RELLM else ()
    assert back.keys() == {name for name in original if not name.startswith(unused)}
    for name, value in back.items():
        assert value.dtype == original[name].dtype and torch.equal(value, original[name]), name
    assert set(report.left_out) == (set() if case == RELLM else {"dimension_head.weight"})
    given, config = (json.loads((f / "config.json").read_text()) for f in (golden.FOLDER / case, tmp_path / "back"))
    for name, value in config.items():
        if isinstance(value, dict):
            value.pop("fp32", None)  # which precision the original casts itself to
            assert {key: given[name].get(key) for key in value} == value
        else:
            assert value == given[name], name


def test_golden_what_was_left_out_is_named(tmp_path):
    report = convert(golden.FOLDER / RELLM, tmp_path / "out", emotion_encoder=golden.FOLDER / "audeering")
    unused = {name for name in golden.weights(RELLM) if name.startswith(("adapter.", "w2v2_hidden2emotion."))}
    assert report.left_out.keys() == unused
    assert "RE-LLM answers through w2v2cat_adapter" in report.summary()
    config = ReLlmConfig.from_pretrained(tmp_path / "out")
    assert config.emotions == ["neutral", "happy", "angry", "sad", "surprise"]
    assert config.emotion_outputs == ["arousal", "dominance", "valence"]
    assert config.fusion == "pooled" and config.speech_window == "full"
