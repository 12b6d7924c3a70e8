"""Training and answering on one core of a CPU, beside the same system written plainly (`_plain.py`).

    python benchmarks/laptop.py [--repeats 3] [--tiny] [--growth growth.png]

Sizes: Whisper-base, an LLM 512 wide with 8 layers and a vocabulary of 151,936, wav2vec2 512 wide with 6 layers; random
weights, for only sizes count. Four utterances of 3 to 6 s, prompts of 60 tokens, answers of 64. One thread; seconds are
those of the processor, so that other work on the machine counts little, and the systems take turns within each
repetition. Memory is the peak of a process of its own. The roofline is a product of matrices and a pass over an array
that fits no cache, in the same run. `--growth` draws how the first token grows with 2 to 60 s of speech (the plain
system hears 30 s of it) and how many tokens a second batches of 1 to 16 give.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from _common import child, head, peak_memory, spent

import torch  # isort: skip - after _common, which sets the environment
from _plain import Parts, PlainSystem
from torch import Tensor, nn
from transformers import Qwen2Config, Wav2Vec2Config, WhisperConfig, WhisperFeatureExtractor

from re_llm.llm.packed import pack
from re_llm.model import AdapterOptions, LoraOptions, ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.mel import speech_inputs
from re_llm.model.outputs import EncodedAudio
from re_llm.model.recordings import normalized, stack
from re_llm.model.sizes import AUDEERING_OUTPUTS
from re_llm.model.trainable import LEARNED
from re_llm.recipe.stages import StageOptions
from re_llm.train.collate import Batch, Collator
from re_llm.train.examples import Example
from re_llm.train.objective import Objective
from re_llm.train.openings import Openings
from re_llm.train.rows import Row

PROMPT, ANSWER = 60, 64
SECONDS = (3.0, 4.0, 5.0, 6.0)
LONG, BATCHES = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0), (1, 2, 4, 8, 16)
LOSSES = {"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0}
SYSTEMS = ("plain", "ours float32 full", "ours")
Work = Callable[[], object]
Curves = dict[str, dict[float, float]]


def sizes(*, tiny: bool) -> Parts:
    """Whisper-base, LLM 512 x 8, wav2vec2 512 x 6; or a tenth of a second of work."""
    wide, layers, vocabulary = (32, 2, 200) if tiny else (512, 8, 151_936)
    text = Qwen2Config(
        vocab_size=vocabulary, hidden_size=wide, intermediate_size=wide * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=wide // 16 if tiny else 8, num_key_value_heads=wide // 16 if tiny else 8,
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    speech = WhisperConfig(
        d_model=wide, encoder_layers=2 if tiny else 6, encoder_attention_heads=8, encoder_ffn_dim=4 * wide,
        decoder_layers=1, decoder_ffn_dim=8, decoder_attention_heads=8, num_mel_bins=80, vocab_size=vocabulary,
    )  # fmt: skip
    emotion = Wav2Vec2Config(
        hidden_size=wide, num_hidden_layers=1 if tiny else 6, num_attention_heads=8, intermediate_size=4 * wide,
        conv_dim=(wide if tiny else 512,) * 7, conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    return Parts(
        text, speech, emotion, conv_layers=3, bottleneck=16 if tiny else 128, lora_targets=targets, lora_rank=16
    )


@dataclass
class System:
    """One way to do the work.

    Attributes:
        train, cached: a training step, with the encoders in it or with kept states.
        answer: (recordings, new tokens) -> the tokens.
    """

    train: Work
    cached: Work
    answer: Callable[[list[np.ndarray], int], object]


def recordings(seconds: tuple[float, ...] = SECONDS) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [(0.1 * draw.standard_normal(int(16_000 * each))).astype(np.float32) for each in seconds]


def ids(length: int, vocabulary: int) -> Tensor:
    return torch.randint(0, vocabulary - 1, (length,), generator=torch.Generator().manual_seed(length))


def optimised(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> Work:
    """A step: loss, gradients, clipping, AdamW."""
    trained = [p for p in parameters if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-5, fused=True)  # as the Trainer has it

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def plain(parts: Parts) -> System:
    model = PlainSystem(parts)
    waves, vocabulary = recordings(), parts.text.vocab_size
    before, after = ids(PROMPT // 2, vocabulary), ids(PROMPT // 2, vocabulary)
    answers = [ids(ANSWER, vocabulary) for _ in waves]
    kept: list[tuple[Tensor, list[int]]] = []

    def loss(*, cached: bool) -> Tensor:
        if not kept:
            kept.append(model.encode(waves))
        return model.losses(*(kept[0] if cached else model.encode(waves)), before, after, answers)

    parameters = list(model.parameters())
    return System(
        train=optimised(parameters, lambda: loss(cached=False)),
        cached=optimised(parameters, lambda: loss(cached=True)),
        answer=lambda waves, new: model.answer(waves, before, after, new),
    )


def ours(parts: Parts, *, half: bool, window: str) -> System:
    """This package's model. `half`: as `--dtype auto` and a recipe's `precision: bf16` have it on such a processor."""
    config = ReLlmConfig(
        text_config=parts.text,
        speech_config=parts.speech,
        emotion_config=parts.emotion,
        emotion_outputs=AUDEERING_OUTPUTS,
        adapter=AdapterOptions(bottleneck=parts.bottleneck, conv_layers=parts.conv_layers),
        speech_window=window,
        speech_token_id=parts.text.vocab_size - 1,
    )
    dtype = torch.bfloat16 if half else torch.float32
    torch.set_default_dtype(dtype)
    model = ReLlmForConditionalGeneration(config)
    model.add_lora(LoraOptions(r=parts.lora_rank, targets=parts.lora_targets))
    torch.set_default_dtype(torch.float32)
    model.set_trainable(LEARNED, dtype=torch.float32)
    extractor = WhisperFeatureExtractor(feature_size=parts.speech.num_mel_bins)

    def audio(waves: list[np.ndarray]) -> dict[str, Tensor]:
        values = torch.from_numpy(stack([normalized(wave) for wave in waves]))
        lengths = torch.tensor([len(wave) for wave in waves])
        return {**speech_inputs(extractor, waves, window), "emotion_values": values, "emotion_lengths": lengths}

    waves, vocabulary = recordings(), parts.text.vocab_size
    before, after = ids(PROMPT // 2, vocabulary), ids(PROMPT // 2, vocabulary)
    stage = StageOptions(losses=LOSSES, lr=2e-5)
    openings = Openings.of(model, stage)
    objective = Objective(model, stage, openings=openings)
    kept: list[EncodedAudio] = []

    def loss(*, cached: bool) -> Tensor:
        model.train()
        given = None if cached and kept else audio(waves)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with torch.no_grad():
                speech = kept[0] if given is None else model.encode_audio(**given)
            kept[:] = [speech]
            return objective(batch(model, speech, before, after, apart=openings is not None), LOSSES).total

    def answer(waves: list[np.ndarray], new: int) -> Tensor:
        model.eval()
        for part in (model.adapter, model.emotion_head, model.dimension_head):
            part.to(dtype)
        pack(model.language_model)  # as an engine does; a training has to be measured before
        return answered(model, audio(waves), before, after, new)

    parameters = list(model.parameters())
    return System(
        train=optimised(parameters, lambda: loss(cached=False)),
        cached=optimised(parameters, lambda: loss(cached=True)),
        answer=answer,
    )


def batch(
    model: ReLlmForConditionalGeneration, speech: EncodedAudio, before: Tensor, after: Tensor, *, apart: bool
) -> Batch:
    """A batch of the training, made by its collator."""
    counts = [model.config.adapter.token_count(n) for n in speech.speech_lengths.tolist()]
    answer = tuple(ids(ANSWER, model.config.text_config.vocab_size).tolist())
    examples = [Example(str(i), "", 0.0, 1.0, "", {}, "sad", 0, (0.5,) * 3) for i in range(len(counts))]
    around = tuple(before.tolist()), tuple(after.tolist())
    rows = [Row(i, *around, answer, (), (), (), has_teacher=False) for i in range(len(counts))]
    collate = Collator(
        examples, lambda *_: {"speech": speech}, lambda _: counts, speech_token=model.config.speech_token_id,
        pad_token=0, teacher=False, apart=apart,
    )  # fmt: skip
    return collate(rows)


@torch.inference_mode()
def answered(
    model: ReLlmForConditionalGeneration, audio: Mapping[str, Tensor], before: Tensor, after: Tensor, new: int
) -> Tensor:
    """`new` tokens of each answer, [B, prompt + new]."""
    speech = model.encode_speech(**audio)
    model.predict_emotion(speech)
    spoken = [torch.full((n,), model.config.speech_token_id) for n in speech.lengths.tolist()]
    rows = [torch.cat([before, each, after]) for each in spoken]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    mask = (torch.arange(padded.shape[1]) >= padded.shape[1] - lengths).long()
    return model.generate(
        input_ids=padded, attention_mask=mask, speech=speech, max_new_tokens=new, min_new_tokens=new, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip


def make(name: str, parts: Parts) -> System:
    torch.manual_seed(0)
    if name == "plain":
        return plain(parts)
    return ours(parts, half=name == "ours", window="full" if name.endswith("full") else "trimmed")


# --- measurements --------------------------------------------------------------------------------------------------


def taking_turns(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each system, `repeats` times each, after one that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            seconds = spent(work)
            if turn:
                found[name].append(seconds)
    return found


def show(what: str, unit: str, found: Mapping[str, list[float]], *, rate: float | None = None) -> None:
    """A row: medians with their range, and how many times better than the plain system."""
    values = {name: [rate / s for s in each] if rate else each for name, each in found.items()}
    middle = {name: statistics.median(each) for name, each in values.items()}
    print(f"{what} ({unit})")
    for name, each in values.items():
        spread = f"({min(each):.3g} to {max(each):.3g}, n = {len(each)})"
        better = ""
        if "plain" in middle:
            ratio = middle[name] / middle["plain"]
            better = f"{ratio if rate else 1 / ratio:.2f} x"
        print(f"    {name:20} {middle[name]:8.3g}  {spread}  {better}")


def table(parts: Parts, repeats: int, names: tuple[str, ...]) -> None:
    """Every row of the comparison but memory."""
    made = {name: make(name, parts) for name in names}
    four, one = recordings(), recordings((4.0,))
    show("training step, encoders run", "s", taking_turns({n: s.train for n, s in made.items()}, repeats))
    show("training step, cached states", "s", taking_turns({n: s.cached for n, s in made.items()}, repeats))
    for each in made.values():
        each.answer(one, 1)

    def answers(waves: list[np.ndarray], new: int) -> dict[str, list[float]]:
        return taking_turns({n: (lambda s=s: s.answer(waves, new)) for n, s in made.items()}, repeats)

    first, first_four = answers(one, 1), answers(four, 1)
    show("first token, one utterance of 4 s", "s", first)
    for waves, begun in ((one, first), (four, first_four)):
        whole = answers(waves, ANSWER)
        least = {n: [max(1e-9, s - statistics.median(begun[n])) for s in each] for n, each in whole.items()}
        show(f"decoding, batch {len(waves)}", "tokens/s", least, rate=len(waves) * (ANSWER - 1))
        show(f"{ANSWER} tokens end to end, batch {len(waves)}", "tokens/s", whole, rate=len(waves) * ANSWER)


def memory(names: tuple[str, ...], *, tiny: bool) -> None:
    """Peak of a process that does nothing else, by the operating system."""
    for what in ("answering", "training"):
        print(f"peak memory, {what} (MB)")
        for name in names:
            arguments = [sys.executable, __file__, "--peak", name, "--work", what, *(["--tiny"] if tiny else [])]
            told = json.loads(child(arguments).stdout.splitlines()[-1])
            print(f"    {name:20} {told['peak']:8.0f}  ({told['libraries']:.0f} of them Python and libraries)")


def peak(name: str, work: str, parts: Parts) -> None:
    """What a child of `memory` does."""
    libraries = peak_memory()
    system = make(name, parts)
    if work == "training":
        for _ in range(2):
            system.train()
    else:
        system.answer(recordings(), ANSWER)
    print(json.dumps({"peak": peak_memory(), "libraries": libraries}))


def growth(parts: Parts, names: tuple[str, ...], file: Path) -> None:
    """Curves: seconds to the first token by seconds of speech, tokens per second by recordings in a batch."""
    made = {name: make(name, parts) for name in names}
    heard: Curves = {name: {} for name in names}
    rates: Curves = {name: {} for name in names}
    for name, system in made.items():
        system.answer(recordings((2.0,)), 1)
        for seconds in LONG:
            heard[name][seconds] = spent(partial(system.answer, recordings((seconds,)), 1))
        for count in BATCHES:
            rates[name][count] = count * 16 / spent(partial(system.answer, recordings((4.0,) * count), 16))
    draw(heard, rates, file)


def draw(heard: Curves, rates: Curves, file: Path) -> None:
    """Both figures of `growth`, as a picture and in words."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, curves, title, below in (
        (left, heard, "seconds of one core to the first token", "seconds of speech"),
        (right, rates, "tokens a second, 16 tokens each", "recordings in a batch"),
    ):
        for name, curve in curves.items():
            axes.loglog(list(curve), list(curve.values()), marker="o", label=name)
            print(f"{title}, {name}: " + ", ".join(f"{x:g}: {y:.3g}" for x, y in curve.items()))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(below)
        axes.grid(alpha=0.3)
        axes.set_xticks(list(next(iter(curves.values()))))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
    left.set_yticks([0.2, 0.5, 1, 2, 5, 10])
    right.set_yticks([5, 10, 20, 40])
    left.legend()
    figure.savefig(file, dpi=110)


def roofline() -> None:
    """What this core does at most."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    half = a.bfloat16(), b.bfloat16()
    for name, pair in (("float32", (a, b)), ("bfloat16", half)):
        seconds = min(spent(lambda pair=pair: pair[0] @ pair[1]) for _ in range(7))
        print(f"product of 1024 x 1024 matrices, {name}: {2 * 1024**3 / seconds / 1e9:.0f} GFLOP/s")
    array = torch.ones(64 * 2**20)
    print(f"sum of 256 MB: {array.nbytes / min(spent(array.sum) for _ in range(5)) / 1e9:.1f} GB/s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the code; its figures mean nothing")
    parser.add_argument("--systems", nargs="*", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--only", choices=("speed", "memory", "growth"))
    parser.add_argument("--growth", type=Path, help="file for the curves")
    parser.add_argument("--peak", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("answering", "training"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = sizes(tiny=given.tiny)
    if given.peak:
        return peak(given.peak, given.work, parts)
    head("Training and answering on one core" + (" (tiny sizes: the figures mean nothing)" if given.tiny else ""))
    roofline()
    if given.only in (None, "speed"):
        table(parts, given.repeats, tuple(given.systems))
    if given.only in (None, "memory"):
        memory(tuple(given.systems), tiny=given.tiny)
    if given.growth:
        growth(parts, tuple(given.systems), given.growth)


if __name__ == "__main__":
    main()
