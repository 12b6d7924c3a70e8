"""A checkpoint of this package in the released format of BLSP-Emo, or of RE-LLM when it has an emotion encoder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from re_llm.core.errors import RellmError
from re_llm.model import partial_lora
from re_llm.model.components import PREFIXES, checkpoint_config
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.convert import config as convert_config
from re_llm.model.convert.checkpoint import laid_out
from re_llm.model.convert.generation import released_generation
from re_llm.model.convert.names import Layout, Piece, join
from re_llm.model.convert.plan import ConversionPlan, ConvertReport, Target
from re_llm.model.convert.tokenizer import TIKTOKEN, write_ranks
from re_llm.model.generation import NAME
from re_llm.model.hub import reading
from re_llm.model.processing import load_processor
from re_llm.model.storage import own_weights
from re_llm.model.weights import Stored, below, check_same, lora_file, stored_file, stored_tensors

_NO_PLACE = {
    "ctc_blank": "the blank of the adapter_ctc loss, which the released code has not",
    "dimension_head.weight": "BLSP-Emo has no dimensional head",
}


def plan(source: Path) -> ConversionPlan:
    """What the conversion will do.

    Raises:
        RellmError: the checkpoint has parts that the released format cannot express, or is broken.
    """
    config = checkpoint_config(source)
    _check(config, source)
    fused = config.emotion_config is not None
    layout = Layout(
        llm="qwen_model.model." if config.lora is not None else "qwen_model.",
        adapter="w2v2cat_adapter." if fused else "adapter.",
        plain_adapter=config.adapter.kind != "subsampler",
    )
    given = convert_config.released_config(config, str(source))
    stored = stored_tensors(source)
    lora, config.lora = config.lora, None
    with reading(source / "config.json"):
        model = laid_out(config, lora)
    expected = own_weights(model, model.state_dict(), {})
    check_same(expected, {name: each.meta() for name, each in stored.items()}, source)
    left_out = {name: why for name, why in _NO_PLACE.items() if name in expected and not (fused and "head" in name)}
    notes: list[str] = []
    made = _weights(config, layout, stored, left_out, notes)
    if lora is not None:
        peft = stored_file(lora_file(source))
        names = partial_lora.split_weights(below(model.state_dict(), PREFIXES["llm"]))[1]
        check_same(names, {name: each.meta() for name, each in peft.items()}, lora_file(source))
        made |= _lora(layout, peft, given, notes)
        stored = {**stored, **peft}
    if not (source / "tokenizer.json").is_file():
        notes.append(f"no tokenizer in {source}: the original code also needs one, and a pad_token_id in {NAME}")
    report = ConvertReport("re-llm", "re-llm (released)" if fused else "blsp-emo", left_out=left_out, notes=notes)
    return ConversionPlan(report, stored, made, partial(_finish, source, given, config.speech_token_id))


def _check(config: ReLlmConfig, source: Path) -> None:
    elsewhere = [f"{name} in {place}" for name, place in config.components.items() if place is not None]
    if elsewhere:
        raise RellmError(
            f"the checkpoint {source} keeps its {elsewhere[0]}, not in its own files",
            todo="Store it whole first: ReLlmForConditionalGeneration.from_pretrained(OLD).save_pretrained(NEW, "
            "self_contained=True)",
        )
    if config.fusion == "frames":
        what = f"the fusion of {source} is `frames`, and the released code repeats one vector"
        raise RellmError(what, allowed="pooled, none")


def _weights(
    config: ReLlmConfig, layout: Layout, stored: Mapping[str, Stored], left_out: Mapping[str, str], notes: list[str]
) -> dict[str, Target]:
    """All but LoRA."""
    groups: dict[str, list[tuple[Piece, str]]] = defaultdict(list)
    for name in stored:
        if name not in left_out:
            piece = layout.find(name)
            groups[piece.name].append((piece, name))
    made = {}
    for name, parts in groups.items():
        parts.sort(key=lambda each: each[0].part or 0)
        made[name] = _joined([piece for piece, _ in parts], [ours for _, ours in parts], stored)
    released = convert_config.emotion_names(len(config.emotions))
    if sorted(released) == sorted(config.emotions):
        rows = tuple(config.emotions.index(name) for name in released)
        head = Piece("hidden2emotion.weight", rows=rows)
        made[head.name] = _joined([head], ["emotion_head.weight"], stored)
    else:
        notes.append(f"the outputs of hidden2emotion are {', '.join(config.emotions)}; the released order is another")
    return made


def _joined(parts: list[Piece], sources: list[str], stored: Mapping[str, Stored]) -> Target:
    def make(*values: Tensor) -> Tensor:
        return join(zip(parts, values, strict=True))

    return Target(tuple(sources), make, sum(stored[name].meta().nbytes for name in sources))


# --- LoRA ------------------------------------------------------------------------------------------------------------


def _lora(layout: Layout, peft: Mapping[str, Stored], given: dict[str, object], notes: list[str]) -> dict[str, Target]:
    """LoRA on the fused layer: one A for q, k and v where they still share it, else all three A below each other.

    In the second case B becomes block diagonal and the rank three times as high; every other layer is padded with
    zeros to that rank, and alpha grows with it, so that the function stays the same.
    """
    groups: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
    for name in peft:
        if ".lora_A." in name:
            piece = layout.find_llm(name.removeprefix(partial_lora.PEFT_PREFIX).partition(".lora_A.")[0] + ".")
            groups[piece.name][piece.part or 0] = (name, name.replace(".lora_A.", ".lora_B."))
    shared = all(
        torch.equal(peft[parts[0][0]].read(), peft[parts[part][0]].read())
        for parts in groups.values()
        for part in parts
    )
    times = 1 if shared else 3
    if not shared:
        config = given["lora_config"]
        assert isinstance(config, dict)
        config["r"], config["lora_alpha"] = times * config["r"], times * config["lora_alpha"]
        notes.append("q, k and v have learned a LoRA of their own: the rank is tripled, the function is the same")
    made = {}
    for released, parts in groups.items():
        order = [parts[part] for part in sorted(parts)]
        first, second = [a for a, _ in order], [b for _, b in order]
        for kind, names, make in (("A", first, _fuse_a), ("B", second, _fuse_b)):
            size = times * sum(peft[each].meta().nbytes for each in names)
            made[f"{released}lora_{kind}.default.weight"] = Target(tuple(names), partial(make, times=times), size)
    return made


def _fuse_a(*values: Tensor, times: int) -> Tensor:
    if times == 1:
        return values[0]
    return torch.cat([*values, *[torch.zeros_like(values[0])] * (times - len(values))])


def _fuse_b(*values: Tensor, times: int) -> Tensor:
    if times == 1:
        return torch.cat(values)
    rank = values[0].shape[1]
    fused = values[0].new_zeros(sum(len(value) for value in values), times * rank)
    row = 0
    for i, value in enumerate(values):
        fused[row : row + len(value), i * rank : (i + 1) * rank] = value
        row += len(value)
    return fused


# --- what is not weights ---------------------------------------------------------------------------------------------


def _finish(source: Path, given: Mapping[str, object], speech_token: int | None, folder: Path) -> None:
    tokenizer = None
    if (source / "tokenizer.json").is_file():
        processor = load_processor(source)
        tokenizer = processor.tokenizer
        processor.feature_extractor.save_pretrained(folder)
        write_ranks(tokenizer, folder / TIKTOKEN)
    generation = released_generation(source, tokenizer, given, speech_token)
    for name, values in (("config.json", given), (NAME, generation)):
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
