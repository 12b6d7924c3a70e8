"""The same system written plainly with transformers' and PEFT's own classes: what `benchmarks/laptop.py` compares with.

As the released code of BLSP-Emo and RE-LLM goes: float32, every recording padded to 30 s, states of the emotion encoder
repeated, an adapter of strided convolutions, rows put together with padding, logits of all positions, LoRA everywhere.
B utterances, L row length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder


@dataclass(frozen=True)
class Parts:
    """Configs of the three parts, and what is trained between them."""

    text: Qwen2Config
    speech: WhisperConfig
    emotion: Wav2Vec2Config
    conv_layers: int
    bottleneck: int
    lora_targets: tuple[str, ...]
    lora_rank: int


class PlainSystem(nn.Module):
    """Encoders, adapter, two heads, LLM with LoRA."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.mel = WhisperFeatureExtractor(feature_size=parts.speech.num_mel_bins)
        self.wave = Wav2Vec2FeatureExtractor(return_attention_mask=True)
        self.speech = WhisperEncoder(parts.speech).requires_grad_(False).eval()
        self.emotion = Wav2Vec2Model(parts.emotion).requires_grad_(False).eval()
        llm = AutoModelForCausalLM.from_config(parts.text).requires_grad_(False)
        lora = LoraConfig(r=parts.lora_rank, target_modules=list(parts.lora_targets), task_type="CAUSAL_LM")
        self.llm = get_peft_model(llm, lora)
        width, out = parts.speech.d_model + parts.emotion.hidden_size, parts.text.hidden_size
        sizes = [width] * parts.conv_layers + [out]
        self.convs = nn.ModuleList(nn.Conv1d(a, 2 * b, 5, 2, 2) for a, b in pairwise(sizes))
        self.down, self.up = nn.Linear(out, parts.bottleneck, bias=False), nn.Linear(parts.bottleneck, out, bias=False)
        self.norm = nn.LayerNorm(out)
        self.heads = nn.Linear(out, 5, bias=False), nn.Linear(out, 3, bias=False)
        self.emotion_head, self.dimension_head = self.heads

    @torch.no_grad()
    def encode(self, waves: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
        """States [B, T, C] of recordings and their number in each."""
        features = self.mel(list(waves), sampling_rate=16_000, return_tensors="pt")["input_features"]
        counts = [len(wave) // 320 for wave in waves]
        states = self.speech(features).last_hidden_state[:, : max(counts)]
        given = self.wave(list(waves), sampling_rate=16_000, padding=True, return_tensors="pt")
        found = self.emotion(given["input_values"], attention_mask=given["attention_mask"]).last_hidden_state
        pooled = torch.stack([row[: count - 1].mean(0) for row, count in zip(found, counts, strict=True)])
        return torch.cat([states, pooled[:, None].expand(-1, states.shape[1], -1)], dim=-1), counts

    def tokens(self, states: Tensor, counts: list[int]) -> list[Tensor]:
        """Speech tokens [S, D] of each utterance."""
        hidden, lengths = states.transpose(1, 2), list(counts)
        for conv in self.convs:
            hidden, lengths = F.glu(conv(hidden), dim=1), [(n - 1) // 2 + 1 for n in lengths]
        hidden = hidden.transpose(1, 2)
        hidden = self.norm(hidden + self.up(F.gelu(self.down(hidden))))
        return [row[:n] for row, n in zip(hidden, lengths, strict=True)]

    def rows(self, tokens: list[Tensor], before: Tensor, after: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
        """Embeddings [B, L, D] of `before | speech | after`, padded, and their mask [B, L]."""
        embed = self.llm.get_input_embeddings()
        parts = [torch.cat([embed(before), each, embed(ids)]) for each, ids in zip(tokens, after, strict=True)]
        rows = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side=side)
        lengths = torch.tensor([len(part) for part in parts])[:, None]
        place = torch.arange(rows.shape[1])
        return rows, (place < lengths if side == "right" else place >= rows.shape[1] - lengths).long()

    def losses(self, states: Tensor, counts: list[int], before: Tensor, after: Tensor, answers: list[Tensor]) -> Tensor:
        """Cross-entropy of the answers, of the emotions, and the squared error of the dimensions; all classes are 0."""
        tokens = self.tokens(states, counts)
        rows, mask = self.rows(tokens, before, [torch.cat([after, each]) for each in answers], "right")
        labels = torch.full(mask.shape, -100)
        for row, answer, length in zip(labels, answers, mask.sum(1).tolist(), strict=True):
            row[length - len(answer) : length] = answer
        response = self.llm(inputs_embeds=rows, attention_mask=mask, labels=labels).loss
        pooled = torch.stack([each.mean(0) for each in tokens])
        emotion = F.cross_entropy(self.emotion_head(pooled), torch.zeros(len(tokens), dtype=torch.long))
        return response + emotion + self.dimension_head(pooled).square().mean()

    @torch.inference_mode()
    def answer(self, waves: Sequence[np.ndarray], before: Tensor, after: Tensor, new: int) -> Tensor:
        """`new` tokens of each answer, [B, new]."""
        rows, mask = self.rows(self.tokens(*self.encode(waves)), before, [after] * len(waves), "left")
        return self.llm.generate(
            inputs_embeds=rows, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
