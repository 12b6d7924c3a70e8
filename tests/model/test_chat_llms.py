"""Any chat LLM: what holds for Qwen holds for Llama, Gemma and Mistral, with their templates, windows and scales."""

import chat_families
import pytest
import tiny_world
import torch
from chat_families import FAMILIES, WINDOW
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GlmConfig, MixtralConfig, NemotronConfig

from re_llm.core.errors import RellmError
from re_llm.inference.engine import Engine
from re_llm.llm.prompts import EMPATHETIC, get_prompt, split_chat, tokenize_row, turn_end
from re_llm.llm.rows import read_completions, stop_ids
from re_llm.model import LoraOptions, ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.partial_lora import default_targets, peft_config
from re_llm.model.predictions import logits_are_linear
from re_llm.train.rows import end_ids

WAVES = [tiny_world.wave(2.1), tiny_world.wave(1.2, 1)]


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def llm(name, tmp_path_factory):
    return chat_families.save_llm(name, tmp_path_factory.mktemp(name) / "llm")


@pytest.fixture(scope="module")
def parts(world, llm):
    return llm, world.whisper, world.emotion


@pytest.fixture(scope="module")
def model(parts):
    torch.manual_seed(3)
    made = ReLlmForConditionalGeneration.from_components(
        *parts, adapter=tiny_world.ADAPTER, lora={"r": 4, "dropout": 0.0}
    )
    for key, parameter in made.named_parameters():
        if ".lora_B." in key:
            parameter.data.normal_(0, 0.3)
    return made


@pytest.fixture(scope="module")
def processor(parts):
    return ReLlmProcessor.from_components(*parts, adapter=tiny_world.ADAPTER)


@pytest.fixture(scope="module")
def bare(llm):
    return AutoModelForCausalLM.from_pretrained(llm).eval()


def spoken(processor, waves=WAVES):
    """Rows of a chat prompt around each recording; longer than the sliding window, of different lengths."""
    prefix, suffix = split_chat(processor.tokenizer, get_prompt("chat-empathetic"))
    counts = [processor.speech_token_count(len(wave)) for wave in waves]
    rows = processor.pad_rows([processor.row([prefix, count, suffix]) for count in counts])
    assert rows["attention_mask"].sum(1).min() > 3 * WINDOW
    return {**rows, **processor.audio_inputs(waves)}


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# --- prompts and ends ---


def test_the_layout_of_a_row(name, llm):
    family, tokenizer = FAMILIES[name], AutoTokenizer.from_pretrained(llm)
    prefix, suffix = split_chat(tokenizer, get_prompt("chat-empathetic"))
    assert EMPATHETIC in prefix and suffix.endswith(family.opens)
    ids = tokenize_row(tokenizer, get_prompt("chat-empathetic"), "hello")
    bos = tokenizer.bos_token_id
    assert ids.count(bos) == (bos is not None) and (bos is None or ids[0] == bos)
    assert tokenizer.decode(ids).count("hello") == 1
    history = [{"role": "user", "content": "I won."}, {"role": "assistant", "content": "How nice!"}]
    longer, _ = split_chat(tokenizer, get_prompt("chat-empathetic"), history)
    assert longer.index(EMPATHETIC) < longer.index("I won.") < longer.index("How nice!")
    assert longer.count(EMPATHETIC) == 1


def test_prompts_are_the_same_every_day(llm):
    """Llama's template writes the date, unless it is told one."""
    prefix, _ = split_chat(AutoTokenizer.from_pretrained(llm), get_prompt("chat"))
    assert "Today Date" not in prefix or "Today Date: 26 Jul 2024" in prefix


REFUSALS = {
    "": r"has no chat template\. Use a chat LLM",
    "{{ raise_exception('No chats today') }}": "refuses a conversation: No chats today",
    "{{ messages[0]['nothing']['there'] }}": "refuses a conversation: .*nothing",
    "{{ messages[0]['content'] if messages[0]['role'] == 'system' else 'Hi' }}": "drops the user's turn",
}


@pytest.mark.parametrize("template", REFUSALS)
def test_templates_that_no_conversation_fits(template):
    tokenizer = chat_families.tokenizer("qwen2")
    tokenizer.chat_template = template
    with pytest.raises(RellmError, match=REFUSALS[template]):
        split_chat(tokenizer, get_prompt("chat"))


def test_a_system_text_that_a_template_drops_comes_with_the_first_turn():
    tokenizer = chat_families.tokenizer("qwen2")
    tokenizer.chat_template = "{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}]{% endfor %}"
    assert split_chat(tokenizer, get_prompt("chat-empathetic")) == (f"[{EMPATHETIC}\n\n", "]")
    assert turn_end(tokenizer) == [tokenizer.eos_token_id]  # it writes no special token behind an answer


def test_the_end_of_a_turn(name, llm, bare):
    family, tokenizer = FAMILIES[name], AutoTokenizer.from_pretrained(llm)
    end = tokenizer.convert_tokens_to_ids(list(family.end))
    assert end_ids(tokenizer) == end
    stops = stop_ids(tokenizer, bare)
    assert end[0] in stops and tokenizer.eos_token_id in stops
    said = tokenizer("Yes, I am.", add_special_tokens=False)["input_ids"]
    (answer,) = read_completions(tokenizer, torch.tensor([[*said, *end, *said]]), stops)
    assert (answer.text, answer.finish_reason) == ("Yes, I am.", "stop")


def test_an_engine_stops_there(name, model, processor):
    """The last layer is made to say `A` and then to end the turn."""
    engine = Engine(model, processor)
    family, tokenizer = FAMILIES[name], processor.tokenizer
    letter, end = tokenizer.convert_tokens_to_ids(["A", family.end[0]])
    steps = iter([letter, letter, end, letter])

    def say(_, args, logits):
        return torch.nn.functional.one_hot(torch.tensor(next(steps)), logits.shape[-1]).expand_as(logits).float()

    handle = model.get_output_embeddings().register_forward_hook(say)
    try:
        reply = engine.respond(WAVES[0], max_new_tokens=4)
    finally:
        handle.remove()
    assert (reply.response, reply.tokens, reply.finish_reason) == ("AA", 2, "stop")


# --- what the LLM is given ---


def test_lora_finds_its_layers(name, model):
    config = model.config.text_config
    assert default_targets(config) == FAMILIES[name].targets
    assert len(model.partial_lora.layers) == len(FAMILIES[name].targets) * config.num_hidden_layers


OTHERS = [
    (GlmConfig, {"head_dim": 8}, ["gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"]),
    (MixtralConfig, {"num_local_experts": 2}, ["k_proj", "o_proj", "q_proj", "v_proj"]),
    (NemotronConfig, {}, ["k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
]


@pytest.mark.parametrize(("kind", "options", "expected"), OTHERS, ids=lambda each: getattr(each, "model_type", ""))
def test_lora_finds_its_layers_in_families_that_nobody_listed(kind, options, expected):
    config = kind(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                  num_key_value_heads=2, pad_token_id=0, **options)  # fmt: skip
    llm = AutoModelForCausalLM.from_config(config)
    assert sorted(peft_config(LoraOptions(), llm).target_modules) == expected


@torch.no_grad()
def test_text_rows_are_those_of_the_bare_llm(model, bare, processor):
    """LoRA in place, and the embeddings looked up outside of the LLM: scaled where it scales them."""
    ids = torch.tensor([tokenize_row(processor.tokenizer, get_prompt("chat"), "I passed the exam today.")])
    expected = bare(ids).logits
    assert torch.equal(model(ids).logits, expected) and torch.equal(model.text_forward(ids).logits, expected)
    with model.partial_lora.using(torch.ones_like(ids).bool(), tuple(ids.shape)):
        changed = model.language_model(ids).logits
    assert (changed - expected).abs().max() > 1e-3


@torch.no_grad()
def test_speech_tokens_reach_the_first_layer_as_the_adapter_made_them(model, bare, processor):
    inputs = spoken(processor)
    seen = []
    handle = model.language_model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    speech = model(**inputs).speech
    handle.remove()
    places = inputs["input_ids"] == model.config.speech_token_id
    assert torch.equal(seen[0][places], speech.embeddings[speech.mask()])
    text = inputs["input_ids"].masked_fill(places, 0)
    assert torch.equal(seen[0][~places], bare.get_input_embeddings()(text)[~places])


@torch.no_grad()
def test_batch_equals_single(model, processor):
    batch = spoken(processor)
    together = model(**batch)
    for i, wave in enumerate(WAVES):
        alone = model(**spoken(processor, [wave]))
        close(together.logits[i][batch["attention_mask"][i].bool()], alone.logits[0])
        close(together.emotion_logits[i], alone.emotion_logits[0])


@torch.no_grad()
def test_generation_with_a_cache_equals_recomputation(model, processor):
    """Of a padded batch; the rows are longer than the window of sliding attention."""
    inputs = spoken(processor)
    width = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": processor.pad_token_id}
    found = model.generate(**inputs, **options, use_cache=True)
    assert torch.equal(found, model.generate(**inputs, **options, use_cache=False))
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 20), value=1)
    choices = model(**{**inputs, "input_ids": found, "attention_mask": mask}).logits[:, width - 1 : -1].argmax(-1)
    assert torch.equal(choices, found[:, width:])
    for i, wave in enumerate(WAVES):
        alone = spoken(processor, [wave])
        single = model.generate(**alone, **options)
        assert torch.equal(single[0, alone["input_ids"].shape[1] :], found[i, width:])


@torch.no_grad()
def test_a_placeholder_outside_of_the_vocabulary_can_be_penalised(model, processor):
    """Processors that look at the prompt's ids meet the placeholder, which the LLM has no logit for."""
    inputs = spoken(processor)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": processor.pad_token_id}
    found = model.generate(**inputs, **options, repetition_penalty=1.3, no_repeat_ngram_size=2)
    assert found.shape[0] == 2


# --- training ---


def test_lora_learns_from_a_spoken_row(model, processor):
    inputs = spoken(processor)
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    model.set_trainable(["lora", "adapter"])
    model.train()
    model(**inputs, labels=labels).loss.backward()
    model.eval()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert {key.split(".")[0] for key in gradients} == {"adapter", "language_model"}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert all(".lora_" in key for key in gradients if key.startswith("language_model"))
    assert any(g.abs().max() > 0 for key, g in gradients.items() if ".lora_A." in key)
    model.zero_grad()


# --- files ---


@torch.no_grad()
@pytest.mark.parametrize("self_contained", [True, False])
def test_saved_and_read_again(name, model, processor, tmp_path, self_contained):
    model.save_pretrained(tmp_path, self_contained=self_contained)
    processor.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    tied = model.config.text_config.tie_word_embeddings
    assert ("language_model.lm_head.weight" in stored) == (self_contained and not tied)
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path)
    reader = ReLlmProcessor.from_pretrained(tmp_path)
    assert torch.equal(model(**spoken(processor)).logits, again(**spoken(reader)).logits)
    own = again.language_model
    assert (own.get_output_embeddings().weight is own.get_input_embeddings().weight) == tied


def test_whether_the_output_layer_alone_makes_the_logits(name, model):
    assert logits_are_linear(model) == (name != "gemma2")  # which caps them
