"""What a new model takes over from the checkpoint of an earlier stage; nothing of it is left out without a word."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.model import partial_lora
from re_llm.model.adapter import Subsampler, copy_widened
from re_llm.model.components import PREFIXES, checkpoint_config, own_tensors
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.hub import locate
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_speech_encoder
from re_llm.model.storage import own_weights
from re_llm.model.weights import (
    Stored,
    below,
    check_same,
    grouped_reasons,
    load_into,
    lora_file,
    lora_weights,
    refuse_non_finite,
    stored_file,
)

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration


@dataclass
class Transfer:
    """What became of the tensors of a checkpoint that a training starts from.

    Attributes:
        taken: part of the model -> number of tensors that it took over.
        left_out: tensor -> why the new model has no place for it.
        notes: what else differs between the two.
    """

    start: str
    taken: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        """Lines for a person."""
        taken = ", ".join(f"{part} ({count} tensors)" for part, count in self.taken.items())
        return [f"from {self.start}: {taken or 'nothing'}", *grouped_reasons(self.left_out), *self.notes]


def continue_from(
    model: ReLlmForConditionalGeneration,
    checkpoint: str | os.PathLike[str],
    *,
    adapter: Literal["copy", "fresh"] = "copy",
    scale: float = 0.1,
) -> Transfer:
    """Takes over what an earlier stage's checkpoint holds, in place: components that it stores, adapter, heads, LoRA.

    Args:
        checkpoint: folder or hub id.
        adapter: `copy` takes its adapter, widened when emotion channels are new (see `copy_widened`); `fresh` leaves
            it out.
        scale: factor on the fresh weights of new emotion channels.

    Returns:
        what was taken and what was left out; every tensor of the checkpoint is in one of the two.

    Raises:
        RellmError: the adapter options, a stored component, the LLM or the LoRA options of the two differ.
    """
    if adapter not in ("copy", "fresh"):
        raise RellmError(f"init_adapter is {adapter!r}", allowed="copy, fresh")
    folder = locate(checkpoint)
    config = checkpoint_config(folder)
    stored = own_tensors(folder, config)
    report = Transfer(str(folder))
    for part, prefix in PREFIXES.items():
        _take_component(model, part, {k: v for k, v in stored.items() if k.startswith(prefix)}, folder, report)
        _note_other_source(model, config, part, folder, report)
    if isinstance(model.emotion_encoder, SharedEmotionEncoder):
        check_speech_encoder(model.emotion_encoder.config, model.speech_encoder)
    learned = {name for name in stored if name.startswith("adapter.") or name == "ctc_blank"}
    if adapter == "fresh":
        report.left_out.update(dict.fromkeys(learned, "init_adapter is fresh"))
    else:
        weights = _read(stored, sorted(learned), folder)
        _take_adapter(model, config, below(weights, "adapter."), folder, scale)
        if "ctc_blank" in weights:
            model.add_ctc_blank()
            _copy({"ctc_blank": model.state_dict()["ctc_blank"]}, {"ctc_blank": stored["ctc_blank"]}, folder)
        report.taken["adapter"] = len(weights)
    _take_heads(model, config, stored, folder, report)
    _take_lora(model, config, folder, report)
    _take_guards(model, config, adapter == "copy", report)
    known = (*PREFIXES.values(), "adapter.", "emotion_head.", "dimension_head.")
    unknown = {name for name in stored if not name.startswith(known) and name != "ctc_blank"}
    report.left_out.update(dict.fromkeys(sorted(unknown), "not known: no part of the model asks for it"))
    model.taken_over = report
    return report


def _take_guards(model: ReLlmForConditionalGeneration, config: ReLlmConfig, copied: bool, report: Transfer) -> None:
    """What a checkpoint refuses to answer, which no tensor holds (re_llm.inference.careful)."""
    if getattr(config, "careful", False):
        model.config.careful = True
    limit = getattr(config, "words_unsure_below", None)
    if limit is not None and copied:
        model.config.words_unsure_below = limit
        report.notes.append(
            f"words_unsure_below {limit:g} is that of the weights before: measure it again (re-llm small limit)"
        )


def _read(stored: Mapping[str, Stored], names: Iterable[str], where: object) -> dict[str, Tensor]:
    values = {name: stored[name].read() for name in names}
    refuse_non_finite(values.items(), where)
    return values


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], stored: Mapping[str, Stored], where: object) -> bool:
    """Values of the same names and shapes, one tensor at a time; whether any of them was another one."""
    check_same(own, {name: each.meta() for name, each in stored.items()}, where)
    changed = False
    for name, tensor in own.items():
        value = _read(stored, [name], where)[name].to(tensor.device, tensor.dtype)
        if not torch.equal(tensor, value):
            tensor.copy_(value)
            changed = True
    return changed


def _take_component(
    model: ReLlmForConditionalGeneration, part: str, stored: Mapping[str, Stored], folder: Path, report: Transfer
) -> None:
    """A component that the checkpoint stores; it is stored in the new one as well if it is not that of the recipe."""
    prefix = PREFIXES[part]
    bare, _ = partial_lora.split_weights(model.state_dict())
    own = below({name: bare[name] for name in own_weights(model, bare, {})}, prefix)
    if not own:
        report.left_out.update(dict.fromkeys(stored, f"this model has no {part.replace('_', ' ')}"))
    elif stored:
        held = {name.removeprefix(prefix): each for name, each in stored.items()}
        if _copy(own, held, f"the {part.replace('_', ' ')} in {folder}"):
            model.component_sources[part] = None
        report.taken[part] = len(held)


def _note_other_source(
    model: ReLlmForConditionalGeneration, config: ReLlmConfig, part: str, folder: Path, report: Transfer
) -> None:
    theirs, ours = config.components[part], model.component_sources[part]
    if theirs is not None and (folder / theirs).is_dir():
        theirs = str((folder / theirs).resolve())
    if theirs is not None and ours is not None and _place(theirs) != _place(ours):
        name = part.replace("_", " ")
        report.notes.append(f"the checkpoint was trained with the {name} {theirs}, and this model has {ours}")


def _place(name: str) -> str:
    """One spelling of a component: its folder where it is one, under whatever name, else the name."""
    try:
        found = Path(resolve_component(name))
    except RellmError:  # a part that is not here
        return name
    return str(found.resolve()) if found.is_dir() else name


def _take_adapter(
    model: ReLlmForConditionalGeneration, config: ReLlmConfig, given: dict[str, Tensor], folder: Path, scale: float
) -> None:
    width, where = config.speech_width + config.emotion_width, f"{folder}: adapter"
    same = config.adapter.model_copy(update={"spoken_only": model.config.adapter.spoken_only}) == model.config.adapter
    if width == model.config.speech_width + model.config.emotion_width and same:
        load_into(model.adapter, given, where)
        return
    if config.adapter.kind == "cformer" or not isinstance(model.adapter, Subsampler):
        raise RellmError(
            f"the adapter of {folder} cannot start this one: {config.adapter}, {width} channels",
            todo="Keep the adapter and the encoders of the checkpoint, or start fresh",
        )
    source = Subsampler(width, config.llm_width, config.adapter, config.speech_config)
    load_into(source, given, where)
    copy_widened(source, model.adapter, scale=scale)


def _take_heads(
    model: ReLlmForConditionalGeneration,
    config: ReLlmConfig,
    stored: Mapping[str, Stored],
    folder: Path,
    report: Transfer,
) -> None:
    weights = _read(stored, [name for name in stored if name.startswith(("emotion_head.", "dimension_head."))], folder)
    heads = ["dimension_head"]
    if sorted(config.emotions) == sorted(model.config.emotions):
        heads.append("emotion_head")
        if "emotion_head.weight" in weights:  # in another order, as in the released checkpoints
            rows = [config.emotions.index(name) for name in model.config.emotions]
            weights["emotion_head.weight"] = weights["emotion_head.weight"][rows]
    else:
        why = f"its emotions are {', '.join(config.emotions)}: the categorical head starts fresh"
        report.left_out["emotion_head.weight"] = why
    for head in heads:
        load_into(getattr(model, head), below(weights, f"{head}."), f"{folder}: {head}")
    report.taken["heads"] = len(heads)


def _take_lora(model: ReLlmForConditionalGeneration, config: ReLlmConfig, folder: Path, report: Transfer) -> None:
    if config.lora is None:
        return
    if model.config.lora is None:
        report.left_out.update(dict.fromkeys(stored_file(lora_file(folder)), "this model has no LoRA"))
        return
    weights, where = lora_weights(folder)
    partial_lora.load_weights(model.language_model, weights, where)
    report.taken["lora"] = len(weights)
