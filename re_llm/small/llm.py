"""`re-llm small llm`: teaches the base LLM to answer kindly and to the point, as a LoRA, and merges it.

OUT/lora/   the LoRA in half precision: what ships, a twentieth of the LLM
OUT/llm/    the LLM with the LoRA merged, in float16: the component small:llm
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn

from re_llm.core import files
from re_llm.core.parts import LORA_FILE
from re_llm.core.records import read_records
from re_llm.llm.device import pick_device
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import split_chat
from re_llm.llm.rows import pad_rows
from re_llm.model.losses import IGNORE_INDEX
from re_llm.parts.merged import merge_lora
from re_llm.small.kind_rows import TextRow, continued_rows, kind_rows
from re_llm.small.text import Sentence
from re_llm.train.rows import end_ids

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Kindness:
    """How the LLM is taught.

    Attributes:
        rows: of training, before those that cannot be written.
        rank: of the LoRA on all linear layers.
    """

    rows: int = 12_000
    rank: int = 16
    epochs: int = 3
    batch_size: int = 32
    lr: float = 1e-3
    warmup: int = 20
    seed: int = 0


def teach(
    base: Path,
    sentences: Path,
    out: Path,
    options: Kindness,
    *,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, object]:
    """Trains the LoRA on training sentences, and writes it and the merged LLM.

    Returns:
        Figures of the training, which `out/report.json` holds as well.
    """  # fmt: skip
    started, home = time.monotonic(), pick_device(device)
    texts = [row.text for row in read_records(sentences, Sentence) if row.split == "train"]
    batch = 2048 if home.type == "cuda" else 32
    untrained = ChatLlm.load(str(base), device=device, dtype="bfloat16")
    rows = kind_rows(texts, options.rows, seed=options.seed)
    rows += continued_rows(texts, options.rows, untrained, seed=options.seed, batch_size=batch)
    say(f"llm: {len(rows)} rows after {time.monotonic() - started:.0f} s")
    model = _with_lora(untrained.model.float(), options)
    loss = _fit(model, untrained.tokenizer, rows, options, home, say)
    _save_lora(model, out / "lora", options)
    merge_lora(base, out / "lora", out / "llm")
    figures = {**asdict(options), "trained_rows": len(rows), "loss": loss, "seconds": round(time.monotonic() - started)}
    files.write_json(out / "report.json", figures)
    return figures


def _with_lora(model: nn.Module, options: Kindness) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank, lora_alpha=options.rank, lora_dropout=0.05, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _fit(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[TextRow], options: Kindness,
    home: torch.device, say: Callable[[str], None],
) -> float:  # fmt: skip
    """AdamW with warm-up and linear decay; returns the mean loss of the last tenth of the steps."""
    tokens = [tokenized(tokenizer, row) for row in rows]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    per_epoch = len(rows) // options.batch_size
    steps = max(1, options.epochs * per_epoch)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / options.warmup, max(0.0, 1 - step / steps))
    )
    order = torch.Generator().manual_seed(options.seed)
    losses: list[torch.Tensor] = []
    model.train()
    while len(losses) < steps:
        shuffled = torch.randperm(len(rows), generator=order).tolist()
        for first in range(0, max(1, per_epoch) * options.batch_size, options.batch_size):
            batch = [tokens[i] for i in shuffled[first : first + options.batch_size]]
            with torch.autocast(home.type, torch.bfloat16):
                loss = _loss(model, batch, pad, home)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            if len(losses) % 50 == 0:
                say(f"llm: step {len(losses)} of {steps}, loss {torch.stack(losses[-50:]).mean().item():.3f}")
    return round(torch.stack(losses[-max(1, steps // 10) :]).mean().item(), 4)


def tokenized(tokenizer: PreTrainedTokenizerBase, row: TextRow) -> tuple[list[int], int]:
    """Token ids of a row, its pieces tokenised each on its own, and where the answer begins."""
    before, after = split_chat(tokenizer, row.prompt)
    asked = [
        i for piece in (before, row.content, after) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]
    ]
    answer = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
    return asked + answer + ([] if row.cut else end_ids(tokenizer)), len(asked)


def _loss(model: nn.Module, batch: Sequence[tuple[list[int], int]], pad: int, home: torch.device) -> torch.Tensor:
    ids, mask = pad_rows([row for row, _ in batch], pad)
    labels = ids.masked_fill(mask == 0, IGNORE_INDEX)
    for i, (_, begin) in enumerate(batch):
        labels[i, :begin] = IGNORE_INDEX
    return model(input_ids=ids.to(home), attention_mask=mask.to(home), labels=labels.to(home)).loss


def _save_lora(model: PeftModel, out: Path, options: Kindness) -> None:
    from peft import get_peft_model_state_dict

    out.mkdir(parents=True, exist_ok=True)
    held = get_peft_model_state_dict(model)
    save_file({name: value.half().cpu().contiguous() for name, value in held.items()}, out / LORA_FILE)
    about = {"peft_type": "LORA", "r": options.rank, "lora_alpha": options.rank, "target_modules": list(TARGETS)}
    files.write_json(out / "adapter_config.json", {**about, "task_type": "CAUSAL_LM"})
