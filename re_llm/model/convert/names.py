"""Where each tensor of a RE-LLM checkpoint is in the released formats of BLSP-Emo and RE-LLM, and in which layout.

The LLM of those formats is Qwen version 1. Its fused `c_attn` holds q, k, v one below the other; in its MLP `w1` is the
up and `w2` the gate projection; a LoRA on the fused layer has one A for all three and B cut like the weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from re_llm.model.partial_lora import PEFT_PREFIX

# Rows of the released dimensional head are arousal, valence, dominance; ours valence, arousal, dominance. The same
# exchange leads back.
_DIMENSION_ROWS = (1, 0, 2)
_HEADS = {"emotion_head.weight": "hidden2emotion.weight", "dimension_head.weight": "hidden2w2v2.weight"}
_FUSED = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
_LLM = (
    ("model.embed_tokens.", "transformer.wte."),
    ("model.norm.", "transformer.ln_f."),
    ("model.layers.", "transformer.h."),
    (".input_layernorm.", ".ln_1."),
    (".post_attention_layernorm.", ".ln_2."),
    (".self_attn.o_proj.", ".attn.c_proj."),
    (".mlp.up_proj.", ".mlp.w1."),
    (".mlp.gate_proj.", ".mlp.w2."),
    (".mlp.down_proj.", ".mlp.c_proj."),
)
_SUBSAMPLER = (("convs.", "subsampler.conv_layers."), ("down.", "fc1."), ("up.", "fc2."), ("norm.", "speech_ln."))
_WEIGHT_NORM = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))

# LoRA targets of Qwen version 1 and the layers they are in Qwen2.
LORA_TARGETS = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "w1": ("up_proj",),
    "w2": ("gate_proj",),
}
# Tensors that a released checkpoint holds and that play no part in its answers.
UNUSED = (
    ("adapter.lm_head.", "an output layer of the CFormer that neither losses nor answers use"),
    ("adapter.", "the adapter of BLSP-Emo; RE-LLM answers through w2v2cat_adapter"),
    ("w2v2_adapter.", "a projection of the emotion embedding that the answers do not use"),
    ("w2v2_hidden2emotion.", "a head that neither losses nor answers use"),
    ("w2v2.", "the emotion encoder is read from the folder that was named for it"),
)
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attn.logn_tensor")


@dataclass(frozen=True)
class Piece:
    """One tensor of ours within a tensor of the released format.

    Attributes:
        name: of the released tensor.
        part: which third of its rows; None = all of it.
        rows: order in which its rows are taken; None = as they are.
    """

    name: str
    part: int | None = None
    rows: tuple[int, ...] | None = None

    def cut(self, released: Tensor) -> Tensor:
        """Ours from the released tensor; a part is a view of it."""
        if self.part is not None:
            size = released.shape[0] // 3
            return released[self.part * size : (self.part + 1) * size]
        return released if self.rows is None else released[list(self.rows)]


@dataclass(frozen=True)
class Layout:
    """What differs between the released formats.

    Attributes:
        llm: prefix of the LLM's tensors; empty for a Qwen on its own.
        adapter: prefix of the adapter in use.
        plain_adapter: the adapter's own names are ours already (CFormer).
        weight_norm: the emotion encoder's weight norm has the old names `weight_g`, `weight_v`.
    """

    llm: str
    adapter: str = "adapter."
    plain_adapter: bool = False
    weight_norm: bool = True

    @classmethod
    def of(cls, names: Iterable[str], *, plain_adapter: bool = False) -> Layout:
        """The layout of a checkpoint with these tensor names."""
        names = set(names)
        wrapped = any(name.startswith("qwen_model.model.") for name in names)
        return cls(
            llm="qwen_model.model." if wrapped else "qwen_model.",
            adapter="w2v2cat_adapter." if any(name.startswith("w2v2cat_adapter.") for name in names) else "adapter.",
            plain_adapter=plain_adapter,
            weight_norm=not any(name.endswith(_WEIGHT_NORM[0][0]) for name in names),
        )

    @property
    def fused(self) -> bool:
        return self.adapter == "w2v2cat_adapter."

    def find(self, name: str) -> Piece:
        """Where a tensor of model.safetensors is in the released format."""
        if name in _HEADS:
            return Piece(_HEADS[name], rows=_DIMENSION_ROWS if name.startswith("dimension") else None)
        part, _, rest = name.partition(".")
        if part == "language_model":
            return self.find_llm(rest)
        if part == "speech_encoder":
            return Piece(f"whisper_model.{rest.removeprefix('whisper.')}")
        if part == "adapter":
            return Piece(self.adapter + (rest if self.plain_adapter else _renamed(rest, _SUBSAMPLER, anchored=True)))
        assert part == "emotion_encoder", f"no such part: {name}"
        rest = rest.replace("backbone.", "wav2vec2.", 1)
        return Piece(f"w2v2.{_renamed(rest, _WEIGHT_NORM) if self.weight_norm else rest}")

    def find_llm(self, name: str) -> Piece:
        """Where a tensor of Qwen2ForCausalLM is."""
        fused = re.search(r"\.self_attn\.([qkv]_proj)\.", name)
        if fused:
            name = name.replace(f".self_attn.{fused[1]}.", ".attn.c_attn.")
        part = _FUSED[fused[1]] if fused else None
        return Piece(self.llm + _renamed(name, _LLM), part)

    def find_lora(self, name: str) -> Piece:
        """Where a tensor of the PEFT file is: A is shared by q, k and v, B is cut."""
        found = self.find_llm(name.removeprefix(PEFT_PREFIX))
        released = re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", found.name)
        return Piece(released, None if ".lora_A." in name else found.part)

    def why_left_out(self, name: str) -> str:
        """Why a released tensor has no place in a checkpoint of ours."""
        if name.endswith(_BUFFERS):
            return "a constant that the model computes"
        for prefix, reason in UNUSED:
            if name.startswith(prefix) and (self.fused or prefix != "adapter."):
                return reason
        return "not known to this conversion: no part of the model asks for it"


def _renamed(name: str, pairs: Iterable[tuple[str, str]], *, anchored: bool = False) -> str:
    for ours, theirs in pairs:
        if name.startswith(ours) if anchored else ours in name:
            name = name.replace(ours, theirs, 1)
    return name


def join(pieces: Iterable[tuple[Piece, Tensor]]) -> Tensor:
    """The released tensor from all tensors of ours that are parts of it; the inverse of `Piece.cut`."""
    given = sorted(pieces, key=lambda each: each[0].part or 0)
    first, value = given[0]
    if first.part is not None:
        return torch.cat([tensor for _, tensor in given])
    return value if first.rows is None else value[list(first.rows)]
