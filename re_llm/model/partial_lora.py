"""LoRA that acts on chosen positions alone, on top of stock PEFT.

PEFT computes W x + s B A drop(x). Hooks multiply what enters the dropout by a mask m of positions; A and B have no
bias, so B A (m x) = m B A x: masked positions pass through the frozen weights alone (BLSP-Emo section 3). On a CPU the
chosen positions alone are taken out, and what B gives is put back among zeros. The adapter files stay ordinary PEFT
files.

Shapes: R rows, L row length.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from re_llm.core.errors import RellmError
from re_llm.model.weights import check_same
from re_llm.recipe.options import LoraOptions

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_NAME = "default"
PEFT_PREFIX = "base_model.model."

# Attention and MLP up/gate by model type, where the names differ from the usual ones.
_USUAL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
_TARGETS = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h"),
    "falcon": ("query_key_value", "dense", "dense_h_to_4h"),
    "bloom": ("query_key_value", "dense", "dense_h_to_4h"),
}
# The same layers under the names that other families give them; those that an LLM has are taken.
_SYNONYMS = (*_USUAL_TARGETS, "qkv_proj", "query_key_value", "out_proj", "gate_up_proj", "fc1", "c_fc")


@dataclass(frozen=True)
class _State:
    """What a forward pass needs to know; also what its recomputation under gradient checkpointing needs."""

    mask: Tensor | None = None  # [R, L] bool
    at: Tensor | None = None  # on a CPU, the places of its ones in the flattened rows
    off: bool = False

    @classmethod
    def of(cls, mask: Tensor) -> _State:
        """A GPU would have to tell the host how many ones there are, which then waits for it."""
        return cls(mask, mask.flatten().nonzero().flatten() if mask.device.type == "cpu" else None)


class PartialLora:
    """The one home of the position mask of an LLM's LoRA layers.

    Outside of `using` there is no mask, and a LoRA layer that runs then raises: a pass that forgot the mask would
    adapt text positions unnoticed.

    Args:
        language_model: LLM with injected LoRA layers; without any, every method does nothing.
        scope: `speech`, `text` or `global`.
    """

    def __init__(self, language_model: nn.Module, scope: str):
        from peft.tuners.lora import LoraLayer

        self.scope = scope
        self.layers = [m for m in language_model.modules() if isinstance(m, LoraLayer)]
        # Where each layer hangs: (children of its parent, name, layer, the linear layer in it).
        self._places = [
            (parent._modules, name, child, child.get_base_layer())
            for parent in language_model.modules()
            for name, child in parent.named_children()
            if isinstance(child, LoraLayer)
        ]
        self._state = _State()
        if scope != "global":
            for name, module in language_model.named_modules():
                if isinstance(module, LoraLayer):
                    if module.use_dora.get(ADAPTER_NAME, False):
                        raise RellmError(f"{name} uses DoRA, whose output does not vanish where its input is masked")
                    module.lora_dropout[ADAPTER_NAME].register_forward_pre_hook(self._take)
                    module.lora_B[ADAPTER_NAME].register_forward_hook(self._put)

    def _take(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, mask, at = args[0], self._state.mask, self._state.at
        if mask is None:
            raise RuntimeError("a partial LoRA layer ran without a mask: call the model, not its language_model")
        if hidden.shape[:2] != mask.shape:
            raise RuntimeError(f"LoRA mask {tuple(mask.shape)} does not fit a hidden state {tuple(hidden.shape)}")
        return (hidden * mask[..., None].to(hidden.dtype) if at is None else hidden.flatten(0, 1)[at],)

    def _put(self, module: nn.Module, args: tuple[Tensor, ...], found: Tensor) -> Tensor:
        mask, at = self._state.mask, self._state.at
        if mask is None or at is None:
            return found
        return found.new_zeros(mask.numel(), found.shape[-1]).index_copy(0, at, found).unflatten(0, mask.shape)

    def _set(self, state: _State) -> None:
        if state.off != self._state.off:
            for children, name, layer, linear in self._places:
                # PEFT's own switch would also take the gradient away from the weights.
                layer._disable_adapters = state.off
                # A pass without LoRA calls the linear layers themselves, but where a hook waits for the layer; merged
                # weights have to be taken apart first. torch.compile follows switches, but not the tree of modules.
                hooked = layer._forward_hooks or layer._forward_pre_hooks
                if not torch.compiler.is_compiling():
                    children[name] = linear if state.off and not layer.merged and not hooked else layer
        self._state = state

    @contextlib.contextmanager
    def _during(self, state: _State) -> Iterator[None]:
        before = self._state
        self._set(state)
        try:
            yield
        finally:
            self._set(before)

    def using(self, speech: Tensor | None, text_shape: tuple[int, int]) -> contextlib.AbstractContextManager[None]:
        """One forward pass.

        Args:
            speech: [R, L], True at speech tokens; None when the pass has none.
            text_shape: (R, L) of the pass.
        """
        if not self.layers or self._state.off or self.scope == "global":
            return contextlib.nullcontext()
        if self.scope == "text":
            everywhere = self.layers[0].lora_A[ADAPTER_NAME].weight.new_ones(text_shape).bool()
            return self._during(_State.of(~speech if speech is not None else everywhere))
        # Without speech tokens (decoding, text passes) the branch would add zero: it is not computed.
        return self._during(_State(off=True) if speech is None else _State.of(speech))

    def disabled(self) -> contextlib.AbstractContextManager[None]:
        """The bare LLM, whatever the scope."""
        return self._during(_State(off=True))

    def twin(self, language_model: PreTrainedModel) -> PreTrainedModel | None:
        """The LLM as it decodes behind speech: other modules without LoRA layers around the same weights.

        A pass of it needs no switch and no lock, so it may run beside a pass with LoRA in another thread.

        Returns:
            None where LoRA acts on text as well or is merged into the weights, or where modules have hooks of
            others, which know these modules and not a copy.
        """
        hooks = [
            h for m in language_model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
        ]
        hooked = any(not str(getattr(h, "__module__", "")).startswith("re_llm.") for h in hooks)
        hooked |= any(hasattr(module, "_hf_hook") for module in language_model.modules())
        merged = any(layer.merged for layer in self.layers)
        if self._state.off or hooked or merged or (self.layers and self.scope != "speech"):
            return None
        held = [*language_model.parameters(), *language_model.buffers()]
        copied = copy.deepcopy(language_model, {id(tensor): tensor for tensor in held})
        for module in copied.modules():
            for name, child in module.named_children():
                if hasattr(child, "lora_A") and hasattr(child, "get_base_layer"):
                    module._modules[name] = child.get_base_layer()
        return copied

    def checkpoint_contexts(
        self,
    ) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        """`context_fn` of torch's checkpoint: a layer's recomputation sees the mask of its first run.

        Called once per checkpointed layer, at its first run; another pass may follow before the backward.
        """
        return contextlib.nullcontext(), self._during(self._state)


def default_targets(text_config: PretrainedConfig) -> tuple[str, ...]:
    """Names of the linear layers that LoRA goes to: attention q, k, v, o and the MLP's up and gate."""
    return _TARGETS.get(text_config.model_type, _USUAL_TARGETS)


def save_config(language_model: PreTrainedModel, folder: Path, llm: str | None) -> None:
    """Writes PEFT's configuration of the LoRA on a language model; `llm` names the model without it.

    PEFT keeps the modules in a set, whose order differs from process to process: they are sorted, so that the same
    checkpoint has the same bytes.
    """
    config = copy.copy(language_model.peft_config[ADAPTER_NAME])
    config.inference_mode, config.base_model_name_or_path = True, llm
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)


def peft_config(options: LoraOptions, language_model: PreTrainedModel) -> LoraConfig:
    """PEFT's own config for these options.

    Raises:
        RellmError: a target that the LLM has not.
    """
    from peft import LoraConfig

    names = [name for name, module in language_model.named_modules() if isinstance(module, nn.Linear)]
    targets = options.targets or default_targets(language_model.config)
    if options.targets is None and language_model.config.model_type not in _TARGETS:
        there = {name.rpartition(".")[2] for name in names}
        targets = tuple(name for name in _SYNONYMS if name in there) or targets
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            linear = sorted({re.split(r"\.", name)[-1] for name in names} - {"lm_head"})
            raise RellmError(
                f"LoRA target {target!r} is no linear layer of this {language_model.config.model_type}",
                allowed=", ".join(linear),
                todo="Set `lora.targets`",
            )
    return LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def inject(language_model: PreTrainedModel, options: LoraOptions) -> None:
    """Puts LoRA layers into the LLM, in place; they start as identity (B = 0)."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(peft_config(options, language_model), language_model, adapter_name=ADAPTER_NAME)


def split_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An LLM's state dict as (its own weights under their bare names, LoRA weights under PEFT's file names)."""
    bare: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".lora_" in key:
            lora[f"{PEFT_PREFIX}{key.replace(f'.{ADAPTER_NAME}.', '.')}"] = value
        else:
            bare[key.replace(".base_layer.", ".")] = value
    return bare, lora


def load_weights(language_model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Reads the weights of a PEFT adapter file into the injected layers, in place.

    Raises:
        RellmError: names or shapes differ from the LoRA layers of this LLM; names `where` and the tensor.
    """
    check_same(split_weights(language_model.state_dict())[1], weights, where)
    named = {
        re.sub(r"\.(lora_[AB])\.", rf".\1.{ADAPTER_NAME}.", key.removeprefix(PEFT_PREFIX)): value
        for key, value in weights.items()
    }
    language_model.load_state_dict(named, strict=False)


def merge(language_model: nn.Module, scope: str) -> None:
    """Adds the LoRA weights into the LLM's own, in place.

    Raises:
        RellmError: the scope is not `global`: merged weights act on every position.
    """
    if scope != "global":
        raise RellmError(
            f"LoRA of scope {scope!r} cannot be merged: merged weights would act on every position",
            allowed="merging when lora.scope is `global`",
        )
    from peft.tuners.lora import LoraLayer

    for module in language_model.modules():
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
