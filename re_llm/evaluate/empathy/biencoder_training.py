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

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, get_linear_schedule_with_warmup

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.biencoder import BiEncoder, biencoder_loss
from re_llm.evaluate.empathy.biencoder_start import BiEncoderOptions, Start
from re_llm.evaluate.empathy.epitome import Pair
from re_llm.evaluate.empathy.measures import macro_f1
from re_llm.evaluate.empathy.rationales import rationale_measures
from re_llm.evaluate.empathy.text_features import Ints
from re_llm.llm.device import pick_device


@dataclass
class Trained:
    """A trained mechanism: loss of every step, macro-F1 on the development pairs after every epoch, the best epoch."""

    model: BiEncoder
    losses: list[float] = field(default_factory=list)
    dev_macro_f1: list[float] = field(default_factory=list)
    best_epoch: int = 0


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], window: int) -> dict[str, Tensor]:
    """Ids and masks of both texts [N, T], levels [N], rationales [N, T] (1 at tokens inside a rationale)."""
    common = {"truncation": True, "max_length": window, "padding": "max_length", "return_tensors": "pt"}
    seekers = tokenizer([pair.seeker for pair in pairs], **common)
    responses = tokenizer([pair.response for pair in pairs], return_offsets_mapping=True, **common)
    rationales = torch.zeros_like(responses.input_ids)
    for row, pair in enumerate(pairs):
        start, end = responses.offset_mapping[row].unbind(-1)
        for a, b in pair.spans:
            rationales[row] |= ((start < b) & (end > a) & (end > start)).long()
    return {
        "seeker_ids": seekers.input_ids,
        "seeker_mask": seekers.attention_mask,
        "response_ids": responses.input_ids,
        "response_mask": responses.attention_mask,
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
        raise RellmError("early stopping needs development pairs", todo="Give a fraction of the data for them")
    where = pick_device(device)
    torch.manual_seed(options.seed)
    result = Trained(initial_model(start, options).to(where))
    model = result.model
    data = _to(encode_pairs(start.tokenizer, pairs, options.window), where)
    held = _to(encode_pairs(start.tokenizer, dev, options.window), where) if options.patience else {}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, eps=1e-8, weight_decay=0.0)
    steps = options.epochs * -(-len(pairs) // options.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    shuffle = torch.Generator().manual_seed(options.seed)
    best: dict[str, Tensor] = {}
    for epoch in range(options.epochs):
        model.train()
        for index in torch.randperm(len(pairs), generator=shuffle).split(options.batch_size):
            result.losses.append(_backward(model, {name: t[index.to(where)] for name, t in data.items()}, options))
            torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            advance(len(index))
        if not options.patience:
            result.best_epoch = epoch
            continue
        f1 = macro_f1(held["levels"].cpu().numpy(), predict(model, held, options.batch_size)[0].numpy())
        if f1 > max(result.dev_macro_f1, default=-1.0):
            best, result.best_epoch = copy.deepcopy(model.state_dict()), epoch
        result.dev_macro_f1.append(f1)
        if epoch - result.best_epoch >= options.patience:
            break
    if best:
        model.load_state_dict(best)
    model.cpu().eval()
    return result


def initial_model(start: Start, options: BiEncoderOptions) -> BiEncoder:
    """A bi-encoder before its first step.

    Raises:
        RellmError: the encoder has too few positions for the window.
    """
    places = start.config.max_position_embeddings - (start.config.pad_token_id or 0) - 1
    if options.window > places:
        raise RellmError(f"window = {options.window}, but the encoder has {places} positions", allowed=f"8 to {places}")
    model = BiEncoder(start.config, original=options.original)
    responder, seeker = model.responder_encoder["roberta"], model.seeker_encoder["roberta"]
    if start.weights is not None:
        responder.load_state_dict(start.weights)
    # Both encoders start alike, also from random weights.
    seeker.load_state_dict(responder.state_dict())
    seeker.requires_grad_(not options.freeze_seeker)
    return model


def _to(data: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in data.items()}


def _backward(model: BiEncoder, batch: dict[str, Tensor], options: BiEncoderOptions) -> float:
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
    model: BiEncoder, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], options: BiEncoderOptions
) -> tuple[Ints, dict[str, float]]:
    """Levels [N] that the model finds, and how well its rationales agree; over all pairs, whatever the batch size."""
    data = encode_pairs(tokenizer, pairs, options.window)
    levels, rationales = predict(model, data, options.batch_size)
    lengths = [max(0, int(n) - 2) for n in data["response_mask"].sum(1)]
    agreement = rationale_measures(rationales.numpy(), data["rationales"].numpy(), lengths)
    return levels.numpy(), {name: round(value, 4) for name, value in agreement.items()}
