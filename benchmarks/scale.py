"""Memory and operations of every training stage of a recipe, at the papers' sizes: computed, nothing is loaded.

    python benchmarks/scale.py [RECIPE] [--processes 8] [--rate 400] [--card 24]

Memory of one process: weights (frozen 2 bytes, trained 4), gradients (4) and AdamW's moments (8) of what is trained,
and what the backward pass reads of one batch. Shared out over N processes by DDP nothing is, by ZeRO-2 gradients and
moments, by FSDP2 everything but one layer. The second table says which options make a stage fit one card; its steps
are the same, but for the rounding of an LLM in 4 bit. Time: operations of the matrix products, at a rate that the
device reaches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _common import head
from torch import nn
from transformers import PretrainedConfig

from re_llm.model.configuration import ReLlmConfig
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.predictions import MOST_LOGITS
from re_llm.model.sizes import AUDEERING_OUTPUTS, audeering_config, qwen_7b_config, whisper_large_v2_config
from re_llm.recipe.config import Recipe
from re_llm.recipe.files import load_recipe
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions

SECONDS, PROMPT, TRANSCRIPT, ANSWER = 4.5, 40, 16, 48  # of a row
STATES = 50  # encoder states a second
GB = 1e9
MEMORY = ("DDP", "ZeRO-2", "FSDP2")
NF4 = 4.127 / 8  # bytes of a weight, its doubly quantised scales included
RESERVED = 1.0  # GB of a card for the driver and for pieces of memory between others: an estimate


@dataclass(frozen=True)
class Need:
    """Bytes of one process, by how a model is shared out, and operations (FLOP) of one utterance."""

    trained: int
    frozen: int
    memory: dict[str, float]
    operations: float
    states: int


def build(options: ModelOptions, stage: StageOptions, *, emotion: bool) -> ReLlmForConditionalGeneration:
    """The model of a stage on the meta device."""
    config = ReLlmConfig(
        text_config=qwen_7b_config(),
        speech_config=whisper_large_v2_config(),
        emotion_config=audeering_config() if emotion else None,
        emotion_outputs=AUDEERING_OUTPUTS if emotion else None,
        fusion=options.fusion if emotion else "none",
        speech_window=options.speech_window,
        adapter=options.adapter,
    )
    with torch.device("meta"):
        model = ReLlmForConditionalGeneration(config)
        if options.lora is not None:
            model.add_lora(options.lora)
    model.set_trainable(stage.train)
    return model


def need(model: ReLlmForConditionalGeneration, stage: StageOptions, processes: int, *, quantize: bool = False) -> Need:
    """What a stage takes; `quantize`: with the LLM's layers in 4 bit."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    kept_bytes = 2.0 * frozen
    if quantize:
        output = model.get_output_embeddings().weight.numel()
        kept_bytes -= (2 - NF4) * (matrices(model.language_model) - output)
    text = model.config.text_config
    length = PROMPT + ANSWER + model.config.adapter.token_count(int(SECONDS * STATES))
    kept = activations(text, length, stage) * stage.batch_size + logits(text, stage)
    layer = sum(p.numel() for p in model.language_model.get_decoder().layers[0].parameters())
    memory = {
        "DDP": kept_bytes + 16 * trained + kept,
        "ZeRO-2": kept_bytes + 4 * trained + 12 * trained / processes + kept,
        "FSDP2": (kept_bytes + 16 * trained) / processes + 2 * 2 * layer + kept,
    }
    return Need(trained, frozen, memory, operations(model, stage, length), states(model, stage))


def activations(text: PretrainedConfig, length: int, stage: StageOptions) -> float:
    """Bytes that the backward pass of one row reads: 34 per token and channel of a layer (Korthikanti et al. 2022,
    without the scores, which fused attention does not keep), or its input alone and those of one layer at a time."""
    token = length * text.hidden_size
    return token * (2 * text.num_hidden_layers + 34 if stage.gradient_checkpointing else 34 * text.num_hidden_layers)


def logits(text: PretrainedConfig, stage: StageOptions) -> float:
    """Bytes of the logits that are held at once: four copies, of a batch or of a piece (`re_llm.model.predictions`)."""
    return 4 * 4 * min(ANSWER * stage.batch_size * text.vocab_size, MOST_LOGITS)


def savings(stage: StageOptions) -> Iterator[tuple[str, StageOptions, bool]]:
    """Options that save memory, each with those before it: (name, the stage with them, whether the LLM is in 4 bit)."""
    yield "as it is", stage, False
    saving = stage.model_copy(update={"gradient_checkpointing": True})
    yield "gradient_checkpointing: true", saving, False
    size = max(1, stage.batch_size // 4)
    smaller = saving.model_copy(
        update={"batch_size": size, "accumulate": stage.accumulate * (stage.batch_size // size)}
    )
    yield f"and batch_size: {size}, accumulate: {smaller.accumulate}", smaller, False
    yield "and model: {quantize: 4bit}", smaller, True


def on_card(model: ReLlmForConditionalGeneration, stage: StageOptions, card: float) -> tuple[str, float]:
    """The first of `savings` with which a stage fits a card of so many GB, and what it takes then."""
    for name, saving, quantize in savings(stage):
        taken = need(model, saving, 1, quantize=quantize).memory["DDP"] / GB + RESERVED
        if taken <= card:
            return name, taken
    return "no option is enough", taken


def states(model: ReLlmForConditionalGeneration, stage: StageOptions) -> int:
    """Bytes on the disk of an utterance's encoder states."""
    if "speech_encoder" in stage.train or stage.features == "none":
        return 0
    return int(SECONDS * STATES * model.config.speech_config.d_model * 2)


def matrices(module: nn.Module) -> int:
    """Weights of linear layers and convolutions; embeddings and LoRA are left out."""
    return sum(
        p.numel() for name, p in module.named_parameters() if p.dim() > 1 and "lora" not in name and "embed" not in name
    )


def operations(model: ReLlmForConditionalGeneration, stage: StageOptions, length: int) -> float:
    """Operations of one utterance: 2 per weight and token forwards, 2 back to a layer's input, 2 to trained weights."""
    llm, output = model.language_model, model.get_output_embeddings().weight.numel()
    layers, frames, total = matrices(llm) - output, SECONDS * STATES, 0.0
    losses = {*stage.losses, *(stage.warm_losses or {})}
    if any(name.startswith(("response", "input_kl")) for name in losses):
        total += 4.0 * (layers * length + output * ANSWER)
    if {"response_kl", "input_kl"} & losses:
        total += 2.0 * (layers * (PROMPT + TRANSCRIPT + ANSWER) + output * ANSWER)
    total += 6.0 * matrices(model.adapter) * frames / 4  # convolutions of stride 2
    if "speech_encoder" in stage.train or stage.features == "none":
        full = model.config.speech_window == "full"
        positions = model.config.speech_config.max_source_positions if full else frames
        total += (6.0 if "speech_encoder" in stage.train else 2.0) * matrices(model.speech_encoder) * positions
        if model.emotion_encoder is not None:
            total += 2.0 * matrices(model.emotion_encoder) * frames
    return total


def stages(recipe: Recipe) -> Iterator[tuple[str, ModelOptions, StageOptions]]:
    for name, stage in recipe.stages.items():
        yield name, recipe.model_of(stage), stage


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=["blsp", "blsp_emo", "re_llm"])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rate", type=float, default=400.0, help="TFLOP/s that a device reaches (40 %% of an H100's)")
    parser.add_argument("--card", type=float, default=24.0, help="GB of the one card of the second table")
    given = parser.parse_args()
    head(f"Memory and time of training at 7B, {given.processes} processes, {given.rate:g} TFLOP/s each")
    memory = "  ".join(f"{how} GB".rjust(9) for how in MEMORY)
    print(f"{'stage':22} batch  trained M  frozen M  {memory}  TFLOP/utt  utt/s of all  states kB")
    cards = []
    for named in given.recipes:
        recipe = load_recipe(named)
        for name, options, stage in stages(recipe):
            emotion = options.fusion != "none" and recipe.components.emotion_encoder is not None
            model = build(options, stage, emotion=emotion)
            found = need(model, stage, given.processes)
            how, taken = on_card(model, stage, given.card)
            cards.append(f"{f'{recipe.name} {name}':22} {taken:6.1f}  {how}")
            memory = "  ".join(f"{found.memory[how] / GB:9.1f}" for how in MEMORY)
            rate = given.processes * given.rate * 1e12 / found.operations
            sizes = f"{stage.batch_size:5}  {found.trained / 1e6:9.0f}  {found.frozen / 1e6:8.0f}"
            work = f"{found.operations / 1e12:9.2f}  {rate:12.0f}  {found.states / 1e3:9.0f}"
            print(f"{f'{recipe.name} {name}':22} {sizes}  {memory}  {work}")
    print(
        f"\nOne card of {given.card:g} GB, {RESERVED:g} of them reserved:\nstage                      GB  with",
        *cards,
        sep="\n",
    )


if __name__ == "__main__":
    main()
