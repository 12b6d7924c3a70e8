"""Tiny components with random weights, made from configs; seconds to build, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from re_llm.model.emotion_encoder import EmotionEncoder

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ADAPTER = {"bottleneck": 16}
WINDOW_STATES = 50  # a window of 1 s instead of 30 s


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", *map(chr, range(32, 127)), "\n"]
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = CHAT_TEMPLATE
    return made


def save_llm(folder: Path, *, width: int = 32, tied: bool = True, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    own = tokenizer()
    config = Qwen2Config(
        vocab_size=len(own), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied,
        initializer_range=0.2, bos_token_id=None, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def whisper_config(**changes: object) -> WhisperConfig:
    return WhisperConfig(**{
        "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "num_mel_bins": 80,
        "max_source_positions": WINDOW_STATES, "init_std": 0.3, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 1, **changes,
    })  # fmt: skip


def save_whisper(folder: Path, *, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    WhisperModel(whisper_config()).save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    return folder


def emotion_config(**changes: object) -> Wav2Vec2Config:
    return Wav2Vec2Config(**{
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "conv_bias": True,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True, "initializer_range": 0.3, "vocab_size": 32,
        "id2label": {0: "arousal", 1: "dominance", 2: "valence"}, "hidden_dropout": 0.3, "layerdrop": 0.5,
        "mask_time_prob": 0.5, **changes,
    })  # fmt: skip


def save_emotion(folder: Path, *, normalize: bool = True, seed: int = 2) -> Path:
    """In audeering's format: `wav2vec2.*` and `classifier.*`."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = emotion_config()
    encoder = EmotionEncoder(config, ["arousal", "dominance", "valence"])
    weights = {k.replace("backbone.", "wav2vec2."): v.contiguous() for k, v in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor.to_dict()))
    return folder


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    n = round(seconds * 16_000)
    t = np.arange(n) / 16_000
    return (0.2 * np.sin(2 * np.pi * (200 + 40 * seed) * t) + 0.02 * draw.standard_normal(n)).astype(np.float32)
