"""Text and recordings to model inputs."""

import numpy as np
import pytest
import soundfile
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.llm.prompts import get_prompt, split_chat, tokenize_row
from re_llm.model import ReLlmProcessor
from re_llm.model.configuration import SPEECH_TOKEN
from re_llm.model.processing import load_processor

WAVES = [tiny_world.wave(0.4), tiny_world.wave(0.7312, 1), tiny_world.wave(2.3, 2)]


@pytest.fixture(scope="module", params=["full", "trimmed"])
def processor(world, request):
    return world.processor(speech_window=request.param)


def test_features_do_not_depend_on_the_batch(processor):
    together = processor.audio_inputs([*WAVES, np.zeros(8000, np.float32)])
    for i, wave in enumerate(WAVES):
        alone = processor.audio_inputs([wave])
        frames = int(alone["feature_lengths"][0])
        assert frames == int(together["feature_lengths"][i]) == -(-len(wave) // 160)
        for name, length in (("input_features", frames), ("emotion_values", len(wave))):
            assert torch.equal(together[name][i, ..., :length], alone[name][0, ..., :length])
            assert not together[name][i, ..., alone[name].shape[-1] :].any()


def test_trimmed_features_are_the_beginning_of_the_full_ones(world):
    full = world.processor(speech_window="full").audio_inputs(WAVES)
    trimmed = world.processor(speech_window="trimmed").audio_inputs(WAVES)
    assert full["input_features"].shape[2] == 300 and trimmed["input_features"].shape[2] == 230
    for i, frames in enumerate(full["feature_lengths"].tolist()):
        found, expected = trimmed["input_features"][i, :, :frames], full["input_features"][i, :, :frames]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_full_features_are_whispers_own(world):
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(chunk_length=1)(WAVES[0], sampling_rate=16000, return_tensors="pt")
    found = world.processor(speech_window="full").audio_inputs(WAVES[:1])
    torch.testing.assert_close(found["input_features"], theirs["input_features"])


def test_emotion_input_follows_the_encoders_preprocessor(world, tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    values = world.processor().audio_inputs(WAVES)["emotion_values"]
    for i, wave in enumerate(WAVES):
        theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16000)["input_values"][0]
        np.testing.assert_allclose(values[i, : len(wave)], theirs, atol=1e-5)
    raw = ReLlmProcessor.from_components(
        world.llm, world.whisper, tiny_world.save_emotion(tmp_path / "raw", normalize=False)
    )
    assert np.array_equal(raw.audio_inputs(WAVES[:1])["emotion_values"][0], WAVES[0])
    assert "emotion_values" not in world.processor(emotion=False).audio_inputs(WAVES)


@torch.no_grad()
@pytest.mark.parametrize("samples", [400, 1599, 1600, 1601, 15999, 16000, 16001, 37000])
def test_token_count_is_what_the_model_makes(world, processor, samples):
    model = world.model(speech_window=processor.speech_window)
    wave = tiny_world.wave(samples / 16000)
    assert len(wave) == samples
    tokens = model.encode_speech(**processor.audio_inputs([wave]))
    assert tokens.lengths.tolist() == [processor.speech_token_count(samples)]


def test_one_placeholder_becomes_as_many_as_the_audio_has_tokens(processor):
    counts = [processor.speech_token_count(len(wave)) for wave in WAVES[:2]]
    batch = processor(text=["a<|speech|>b<|speech|>", "plain"], audio=WAVES[:2])
    token = processor.speech_token_id
    ids = batch["input_ids"][0].tolist()
    a, b = (processor.tokenizer(c, add_special_tokens=False)["input_ids"] for c in "ab")
    assert ids == a + [token] * counts[0] + b + [token] * counts[1]
    assert batch["attention_mask"][1].sum() == 5 and batch["attention_mask"][1, -5:].all()
    right = processor(text=["a<|speech|>", "longer"], audio=WAVES[0], padding_side="right")
    assert right["attention_mask"][0].tolist() == sorted(right["attention_mask"][0].tolist(), reverse=True)


def test_rows_are_laid_out_as_the_other_stages_do(processor):
    prompt = get_prompt("recognize")
    prefix, suffix = split_chat(processor.tokenizer, prompt)
    rows = processor.pad_rows([processor.row([prefix, 3, suffix])])
    text = tokenize_row(processor.tokenizer, prompt, "xyz")  # one token per character
    without = [i for i in rows["input_ids"][0].tolist() if i != processor.speech_token_id]
    assert len(text) == rows["input_ids"].shape[1] and without == [
        *processor.tokenizer(prefix, add_special_tokens=False)["input_ids"],
        *processor.tokenizer(suffix, add_special_tokens=False)["input_ids"],
    ]


def test_chat_template_with_audio(processor, tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, WAVES[0], 16000, subtype="FLOAT")
    system = {"role": "system", "content": "be kind"}
    for source in ({"audio": WAVES[0]}, {"path": str(path)}, {"audio": path}):
        user = {"role": "user", "content": [{"type": "text", "text": "hear: "}, {"type": "audio", **source}]}
        messages = [system, user]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        assert text.endswith("hear: <|speech|><|im_end|>\n<|im_start|>assistant\n")
        found = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        expected = processor(text=text, audio=WAVES[0])
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert messages == [system, user]  # the caller's messages are left alone
        two = processor.apply_chat_template([messages, [system]], tokenize=True)
        assert two["input_ids"].shape[0] == 2 and two["feature_lengths"].shape == (1,)
    with pytest.raises(RellmError, match="of type 'image'"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": "x"}]}])


def test_what_is_refused(processor):
    with pytest.raises(RellmError, match=r"2 <\|speech\|> placeholders, and there are 1 recordings"):
        processor(text="<|speech|><|speech|>", audio=WAVES[0])
    with pytest.raises(RellmError, match="1 <"):
        processor(text="<|speech|>")
    with pytest.raises(RellmError, match="sampling_rate is 8000"):
        processor(audio=WAVES, sampling_rate=8000)
    with pytest.raises(RellmError, match="less than 25 ms"):
        processor(audio=WAVES[0][:399])
    with pytest.raises(RellmError, match=r"shape \(2, 5\)"):
        processor(audio=[np.zeros((2, 5), np.float32)])
    with pytest.raises(RellmError, match="int16"):
        processor(audio=[np.zeros(8000, np.int16)])
    with pytest.raises(RellmError, match="return_tensors"):
        processor(audio=WAVES, return_tensors="np")
    with pytest.raises(RellmError, match="emotion_input is 'loud'"):
        ReLlmProcessor(processor.feature_extractor, processor.tokenizer, emotion_input="loud")


def test_saved_and_read_again(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = ReLlmProcessor.from_pretrained(tmp_path)
    assert again.speech_token_id == processor.speech_token_id and again.adapter == processor.adapter
    assert again.speech_window == processor.speech_window and again.emotion_input == "normalized"
    first, second = (p(text="a<|speech|>", audio=WAVES[1]) for p in (processor, again))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert again.model_input_names == [*first.keys()]
    prompt = [{"role": "user", "content": "x"}]
    assert again.apply_chat_template(prompt) == processor.apply_chat_template(prompt)


def test_the_processors_own_template_takes_recordings_and_its_folder_keeps_the_tokenizers(processor, tmp_path):
    """Servers render the template by themselves, and learn from its loops that contents may have parts."""
    said = {"type": "text", "text": "Speech: "}
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [said, {"type": "audio"}]}]
    render = processor.tokenizer.apply_chat_template
    text = render(turns, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True)
    plain = [turns[0], {"role": "user", "content": f"Speech: {SPEECH_TOKEN}"}]
    assert text == render(plain, tokenize=False, add_generation_prompt=True)
    with pytest.raises(Exception, match="image"):
        image = [{"role": "user", "content": [{"type": "image"}]}]
        render(image, chat_template=processor.chat_template, tokenize=False)
    processor.save_pretrained(tmp_path)
    kept = (tmp_path / "chat_template.jinja").read_text(encoding="utf-8")
    assert kept == processor.tokenizer.chat_template
    again = ReLlmProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template
    assert again.tokenizer.chat_template == processor.tokenizer.chat_template
    with pytest.raises(Exception, match="cannot read audio"):
        render(turns, tokenize=False)


def test_a_checkpoint_without_a_tokenizer_takes_that_of_the_llm_it_names(world, tmp_path):
    world.model().save_pretrained(tmp_path / "checkpoint")
    processor = world.processor(speech_window="trimmed", speech_level=-26.0)
    processor.save_pretrained(tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "checkpoint" / name).unlink()
    again = load_processor(tmp_path / "checkpoint")
    assert again.chat_template == processor.chat_template and again.speech_level == -26.0
    first, second = (each(text=["say <|speech|> now"], audio=WAVES[:1]) for each in (processor, again))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
