"""Tokenizer and untrained model of the miniature chat LLM."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.llm.prompts import get_prompt
from re_llm.mini import answers
from re_llm.mini.grammar import respond_to, world
from re_llm.mini.training.llm_rows import TAUGHT
from re_llm.model.configuration import SPEECH_TOKEN
from re_llm.model.convert.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START

CONTEXT = 1024
"""Tokens; a conversation of six turns of speech has about 450."""


def build_tokenizer(world_size: int = 24000, seed: int = 0, vocabulary: int = 3000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training sentences, all prompts and all answers, with the ChatML template."""
    sentences = [s for s in world(seed, world_size) if s.split == "train"]
    texts = [p.system + " " + p.before + p.after for p in map(get_prompt, TAUGHT)] * 50
    for s in sentences:
        texts += [s.text, s.text.lower()]
    for number, s in enumerate(sentences):
        emotion = PROMPT_EMOTIONS[number % len(PROMPT_EMOTIONS)]
        texts += [respond_to(name, s, emotion) for name in ("chat", "cascade", "continue-emotion")]
        texts += [answers.REMEMBERED_EMOTION[emotion].format(t=s.topic)]
    texts += [
        text for wordings in answers.QUESTIONS.values() for each in wordings for text in (each, each.lower())
    ] * 50
    texts += [answers.NOTHING_TO_REMEMBER, answers.REMEMBERED_TOPIC] * 50
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, IM_START, IM_END, SPEECH_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=END_OF_TEXT,
        eos_token=IM_END,
        additional_special_tokens=[IM_START, SPEECH_TOKEN],
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, width: int, inner: int, layers: int, heads: int, seed: int = 0
) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights, tied embeddings and greedy decoding.

    Args:
        inner: width of the gated feed-forward layers.
    """
    torch.manual_seed(seed)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ids,
        )
    )
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **ids)
    return model
