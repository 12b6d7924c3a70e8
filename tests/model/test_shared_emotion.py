"""The emotion encoder that reads the speech encoder's layers."""

import pytest
import tiny_world
import torch
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.model.components import load_emotion_encoder
from re_llm.model.shared_emotion import SharedEmotionEncoder, Windows, check_speech_encoder, save, signature
from re_llm.model.shared_emotion_config import SharedEmotionConfig
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.trainable import TRAINABLE

WINDOW = 2 * tiny_world.WINDOW_STATES
LENGTHS = [70, 69, 3, 16, 100]


def config(**changes) -> SharedEmotionConfig:
    sizes = {"speech_width": 16, "layers": [0, 1, 2], "pool": 4, "attention_size": 8}
    return SharedEmotionConfig(**{**sizes, "hidden_size": 12, "emotions": ["sad", "happy", "angry"], **changes})


def encoder(**changes) -> SharedEmotionEncoder:
    torch.manual_seed(5)
    made = SharedEmotionEncoder(config(**changes))
    for tensor in (*made.parameters(), made.centre, made.normalize.running_mean):
        tensor.data.normal_(std=0.5)
    return made.eval()


def speech(window: str, seed: int = 0) -> SpeechEncoder:
    torch.manual_seed(seed)
    return SpeechEncoder(tiny_world.whisper_config(), window).eval()


def features(*lengths: int, width: int | None = None) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    made = torch.zeros(len(lengths), 80, width or max(lengths))
    for i, length in enumerate(lengths):
        made[i, :, :length] = torch.randn(80, length, generator=draw)
    return made


@torch.no_grad()
@pytest.mark.parametrize("window", ["trimmed", "full"])
def test_layers_are_those_of_the_one_pass(window):
    hearing = speech(window)
    inputs, lengths = features(*LENGTHS, width=WINDOW), torch.tensor(LENGTHS)
    seen = []
    for layer in hearing.whisper.layers:
        layer.register_forward_hook(lambda module, given, out: seen.append(out))
    states, counts, layers = hearing.with_layers(inputs, lengths, (1, 2))
    assert len(seen) == 2, "every layer runs once"
    torch.testing.assert_close(states, hearing(inputs, lengths)[0])
    for k in range(2):
        torch.testing.assert_close(layers[4, :, k], seen[k][4, :50])
        assert not layers[0, counts[0] :, k].any()
    seen.clear()
    only, _ = hearing.only_layers(inputs, lengths, (0, 1))
    assert len(seen) == 1, "layers behind the last wanted one are not run"
    torch.testing.assert_close(only[:, :, 1], layers[:, :, 0])


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(RellmError, match="no layer 3"):
        speech("trimmed").with_layers(features(70), torch.tensor([70]), (3,))


@torch.no_grad()
@pytest.mark.parametrize("window", ["trimmed", "full"])
def test_batch_equals_single(window):
    hearing, emotion = speech(window), encoder()
    inputs = features(*LENGTHS, width=WINDOW)
    batch = emotion(*reversed(hearing.with_layers(inputs, torch.tensor(LENGTHS), emotion.layers)[1:]))
    for i, length in enumerate(LENGTHS):
        width = WINDOW if window == "full" else length
        one = hearing.with_layers(inputs[i : i + 1, :, :width], torch.tensor([length]), emotion.layers)
        alone = emotion(one[2], one[1])
        for mine, theirs in zip(vars(alone).values(), vars(batch).values(), strict=True):
            torch.testing.assert_close(mine[0], theirs[i], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_windows_hold_mean_and_deviation_of_real_states():
    states = torch.randn(2, 9, 3, 16)
    windows = Windows.of(states, torch.tensor([9, 6]), 4)
    assert windows.counts.tolist() == [[4, 4, 1], [4, 2, 0]]
    torch.testing.assert_close(windows.statistics[0, 2, :, 0], states[0, 8])
    torch.testing.assert_close(windows.statistics[1, 1, :, 0], states[1, 4:6].mean(0))
    torch.testing.assert_close(windows.statistics[1, 1, :, 1], states[1, 4:6].std(0, correction=0))


@torch.no_grad()
def test_even_attention_is_mean_and_deviation_of_the_utterance():
    emotion = SharedEmotionEncoder(config()).eval()
    states = torch.randn(2, 27, 3, 16)
    pooled = emotion.pooled(Windows.of(states, torch.tensor([27, 19]), 4)).view(2, 3, 2, 16)
    torch.testing.assert_close(pooled[1, :, 0], states[1, :19].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled[1, :, 1], states[1, :19].std(0, correction=0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_may_leave_a_window_out():
    emotion = SharedEmotionEncoder(config()).eval()
    states = torch.randn(1, 12, 3, 16)
    states[:, 4:8] += 10
    emotion.attention[0].weight.fill_(0.003)
    emotion.attention[2].weight.fill_(-100.0)
    pooled = emotion.pooled(Windows.of(states, torch.tensor([12]), 4)).view(3, 2, 16)
    kept = torch.cat([states[0, :4], states[0, 8:]])
    assert (pooled[:, 0] - kept.mean(0)).abs().max() < 1.5, "the loud window hardly counts"


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_and_weights(dtype):
    emotion, frames, lengths = encoder(), torch.randn(2, 30, 3, 16), torch.tensor([30, 21])
    exact = emotion(frames, lengths)
    emotion.embed.to(dtype), emotion.classify.to(dtype), emotion.regress.to(dtype), emotion.attention.to(dtype)
    rough = emotion(frames.to(dtype), lengths)
    torch.testing.assert_close(rough.logits.float(), exact.logits, atol=0.1, rtol=0.1)


def test_a_component_folder_keeps_the_encoder(tmp_path):
    emotion, hearing = encoder(), speech("trimmed")
    emotion.config.speech_encoder, emotion.config.speech_signature = "openai/whisper-base", signature(hearing)
    save(emotion, tmp_path)
    assert all(t.dtype == torch.float16 for k, t in load_file(tmp_path / "model.safetensors").items() if "num" not in k)
    read = load_emotion_encoder(tmp_path, torch.float32)
    assert read.config.emotions == ["sad", "happy", "angry"] and read.config.speech_encoder == "openai/whisper-base"
    assert not any(p.requires_grad for p in read.parameters()) and not read.training
    states, lengths = torch.randn(1, 20, 3, 16), torch.tensor([20])
    torch.testing.assert_close(read(states, lengths).logits, emotion(states, lengths).logits, atol=1e-2, rtol=1e-2)


def test_another_whisper_is_refused():
    hearing, own = speech("trimmed"), config()
    check_speech_encoder(own, hearing)
    own.speech_signature = signature(hearing)
    check_speech_encoder(own, speech("trimmed").bfloat16())  # the same, stored otherwise
    with pytest.raises(RellmError, match="another Whisper of the same size"):
        check_speech_encoder(own, speech("trimmed", seed=1))
    with pytest.raises(RellmError, match="of width 32"):
        check_speech_encoder(config(speech_width=32), hearing)


@pytest.mark.parametrize(
    "wrong", [{"layers": [2, 1]}, {"layers": []}, {"hidden_size": 0}, {"emotions": ["sad", "sad"]}, {"pool": 0}]
)
def test_contradictions_name_the_option(wrong):
    with pytest.raises(RellmError, match=next(iter(wrong))):
        config(**wrong)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    tiny_world.save_llm(folder / "llm")
    tiny_world.save_whisper(folder / "whisper")
    emotion = encoder()
    emotion.config.speech_encoder = "../whisper"
    save(emotion, folder / "emotion")
    return folder


def fused(parts, **options):
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import ReLlmProcessor

    names = (parts / "llm", parts / "whisper", parts / "emotion")
    options = {"speech_window": "trimmed", "adapter": tiny_world.ADAPTER, **options}
    model = ReLlmForConditionalGeneration.from_components(*names, **options)
    return model, ReLlmProcessor.from_components(*names, speech_window="trimmed", adapter=tiny_world.ADAPTER)


@pytest.mark.parametrize("self_contained", [False, True])
def test_a_model_hears_both_in_one_pass_and_keeps_it(parts, tmp_path, self_contained):
    from re_llm.model.modeling import ReLlmForConditionalGeneration

    model, processor = fused(parts)
    inputs = processor.audio_inputs([tiny_world.wave(0.7), tiny_world.wave(0.4, seed=1)])
    assert set(inputs) == {"input_features", "feature_lengths"}, "no waveform is needed"
    calls = []
    model.speech_encoder.whisper.conv1.register_forward_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        encoded = model.encode_audio(**inputs)
        assert len(calls) == 1
        heard = model.speech_encoder.with_layers(*inputs.values(), model.emotion_encoder.layers)
    torch.testing.assert_close(encoded.emotion_states, model.emotion_encoder(heard[2], heard[1]).embedding)
    model.save_pretrained(tmp_path, self_contained=self_contained)
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_audio(**inputs).emotion_states, encoded.emotion_states)
    assert ("model.safetensors" in {p.name for p in tmp_path.iterdir()}) and again.config.shares_speech_encoder


def test_it_stays_frozen_and_its_whisper_too(parts):
    model, _ = fused(parts)
    model.set_trainable([part for part in TRAINABLE if part != "speech_encoder"])
    model.train()
    assert not any(p.requires_grad for p in model.emotion_encoder.parameters()) and not model.emotion_encoder.training
    with pytest.raises(RellmError, match="speech encoder cannot be trained"):
        model.set_trainable(["speech_encoder"])


def test_frames_are_no_fusion_of_it(parts):
    with pytest.raises(RellmError, match="frames"):
        fused(parts, fusion="frames")
