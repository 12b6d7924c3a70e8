"""Models with the weights of the recorded original systems (tests/golden/MANIFEST.md), mapped name by name.

Sizes, ids and lengths are read from the recordings: RE_LLM_GOLDEN may name a set with others.

Shapes: B utterances, R rows, L row length, F mel frames, S speech tokens, V vocabulary, D LLM width.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from golden_folder import FOLDER
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, Qwen2Config, WhisperConfig, WhisperFeatureExtractor

from re_llm.model import LoraOptions, ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.emotion_encoder import checkpoint_weights
from re_llm.model.weights import check_same

OUTPUTS = ["arousal", "dominance", "valence"]  # order of the emotion encoder's regression head


@cache
def inputs() -> dict[str, Tensor]:
    return load_file(FOLDER / "inputs.safetensors")


@cache
def outputs(case: str) -> dict[str, Tensor]:
    return load_file(FOLDER / case / "outputs.safetensors")


@cache
def scalars(case: str) -> dict[str, Any]:
    return json.loads((FOLDER / case / "outputs.json").read_text())


@cache
def weights(case: str) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(FOLDER / case / "model.safetensors").items()}


@cache
def config(case: str) -> dict[str, Any]:
    return json.loads((FOLDER / case / "config.json").read_text())


class SpecialIds(NamedTuple):
    """Ids with a meaning, as the recorded rows hold them."""

    start: int  # of a turn
    end: int  # of a turn
    last: int  # of a document; also fills rows


@cache
def special() -> SpecialIds:
    labels = inputs()["suffix_labels"][0]
    spoken = labels[labels >= 0].tolist()  # ... end of turn, newline, end of document
    return SpecialIds(int(inputs()["start_ids"][0, 0]), spoken[-3], spoken[-1])


def speech_id(case: str) -> int:
    """Id of the placeholder: the first behind the vocabulary."""
    return config(case)["qwen_config"]["vocab_size"]


def emotion_names(case: str) -> list[str]:
    return [f"e{i}" for i in range(len(weights(case)["hidden2emotion.weight"]))]


def below(case: str, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights(case).items() if k.startswith(prefix)}


def waves() -> list[np.ndarray]:
    count = len(inputs()["features_mask"])
    return [inputs()[f"wav_{i}"].numpy().astype(np.float32) / 32768 for i in range(count)]


def features() -> tuple[Tensor, Tensor]:
    """Recorded log-mel frames [B, M, F] of whole windows, and the number of real ones [B]."""
    head, fill, mask = (inputs()[f"features_{name}"] for name in ("head", "pad_value", "mask"))
    whole = fill[:, None, None].expand(-1, head.shape[1], mask.shape[1]).clone()
    whole[:, :, : head.shape[2]] = head
    return whole, mask.long().sum(1)


def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=inputs()["features_head"].shape[1])


def adapter_weights(case: str, name: str = "adapter.") -> dict[str, Tensor]:
    renames = {"subsampler.conv_layers.": "convs.", "fc1.": "down.", "fc2.": "up.", "speech_ln.": "norm."}
    found = {}
    for key, value in below(case, name).items():
        for old, new in renames.items():
            key = key.replace(old, new)
        found[key] = value
    return found


def qwen2_weights(case: str, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Qwen's weights under Qwen2's names, and its LoRA under those of a PEFT file.

    The fused c_attn is cut into q, k, v; its LoRA shares A and has B cut in three. w1 is the up, w2 the gate.
    """
    names = {"attn.c_proj": "self_attn.o_proj", "mlp.w1": "mlp.up_proj", "mlp.w2": "mlp.gate_proj"}
    names |= {"mlp.c_proj": "mlp.down_proj", "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
    own, lora = {}, {}
    for key, value in below(case, prefix).items():
        key = key.removeprefix("transformer.").replace("h.", "model.layers.", 1) if "h." in key else key
        key = key.replace("transformer.wte", "model.embed_tokens").replace("transformer.ln_f", "model.norm")
        for old, new in names.items():
            key = key.replace(f".{old}.", f".{new}.")
        parts = {key: value}
        if ".c_attn." in key:
            thirds = (value,) * 3 if "lora_A" in key else value.chunk(3)
            parts = {key.replace("attn.c_attn", f"self_attn.{n}_proj"): t for n, t in zip("qkv", thirds, strict=True)}
        for name, part in parts.items():
            if ".lora_" in name:
                lora[f"base_model.model.{name.replace('.default.', '.')}"] = part.clone()
            else:
                own[name] = part.clone()
    return own, lora


def model(case: str, *, scope: str = "speech") -> ReLlmForConditionalGeneration:
    """The whole recorded system."""
    given = config(case)
    qwen = given["qwen_config"]
    text = Qwen2Config(
        vocab_size=qwen["vocab_size"], hidden_size=qwen["hidden_size"], num_hidden_layers=qwen["num_hidden_layers"],
        intermediate_size=qwen["intermediate_size"] // 2, num_attention_heads=qwen["num_attention_heads"],
        num_key_value_heads=qwen["num_attention_heads"], rms_norm_eps=qwen["layer_norm_epsilon"],
        rope_theta=qwen["rotary_emb_base"], max_position_embeddings=qwen["seq_length"], tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=special().last, pad_token_id=special().last,
    )  # fmt: skip
    fused = case == "rellm"
    kernels = given["conv_kernel_sizes"].split(",")
    made_of = ReLlmConfig(
        text_config=text,
        speech_config=WhisperConfig(**given["whisper_config"]),
        emotion_config=AutoConfig.from_pretrained(FOLDER / "audeering") if fused else None,
        emotion_outputs=OUTPUTS if fused else None,
        adapter={
            "bottleneck": given["adapter_inner_dim"], "conv_layers": len(kernels), "kernel_size": int(kernels[0])
        },
        emotions=emotion_names(case),
        speech_token_id=speech_id(case),
    )  # fmt: skip
    made = ReLlmForConditionalGeneration(made_of).eval()
    own, lora = qwen2_weights(case, "qwen_model.model." if given["lora_config"] else "qwen_model.")
    if lora:
        peft = given["lora_config"]
        targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        sizes = {"r": peft["r"], "alpha": peft["lora_alpha"], "dropout": peft["lora_dropout"]}
        made.add_lora(LoraOptions(**sizes, targets=targets, scope=scope))
    state = {f"speech_encoder.whisper.{k}": v for k, v in below(case, "whisper_model.").items()}
    state |= {f"adapter.{k}": v for k, v in adapter_weights(case, "w2v2cat_adapter." if fused else "adapter.").items()}
    state["emotion_head.weight"] = weights(case)["hidden2emotion.weight"]
    state["dimension_head.weight"] = made.dimension_head.weight.data
    if fused:
        # The original dimensional head is ordered arousal, valence, dominance; ours valence, arousal, dominance.
        state["dimension_head.weight"] = weights(case)["hidden2w2v2.weight"][[1, 0, 2]]
        encoder = checkpoint_weights(below(case, "w2v2."))
        state |= {f"emotion_encoder.{k}": v for k, v in encoder.items()}
    load(made, state, own, lora)
    return made.eval()


def load(made: Any, state: dict[str, Tensor], own: dict[str, Tensor], lora: dict[str, Tensor]) -> None:
    from re_llm.model.partial_lora import load_weights, split_weights

    bare, _ = split_weights(made.language_model.state_dict())
    check_same(bare, own, "the recorded LLM")
    wrapped = {k.replace(".base_layer.", "."): k for k in made.language_model.state_dict() if ".lora_" not in k}
    made.language_model.load_state_dict({wrapped[k]: v for k, v in own.items()}, strict=False)
    if lora:
        load_weights(made.language_model, lora, "the recorded LoRA")
    rest = {k: v for k, v in made.state_dict().items() if not k.startswith("language_model.")}
    check_same(rest, state, "the recorded parts")
    made.load_state_dict(state, strict=False)


def speech_rows(case: str, adapter_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Speech row of the recorded batch: ids, mask and labels, [R, L], padding inside as recorded."""
    given = inputs()
    ids = torch.full_like(adapter_mask, speech_id(case))
    none = torch.full_like(adapter_mask, -100)
    parts = [("start", None), ("audio_instruction", None), (None, (ids, adapter_mask, none)), ("suffix", None)]
    columns = [tensors or tuple(given[f"{name}_{k}"] for k in ("ids", "mask", "labels")) for name, tensors in parts]
    return tuple(torch.cat(column, dim=1) for column in zip(*columns, strict=True))


def text_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Text row of the recorded batch: ids, mask and labels, [R, L]."""
    given, names = inputs(), ("start", "instruction", "input", "suffix")
    return tuple(torch.cat([given[f"{name}_{k}"] for name in names], dim=1) for k in ("ids", "mask", "labels"))


def close(found: Tensor, expected: Tensor, atol: float = 2e-4, rtol: float = 1e-3) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


def padded_pass(model: Any, ids: Tensor, mask: Tensor, embeddings: Tensor | None = None) -> Tensor:
    """A pass as the originals made it: padding inside of rows, positions count columns."""
    speech = (ids == model.config.speech_token_id) if embeddings is not None else None
    embed = model.get_input_embeddings()
    inputs = embed(ids if speech is None else ids.masked_fill(speech, 0))
    if speech is not None:
        inputs = inputs.masked_scatter(speech[..., None], embeddings.to(inputs.dtype))
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with model.partial_lora.using(speech, tuple(ids.shape)):
        return model.language_model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions).logits
