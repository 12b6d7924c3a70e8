"""The paper's model at its real sizes on one GPU: training steps, first token, decoding, memory.

    python benchmarks/gpu.py             # Qwen-7B, Whisper-large-v2, audeering's wav2vec2: a card of 80 GB
    python benchmarks/gpu.py --tiny      # the same code at tiny sizes, also on a CPU; its figures mean nothing

Weights are random; only their sizes count. Recordings of 4 s, prompts of 60 tokens, responses of 64 tokens. The
operations that the model must do are counted from the sizes and set against a large bfloat16 product of the same run.
Utterances per second of training are those of the model: states and features wait on the device.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from _common import head, row
from torch import Tensor, nn
from transformers import PretrainedConfig, Qwen2Config, Wav2Vec2Config, WhisperConfig

from re_llm.model import AdapterOptions, LoraOptions, ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.outputs import EncodedAudio
from re_llm.model.sizes import AUDEERING_OUTPUTS, audeering_config, qwen_7b_config, whisper_large_v2_config
from re_llm.model.trainable import LEARNED
from re_llm.recipe.stages import StageOptions
from re_llm.train.collate import Collator
from re_llm.train.examples import Example
from re_llm.train.objective import Objective
from re_llm.train.openings import Openings
from re_llm.train.rows import Row

SECONDS, PROMPT, RESPONSE, TRANSCRIPT = 4.0, 60, 64, 12
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
STAGES = {  # as the recipes name their losses
    "BLSP alignment": {"response_kl": 1.0},
    "RE-LLM finetune": {"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0},
}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        batches: utterances in a training step. many: rows decoded together. new_tokens: decoded for each.
        repeats: of each measurement.
    """

    text: PretrainedConfig
    speech: WhisperConfig
    emotion: Wav2Vec2Config
    adapter: AdapterOptions
    batches: tuple[int, ...]
    many: int
    new_tokens: int
    repeats: int
    product: int


def paper() -> Sizes:
    adapter = AdapterOptions(bottleneck=512)
    return Sizes(qwen_7b_config(), whisper_large_v2_config(), audeering_config(), adapter, (16, 48), 64, 64, 5, 8192)


def tiny() -> Sizes:
    text = Qwen2Config(
        vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    speech = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, num_mel_bins=80, vocab_size=200,
    )  # fmt: skip
    emotion = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, feat_extract_norm="layer",
        conv_dim=(32,) * 7, conv_bias=True, do_stable_layer_norm=True,
    )  # fmt: skip
    return Sizes(text, speech, emotion, AdapterOptions(bottleneck=16), (2,), 2, 8, 1, 64)


def build(sizes: Sizes, device: torch.device, window: str) -> ReLlmForConditionalGeneration:
    """The model with random weights: frozen parts in bfloat16, what is trained in float32."""
    config = ReLlmConfig(
        text_config=sizes.text,
        speech_config=sizes.speech,
        emotion_config=sizes.emotion,
        emotion_outputs=AUDEERING_OUTPUTS,
        adapter=sizes.adapter,
        fusion="pooled",
        speech_window=window,
        speech_token_id=sizes.text.vocab_size - 1,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = ReLlmForConditionalGeneration(config)
            model.add_lora(LoraOptions(r=16, alpha=16, dropout=0.05, targets=TARGETS))
    finally:
        torch.set_default_dtype(torch.float32)
    model.set_trainable(LEARNED, dtype=torch.float32)
    return model.to(device)


# --- input of one batch --------------------------------------------------------------------------------------------


def audio(model: ReLlmForConditionalGeneration, count: int) -> dict[str, Tensor]:
    """Random features and samples of `count` recordings, on the model's device."""
    device, frames, samples = model.device, int(SECONDS * 100), int(SECONDS * 16_000)
    width = model.speech_encoder.window_frames if model.config.speech_window == "full" else frames
    return {
        "input_features": torch.randn(count, model.config.speech_config.num_mel_bins, width, device=device),
        "feature_lengths": torch.full((count,), frames, device=device),
        "emotion_values": torch.randn(count, samples, device=device),
        "emotion_lengths": torch.full((count,), samples, device=device),
    }


def states(model: ReLlmForConditionalGeneration, count: int) -> EncodedAudio:
    """What the encoders would have made of them, as it is kept in the cache."""
    length = int(SECONDS * 50)
    return EncodedAudio(
        torch.randn(count, length, model.config.speech_width, device=model.device),
        torch.full((count,), length, device=model.device),
        torch.randn(count, model.config.emotion_width, device=model.device),
    )


def batch(model: ReLlmForConditionalGeneration, speech: dict[str, Any], count: int, teacher: bool) -> dict[str, Any]:
    """A batch of the training, made by its collator."""
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, model.config.text_config.vocab_size - 1, (length,), generator=draw).tolist())

    half = PROMPT // 2
    around = ids(half), ids(half)
    examples = [Example(str(i), "", 0.0, SECONDS, "", {}, "sad", i % 5, (0.5, 0.5, 0.5)) for i in range(count)]
    rows = [Row(i, *around, ids(RESPONSE), ids(TRANSCRIPT), *around, has_teacher=True) for i in range(count)]
    tokens = model.config.adapter.token_count(int(SECONDS * 50))
    collate = Collator(
        examples, lambda *_: {}, lambda _: [tokens] * count, speech_token=model.config.speech_token_id, pad_token=0,
        teacher=teacher, apart=True,
    )  # fmt: skip
    made = _to(collate(rows), model.device)
    return {**made, "speech": speech}


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


# --- operations ----------------------------------------------------------------------------------------------------


def _matmul_parameters(module: nn.Module) -> int:
    """Weights of the linear layers and convolutions, LoRA's and the output layer's not counted."""
    return sum(
        p.numel() for name, p in module.named_parameters() if p.dim() > 1 and "lora" not in name and "embed" not in name
    )


def operations(model: ReLlmForConditionalGeneration, teacher: bool, encoders: bool) -> float:
    """Floating-point operations that training on one utterance takes; attention's own products are left out.

    A frozen layer: 2 per weight and token forwards, 2 backwards to its input. What a student's row begins with, half of
    the prompt, was read before.
    """
    llm, output = model.language_model, model.get_output_embeddings().weight.numel()
    layers = _matmul_parameters(llm) - output
    spoken = PROMPT // 2 + RESPONSE + model.config.adapter.token_count(int(SECONDS * 50))
    total = 4.0 * (layers * spoken + output * RESPONSE)
    total += 6.0 * _matmul_parameters(model.adapter) * SECONDS * 50 / 4  # about: strides of 2, three convolutions
    if teacher:
        total += 2.0 * (layers * (PROMPT + RESPONSE + TRANSCRIPT) + output * RESPONSE)
    if encoders:
        full = model.config.speech_window == "full"
        length = model.config.speech_config.max_source_positions if full else SECONDS * 50
        total += 2.0 * (_matmul_parameters(model.speech_encoder) * length)
        total += 2.0 * _matmul_parameters(model.emotion_encoder) * SECONDS * 50
    return total


# --- measurements --------------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after two that are not counted."""
    found = []
    for i in range(repeats + 2):
        wait(device)
        begun = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - begun)
        if i < 2:
            found.clear()
    return found


def peak_rate(device: torch.device, size: int) -> float:
    """Operations per second of a large bfloat16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2.0 * size**3 / min(seconds(lambda: a @ b, device, 5))


def synchronisations(work: Callable[[], object], device: torch.device) -> str:
    """How often the host waits for the device in one run."""
    if device.type != "cuda":
        return "not counted here"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchroniz" in str(each.message) for each in caught))


class Step:
    """A training step: losses, gradients, clipping, AdamW."""

    def __init__(self, model: ReLlmForConditionalGeneration, losses: dict[str, float], made: dict[str, Any]):
        self.model, self.made = model, made
        stage = StageOptions(losses=losses, lr=2e-5)
        self.objective = Objective(model, stage, openings=Openings.of(model, stage))
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-5, fused=model.device.type == "cuda")

    def __call__(self) -> None:
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16):
            loss = self.objective(self.made, self.objective.options.losses)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def training(model: ReLlmForConditionalGeneration, sizes: Sizes, peak: float, cached: bool) -> None:
    """Rates of the stages with cached states, or with the encoders in the step."""
    model.train()
    for name, losses in STAGES.items():
        teacher = "response_kl" in losses
        for count in sizes.batches:
            speech = {"speech": states(model, count)} if cached else audio(model, count)
            step = Step(model, losses, batch(model, speech, count, teacher))
            reset_memory(model.device)
            try:
                taken = seconds(step, model.device, sizes.repeats)
            except torch.OutOfMemoryError:
                print(f"{name}, batch {count}: out of memory")
                continue
            where = "cached states" if cached else f"encoders run, {model.config.speech_window}"
            rate = row(f"{name}, batch {count}, {where}", [count / s for s in taken], unit="utt/s")
            used = rate * operations(model, teacher, not cached) / peak
            waits = synchronisations(step, model.device)
            print(f"    {100 * used:.0f} % of the product's rate, {memory(model.device)}, host waits: {waits}")


@torch.inference_mode()
def generation(model: ReLlmForConditionalGeneration, sizes: Sizes) -> None:
    """First token of one utterance, and tokens per second of one and of many rows."""
    model.eval()
    tokens = model.config.adapter.token_count(int(SECONDS * 50))
    for count in (1, sizes.many):
        ids = torch.randint(0, sizes.text.vocab_size - 1, (count, PROMPT), device=model.device)
        spoken = ids.new_full((count, tokens), model.config.speech_token_id)
        inputs = torch.cat([ids[:, : PROMPT // 2], spoken, ids[:, PROMPT // 2 :]], dim=1)
        heard = audio(model, count)

        def answer(new: int, inputs: Tensor = inputs, heard: dict[str, Tensor] = heard, **options: Any) -> None:
            with torch.autocast(model.device.type, dtype=torch.bfloat16):
                model.generate(
                    input_ids=inputs, attention_mask=torch.ones_like(inputs), **heard, do_sample=False,
                    max_new_tokens=new, min_new_tokens=new, **options,
                )  # fmt: skip

        reset_memory(model.device)
        name = f"first token, batch {count}, {model.config.speech_window}"
        row(name, seconds(partial(answer, 1), model.device, sizes.repeats), unit="ms", scale=1e3)
        for cache in ("dynamic", "static"):  # transformers compiles the step for a static cache on a GPU
            few, many = (
                seconds(partial(answer, n, cache_implementation=cache), model.device, max(1, sizes.repeats // 2))
                for n in (sizes.new_tokens // 4, sizes.new_tokens)
            )
            new = sizes.new_tokens - sizes.new_tokens // 4
            rates = [count * new / (s - min(few)) for s in many if s > min(few)]
            if rates:
                row(f"decoding, batch {count}, {cache} cache", rates, unit="tok/s")
            else:
                print(f"decoding, batch {count}, {cache} cache: too short to be measured")
        print(f"    {memory(model.device)}")


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> str:
    if device.type != "cuda":
        return "memory not counted here"
    return f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the code; its figures mean nothing")
    given = parser.parse_args()
    if not (given.tiny or torch.cuda.is_available()):
        print("No GPU here: trying the code at tiny sizes; these figures mean nothing.\n")
        given.tiny = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = tiny() if given.tiny else paper()
    head("The paper's model on one GPU" + (" (tiny sizes: the figures mean nothing)" if given.tiny else ""))
    if device.type == "cuda":
        print(torch.cuda.get_device_name(), f"torch {torch.__version__}\n")
    peak = peak_rate(device, sizes.product)
    print(f"bfloat16 product of {sizes.product} x {sizes.product}: {peak / 1e12:.3g} Tflop/s\n")
    torch.manual_seed(0)
    for window in ("full", "trimmed"):
        model = build(sizes, device, window)
        if window == "full":
            training(model, sizes, peak, cached=True)
        training(model, sizes, peak, cached=False)
        generation(model, sizes)
        del model
        print()


if __name__ == "__main__":
    main()
