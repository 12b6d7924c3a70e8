"""What our own way of hearing and answering shares with the recorded originals, and where it differs on purpose.

Every recorded value has its test in test_golden_recordings.py; these are about the public ways in.
"""

import golden_decoding as decoding
import golden_runs as runs
import golden_world as golden
import pytest
import tiny_world
import torch
from golden_runs import BLSP, RELLM
from golden_world import close

from re_llm.model import losses
from re_llm.model.processing import ReLlmProcessor

A, B = BLSP
CASES = (*BLSP, RELLM)


def longest():
    """The utterance that has no padding in the recorded batch: there both conventions agree."""
    return int(golden.outputs(A)["whisper_lengths"].argmax())


# --- hearing ---


def test_golden_log_mel():
    processor = ReLlmProcessor(golden.feature_extractor(), tiny_world.tokenizer(), emotion_input="normalized")
    found, (expected, frames) = processor.audio_inputs(golden.waves()), golden.features()
    assert found["feature_lengths"].tolist() == frames.tolist()
    close(found["input_features"], expected, atol=1e-4)
    for i in range(len(frames)):
        head = golden.outputs("audeering")[f"normalised_head_{i}"]
        close(found["emotion_values"][i, : len(head)], head, atol=1e-5)


@torch.no_grad()
def test_golden_adapter_without_the_leak_of_padding():
    """The longest utterance equals the recording; in the others ours equals the utterance on its own."""
    expected, adapter = golden.outputs(A), runs.converted(A).adapter
    states, lengths = expected["whisper_last_hidden"], expected["whisper_lengths"]
    ours, last = adapter(states, lengths), longest()
    close(ours.embeddings[last], expected["adapter_embeds"][last])
    differs = []
    for i, length in enumerate(lengths):
        alone = adapter(states[[i], :length], lengths[[i]])
        tokens = int(alone.lengths[0])
        assert tokens == ours.lengths[i] == expected["adapter_mask"][i].sum()
        close(ours.embeddings[i, :tokens], alone.embeddings[0], atol=1e-5)
        differs.append((ours.embeddings[i, :tokens] - expected["adapter_embeds"][i, :tokens]).abs().max() > 1e-3)
    assert not differs[last] and (any(differs) or len(lengths.unique()) == 1)


@torch.no_grad()
def test_golden_from_waveform_to_heads():
    """All of hearing, our way, against the original, where the recorded batch has no padding."""
    model, expected, last = runs.converted(RELLM), golden.outputs(RELLM), longest()
    encoded = model.encode_audio(*golden.features(), *runs.waves())
    close(encoded.emotion_states, expected["w2v2_pooled"])
    speech = model.encode_speech(encoded)
    assert speech.lengths.tolist() == expected["adapter_mask"].sum(1).tolist()
    emotions, dimensions = model.predict_emotion(speech)
    close(speech.embeddings[last], expected["adapter_embeds"][last])
    close(emotions[last], expected["er_logits"][last])
    close(dimensions[last], expected["avd_pred_arousal_valence_dominance"][last, [1, 0, 2]])


# --- losses as pure functions of what was recorded ---


@pytest.mark.parametrize("case", CASES)
def test_golden_losses_of_the_recorded_logits(case):
    expected, recorded = golden.outputs(case), golden.scalars(case)["losses"]
    rows, text = runs.speech_rows(case, expected["adapter_mask"], whole=True), runs.text_rows(whole=True)
    ce = losses.response_ce(expected["speech_logits"], losses.next_labels(rows.labels))
    assert ce.item() == pytest.approx(recorded["response_ce"], rel=1e-4)
    student = expected["speech_logits"][losses.response_positions(rows.labels, shifted=False)]
    teacher = expected["text_logits"][losses.response_positions(text.labels, shifted=False)]
    assert losses.response_kl(student, teacher).item() == pytest.approx(recorded["response_kl"], rel=1e-4)
    mask = expected["adapter_mask"][..., None]
    pooled = (expected["adapter_embeds"] * mask).sum(1) / mask.sum(1)
    emotions = pooled @ golden.weights(case)["hidden2emotion.weight"].T
    er = losses.input_er(emotions, golden.inputs()["emotion_labels"])
    assert er.item() == pytest.approx(recorded["input_er"], rel=1e-4)


# --- answering ---


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_golden_generation(case):
    """From the recorded spectrogram and waveform to the recorded ids, one by one, through `generate`."""
    features, frames = golden.features()
    values, lengths = runs.waves()
    model, expected = runs.converted(case), golden.outputs(case)
    for i in range(len(frames)):
        audio = {"input_features": features[[i]], "feature_lengths": frames[[i]]}
        if case == RELLM:
            audio |= {"emotion_values": values[[i], : lengths[i]], "emotion_lengths": lengths[[i]]}
        ids = decoding.single_prompt(case, i, int(expected["adapter_mask"][i].sum()))
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **audio,
            max_new_tokens=decoding.new_tokens(case), min_new_tokens=1, do_sample=False,
            eos_token_id=list(golden.special()), pad_token_id=golden.special().last,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        recorded = expected[f"{f'{runs.ROUNDED}.' if case == RELLM else ''}gen_single{i}_ids"][0, 1:].tolist()
        assert found == recorded[: len(found)]
        assert set(recorded[len(found) :]) <= {golden.special().last}
