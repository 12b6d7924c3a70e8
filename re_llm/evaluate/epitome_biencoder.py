"""The original EPITOME scorer: two RoBERTa encoders, one model per mechanism (Sharma et al., EMNLP 2020, section 5).

The response's states attend to the seeker's states; the first position gives the level, every position says whether
it belongs to the rationale. Parameter names are those of the authors' files, so their state dicts load as they are.

The authors' code lets the attention see the seeker's padding, so a score depends on padding to 64 tokens;
`original=True` reproduces that, the default masks it. B batch, T response tokens, S seeker tokens, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

from re_llm.errors import RellmError
from re_llm.evaluate.epitome import LEVELS, MECHANISMS, Empathy, Level

WINDOW = 64  # tokens of each text, end marks included, in the authors' recipe
# Stored by the authors, used by nothing: poolers, the norm beside the attention, position buffers of old transformers.
UNUSED = ("pooler.", "norm.", "position_ids")
ENCODERS = ("seeker_encoder.roberta.", "responder_encoder.roberta.")


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
    from safetensors.torch import load_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    for path in (weights, config):
        if not path.is_file():
            raise RellmError(
                f"no {path.name} in {folder}",
                todo="A .pth file of the authors is converted by re_llm.evaluate.epitome_biencoder.convert_checkpoint",
            )
    settings = json.loads(config.read_text(encoding="utf-8"))
    model = BiEncoder(RobertaConfig(**settings), original=original)
    state = {name: tensor.float() for name, tensor in load_file(weights).items()}
    return load_state(model, state, str(weights)).eval()


def save_biencoder(model: BiEncoder, folder: Path) -> None:
    """Writes what `load_biencoder` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_diff_dict(), indent=1) + "\n", encoding="utf-8")


def convert_checkpoint(path: Path, folder: Path, config: RobertaConfig | None = None) -> None:
    """Rewrites a `.pth` state dict of the authors as safetensors; the pickle is read with `weights_only=True`.

    Args:
        config: of the encoders; None for that of roberta-base.

    Raises:
        RellmError: the file holds something else.
    """
    base = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise RellmError(f"{path} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RellmError(f"{path} holds no state dict")
    save_biencoder(load_state(BiEncoder(config or base), state, str(path)), folder)


def token_spans(offsets: Sequence[Sequence[int]], marked: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """Character spans of runs of marked tokens; empty offsets are tokens without text."""
    spans: list[tuple[int, int]] = []
    open_run = False
    for (start, end), mark in zip(offsets, marked, strict=True):
        if not mark or start == end:
            open_run = False
        elif open_run:
            spans[-1] = (spans[-1][0], int(end))
        else:
            spans.append((int(start), int(end)))
            open_run = True
    return tuple(spans)


class BiEncoderScorer:
    """Levels and rationales from three bi-encoders.

    Args:
        models: one per mechanism.
        window: tokens of each text; what lies beyond is not seen (64 in the authors' recipe).
    """

    def __init__(
        self, models: dict[str, BiEncoder], tokenizer: Any, *, window: int = WINDOW, batch_size: int = 32,
        device: str = "cpu",
    ):  # fmt: skip
        missing = [mechanism for mechanism in MECHANISMS if mechanism not in models]
        if missing:
            raise RellmError(f"there is no bi-encoder for {missing[0]}", allowed=", ".join(MECHANISMS))
        original = any(model.original for model in models.values())
        self.name = f"biencoder-{'original-' if original else ''}{window}"
        self.models = {mechanism: models[mechanism].to(device).eval() for mechanism in MECHANISMS}
        self.tokenizer, self.window, self.batch_size, self.device = tokenizer, window, batch_size, device
        self._padding: str | bool = "max_length" if original else True

    @classmethod
    def load(cls, folder: Path, *, original: bool = False, **options: Any) -> BiEncoderScorer:
        """From a folder with the tokenizer of the encoders and a folder for each of ER, IP, EX.

        Raises:
            RellmError: a part is missing or wrong. Nothing is downloaded.
        """
        folder = Path(folder)
        models = {m: load_biencoder(folder / m, original=original) for m in MECHANISMS}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise RellmError(
                f"{folder} holds no tokenizer: {error}", todo="Put the tokenizer files of roberta-base there"
            ) from error
        return cls(models, tokenizer, **options)

    def _encode(self, texts: Sequence[str]) -> Any:
        return self.tokenizer(
            list(texts), truncation=True, max_length=self.window, padding=self._padding, return_tensors="pt",
            return_offsets_mapping=True, return_token_type_ids=False,
        )  # fmt: skip

    @torch.inference_mode()
    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """Levels of ER, IP and EX with probabilities and rationales, in the order of the responses.

        Raises:
            ValueError: the two lists differ in length.
        """
        if len(seekers) != len(responses):
            raise ValueError(f"{len(seekers)} seekers but {len(responses)} responses")
        # Alike lengths share a batch: padding costs as much as text.
        order = sorted(range(len(responses)), key=lambda i: len(responses[i]) + len(seekers[i]))
        found: list[Empathy] = [{} for _ in responses]
        for start in range(0, len(order), self.batch_size):
            members = order[start : start + self.batch_size]
            self._score_batch([seekers[i] for i in members], [responses[i] for i in members], members, found)
        return found

    def _score_batch(
        self, seekers: list[str], responses: list[str], members: list[int], found: list[Empathy]
    ) -> None:  # fmt: skip
        heard, said = self._encode(seekers), self._encode(responses)
        inputs = [
            t.to(self.device) for t in (heard.input_ids, heard.attention_mask, said.input_ids, said.attention_mask)
        ]
        offsets = said.offset_mapping.tolist()
        for mechanism, model in self.models.items():
            output = model(*inputs)
            probabilities = output.empathy_logits.float().softmax(-1).cpu().tolist()
            marked = (output.rationale_logits.argmax(-1).bool() & inputs[3].bool()).cpu().tolist()
            for row, member in enumerate(members):
                p = probabilities[row]
                level = p.index(max(p))
                spans = token_spans(offsets[row], marked[row]) if level else ()
                found[member][mechanism] = Level(level, (p[0], p[1], p[2]), spans)
