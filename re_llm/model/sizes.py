"""How large the model of the paper is, part by part, without a single weight: built on torch's meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache

import torch
from transformers import Qwen2Config, Wav2Vec2Config, WhisperConfig

from re_llm.model.configuration import ReLlmConfig
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.trainable import LEARNED
from re_llm.recipe.options import AdapterOptions, LoraOptions, ModelOptions

# Order of the regression head of audeering's model.
AUDEERING_OUTPUTS = ("arousal", "dominance", "valence")


def whisper_large_v2_config() -> WhisperConfig:
    """Of openai/whisper-large-v2."""
    return WhisperConfig(
        d_model=1280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_layers=32,
        decoder_attention_heads=20,
        decoder_ffn_dim=5120,
        num_mel_bins=80,
        vocab_size=51865,
    )


def audeering_config() -> Wav2Vec2Config:
    """Of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim: wav2vec2-large, 12 layers."""
    return Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        intermediate_size=4096,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        id2label=dict(enumerate(AUDEERING_OUTPUTS)),
    )


def qwen_7b_config() -> Qwen2Config:
    """Of Qwen/Qwen-7B-Chat, converted."""
    return Qwen2Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )


# The components of the papers, by their names on the hub; BLSP-Emo has no emotion encoder.
PAPER_COMPONENTS = {
    "llm": ("Qwen/Qwen-7B-Chat", "Qwen/Qwen-7B"),
    "speech_encoder": ("openai/whisper-large-v2",),
    "emotion_encoder": ("audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim", None),
}


@cache
def paper_sizes(
    adapter: AdapterOptions = AdapterOptions(),  # noqa: B008 - frozen
    lora: LoraOptions | None = LoraOptions(),  # noqa: B008
    *,
    emotion_encoder: bool = True,
) -> dict[str, int]:
    """Parameters by part of RE-LLM section II: Whisper-large-v2, audeering's wav2vec2, adapter, heads, Qwen-7B, LoRA.

    Args:
        adapter, lora: options that differ from the paper's.
        emotion_encoder: False gives BLSP-Emo.
    """
    config = ReLlmConfig(
        text_config=qwen_7b_config(),
        speech_config=whisper_large_v2_config(),
        emotion_config=audeering_config() if emotion_encoder else None,
        emotion_outputs=AUDEERING_OUTPUTS if emotion_encoder else None,
        adapter=adapter,
    )
    with torch.device("meta"):
        model = ReLlmForConditionalGeneration(config)
        if lora is not None:
            model.add_lora(lora)
    return part_sizes(model)


def part_sizes(model: ReLlmForConditionalGeneration) -> dict[str, int]:
    """Parameters of a model by part."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = model._part_of(name)
        counts["speech_encoder" if part == "fixed" else part] += parameter.numel()
    return dict(counts)


def trained_parameters(components: Mapping[str, str | None], options: ModelOptions) -> dict[str, int]:
    """What training adds to the components of the papers: parameters by part. Empty for other components.

    Args:
        components: their names, as a recipe has them. options: how the recipe joins them.
    """
    emotion = None if options.fusion == "none" else components.get("emotion_encoder")
    named = {**components, "emotion_encoder": emotion}
    if any(named.get(part) not in names for part, names in PAPER_COMPONENTS.items()):
        return {}
    found = paper_sizes(options.adapter, options.lora, emotion_encoder=emotion is not None)
    return {part: found[part] for part in LEARNED if part in found}
