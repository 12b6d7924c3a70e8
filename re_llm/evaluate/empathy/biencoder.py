"""The original EPITOME scorer: two RoBERTa encoders, one model per mechanism (Sharma et al., EMNLP 2020, section 5).

The response's states attend to the seeker's states; the first position gives the level, every position says whether
it belongs to the rationale. Parameter names are those of the authors' files, so their state dicts load as they are.

The authors' code lets the attention see the seeker's padding, so a score depends on padding to 64 tokens;
`original=True` reproduces that, the default masks it. B batch, T response tokens, S seeker tokens, D width.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaConfig, RobertaModel

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import LEVELS

WINDOW = 64  # tokens of each text, end marks included, in the authors' recipe
# Stored by the authors, used by nothing: poolers, the norm beside the attention, position buffers of old transformers.
UNUSED = ("pooler.", "norm.", "position_ids")
BASE_VOCABULARY = 50265  # of roberta-base


class CrossAttention(nn.Module):
    """One head of scaled dot products: responses [B, T, D] look at seekers [B, S, D]; returns [B, T, D]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.q_linear, self.k_linear, self.v_linear = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, response: Tensor, seeker: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.q_linear(response) @ self.k_linear(seeker).transpose(1, 2) / math.sqrt(seeker.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
        attended: Tensor = self.out(self.dropout(scores.softmax(-1)) @ self.v_linear(seeker))
        return attended


class LevelHead(nn.Module):
    """[B, T, D] -> [B, 3], from the first position."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.dense, self.out_proj = nn.Linear(width, width), nn.Linear(width, LEVELS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        hidden = torch.relu(self.dense(self.dropout(states[:, 0])))
        logits: Tensor = self.out_proj(self.dropout(hidden))
        return logits


@dataclass
class BiEncoderOutput:
    empathy_logits: Tensor  # [B, 3]
    rationale_logits: Tensor  # [B, T, 2]


class BiEncoder(nn.Module):
    """One mechanism.

    Args:
        original: attend to the seeker's padding, as the authors' code does; feed it texts padded to 64 tokens then.
    """

    def __init__(self, config: RobertaConfig, *, original: bool = False):
        super().__init__()
        self.config, self.original = config, original
        self.seeker_encoder = nn.ModuleDict({"roberta": RobertaModel(config, add_pooling_layer=False)})
        self.responder_encoder = nn.ModuleDict({"roberta": RobertaModel(config, add_pooling_layer=False)})
        width, dropout = config.hidden_size, config.hidden_dropout_prob
        self.attn = CrossAttention(width, dropout)
        self.dropout = nn.Dropout(dropout)
        self.empathy_classifier = LevelHead(width, dropout)
        self.rationale_classifier = nn.Linear(width, 2)

    def forward(
        self, seeker_ids: Tensor, seeker_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> BiEncoderOutput:
        """Ids and masks [B, S] and [B, T]; masks are 1 at real tokens."""
        seeker = self.seeker_encoder["roberta"](seeker_ids, attention_mask=seeker_mask).last_hidden_state
        response = self.responder_encoder["roberta"](response_ids, attention_mask=response_mask).last_hidden_state
        states = response + self.attn(response, seeker, None if self.original else seeker_mask)
        states = self.dropout(states)
        return BiEncoderOutput(self.empathy_classifier(states), self.rationale_classifier(states))


def biencoder_loss(
    output: BiEncoderOutput, levels: Tensor, rationales: Tensor, response_mask: Tensor,
    *, empathy_weight: float = 1.0, rationale_weight: float = 0.5,
) -> dict[str, Tensor]:  # fmt: skip
    """Cross-entropies of level and rationale, and their weighted sum `loss`.

    Args:
        levels: [B]. rationales: [B, T], 1 at tokens of a rationale; only tokens with mask 1 count.
    """
    empathy = F.cross_entropy(output.empathy_logits, levels)
    real = response_mask.bool()
    rationale = F.cross_entropy(output.rationale_logits[real], rationales[real])
    return {"empathy": empathy, "rationale": rationale, "loss": empathy_weight * empathy + rationale_weight * rationale}


def load_state(model: BiEncoder, state: dict[str, Tensor], where: str) -> BiEncoder:
    """Loads the authors' (or our) state dict.

    Raises:
        RellmError: parameters are missing, unknown, or of another shape.
    """
    used = {name: tensor for name, tensor in state.items() if not any(part in name for part in UNUSED)}
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - used.keys()), sorted(used.keys() - own.keys())
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds the unknown {unknown[0]!r}"
        raise RellmError(f"{where} is no EPITOME bi-encoder: it {what}")
    for name, tensor in used.items():
        if tensor.shape != own[name].shape:
            raise RellmError(
                f"{where}: {name} has shape {list(tensor.shape)}, its config.json wants {list(own[name].shape)}"
            )
    model.load_state_dict(used)
    return model


def load_biencoder(folder: Path, *, original: bool = False) -> BiEncoder:
    """A model from `config.json` and `model.safetensors`, in eval mode, float32.

    Raises:
        RellmError: a file is missing or is not of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    for path in (weights, config):
        if not path.is_file():
            raise RellmError(
                f"no {path.name} in {folder}",
                todo="Train it with `re-llm score train`; the authors' .pth files are read by `re-llm score convert`",
            )
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        state = {name: tensor.float() for name, tensor in load_file(weights).items()}
        model = BiEncoder(RobertaConfig(**settings), original=original)
    except (ValueError, TypeError, SafetensorError) as error:
        raise RellmError(f"{folder} holds no EPITOME bi-encoder: {error}") from error
    return load_state(model, state, str(weights)).eval()


def save_biencoder(model: BiEncoder, folder: Path) -> None:
    """Writes what `load_biencoder` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_diff_dict(), indent=1) + "\n", encoding="utf-8")


def convert_checkpoint(
    path: Path, folder: Path, config: RobertaConfig | None = None, *, vocabulary: int | None = None
) -> None:
    """Rewrites a `.pth` state dict of the authors as safetensors; the pickle is read with `weights_only=True`.

    Args:
        config: of the encoders; None for that of roberta-base.
        vocabulary: tokens of the tokenizer that will be used with it; None if that is not known yet.

    Raises:
        RellmError: the file holds something else, or the tokenizer is not of its encoders.
    """
    config = config or RobertaConfig(
        vocab_size=BASE_VOCABULARY, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    if vocabulary not in (None, config.vocab_size):
        raise RellmError(f"the tokenizer has {vocabulary} tokens, {path.name} wants {config.vocab_size}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise RellmError(f"{path} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RellmError(f"{path} holds no state dict")
    save_biencoder(load_state(BiEncoder(config), state, str(path)), folder)
