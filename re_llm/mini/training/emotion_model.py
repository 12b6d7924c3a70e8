"""A small emotion encoder in the format of audeering's dimensional wav2vec2: the net, its file, its embedding.

Shapes: B batch, N samples (16 kHz), T frames (50/s), C channels of the convolutions, D width.

The saved folder holds `wav2vec2.*`, `classifier.dense.*`, `classifier.out_proj.*` and outputs arousal, dominance,
valence, as `audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim` does: the mean over the last hidden states is
the embedding, dense, tanh and out_proj make the three numbers. As there, a wave is normalised to zero mean and unit
variance (`do_normalize`): a microphone's gain says nothing about its speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.mini.training import speech_data
from re_llm.model.components import load_emotion_encoder
from re_llm.model.emotion_encoder import WEIGHT_NORM_NAMES, RegressionHead
from re_llm.model.outputs import time_mask
from re_llm.model.recordings import normalized

DIMENSIONS = ("arousal", "dominance", "valence")  # the order of audeering's output
STRIDES = (5, 2, 2, 2, 2, 2, 2)  # wav2vec2's own: 320 samples a frame
KERNELS = (10, 3, 3, 3, 3, 2, 2)
BANDS = 20
ACOUSTICS = BANDS + 2  # of the training head: log-mel bands, pitch in octaves, voicing
_TRAINING_HEADS = ("classes.", "acoustics.")


@dataclass(frozen=True)
class EmotionSize:
    """Width and depth; the default has 0.6 M parameters (1.2 MB in 16 bit)."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    feed_forward: int = 384
    channels: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 96)
    """Of the seven convolutions; the first ones run at 3200 and 1600 frames a second and decide the speed."""
    position_kernel: int = 32
    """Frames that the convolution for relative positions spans."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 16:
            raise RellmError(f"width is {self.width}, heads {self.heads}", allowed="a multiple of 16 and of the heads")
        if len(self.channels) != len(STRIDES):
            raise RellmError(f"{len(self.channels)} channel counts", allowed=f"{len(STRIDES)}, one per convolution")


class EmotionNet(nn.Module):
    """Wav2Vec2 with audeering's regression head, and the two heads of training."""

    def __init__(self, size: EmotionSize):
        super().__init__()
        config = build_config(size)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = RegressionHead(size.width, len(DIMENSIONS))
        self.classes = nn.Linear(size.width, len(PROMPT_EMOTIONS))
        self.acoustics = nn.Linear(size.channels[-1], ACOUSTICS)
        nn.init.constant_(self.classifier.out_proj.bias, 0.5)
        for layer in self.wav2vec2.feature_extractor.conv_layers:
            layer.register_forward_hook(_keep_layout)

    def forward(
        self, waves: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode a padded batch.

        Args:
            waves: [B, N], zero beyond `samples`.
            samples: real samples, int [B].

        Returns:
            Arousal, dominance and valence [B, 3]; the embedding [B, D]; the convolutions' output [B, T, C]; the
            mask of real frames, bool [B, T].
        """
        output = self.wav2vec2(waves, attention_mask=time_mask(samples, waves.shape[1]).long())
        hidden, counts = output.last_hidden_state, self.frame_counts(samples)
        frames = time_mask(counts, hidden.shape[1])
        embedding = (hidden * frames[..., None]).sum(1) / counts[:, None].to(hidden.dtype)
        return self.classifier(embedding), embedding, output.extract_features, frames

    def frame_counts(self, samples: torch.Tensor) -> torch.Tensor:
        """Frames that the seven convolutions make of so many samples, int [B]."""
        return self.wav2vec2._get_feat_extract_output_lengths(samples).long()


def _keep_layout(_layer: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    """Lay the gradient of a convolution layer [B, C, T] out as its output is, channels last.

    The next convolution hands it back channels first, and then GELU's derivative, on two layouts at once, takes
    half of the whole step.
    """
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.transpose(1, 2).contiguous().transpose(1, 2))


def build_config(size: EmotionSize) -> Wav2Vec2Config:
    """Configuration with the fields of audeering's."""
    config = Wav2Vec2Config(
        architectures=["Wav2Vec2ForSpeechClassification"],
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        conv_dim=list(size.channels),
        conv_kernel=list(KERNELS),
        conv_stride=list(STRIDES),
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=size.position_kernel,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
        id2label=dict(enumerate(DIMENSIONS)),
        label2id={name: i for i, name in enumerate(DIMENSIONS)},
        problem_type="regression",
    )
    config.finetuning_task = "wav2vec2_reg"
    config.pooling_mode = "mean"
    config.dtype = torch.float32  # of the loaded model: the file is in half precision only to be small
    return config


def save_emotion(net: EmotionNet, out: Path) -> None:
    """Write `net` without its training heads: config, float16 weights under audeering's names, feature extractor."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in net.state_dict().items():
        if not name.startswith(_TRAINING_HEADS):
            for theirs, ours in WEIGHT_NORM_NAMES.items():
                name = name.replace(ours, theirs)
            weights[name] = tensor.detach().to(torch.float16).contiguous()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    net.wav2vec2.config.save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(out)


@torch.no_grad()
def embed(folder: Path, rows: Sequence[Utterance], *, batch: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [rows, D] and valence, arousal, dominance [rows, 3] of utterances, by a saved encoder."""
    encoder = load_emotion_encoder(folder, torch.float32)
    order = np.argsort(speech_data.sample_counts(rows), kind="stable")
    pooled = [
        encoder(*pad_waves([normalized(speech_data.read_wave(rows[i])) for i in order[start : start + batch]]))
        for start in range(0, len(order), batch)
    ]
    embeddings = torch.cat(pooled)[torch.from_numpy(np.argsort(order, kind="stable"))]
    return embeddings.numpy(), encoder.regress(embeddings).numpy()


def pad_waves(waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch [B, N] of waves, zero beyond each one's samples, and those, int [B]."""
    batch = nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)
    return batch, torch.tensor([len(wave) for wave in waves])
