"""What a new model takes over from an earlier stage's checkpoint: all that it holds; what it cannot, by name."""

import json

import pytest
import tiny_world
import torch
from safetensors.torch import load_file, save_file

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration
from re_llm.model.emotion_encoder import EmotionEncoder

WAVES = [tiny_world.wave(0.4), tiny_world.wave(1.3, 1)]
TEXTS = ["say <|speech|> now", "<|speech|>"]


def stage_two(world, tmp_path):
    model = world.model(emotion=False)
    model.save_pretrained(tmp_path / "stage2")
    return model


def test_a_fused_adapter_continues_from_the_earlier_stage(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    fused = world.model(start=tmp_path / "stage2")
    batch = world.processor()(text=TEXTS, audio=WAVES)
    encoded = fused.encode_audio(**{k: v for k, v in batch.items() if k not in ("input_ids", "attention_mask")})
    silent = type(encoded)(encoded.speech_states, encoded.speech_lengths, torch.zeros_like(encoded.emotion_states))
    plain = type(encoded)(encoded.speech_states, encoded.speech_lengths)
    expected = earlier.encode_speech(plain)
    torch.testing.assert_close(fused.encode_speech(silent).embeddings, expected.embeddings)
    assert torch.equal(fused.emotion_head.weight, earlier.emotion_head.weight)
    fresh = world.model()
    report = fresh.continue_from(tmp_path / "stage2", adapter="fresh")
    assert {name.split(".")[0] for name in report.left_out} == {"adapter"} and "fresh" in "".join(report.summary())
    assert (fresh.encode_speech(silent).embeddings - expected.embeddings).abs().max() > 1e-2
    assert torch.equal(fresh.dimension_head.weight, earlier.dimension_head.weight)


def test_the_blank_of_the_ctc_continues_with_its_adapter(world, tmp_path):
    model = world.model(emotion=False)
    model.add_ctc_blank()
    model.ctc_blank.data.normal_()
    model.save_pretrained(tmp_path / "words")
    later = world.model(emotion=False, start=tmp_path / "words")
    assert torch.equal(later.ctc_blank, model.ctc_blank) and later.config.ctc_blank
    fresh = world.model(emotion=False)
    assert "ctc_blank" in fresh.continue_from(tmp_path / "words", adapter="fresh").left_out
    assert fresh.ctc_blank is None


def test_what_a_checkpoint_refuses_to_answer_goes_on(world, tmp_path):
    model = world.model(emotion=False)
    model.add_ctc_blank()
    model.config.careful, model.config.words_unsure_below = True, 0.6
    model.save_pretrained(tmp_path / "first")
    later = world.model(emotion=False)
    report = later.continue_from(tmp_path / "first")
    assert "words_unsure_below 0.6 is that of the weights before" in "".join(report.notes)
    later.save_pretrained(tmp_path / "second")
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["careful"] is True and config["words_unsure_below"] == 0.6
    fresh = world.model(emotion=False)
    fresh.continue_from(tmp_path / "first", adapter="fresh")
    assert fresh.config.careful and not hasattr(fresh.config, "words_unsure_below")


def test_lora_continues_from_the_earlier_stage(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    torch.manual_seed(77)
    later = ReLlmForConditionalGeneration.from_components(
        world.llm, world.whisper, world.emotion, adapter=tiny_world.ADAPTER, lora={"r": 4}
    )
    assert later.continue_from(tmp_path / "stage2").taken["lora"] == 24
    own = {k: v for k, v in earlier.state_dict().items() if ".lora_" in k}
    assert own and all(torch.equal(later.state_dict()[key], value) for key, value in own.items())
    with pytest.raises(RellmError, match=r"lora_A.weight has shape \[4, 32\], the model needs \[8, 32\]"):
        world.model(lora={"r": 8}, start=tmp_path / "stage2")


def test_other_emotions_start_with_a_fresh_head(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    later = world.model(emotions=["calm", "angry"], start=tmp_path / "stage2")
    assert later.emotion_head.weight.shape[0] == 2
    assert "starts fresh" in later.taken_over.left_out["emotion_head.weight"]
    assert torch.equal(later.dimension_head.weight, earlier.dimension_head.weight)


def test_an_adapter_of_another_kind_is_refused(world, tmp_path):
    stage_two(world, tmp_path)
    with pytest.raises(RellmError, match="cannot start an adapter"):
        world.model(adapter={"bottleneck": 32}, start=tmp_path / "stage2")


def test_emotions_in_another_order_keep_their_rows(world, tmp_path):
    first = world.model(emotions=["calm", "angry", "sad"])
    first.save_pretrained(tmp_path / "first")
    then = world.model(emotions=["sad", "calm", "angry"], start=tmp_path / "first")
    assert torch.equal(then.emotion_head.weight, first.emotion_head.weight[[2, 0, 1]])


# --- components that the checkpoint holds ---


def whole(folder):
    """Every tensor of a checkpoint: its own, and its LoRA."""
    lora = folder / "adapter_model.safetensors"
    return {**load_file(folder / "model.safetensors"), **(load_file(lora) if lora.is_file() else {})}


def accounted(report, folder):
    """Number of tensors that were taken or left out, against those that the checkpoint has."""
    return sum(report.taken.values()) + len(report.left_out), len(whole(folder))


def test_a_speech_encoder_that_was_trained_is_taken_over_and_stored_again(world, tmp_path):
    first = world.model(emotion=False)
    first.set_trainable(["adapter", "speech_encoder"])
    with torch.no_grad():
        for parameter in first.speech_encoder.parameters():
            parameter.add_(0.1)
    first.save_pretrained(tmp_path / "first")
    second = world.model()
    report = second.continue_from(tmp_path / "first")
    own = first.speech_encoder.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in second.speech_encoder.state_dict().items())
    assert report.taken["speech_encoder"] == len(own) and report.left_out == {}
    assert accounted(report, tmp_path / "first")[0] == accounted(report, tmp_path / "first")[1]
    second.save_pretrained(tmp_path / "second")
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "second").speech_encoder.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in again.items())


def test_a_checkpoint_that_stands_alone_gives_its_llm_and_stays_small_over_the_same_one(world, tmp_path):
    first = world.model(emotion=False)
    first.save_pretrained(tmp_path / "first", self_contained=True)
    second = world.model()
    report = second.continue_from(tmp_path / "first")
    assert set(report.taken) == {"llm", "speech_encoder", "adapter", "heads", "lora"}
    assert accounted(report, tmp_path / "first")[0] == accounted(report, tmp_path / "first")[1]
    assert None not in second.component_sources.values()  # bit for bit those of the components: nothing to store
    other = tiny_world.save_llm(tmp_path / "other", seed=7)
    third = ReLlmForConditionalGeneration.from_components(
        other, world.whisper, world.emotion, adapter=tiny_world.ADAPTER, lora={"r": 4}
    )
    third.continue_from(tmp_path / "first")
    assert third.component_sources["llm"] is None
    name = "model.embed_tokens.weight"
    assert torch.equal(third.language_model.get_parameter(name), first.language_model.get_parameter(name))


def test_what_the_new_model_has_no_place_for_is_named(world, tmp_path):
    world.model().save_pretrained(tmp_path / "first", self_contained=True)
    weights = load_file(tmp_path / "first" / "model.safetensors")
    save_file({**weights, "ghost": torch.zeros(1)}, tmp_path / "first" / "model.safetensors")
    config = tmp_path / "first" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "emotion_config": None, "fusion": "none"}))
    narrow = {name: value for name, value in weights.items() if not name.startswith("adapter.")}
    plain = world.model(emotion=False, lora=None)
    own = {f"adapter.{name}": value for name, value in plain.adapter.state_dict().items()}
    save_file({**narrow, **own, "ghost": torch.zeros(1)}, tmp_path / "first" / "model.safetensors")
    report = plain.continue_from(tmp_path / "first")
    reasons = set(report.left_out.values())
    assert any("no emotion encoder" in reason for reason in reasons)
    assert any("no LoRA" in reason for reason in reasons) and "no part of the model" in report.left_out["ghost"]
    assert accounted(report, tmp_path / "first")[0] == accounted(report, tmp_path / "first")[1]
    assert sum(line.startswith("left out: ") for line in report.summary()) == len(reasons) == 3


def test_a_stored_component_of_another_size_is_refused(world, tmp_path):
    world.model(emotion=False).save_pretrained(tmp_path / "first", self_contained=True)
    other = tiny_world.save_llm(tmp_path / "llm", width=64)
    model = ReLlmForConditionalGeneration.from_components(other, world.whisper, adapter=tiny_world.ADAPTER)
    with pytest.raises(RellmError, match=r"the llm in .*first: .* has shape"):
        model.continue_from(tmp_path / "first")


def test_another_speech_encoder_than_that_of_the_checkpoint_is_told(world, tmp_path):
    world.model(emotion=False).save_pretrained(tmp_path / "first")
    whisper = tiny_world.save_whisper(tmp_path / "whisper", seed=9)
    model = ReLlmForConditionalGeneration.from_components(world.llm, whisper, adapter=tiny_world.ADAPTER)
    (note,) = model.continue_from(tmp_path / "first").notes
    assert str(world.whisper.resolve()) in note and str(whisper) in note
    (tmp_path / "also").symlink_to(world.whisper)
    same = ReLlmForConditionalGeneration.from_components(world.llm, tmp_path / "also", adapter=tiny_world.ADAPTER)
    assert same.continue_from(tmp_path / "first").notes == [], "the same folder by another name"
    about = json.loads((tmp_path / "first" / "config.json").read_text())
    about["components"]["speech_encoder"] = "small:whisper"
    (tmp_path / "first" / "config.json").write_text(json.dumps(about))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RE_LLM_CACHE", str(tmp_path / "nothing"))
        (note,) = same.continue_from(tmp_path / "first").notes
    assert "small:whisper" in note


def test_an_unknown_way_to_take_the_adapter(world, tmp_path):
    world.model(emotion=False).save_pretrained(tmp_path / "first")
    with pytest.raises(RellmError, match="Allowed: copy, fresh"):
        world.model(emotion=False).continue_from(tmp_path / "first", adapter="halve")


def test_the_emotion_encoder_of_a_checkpoint_goes_on(world, tmp_path):
    first = world.model()
    with torch.no_grad():
        for parameter in first.emotion_encoder.parameters():
            parameter.add_(0.05)
    first.component_sources["emotion_encoder"] = None
    first.save_pretrained(tmp_path / "first")
    second = world.model(start=tmp_path / "first")
    assert isinstance(second.emotion_encoder, EmotionEncoder) and second.component_sources["emotion_encoder"] is None
    for name, value in first.emotion_encoder.state_dict().items():
        assert torch.equal(second.emotion_encoder.state_dict()[name], value), name
