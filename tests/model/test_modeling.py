"""The whole model: batching, masks, generation, training."""

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.model.losses import IGNORE_INDEX, next_labels, response_ce

WAVES = [tiny_world.wave(0.4), tiny_world.wave(0.73, 1), tiny_world.wave(2.3, 2)]  # the last one: three windows
TEXTS = ["say <|speech|> now", "<|speech|>", "what did she say? <|speech|>!"]


@pytest.fixture(scope="module", params=["full", "trimmed"])
def window(request):
    return request.param


@pytest.fixture(scope="module")
def pair(world, window):
    return world.model(speech_window=window), world.processor(speech_window=window)


def text_labels(batch, processor):
    ignored = (batch["input_ids"] == processor.speech_token_id) | (batch["attention_mask"] == 0)
    return batch["input_ids"].masked_fill(ignored, IGNORE_INDEX)


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fusion", ["pooled", "frames", "none"])
def test_batch_equals_single(world, window, fusion, side):
    emotion = fusion != "none"
    model = world.model(emotion=emotion, fusion=fusion, speech_window=window)
    processor = world.processor(emotion=emotion, speech_window=window)
    batch = processor(text=TEXTS, audio=WAVES, padding_side=side)
    together = model(**batch)
    for i, (text, wave) in enumerate(zip(TEXTS, WAVES, strict=True)):
        alone = model(**processor(text=text, audio=wave))
        close(together.logits[i][batch["attention_mask"][i].bool()], alone.logits[0])
        close(together.emotion_logits[i], alone.emotion_logits[0])
        close(together.dimensions[i], alone.dimensions[0])


@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(pair):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES)
    expected = model(**batch)
    real = batch["attention_mask"].bool()
    spoiled = {key: value.clone() for key, value in batch.items()}
    spoiled["input_ids"][~real] = 7
    for name, lengths in (("input_features", "feature_lengths"), ("emotion_values", "emotion_lengths")):
        if name == "input_features" and model.config.speech_window == "full":
            continue  # there the silence behind an utterance is part of what Whisper hears
        for i, length in enumerate(batch[lengths].tolist()):
            spoiled[name][i, ..., length:] = 9.0
    found = model(**spoiled)
    close(found.logits[real], expected.logits[real])
    close(found.emotion_logits, expected.emotion_logits)


@torch.no_grad()
def test_speech_reaches_the_answer_and_lora_acts_on_speech_alone(pair, world):
    model, processor = pair
    batch = processor(text="abc<|speech|>def", audio=WAVES[1])
    placeholders = batch["input_ids"][0] == processor.speech_token_id
    first, last = placeholders.nonzero()[0], placeholders.nonzero()[-1]
    adapted = model(**batch).logits[0]
    with model.partial_lora.disabled():
        bare = model(**batch).logits[0]
    close(adapted[:first], bare[:first])  # text before the speech cannot know of the LoRA at all
    assert (adapted[first] - bare[first]).abs().max() > 1e-3
    assert (adapted[last + 1 :] - bare[last + 1 :]).abs().max() > 1e-3  # text behind attends to adapted speech
    other = model(**processor(text="abc<|speech|>def", audio=WAVES[1] * 0.2)).logits[0]
    assert (adapted[last + 1 :] - other[last + 1 :]).abs().max() > 1e-3


@torch.no_grad()
def test_text_pass_is_the_bare_llm(pair, world):
    from transformers import AutoModelForCausalLM

    model, processor = pair
    rows = processor.pad_rows([processor.row(["a text without speech"])])
    bare = AutoModelForCausalLM.from_pretrained(world.llm)(**rows).logits
    close(model(**rows).logits, bare)
    close(model.text_forward(**rows).logits, bare)
    assert not model.partial_lora.layers[0]._disable_adapters  # switched back on behind the pass


def test_teacher_has_no_gradient_no_dropout_and_restores_the_mode(pair):
    model = pair[0]
    model.train()
    with model.teacher():
        assert not model.language_model.training and not torch.is_grad_enabled()
    assert model.language_model.training and torch.is_grad_enabled()
    model.eval()


@torch.no_grad()
@pytest.mark.parametrize("cached", [True, False])
def test_generation_equals_full_recomputation(pair, cached):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES)
    found = model.generate(
        **batch, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=cached,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for step in range(6):
        inputs = {**batch, "input_ids": ids, "attention_mask": mask}
        logits = model(**inputs).logits[:, -1]
        close(found.logits[step], logits)
        ids = torch.cat([ids, found.sequences[:, ids.shape[1], None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


@torch.no_grad()
def test_beams_and_samples_of_rows_with_any_number_of_recordings(pair):
    model, processor = pair
    texts = ["<|speech|> and then <|speech|>", "no speech here", "<|speech|>"]
    batch = processor(text=texts, audio=WAVES)
    greedy = model.generate(**batch, max_new_tokens=4, do_sample=False)
    copies = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=2, num_return_sequences=2)
    assert copies.shape[0] == 6
    once = model.generate(**processor(text=texts[0], audio=WAVES[:2]), max_new_tokens=4, do_sample=False)
    assert greedy[0].tolist()[-4:] == once[0].tolist()[-4:]
    beams = model.generate(**processor(text=texts[0], audio=WAVES[:2]), max_new_tokens=4, do_sample=False, num_beams=2)
    assert copies[0].tolist()[-4:] == beams[0].tolist()[-4:]


@torch.no_grad()
def test_a_second_turn_continues_from_the_cache(pair):
    from transformers import DynamicCache

    model, processor = pair
    first = processor(text="<|speech|> so?", audio=WAVES[0])
    cache = DynamicCache()
    model(**first, past_key_values=cache)
    second = processor(text="<|speech|> so? yes. <|speech|> and?", audio=[WAVES[0], WAVES[1]])
    whole = model.generate(**second, max_new_tokens=3, do_sample=False)
    new_audio = processor.audio_inputs([WAVES[1]])
    continued = model.generate(
        input_ids=second["input_ids"], attention_mask=second["attention_mask"], past_key_values=cache,
        max_new_tokens=3, do_sample=False, **new_audio,
    )  # fmt: skip
    assert continued.tolist() == whole.tolist()


@torch.no_grad()
def test_cached_encodings_give_the_same_as_audio(pair):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES)
    audio = {name: batch.pop(name) for name in list(batch) if name not in ("input_ids", "attention_mask")}
    expected = model(**batch, **audio)
    found = model(**batch, speech=model.encode_audio(**audio))
    close(found.logits[batch["attention_mask"].bool()], expected.logits[batch["attention_mask"].bool()])
    assert found.speech.lengths.tolist() == [processor.speech_token_count(len(wave)) for wave in WAVES]


@torch.no_grad()
def test_only_the_logits_that_were_asked_for(pair):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES, padding_side="right")
    everything = model(**batch).logits
    hooks = dict(model.language_model.get_output_embeddings()._forward_pre_hooks)
    where = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.3
    close(model(**batch, logits_to_keep=where).logits, everything[where])
    assert model.language_model.get_output_embeddings()._forward_pre_hooks == hooks  # those of the pass are gone
    labels = text_labels(batch, processor).masked_fill(~where, IGNORE_INDEX)
    output = model(**batch, labels=labels)
    assert output.logits.shape == (int((next_labels(labels) != IGNORE_INDEX).sum()), everything.shape[-1])
    close(output.loss, response_ce(everything, next_labels(labels)))


def test_placeholders_must_match_the_audio(pair):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES)
    count = processor.speech_token_count(len(WAVES[1]))
    wrong = {**batch, "input_ids": batch["input_ids"].clone()}
    wrong["input_ids"][1, -1] = 5
    with pytest.raises(RellmError, match=f"row 1 holds {count - 1} speech placeholders, its audio gives {count}"):
        model(**wrong)
    with pytest.raises(RellmError, match="no audio was given"):
        model(batch["input_ids"], batch["attention_mask"])
    two = {key: value[:2] for key, value in batch.items() if key not in ("input_ids", "attention_mask")}
    with pytest.raises(RellmError, match="the recordings give"):
        model(batch["input_ids"], batch["attention_mask"], **two)


def test_padding_inside_a_row_is_refused(pair):
    model, processor = pair
    rows = processor.pad_rows([processor.row(["some words"])])
    rows["attention_mask"][0, 3] = 0
    with pytest.raises(RellmError, match="row 0 has padding between"):
        model(**rows)


def test_rows_beyond_the_llms_positions_are_refused(pair):
    model, processor = pair
    with pytest.raises(RellmError, match="a row of 600 tokens, and this LLM was trained up to 512"):
        model(**processor.pad_rows([[5] * 600]))
    near = processor.pad_rows([[5] * 510])
    with pytest.raises(RellmError, match="a row of 513 tokens"):
        model.generate(**near, max_new_tokens=8, min_new_tokens=8)


def test_missing_emotion_input_is_refused(pair):
    model, processor = pair
    batch = processor(text=TEXTS, audio=WAVES)
    del batch["emotion_values"]
    with pytest.raises(RellmError, match="emotion_values"):
        model(**batch)


def losses_and_gradients(model, batch, labels):
    model.zero_grad()
    output = model(**batch, labels=labels)
    # Another pass before the backward must not disturb the recomputation of the first.
    model.text_forward(torch.tensor([[5, 6, 7]]))
    (output.loss + output.emotion_logits.sum()).backward()
    return output.loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scope", ["speech", "text", "global"])
def test_gradient_checkpointing_gives_the_same_gradients(world, scope):
    model, processor = world.model(lora={"r": 4, "dropout": 0.0, "scope": scope}), world.processor()
    batch = processor(text=TEXTS, audio=WAVES, padding_side="right")
    labels = text_labels(batch, processor)
    model.train()
    plain, expected = losses_and_gradients(model, batch, labels)
    model.activation_checkpointing_enable()
    checkpointed, found = losses_and_gradients(model, batch, labels)
    close(plain, checkpointed)
    assert found.keys() == expected.keys() and any(".lora_A." in name for name in found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_reentrant_checkpointing_is_refused(world):
    with pytest.raises(RellmError, match="use_reentrant"):
        world.model().activation_checkpointing_enable({"use_reentrant": True})


def test_what_is_trained_and_what_stays_frozen(world):
    model, processor = world.model(), world.processor()
    batch = processor(text=TEXTS, audio=WAVES)
    model.train()
    assert not model.emotion_encoder.training and not model.speech_encoder.training
    _, gradients = losses_and_gradients(model, batch, text_labels(batch, processor))
    parts = {model._part_of(name) for name in gradients}
    assert parts == {"adapter", "heads", "lora"}
    model.set_trainable(["speech_encoder"])
    assert model.speech_encoder.training and model.component_sources["speech_encoder"] is None
    _, gradients = losses_and_gradients(model, batch, text_labels(batch, processor))
    assert {model._part_of(name) for name in gradients} == {"speech_encoder"}
    assert not any("embed_positions" in name for name in gradients)
    assert not any(p.requires_grad for p in model.emotion_encoder.parameters())
    model.set_trainable(["dimension_head"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"dimension_head.weight"}
    model.set_trainable(["adapter_input"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"adapter.convs.0.weight", "adapter.convs.0.bias"}
    model.set_trainable(["heads"])
    assert model.emotion_head.weight.requires_grad and model.dimension_head.weight.requires_grad
    with pytest.raises(RellmError, match="Allowed: adapter, heads, lora"):
        model.set_trainable(["emotion_encoder"])
