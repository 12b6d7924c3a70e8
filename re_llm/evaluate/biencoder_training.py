"""Trains an EPITOME bi-encoder by the authors' recipe: seeker encoder frozen, AdamW 2e-5 with linear decay, 4 epochs.

Faults of the authors' code that are not repeated: their script drops a row when its decoded tokens do not number 64
again, and finds rationales by regular expressions that their own text breaks; here rationales are placed by character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoTokenizer, RobertaConfig, RobertaModel, get_linear_schedule_with_warmup

from re_llm.errors import RellmError
from re_llm.evaluate.epitome import Pair
from re_llm.evaluate.epitome_biencoder import WINDOW, BiEncoder, biencoder_loss, save_biencoder

MIN_IOU = 0.5


@dataclass(frozen=True)
class BiEncoderOptions:
    """The published recipe. Losses: empathy_weight * level + rationale_weight * rationale."""

    lr: float = 2e-5
    batch_size: int = 32
    epochs: int = 4
    clip: float = 1.0
    seed: int = 12
    window: int = WINDOW
    empathy_weight: float = 1.0
    rationale_weight: float = 0.5
    original: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "epochs", "clip", "window"):
            if getattr(self, name) <= 0:
                raise RellmError(f"{name} = {getattr(self, name)} must be above 0")


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], window: int) -> dict[str, Tensor]:
    """Ids and masks of both texts [N, window], levels [N], rationales [N, window] (1 at tokens inside a rationale)."""
    common = {"truncation": True, "max_length": window, "padding": "max_length", "return_tensors": "pt"}
    heard = tokenizer([pair.seeker for pair in pairs], **common)
    said = tokenizer([pair.response for pair in pairs], return_offsets_mapping=True, **common)
    rationales = torch.zeros_like(said.input_ids)
    for row, pair in enumerate(pairs):
        start, end = said.offset_mapping[row].unbind(-1)
        for a, b in pair.spans:
            rationales[row] |= ((start < b) & (end > a) & (end > start)).long()
    return {
        "seeker_ids": heard.input_ids,
        "seeker_mask": heard.attention_mask,
        "response_ids": said.input_ids,
        "response_mask": said.attention_mask,
        "levels": torch.tensor([pair.level for pair in pairs]),
        "rationales": rationales,
    }


def train_biencoder(
    pairs: Sequence[Pair], encoder: Path, out: Path, options: BiEncoderOptions | None = None, *, device: str = "cpu"
) -> list[float]:
    """Trains one mechanism and writes it to `out` (read by `load_biencoder`).

    Args:
        pairs: of one EPITOME csv file (`read_pairs`).
        encoder: local folder of a RoBERTa model with its tokenizer; both encoders start from it.

    Returns:
        Loss of every step.

    Raises:
        RellmError: the encoder cannot be read.
    """
    options = options or BiEncoderOptions()
    torch.manual_seed(options.seed)
    model, tokenizer = _start(Path(encoder), options)
    model.to(device).train()
    data = {name: tensor.to(device) for name, tensor in encode_pairs(tokenizer, pairs, options.window).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, eps=1e-8, weight_decay=0.0)
    steps = options.epochs * -(-len(pairs) // options.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    shuffle = torch.Generator().manual_seed(options.seed)
    losses = []
    for _ in range(options.epochs):
        for index in torch.randperm(len(pairs), generator=shuffle).split(options.batch_size):
            losses.append(_step(model, {name: tensor[index.to(device)] for name, tensor in data.items()}, options))
            torch.nn.utils.clip_grad_norm_(trained, options.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    save_biencoder(model.cpu().eval(), Path(out))
    return losses


def _start(encoder: Path, options: BiEncoderOptions) -> tuple[BiEncoder, Any]:
    try:
        config = RobertaConfig.from_pretrained(encoder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        weights = RobertaModel.from_pretrained(
            encoder, local_files_only=True, add_pooling_layer=False, use_safetensors=True
        ).state_dict()
    except (OSError, ValueError) as error:
        raise RellmError(f"{encoder} holds no RoBERTa model with its tokenizer: {error}") from error
    model = BiEncoder(config, original=options.original)
    model.seeker_encoder["roberta"].load_state_dict(weights)
    model.responder_encoder["roberta"].load_state_dict(weights)
    model.seeker_encoder.requires_grad_(False)
    return model, tokenizer


def _step(model: BiEncoder, batch: dict[str, Tensor], options: BiEncoderOptions) -> float:
    output = model(batch["seeker_ids"], batch["seeker_mask"], batch["response_ids"], batch["response_mask"])
    terms = biencoder_loss(
        output, batch["levels"], batch["rationales"], batch["response_mask"],
        empathy_weight=options.empathy_weight, rationale_weight=options.rationale_weight,
    )  # fmt: skip
    terms["loss"].backward()
    return float(terms["loss"].detach())


def _runs(marks: npt.NDArray[Any], original: bool) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks, [0]])))
    runs = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    # The authors end a run at the last token one token early, so that a run of this one token is empty.
    return [(a, min(b, len(marks) - 1)) for a, b in runs] if original else runs


def _iou_f1(found: list[tuple[int, int]], true: list[tuple[int, int]]) -> float:
    hits = 0
    for a, b in found:
        overlaps = [(min(b, d) - max(a, c), max(b, d) - min(a, c)) for c, d in true]
        hits += any(union > 0 and both / union >= MIN_IOU for both, union in overlaps)
    if not hits:
        return 0.0
    precision, recall = hits / len(found), hits / len(true)
    return 2 * precision * recall / (precision + recall)


def rationale_measures(
    found: npt.NDArray[Any], true: npt.NDArray[Any], lengths: Sequence[int], *, original: bool = False
) -> dict[str, float]:
    """Token accuracy, token F1 and IoU-F1 (runs that overlap by half), each the mean over the rows.

    Args:
        found, true: [N, T] of 0 and 1, the first column being the start mark, which is left out.
        lengths: how many tokens after it count.
        original: end runs as the authors' code does.
    """
    accuracy, f1, iou = [], [], []
    for row, (marks, labels) in enumerate(zip(found, true, strict=True)):
        a, b = marks[1 : 1 + lengths[row]], labels[1 : 1 + lengths[row]]
        accuracy.append(float((a == b).mean()))
        both = int((a & b).sum())
        f1.append(2 * both / max(1, int(a.sum() + b.sum())))
        iou.append(_iou_f1(_runs(a, original), _runs(b, original)))
    return {"accuracy": float(np.mean(accuracy)), "f1": float(np.mean(f1)), "iou_f1": float(np.mean(iou))}
