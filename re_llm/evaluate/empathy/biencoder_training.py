"""Trains an EPITOME bi-encoder by the authors' recipe: seeker encoder frozen, AdamW 2e-5 with linear decay, 4 epochs.

Faults of the authors' code that are not repeated: it drops a row when its decoded tokens do not number 64 again, it
finds rationales by regular expressions that their own text breaks (here they are placed by character), it averages
measures over batches, and its attention sees the seeker's padding (`original=True` brings that back).
N pairs, T = window tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.biencoder import WINDOW, BiEncoder, biencoder_loss
from re_llm.evaluate.empathy.biencoder_start import Start
from re_llm.evaluate.empathy.epitome import Pair
from re_llm.evaluate.empathy.measures import macro_f1
from re_llm.evaluate.empathy.rationales import rationale_measures
from re_llm.llm.device import pick_device


@dataclass(frozen=True)
class BiEncoderOptions:
    """The published recipe. Losses: empathy_weight * level + rationale_weight * rationale.

    `freeze_seeker`: the seeker's encoder keeps the weights it starts with. `patience`: epochs without a better
    macro-F1 on the development pairs after which training stops; 0 for all epochs. `original`: attend to padding.
    """

    lr: float = 2e-5
    batch_size: int = 32
    epochs: int = 4
    max_grad_norm: float = 1.0
    seed: int = 12
    window: int = WINDOW
    empathy_weight: float = 1.0
    rationale_weight: float = 0.5
    freeze_seeker: bool = True
    patience: int = 0
    original: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size", "epochs", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise RellmError(f"{name} = {getattr(self, name)} must be above 0")
        for name in ("empathy_weight", "rationale_weight", "patience"):
            if getattr(self, name) < 0:
                raise RellmError(f"{name} = {getattr(self, name)} must not be below 0")
        if self.window < 8:
            raise RellmError(f"window = {self.window} is too short", allowed="8 tokens or more")


@dataclass
class Trained:
    """A trained mechanism: loss of every step, macro-F1 on the development pairs after every epoch, the best epoch."""

    model: BiEncoder
    losses: list[float] = field(default_factory=list)
    dev_macro_f1: list[float] = field(default_factory=list)
    best_epoch: int = 0


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], window: int) -> dict[str, Tensor]:
    """Ids and masks of both texts [N, T], levels [N], rationales [N, T] (1 at tokens inside a rationale)."""
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
    pairs: Sequence[Pair], start: Start, options: BiEncoderOptions | None = None, *, dev: Sequence[Pair] = (),
    device: str = "cpu", advance: Callable[[int], None] = lambda n: None,
) -> Trained:  # fmt: skip
    """Trains one mechanism.

    Args:
        pairs: of one EPITOME csv file (`read_pairs`).
        start: what both encoders begin with.
        dev: pairs that early stopping looks at; needed when `options.patience` is above 0.
        advance: called with the number of pairs of every step.

    Returns:
        The model in eval mode on the CPU: of the last epoch, or of the best one with early stopping.

    Raises:
        RellmError: early stopping without development pairs, or a window that the encoder has no positions for.
    """
    options = options or BiEncoderOptions()
    if options.patience and not dev:
        raise RellmError("early stopping needs development pairs", todo="Give a share of the data for them")
    where = pick_device(device)
    torch.manual_seed(options.seed)
    model = begin(start, options).to(where)
    data = _to(encode_pairs(start.tokenizer, pairs, options.window), where)
    held = _to(encode_pairs(start.tokenizer, dev, options.window), where) if options.patience else {}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, eps=1e-8, weight_decay=0.0)
    steps = options.epochs * -(-len(pairs) // options.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    shuffle = torch.Generator().manual_seed(options.seed)
    result = Trained(model)
    stop = _EarlyStop(result, held, options) if options.patience else None
    for epoch in range(options.epochs):
        model.train()
        for index in torch.randperm(len(pairs), generator=shuffle).split(options.batch_size):
            result.losses.append(_step(model, {name: t[index.to(where)] for name, t in data.items()}, options))
            torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            advance(len(index))
        if stop is None:
            result.best_epoch = epoch
        elif stop.after(epoch):
            break
    if stop:
        model.load_state_dict(stop.best)
    model.cpu().eval()
    return result


class _EarlyStop:
    """Keeps the weights of the epoch with the best macro-F1 on the development pairs."""

    def __init__(self, result: Trained, held: dict[str, Tensor], options: BiEncoderOptions):
        self.result, self.held, self.options = result, held, options
        self.best: dict[str, Tensor] = {}

    def after(self, epoch: int) -> bool:
        """Judges an epoch; whether to stop."""
        found, _ = predict(self.result.model, self.held, self.options.batch_size)
        f1 = macro_f1(self.held["levels"].cpu().numpy(), found.numpy())
        if f1 > max(self.result.dev_macro_f1, default=-1.0):
            self.best, self.result.best_epoch = copy.deepcopy(self.result.model.state_dict()), epoch
        self.result.dev_macro_f1.append(f1)
        return epoch - self.result.best_epoch >= self.options.patience


def begin(start: Start, options: BiEncoderOptions) -> BiEncoder:
    """A bi-encoder before its first step.

    Raises:
        RellmError: the encoder has too few positions for the window.
    """
    padding = start.config.pad_token_id or 0
    places = start.config.max_position_embeddings - padding - 1
    if options.window > places:
        raise RellmError(f"window = {options.window}, but the encoder has {places} positions", allowed=f"8 to {places}")
    model = BiEncoder(start.config, original=options.original)
    if start.weights is not None:
        model.seeker_encoder["roberta"].load_state_dict(start.weights)
        model.responder_encoder["roberta"].load_state_dict(start.weights)
    else:
        # Both encoders start alike, as they do from a checkpoint.
        model.seeker_encoder["roberta"].load_state_dict(model.responder_encoder["roberta"].state_dict())
    model.seeker_encoder.requires_grad_(not options.freeze_seeker)
    return model


def _to(data: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in data.items()}


def _step(model: BiEncoder, batch: dict[str, Tensor], options: BiEncoderOptions) -> float:
    output = model(batch["seeker_ids"], batch["seeker_mask"], batch["response_ids"], batch["response_mask"])
    terms = biencoder_loss(
        output, batch["levels"], batch["rationales"], batch["response_mask"],
        empathy_weight=options.empathy_weight, rationale_weight=options.rationale_weight,
    )  # fmt: skip
    terms["loss"].backward()
    return float(terms["loss"].detach())


@torch.inference_mode()
def predict(model: BiEncoder, data: dict[str, Tensor], batch_size: int) -> tuple[Tensor, Tensor]:
    """Levels [N] and rationales [N, T] (0 and 1, 0 at padding) of encoded pairs, on the CPU; leaves eval mode on."""
    model.eval()
    levels, rationales = [], []
    for start in range(0, len(data["levels"]), batch_size):
        rows = slice(start, start + batch_size)
        mask = data["response_mask"][rows]
        output = model(data["seeker_ids"][rows], data["seeker_mask"][rows], data["response_ids"][rows], mask)
        levels.append(output.empathy_logits.argmax(-1).cpu())
        rationales.append((output.rationale_logits.argmax(-1) * mask).cpu())
    return torch.cat(levels), torch.cat(rationales)


def judge_pairs(
    model: BiEncoder, tokenizer: Any, pairs: Sequence[Pair], *, window: int = WINDOW, batch_size: int = 32
) -> tuple[Any, dict[str, float]]:
    """Levels [N] that the model finds, and how well its rationales agree; over all pairs, whatever the batch size."""
    data = encode_pairs(tokenizer, pairs, window)
    levels, rationales = predict(model, data, batch_size)
    lengths = [max(0, int(n) - 2) for n in data["response_mask"].sum(1)]
    agreement = rationale_measures(rationales.numpy(), data["rationales"].numpy(), lengths)
    return levels.numpy(), {name: round(value, 4) for name, value in agreement.items()}
