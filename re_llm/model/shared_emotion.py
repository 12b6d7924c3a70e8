"""An emotion encoder that reads the layers of the speech encoder, so that the emotion costs no second pass.

Whisper's middle layers carry prosody, its last ones words. Weights over the layers are learned; attention over time,
which starts even, gives mean and standard deviation of every wanted layer (attentive statistics pooling); a small
network makes of them an embedding, categories, and valence, arousal and dominance.

Shapes: B utterances, T states (50 a second), F frames (`pool` states each), K layers, Ds width of a state, H heads of
the attention, De width of the embedding, E emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, gelu

from re_llm.core.errors import RellmError
from re_llm.model.configuration import DIMENSIONS
from re_llm.model.outputs import time_mask
from re_llm.model.shared_emotion_config import SharedEmotionConfig
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.weights import WEIGHTS

CLIP = 6.0  # standard deviations: what lies further out is no emotion
SIGNATURE = 16  # weights by which a Whisper is known again
SIGNATURE_TOLERANCE = 0.02  # of their largest: storage in 16 bit moves them by less


@dataclass(frozen=True)
class SharedEmotion:
    """What the encoder makes of a batch of utterances."""

    embedding: Tensor  # [B, De]
    logits: Tensor  # [B, E]
    dimensions: Tensor  # [B, 3] in the order of DIMENSIONS, about 0..1


class SharedEmotionEncoder(nn.Module):
    """Emotion from the states of a frozen speech encoder.

    Unlike the separate encoders it can be trained (`re_llm.train.emotion`); in a RE-LLM it stays frozen, in eval mode.

    Args:
        config: sizes, and which layers of which Whisper.
    """

    centre: Tensor  # [K, Ds] of frames, and their spread
    spread: Tensor
    outputs = None  # it has a regression head, but none in audeering's format

    def __init__(self, config: SharedEmotionConfig):
        super().__init__()
        self.config = config
        layers, width = len(config.layers), config.speech_width
        self.register_buffer("centre", torch.zeros(layers, width))
        self.register_buffer("spread", torch.ones(layers, width))
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        even = nn.Linear(config.attention_size, config.attention_heads)
        nn.init.zeros_(even.weight)  # even weights: plain mean and standard deviation to begin with
        nn.init.zeros_(even.bias)
        self.attention = nn.Sequential(nn.Linear(width, config.attention_size), nn.Tanh(), even)
        self.normalize = nn.BatchNorm1d(2 * layers * width, affine=False, momentum=0.05)
        self.embed = nn.Linear(2 * layers * width, config.hidden_size)
        self.classify = nn.Linear(config.hidden_size, len(config.emotions))
        self.regress = nn.Linear(config.hidden_size, len(DIMENSIONS))

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the speech encoder whose states are read; 0 stands in front of the first."""
        return tuple(self.config.layers)

    def frames(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, T, K, Ds] averaged in groups of `pool`: [B, F, K, Ds], and the frames of each utterance [B].

        The last group of an utterance holds what is left of it, so company in a batch changes nothing.
        """
        pool, (batch, time, layers, width) = self.config.pool, states.shape
        mask = time_mask(lengths, time)
        flat = (states * mask[..., None, None]).permute(0, 2, 3, 1).reshape(batch, layers * width, time)
        sums = avg_pool1d(flat, pool, ceil_mode=True, count_include_pad=False)
        real = avg_pool1d(mask[:, None].to(flat.dtype), pool, ceil_mode=True, count_include_pad=False)
        means = sums / real.clamp_min(1e-6)
        counts = torch.div(lengths - 1, pool, rounding_mode="floor") + 1
        return means.reshape(batch, layers, width, -1).permute(0, 3, 1, 2), counts

    def pooled(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Weighted mean and standard deviation over time of frames [B, F, K, Ds], flat, float32: [B, K * 2 * Ds].

        Args:
            mask: [B, F] true where a frame counts; at least one in every row.
        """
        batch, time, layers, width = frames.shape
        heads = self.config.attention_heads
        frames = (frames.float() - self.centre.float()) / self.spread.float()
        weights = self.layer_weights.float().softmax(0)
        mixed = torch.einsum("bfkd,k->bfd", frames, weights).to(self.dtype)
        attention = self.attention(mixed).float().masked_fill(~mask[..., None], float("-inf")).softmax(1)  # [B, F, H]
        split = frames.view(batch, time, layers, heads, width // heads)
        mean = torch.einsum("bfkhd,bfh->bkhd", split, attention)
        square = torch.einsum("bfkhd,bfh->bkhd", split * split, attention)
        deviation = (square - mean * mean).clamp_min(1e-4).sqrt()
        statistics = torch.stack([mean.flatten(2), deviation.flatten(2)], dim=2)  # [B, K, 2, Ds]
        return (statistics * (weights * layers)[None, :, None, None]).flatten(1)

    def statistics(self, frames: Tensor, mask: Tensor) -> Tensor:
        """`pooled`, standardised by what training has seen."""
        return self.normalize.float()(self.pooled(frames, mask)).clamp(-CLIP, CLIP)

    def read(self, statistics: Tensor, dropout: float = 0.0) -> SharedEmotion:
        """Embedding, categories and dimensions of standardised statistics [B, K * 2 * Ds]."""
        drop = nn.functional.dropout
        embedding = gelu(self.embed(drop(statistics.to(self.dtype), dropout, training=dropout > 0)))
        last = drop(embedding, dropout, training=dropout > 0)
        return SharedEmotion(embedding, self.classify(last), self.regress(last))

    def forward(self, states: Tensor, lengths: Tensor) -> SharedEmotion:
        """Emotion of utterances.

        Args:
            states: [B, T, K, Ds] of the wanted layers, as `SpeechEncoder.with_layers` gives them.
            lengths: [B] states of each utterance.
        """
        frames, counts = self.frames(states.float(), lengths)
        return self.read(self.statistics(frames, time_mask(counts, frames.shape[1])))


def signature(speech: SpeechEncoder) -> list[float]:
    """Some weights of a speech encoder, by which it is known again whatever the dtype that it is stored in."""
    flat = speech.whisper.layers[0].fc1.weight.detach().float().flatten()
    return [round(value, 6) for value in flat[:: max(1, len(flat) // SIGNATURE)][:SIGNATURE].tolist()]


def check_speech_encoder(config: SharedEmotionConfig, speech: SpeechEncoder) -> None:
    """The encoder of `config` can read the layers of this speech encoder.

    Raises:
        RellmError: they are of another size, or those of another Whisper.
    """
    width, layers = speech.config.d_model, len(speech.whisper.layers)
    if config.speech_width != width or config.layers[-1] > layers:
        raise RellmError(
            f"the emotion encoder reads layer {config.layers[-1]} of a Whisper of width {config.speech_width}, "
            f"and this one has {layers} layers of width {width}",
            todo=f"Use it with {config.speech_encoder or 'the Whisper of its training'}, or train one for this Whisper",
        )
    known = config.speech_signature
    if known is None:
        return
    own = signature(speech)
    largest = max(map(abs, known))
    if max(abs(a - b) for a, b in zip(known, own, strict=True)) > SIGNATURE_TOLERANCE * largest:
        raise RellmError(
            "the emotion encoder was trained on the layers of another Whisper of the same size",
            allowed=config.speech_encoder or "the Whisper it was trained on",
            todo="Name that one as speech encoder, or train an emotion encoder for this one",
        )


def save(encoder: SharedEmotionEncoder, folder: Path) -> None:
    """Writes config.json and model.safetensors in half precision: a component's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    encoder.config.save_pretrained(folder)
