"""Whisper's encoder over windows, whole or trimmed."""

import pytest
import tiny_world
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from re_llm.core.errors import RellmError
from re_llm.model.speech_encoder import SpeechEncoder

WINDOW = 2 * tiny_world.WINDOW_STATES


def made(window: str, **changes) -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(tiny_world.whisper_config(**changes), window).eval()


def features(*lengths: int, width: int | None = None) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    made = torch.zeros(len(lengths), 80, width or max(lengths))
    for i, length in enumerate(lengths):
        made[i, :, :length] = torch.randn(80, length, generator=draw)
    return made


@torch.no_grad()
def test_a_full_window_is_hugging_faces_encoder():
    encoder, inputs = made("full"), features(70, 100, width=WINDOW)
    theirs: WhisperEncoder = encoder.whisper
    expected = theirs(inputs).last_hidden_state
    states, lengths = encoder(inputs, torch.tensor([70, 100]))
    assert lengths.tolist() == [35, 50]
    torch.testing.assert_close(states[0, :35], expected[0, :35])
    torch.testing.assert_close(states[1], expected[1])
    assert not states[0, 35:].any()
    kept, _ = encoder(inputs, torch.tensor([70, 100]), keep_padding=True)
    torch.testing.assert_close(kept, expected)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_trimmed_batch_equals_single_for_odd_and_even_lengths(implementation):
    encoder = made("trimmed")
    encoder.whisper.config._attn_implementation = implementation
    lengths = [70, 69, 1, 2, 100]
    inputs = features(*lengths)
    batch, counts = encoder(inputs, torch.tensor(lengths))
    noisy = inputs.clone()
    for i, length in enumerate(lengths):
        noisy[i, :, length:] = 5.0
    spoiled, _ = encoder(noisy, torch.tensor(lengths))
    torch.testing.assert_close(spoiled, batch)
    for i, length in enumerate(lengths):
        alone, _ = encoder(inputs[i : i + 1, :, :length], torch.tensor([length]))
        assert alone.shape[1] == counts[i] == (length - 1) // 2 + 1
        torch.testing.assert_close(batch[i, : counts[i]], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_trimmed_utterance_that_fills_the_window_equals_the_full_one():
    inputs, lengths = features(WINDOW), torch.tensor([WINDOW])
    torch.testing.assert_close(made("trimmed")(inputs, lengths), made("full")(inputs, lengths))


@torch.no_grad()
@pytest.mark.parametrize("window", ["full", "trimmed"])
def test_long_utterances_are_windows_in_sequence(window):
    encoder = made(window)
    lengths = [230, 40, 200]
    inputs = features(*lengths, width=300)
    states, counts = encoder(inputs, torch.tensor(lengths))
    assert counts.tolist() == [115, 20, 100] and states.shape[1] == 115
    for i, length in enumerate(lengths):
        pieces = []
        for start in range(0, length, WINDOW):
            piece, real = inputs[i : i + 1, :, start : start + WINDOW], min(WINDOW, length - start)
            pieces.append(encoder(piece, torch.tensor([real]))[0][0, : (real - 1) // 2 + 1])
        torch.testing.assert_close(states[i, : counts[i]], torch.cat(pieces), atol=1e-5, rtol=1e-4)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(RellmError, match="multiples of 100 frames"):
        made("full")(features(70), torch.tensor([70]))
    with pytest.raises(RellmError, match="do not fit features of 70 frames"):
        made("trimmed")(features(70), torch.tensor([71]))
    with pytest.raises(RellmError, match="do not fit"):
        made("trimmed")(features(70), torch.tensor([0]))


def test_gradients_flow_when_the_encoder_is_trained():
    encoder = made("trimmed", encoder_layerdrop=0.0).train()
    states, _ = encoder(features(230, 40), torch.tensor([230, 40]))
    states.sum().backward()
    assert encoder.whisper.conv1.weight.grad.abs().sum() > 0
