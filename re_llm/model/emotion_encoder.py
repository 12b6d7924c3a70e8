"""The frozen emotion encoder: wav2vec2 in audeering's format, or any speech encoder of transformers.

Shapes: B utterances, N samples (16 kHz), T' frames of the encoder, T speech states, De width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from re_llm.core.errors import RellmError
from re_llm.model import wave_front
from re_llm.model.configuration import DIMENSIONS
from re_llm.model.outputs import time_mask
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.shared_emotion_config import SharedEmotionConfig

# Encoders whose attention mask keeps padding out of every layer, and so out of the utterance. In others (positions by
# several convolutions, convolutions between the layers) padding reaches the last frames.
_MASKED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
WEIGHT_NORM_NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def padding_is_masked(config: PretrainedConfig) -> bool:
    """Whether the attention mask keeps padding out; it does not where a convolution is normalised over time."""
    return config.model_type in _MASKED and getattr(config, "feat_extract_norm", "layer") != "group"


class RegressionHead(nn.Module):
    """audeering's head: dense, tanh, one output per dimension."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(pooled)))


class EmotionEncoder(nn.Module):
    """Mean over time of an encoder's last hidden states (RE-LLM section II-A: the pre-final layer).

    It never learns: its parameters need no gradient, it stays in eval mode (no dropout, no SpecAugment) whatever
    the model around it does, and its forward runs without autograd.

    Args:
        config: the encoder's own config.
        outputs: names of the outputs of its regression head in the order of the weights, or None without a head.

    Raises:
        RellmError: a model that does not take a waveform.
    """

    def __init__(self, config: PretrainedConfig, outputs: Sequence[str] | None = None):
        super().__init__()
        self.config, self.outputs = config, tuple(outputs) if outputs else None
        self.backbone = _waveform_model(config)
        front = getattr(self.backbone, "feature_extractor", None)
        if front is not None and wave_front.fits(front):
            self.backbone.feature_extractor = wave_front.ChannelsLast(front)
        self.classifier = RegressionHead(config.hidden_size, len(self.outputs)) if self.outputs else None
        self.requires_grad_(False)
        self.train(False)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def batchable(self) -> bool:
        """False when padding would change the result; also where the first convolution is normalised over time."""
        return padding_is_masked(self.config)

    def train(self, mode: bool = True) -> EmotionEncoder:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Pooled embeddings [B, De] of waveforms [B, N] with `lengths` [B] real samples."""
        states, counts = self.frames(values, lengths)
        mask = time_mask(counts, states.shape[1])[..., None]
        return (states * mask).sum(1) / counts[:, None].to(states.dtype)

    @torch.no_grad()
    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, T', De] and their number in each utterance [B].

        Raises:
            RellmError: an utterance is too short to give a frame.
        """
        values = values.to(self.dtype)
        counts = self.backbone._get_feat_extract_output_lengths(lengths).long()
        if int(counts.min()) < 1:
            raise RellmError(
                f"an utterance of {int(lengths.min())} samples is too short for the emotion encoder",
                todo="Leave out recordings shorter than 25 ms",
            )
        if self.batchable:
            mask = time_mask(lengths, values.shape[1]).long()
            return self.backbone(values * mask, attention_mask=mask).last_hidden_state, counts
        return self._frames_by_length(values, lengths)

    def _frames_by_length(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Utterances of equal length share a pass, without any padding."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate(lengths.tolist()):
            groups[length].append(row)
        passes = {length: self.backbone(values[rows, :length]).last_hidden_state for length, rows in groups.items()}
        longest = max(hidden.shape[1] for hidden in passes.values())
        states, counts = values.new_zeros(len(values), longest, self.config.hidden_size), torch.zeros_like(lengths)
        for length, hidden in passes.items():
            states[groups[length], : hidden.shape[1]] = hidden
            counts[groups[length]] = hidden.shape[1]
        return states, counts

    @torch.no_grad()
    def regress(self, pooled: Tensor) -> Tensor:
        """The head's own estimate, [B, 3] in the order of DIMENSIONS, of pooled embeddings [B, De].

        Raises:
            RellmError: this encoder has no regression head.
        """
        if self.classifier is None or self.outputs is None:
            raise RellmError("this emotion encoder has no regression head", todo="Use one in audeering's format")
        estimate = self.classifier(pooled.to(self.dtype))
        return estimate[:, [self.outputs.index(name) for name in DIMENSIONS]]


def make_emotion_encoder(
    config: PretrainedConfig, outputs: Sequence[str] | None = None
) -> EmotionEncoder | SharedEmotionEncoder:
    """The frozen emotion encoder of a config, with random weights; it may be one that shares the speech encoder."""
    if isinstance(config, SharedEmotionConfig):
        return SharedEmotionEncoder(config).requires_grad_(False).eval()
    return EmotionEncoder(config, outputs)


def _waveform_model(config: PretrainedConfig) -> PreTrainedModel:
    """The encoder of a config, if it takes a waveform."""
    try:
        model = AutoModel.from_config(config)
    except (ValueError, KeyError) as error:
        raise RellmError(f"a {config.model_type} cannot be an emotion encoder: {error}") from error
    if model.main_input_name != "input_values" or not hasattr(model, "_get_feat_extract_output_lengths"):
        raise RellmError(
            f"a {config.model_type} cannot be an emotion encoder: it does not take a waveform",
            allowed=f"{', '.join(_MASKED)}, data2vec-audio, wav2vec2-conformer, sew",
        )
    return model


def align_frames(states: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """Emotion frames [B, T', De] at the times of `lengths` [B] speech states, [B, T, De]: the nearest frame in time."""
    longest = int(lengths.max())
    centre = torch.arange(longest, device=states.device) + 0.5
    index = (centre * (counts / lengths)[:, None]).long()
    index = torch.minimum(index, counts[:, None] - 1)
    aligned = torch.gather(states, 1, index[..., None].expand(-1, -1, states.shape[2]))
    return aligned * time_mask(lengths, longest)[..., None]


def head_outputs(config: PretrainedConfig, weights: Mapping[str, Tensor]) -> list[str] | None:
    """Names of the regression head's outputs, from the labels in the encoder's config; None without a head.

    A head that names other things than the three dimensions (a classifier of emotions) is not used.
    """
    if "classifier.out_proj.weight" not in weights or "classifier.dense.weight" not in weights:
        return None
    names = [str(name).lower() for _, name in sorted((config.id2label or {}).items())]
    return names if sorted(names) == sorted(DIMENSIONS) else None


def checkpoint_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's own checkpoint, renamed to the parameters of `EmotionEncoder`.

    Understands models with a task head (keys under `wav2vec2.`, `hubert.`, `wavlm.` ...) and bare encoders, and both
    spellings of weight norm (`weight_g`, `weight_v` and the parametrised one).
    """
    prefix = _prefix(weights)
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith(("classifier.dense.", "classifier.out_proj.")):
            renamed[key] = value
        elif key.startswith(prefix):
            stem, _, last = key.removeprefix(prefix).rpartition(".")
            renamed[f"backbone.{stem}.{WEIGHT_NORM_NAMES.get(last, last)}" if stem else f"backbone.{last}"] = value
    return renamed


def _prefix(weights: Mapping[str, Tensor]) -> str:
    """What stands in front of `feature_extractor.` in the keys: empty for a bare encoder."""
    for key in weights:
        head, found, _ = key.partition("feature_extractor.")
        if found:
            return head
    return ""
