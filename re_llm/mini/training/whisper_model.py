"""A small but complete Whisper in the genuine classes: tokenizer, model, and a decoder that attends to real frames.

Shapes: B batch, F log-mel frames (100/s), T encoder frames (50/s), L text tokens, D width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from re_llm.core.errors import RellmError
from re_llm.model.outputs import time_mask
from re_llm.model.speech_encoder import SpeechEncoder

END = "<|endoftext|>"
# The order of Whisper's own special tokens; the tokenizer finds English right after the start token.
SPECIALS = (
    END, "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>",
    "<|notimestamps|>",
)  # fmt: skip
FULL_FRAMES = 3000  # 30 s


@dataclass(frozen=True)
class WhisperSize:
    """Width and depth of the model; the default has 3.6 M parameters (7.2 MB in 16 bit)."""

    width: int = 192
    encoder_layers: int = 4
    decoder_layers: int = 2
    heads: int = 4
    vocabulary: int = 1024

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise RellmError(f"width {self.width} does not divide into {self.heads} heads", allowed="an even multiple")
        if self.vocabulary < 256 + len(SPECIALS):
            raise RellmError(f"vocabulary is {self.vocabulary}", allowed=f"at least {256 + len(SPECIALS)}")


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> WhisperTokenizer:
    """Byte-level BPE in Whisper's layout: `vocabulary` ids, the special tokens last, English transcription prefix."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - len(SPECIALS), initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    vocab: dict[str, int] = learned["vocab"]
    for token in SPECIALS:
        vocab[token] = len(vocab)
    return WhisperTokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in learned["merges"]],
        pad_token=END,
        language="en",
        task="transcribe",
        extra_special_tokens=list(SPECIALS[1:]),
    )


def build_model(tokenizer: WhisperTokenizer, size: WhisperSize) -> WhisperForConditionalGeneration:
    """A freshly initialised Whisper whose generation settings transcribe English without timestamps."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    ends = {"bos_token_id": ids[END], "eos_token_id": ids[END], "pad_token_id": ids[END]}
    start = ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=size.width,
        encoder_layers=size.encoder_layers,
        decoder_layers=size.decoder_layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.width,
        decoder_ffn_dim=4 * size.width,
        max_source_positions=FULL_FRAMES // 2,
        max_target_positions=128,
        decoder_start_token_id=start,
        begin_suppress_tokens=None,
        **ends,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        language="en",
        task="transcribe",
        return_timestamps=False,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_length=128,
        **ends,
    )
    return model


def trimmed_encoder(model: WhisperForConditionalGeneration) -> SpeechEncoder:
    """The model's own encoder, run over real frames only: what RE-LLM and the cascade use."""
    with torch.device("meta"):
        encoder = SpeechEncoder(model.config, "trimmed")
    encoder.whisper = model.get_encoder()
    return encoder


def decode(
    model: WhisperForConditionalGeneration, ids: torch.Tensor, states: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Logits [B, L, V] of the decoder for `ids` [B, L], attending to the first `lengths` [B] of `states` [B, T, D]."""
    decoder, size = model.model.decoder, ids.shape[1]
    causal = torch.full((size, size), float("-inf")).triu(1)[None, None]
    mask = torch.zeros(len(ids), 1, 1, states.shape[1])
    mask.masked_fill_(~time_mask(lengths, states.shape[1])[:, None, None], float("-inf"))
    hidden = decoder.embed_tokens(ids) + decoder.embed_positions.weight[:size]
    for layer in decoder.layers:
        hidden = layer(hidden, causal, states, mask)
    return model.proj_out(decoder.layer_norm(hidden))


def gather(mels: Sequence[np.ndarray], silence: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch [B, 80, F] with its real frames [B] from log-mels [frames, 80].

    `silence` frames [B] follow each utterance and count as real. They hold what the feature extractor writes
    there: 8 (in log10) under the utterance's maximum, which is 2 after its scaling.
    """
    extra = np.zeros(len(mels), dtype=np.int64) if silence is None else silence
    frames = [len(mel) + int(more) for mel, more in zip(mels, extra, strict=True)]
    batch = np.zeros((len(mels), max(frames), 80), dtype=np.float32)
    for row, mel in enumerate(mels):
        batch[row, : len(mel)] = mel
        batch[row, len(mel) : frames[row]] = float(mel.max()) - 2.0
    return torch.from_numpy(batch).transpose(1, 2), torch.tensor(frames)


def save_whisper(model: WhisperForConditionalGeneration, processor: WhisperProcessor, out: Path) -> None:
    """Write model (float16), processor and generation settings so that plain transformers loads them.

    The config says that it was trained on real frames: `re_llm.inference.transcribe` reads `speech_window`.
    """
    model.config.speech_window = "trimmed"
    # The output projection is the decoder's embedding; as a copy in half precision it would be stored twice.
    weights = {name: t.to(torch.float16) for name, t in model.state_dict().items() if name != "proj_out.weight"}
    model.save_pretrained(out, state_dict=weights)
    processor.save_pretrained(out)
