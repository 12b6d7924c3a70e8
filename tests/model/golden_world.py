"""Models with the weights of the recorded original systems (tests/golden/MANIFEST.md), mapped name by name.

RE_LLM_GOLDEN names another folder of recordings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, Qwen2Config, WhisperConfig, WhisperFeatureExtractor

from re_llm.model import LoraSettings, ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.emotion_encoder import checkpoint_weights
from re_llm.model.weights import check_same

FOLDER = Path(os.environ.get("RE_LLM_GOLDEN") or Path(__file__).parents[1] / "golden")
SPEECH_ID = 160  # the vocabulary ends at 159
EOS = 157
OUTPUTS = ["arousal", "dominance", "valence"]  # order of the emotion encoder's regression head
EMOTIONS = ["e0", "e1", "e2", "e3", "e4"]


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


def below(case: str, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights(case).items() if k.startswith(prefix)}


def waves() -> list[np.ndarray]:
    return [inputs()[f"wav_{i}"].numpy().astype(np.float32) / 32768 for i in range(3)]


def features() -> tuple[Tensor, Tensor]:
    """Recorded log-mel frames [3, 80, 3000] and the number of real ones [3]."""
    head, fill = inputs()["features_head"], inputs()["features_pad_value"]
    whole = fill[:, None, None].expand(-1, 80, 3000).clone()
    whole[:, :, : head.shape[2]] = head
    return whole, inputs()["features_mask"].long().sum(1)


def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


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
    given = json.loads((FOLDER / case / "config.json").read_text())
    qwen = given["qwen_config"]
    text = Qwen2Config(
        vocab_size=qwen["vocab_size"], hidden_size=qwen["hidden_size"], num_hidden_layers=qwen["num_hidden_layers"],
        intermediate_size=qwen["intermediate_size"] // 2, num_attention_heads=qwen["num_attention_heads"],
        num_key_value_heads=qwen["num_attention_heads"], rms_norm_eps=qwen["layer_norm_epsilon"],
        rope_theta=qwen["rotary_emb_base"], max_position_embeddings=qwen["seq_length"], tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    fused = case == "rellm"
    config = ReLlmConfig(
        text_config=text,
        speech_config=WhisperConfig(**given["whisper_config"]),
        emotion_config=AutoConfig.from_pretrained(FOLDER / "audeering") if fused else None,
        emotion_outputs=OUTPUTS if fused else None,
        adapter={"bottleneck": given["adapter_inner_dim"]},
        emotions=EMOTIONS,
        speech_token_id=SPEECH_ID,
    )
    made = ReLlmForConditionalGeneration(config).eval()
    own, lora = qwen2_weights(case, "qwen_model.model." if given["lora_config"] else "qwen_model.")
    if lora:
        peft = given["lora_config"]
        targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        made.add_lora(LoraSettings(peft["r"], peft["lora_alpha"], peft["lora_dropout"], targets, scope))
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
    """Speech row of the recorded batch: ids, mask and labels, [3, L], padding inside as recorded."""
    given = inputs()
    ids = torch.full_like(adapter_mask, SPEECH_ID)
    none = torch.full_like(adapter_mask, -100)
    parts = [("start", None), ("audio_instruction", None), (None, (ids, adapter_mask, none)), ("suffix", None)]
    columns = [tensors or tuple(given[f"{name}_{k}"] for k in ("ids", "mask", "labels")) for name, tensors in parts]
    return tuple(torch.cat(column, dim=1) for column in zip(*columns, strict=True))


def text_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Text row of the recorded batch: ids, mask and labels, [3, L]."""
    given, names = inputs(), ("start", "instruction", "input", "suffix")
    return tuple(torch.cat([given[f"{name}_{k}"] for name in names], dim=1) for k in ("ids", "mask", "labels"))


def close(found: Tensor, expected: Tensor, atol: float = 2e-4, rtol: float = 1e-3) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


def padded_pass(model: Any, ids: Tensor, mask: Tensor, embeddings: Tensor | None = None) -> Tensor:
    """A pass as the originals made it: padding inside of rows, positions count columns."""
    speech = (ids == SPEECH_ID) if embeddings is not None else None
    embed = model.get_input_embeddings()
    inputs = embed(ids if speech is None else ids.masked_fill(speech, 0))
    if speech is not None:
        inputs = inputs.masked_scatter(speech[..., None], embeddings)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with model.partial_lora.using(speech, tuple(ids.shape)):
        return model.language_model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions).logits


@contextmanager
def released_rounding(model: Any) -> Iterator[None]:
    """Inside, speech rows are rounded as the released RE-LLM does it.

    It casts the input embeddings of a speech row to bfloat16, and so the first RMSNorm returns its normalised value in
    bfloat16 as well, in front of its float32 gain; everything behind is float32.
    """
    norm = model.language_model.model.layers[0].input_layernorm

    def rounded(hidden: Tensor) -> Tensor:
        hidden = hidden.bfloat16().float()
        scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        return norm.weight * scaled.bfloat16().float()

    first = model.language_model.model.layers[0]
    handle = first.register_forward_pre_hook(lambda _, args: (args[0].bfloat16().float(), *args[1:]))
    norm.forward = rounded
    try:
        yield
    finally:
        del norm.forward
        handle.remove()


@torch.no_grad()
def decode(model: Any, case: str, *, stops: tuple[int, ...] = (158, 159), steps: int = 12) -> Tensor:
    """Greedy decoding of a padded batch as recorded: positions are columns, a stop word ends one step late."""
    given, expected = inputs(), outputs(case)
    speech = torch.full_like(expected["adapter_mask"], SPEECH_ID)
    ids = torch.cat([given["gen_prefix_ids"], speech, given["gen_suffix_ids"]], dim=1)
    parts = [given["gen_prefix_mask"], expected["adapter_mask"], given["gen_suffix_mask"]]
    mask = torch.cat(parts, dim=1)
    done, said = torch.zeros(len(ids), dtype=torch.bool), []
    for _ in range(steps):
        logits = padded_pass(model, ids, mask, expected["adapter_embeds"])[:, -1]
        new = logits.argmax(-1)
        if not said:
            new = logits.index_fill(1, torch.tensor([EOS]), -torch.inf).argmax(-1)  # one token at least
        else:
            new[torch.isin(said[-1], torch.tensor(stops))] = EOS
        new[done] = EOS
        done |= new == EOS
        said.append(new)
        ids, mask = torch.cat([ids, new[:, None]], dim=1), torch.cat([mask, torch.ones_like(new)[:, None]], dim=1)
        if done.all():
            break
    return torch.stack(said, dim=1)
