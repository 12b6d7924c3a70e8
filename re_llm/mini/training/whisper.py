"""The miniature world's Whisper: training and evaluation.

Run: python -m re_llm.mini.training.whisper --world DIR --out DIR

Trained on the real frames of each utterance, as everything in the miniature uses it; every few steps some utterances
are added that are padded to the full 30 s, so that the saved model also works through plain transformers. The CTC
heads of training are not part of the saved Whisper; the one for characters is kept beside the training state,
because `evaluate_whisper` measures the encoder with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import WhisperFeatureExtractor, WhisperProcessor

from re_llm.core.errors import RellmError
from re_llm.evaluate.word_errors import error_rate, plain, word_error_rate
from re_llm.inference.transcribe import Transcriber
from re_llm.mini.training import speech_data
from re_llm.mini.training.component import report, settings_of
from re_llm.mini.training.fitting import Plan, command, fit
from re_llm.mini.training.speech_data import MelStore
from re_llm.mini.training.whisper_model import WhisperSize, gather, save_whisper, train_tokenizer
from re_llm.mini.training.whisper_task import WhisperSteps, WhisperTask, read_characters
from re_llm.model.components import load_speech_encoder, speech_config

STEPS = 3900
WORST_WER = 0.10
UTTERANCES, FULL_UTTERANCES = 400, 100  # transcribed from their real frames, and padded to 30 s
CTC_HEAD = "char_ctc.safetensors"
T = TypeVar("T")


def default_plan(steps: int = STEPS, **more: Any) -> Plan:
    """The plan of the build, with another number of steps when it is asked for."""
    return Plan(steps, 1.5e-3, min(300, steps // 10), **more)


def settings(world: Path, size: WhisperSize, options: WhisperSteps) -> dict[str, Any]:
    """What decides the component beside its plan; see `fitting.settings_of`."""
    used = [*((corpus, "train") for corpus in speech_data.FOLDERS), ("common_voice", "test")]
    return settings_of(speech_data.contents(world, used), size=size, options=options)


def default_settings(world: Path, seed: int) -> dict[str, Any]:
    """`settings` of what the build makes."""
    return settings(world, WhisperSize(), WhisperSteps())


def train_whisper(
    out: Path,
    world: Path,
    plan: Plan,
    *,
    progress: bool = True,
    size: WhisperSize | None = None,
    options: WhisperSteps | None = None,
    gate: bool = True,
) -> dict[str, Any]:
    """Train on `speech` train and the transcripts of `msp_podcast` Train; writes a Hugging Face folder to `out`.

    The training state, the curve and the cached log-mels live in `out/state`; a run that was killed resumes from
    there.

    Returns:
        What `metrics.json` holds: the results of `evaluate_whisper`, steps, seed, threads, seconds, sizes.

    Raises:
        RellmError: the world's tables or recordings are missing, or (with `gate`) the model is not good enough.
    """
    size, options = size or WhisperSize(), options or WhisperSteps()
    rows = [row for corpus in speech_data.FOLDERS for row in speech_data.utterances(world, corpus, "train")]
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    tokenizer = train_tokenizer(speech_data.texts(rows), size.vocabulary)
    processor = WhisperProcessor(WhisperFeatureExtractor(), tokenizer)
    state = out / "state"
    mels = MelStore.build(state, rows, progress=progress)
    task = WhisperTask(processor, size, options, rows, mels)
    decides = settings(world, size, options)
    fitted = fit(task, partial(task.terms, seed=plan.seed), plan, state, settings=decides, progress=progress)
    save_whisper(task.model, processor, out)
    save_file(task.heads.characters.state_dict(), state / CTC_HEAD)
    results = {
        **evaluate_whisper(out, world),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "utterances_trained": len(rows),
        "hours": round(float(mels.lengths.sum()) / speech_data.MEL_RATE / 3600, 2),
    }
    return report(out, results, fitted, _check if gate else None, plan, decides)


def _check(metrics: dict[str, Any]) -> None:
    if metrics["wer"] >= WORST_WER:
        raise RellmError(
            f"the miniature's Whisper has a word error rate of {metrics['wer']:.1%} on unseen voices "
            f"(with the window padded to 30 s {metrics['wer_full']:.1%}, encoder alone {metrics['encoder_cer']:.1%} "
            "of the characters)",
            allowed=f"less than {WORST_WER:.0%}",
            todo="Train for more steps; the run resumes from its state",
        )


def evaluate_whisper(folder: Path, world: Path) -> dict[str, Any]:
    """Errors of a saved Whisper on `speech` test (voices and sentences that training never had).

    Args:
        folder: what `train_whisper` wrote.
        world: the built world.

    Returns:
        `wer` and `wer_full` (word errors per reference word); `wer_same_as_full`, `wer` of just the utterances of
        `wer_full`; `exact`, the fraction of transcripts without an error; `utterances`; and `encoder_cer` and
        `encoder_wer`, of what the CTC head alone reads off the encoder, when the head is there.
    """
    rows = _spread(speech_data.utterances(world, "common_voice", "test"), UTTERANCES)
    waves = [speech_data.read_wave(row) for row in rows]
    references = [plain(text) for text in speech_data.texts(rows)]
    found = [plain(text) for text in Transcriber.load(str(folder), device="cpu").transcribe(waves)]
    few = _spread(range(len(rows)), FULL_UTTERANCES)
    full = Transcriber.load(str(folder), device="cpu", window="full").transcribe([waves[i] for i in few], batch_size=4)
    some = [references[i] for i in few]
    results = {
        "utterances": len(rows),
        "wer": round(word_error_rate(references, found), 4),
        "exact": round(sum(r == f for r, f in zip(references, found, strict=True)) / len(rows), 4),
        "wer_full": round(word_error_rate(some, full), 4),
        "wer_same_as_full": round(word_error_rate(some, [found[i] for i in few]), 4),
    }
    head = folder / "state" / CTC_HEAD
    if head.exists():
        characters = _read_off_the_encoder(folder, head, waves)
        results["encoder_cer"] = round(error_rate(references, characters), 4)
        results["encoder_wer"] = round(word_error_rate(references, characters), 4)
    return results


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` items, evenly spread."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int))]


@torch.no_grad()
def _read_off_the_encoder(folder: Path, head: Path, waves: Sequence[np.ndarray]) -> list[str]:
    """What the character head alone reads off the encoder's states."""
    encoder = load_speech_encoder(folder, speech_config(folder), "trimmed", torch.float32)
    weights = load_file(head)
    texts = []
    for wave in waves:
        states, _ = encoder(*gather([speech_data.log_mel(wave)]))
        scores = functional.linear(states[0], weights["weight"], weights["bias"])
        texts.append(read_characters(scores.argmax(-1).tolist()))
    return texts


if __name__ == "__main__":
    sys.exit(command(train_whisper, "Whisper", STEPS, default_plan))
