"""An emotion encoder that reads the layers of the speech encoder, so that the emotion costs no second pass.

Whisper's middle layers carry prosody, its last ones words. Of every wanted layer, mean and deviation over short windows
are kept; weights over the layers and attention over the windows are learned, beginning even (attentive statistics
pooling); a small network makes of them an embedding, categories, and valence, arousal and dominance.

Shapes: B utterances, T states (50 a second), W windows (`pool` states each), K layers, Ds width of a state, De width of
the embedding, E emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import gelu

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


@dataclass(frozen=True)
class Windows:
    """Layers of a batch of utterances in windows."""

    statistics: Tensor  # [B, W, K, 2, Ds], mean and standard deviation of the states in a window, float32
    counts: Tensor  # [B, W] states in each, 0 behind an utterance; float32

    @classmethod
    def of(cls, states: Tensor, lengths: Tensor, pool: int) -> Windows:
        """Of states [B, T, K, Ds] with `lengths` [B] real ones. The last window of an utterance holds what is left."""
        batch, time, layers, width = states.shape
        behind = -time % pool
        mask = nn.functional.pad(time_mask(lengths, time), (0, behind)).view(batch, -1, pool)[..., None, None]
        split = nn.functional.pad(states.float(), (0, 0, 0, 0, 0, behind)).view(batch, -1, pool, layers, width) * mask
        counts = mask.sum(2).float()  # [B, W, 1, 1]
        mean = split.sum(2) / counts.clamp_min(1)
        variance = ((split - mean[:, :, None]) * mask).square().sum(2) / counts.clamp_min(1)
        return cls(torch.stack([mean, variance.sqrt()], dim=3), counts[..., 0, 0])


class SharedEmotionEncoder(nn.Module):
    """Emotion from the states of a frozen speech encoder.

    Unlike the separate encoders it can be trained (`re_llm.train.emotion`); in a RE-LLM it stays frozen, in eval mode.

    Args:
        config: sizes, and which layers of which Whisper.
    """

    centre: Tensor  # [K, 2, Ds] of the windows in training, and their spread
    spread: Tensor
    outputs = None  # it has a regression head, but none in audeering's format

    def __init__(self, config: SharedEmotionConfig):
        super().__init__()
        self.config = config
        size = (len(config.layers), 2, config.speech_width)
        width = 2 * len(config.layers) * config.speech_width
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.layer_weights = nn.Parameter(torch.zeros(len(config.layers)))
        even = nn.Linear(config.attention_size, 1)
        nn.init.zeros_(even.weight)  # even weights: plain mean and deviation of the utterance to begin with
        nn.init.zeros_(even.bias)
        self.attention = nn.Sequential(nn.Linear(width, config.attention_size), nn.Tanh(), even)
        self.normalize = nn.BatchNorm1d(width, affine=False, momentum=0.05)
        self.embed = nn.Linear(width, config.hidden_size)
        self.classify = nn.Linear(config.hidden_size, len(config.emotions))
        self.regress = nn.Linear(config.hidden_size, len(DIMENSIONS))

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the speech encoder whose states are read; 0 stands in front of the first."""
        return tuple(self.config.layers)

    def pooled(self, windows: Windows) -> Tensor:
        """Weighted mean and deviation over all states of an utterance, flat, float32: [B, K * 2 * Ds]."""
        given, counts = windows.statistics, windows.counts
        scaled = ((given - self.centre.float()) / self.spread.float()).clamp(-CLIP, CLIP)
        scores = self.attention(scaled.flatten(2).to(self.dtype))[..., 0].float()  # [B, W]
        weights = (scores + counts.log()).softmax(1)  # a window weighs as many states as it holds; none: nothing
        mean = torch.einsum("bw,bwkd->bkd", weights, given[..., 0, :])
        square = torch.einsum("bw,bwkd->bkd", weights, given.square().sum(3))
        deviation = (square - mean.square()).clamp_min(1e-6).sqrt()
        layers = self.layer_weights.float().softmax(0) * len(self.layers)
        found = (torch.stack([mean, deviation], dim=2) - self.centre.float()) / self.spread.float()
        return (found * layers[:, None, None]).flatten(1)

    def statistics(self, windows: Windows) -> Tensor:
        """`pooled`, standardised by what training has seen."""
        return self.standardized(self.pooled(windows))

    def standardized(self, pooled: Tensor) -> Tensor:
        """By what training has seen; in training, by the batch."""
        return self.normalize.float()(pooled).clamp(-CLIP, CLIP)

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
        return self.read(self.statistics(Windows.of(states, lengths, self.config.pool)))


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
