"""The recorded original systems, converted from their own folders, and back.

Every recorded value is compared with the converted checkpoints in test_golden_recordings.py.
"""

import json
import shutil

import golden_decoding as decoding
import golden_runs as runs
import golden_world as golden
import pytest
import torch
from golden_world import close, padded_pass
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.convert.run import convert

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


# --- generation ---


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_golden_converted_answers_stop_at_a_stop_word(models, case):
    """From the recorded spectrogram and waveform, as a user would ask; the recorded ids end at the stop word."""
    model, expected, end = models[case], golden.outputs(case), golden.special().last
    features, frames = golden.features()
    values, lengths = runs.waves()
    for i in range(len(frames)):
        recorded = expected[f"{'nocast.' if case == RELLM else ''}gen_single{i}_ids"][0, 1:].tolist()
        others = [token for token in recorded if token not in (recorded[0], end)]
        if not others:  # one token over and over: there is no later stop word to choose
            continue
        audio = {"input_features": features[[i]], "feature_lengths": frames[[i]]}
        if case == RELLM:
            audio |= {"emotion_values": values[[i], : lengths[i]], "emotion_lengths": lengths[[i]]}
        ids = decoding.single_prompt(case, i, int(expected["adapter_mask"][i].sum()))
        # Behind a stop word the original writes one end token, which says nothing more.
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **audio, max_new_tokens=len(recorded),
            min_new_tokens=1, do_sample=False, pad_token_id=end, eos_token_id=[end, others[0]],
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert found == recorded[: recorded.index(others[0]) + 1]


# --- long context ---


@torch.no_grad()
def test_golden_rows_beyond_seq_length_are_refused(tmp_path):
    """There the original changes its attention (log-n, dynamic NTK); up to there it is the same as without."""
    model = changed(B, tmp_path, qwen_config=golden.config(D)["qwen_config"])
    limit = golden.config(D)["qwen_config"]["seq_length"]
    assert model.config.text_config.max_position_embeddings == limit
    ids, mask, _ = golden.text_rows()
    ids = torch.cat([ids] * (limit // ids.shape[1] + 1), dim=1)[:1, : limit + 1]
    found = model.text_forward(ids[:, :limit]).logits
    close(found, padded_pass(golden.model(B), ids[:, :limit], torch.ones(1, limit).long()))
    expected, other = golden.outputs(D)["text_logits"], golden.outputs(B)["text_logits"]
    behind = mask[:, limit:].bool()
    assert (expected - other)[:, limit:][behind].abs().max() > 1e-2  # what is refused does matter
    with pytest.raises(RellmError, match=f"a row of {limit + 1} tokens, and this LLM was trained up to {limit}"):
        model.text_forward(ids)
    short = {"input_ids": ids[:, : limit - 2], "attention_mask": torch.ones(1, limit - 2).long()}
    with pytest.raises(RellmError, match=f"trained up to {limit}"):
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
    names = ["neutral", "happy", "angry", "sad", "surprise"]
    assert config.emotions == names or len(golden.emotion_names(RELLM)) != len(names)
    assert config.emotion_outputs == ["arousal", "dominance", "valence"]
    assert config.fusion == "pooled" and config.speech_window == "full"
