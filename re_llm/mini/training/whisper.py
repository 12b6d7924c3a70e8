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
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from re_llm.core.errors import RellmError
from re_llm.mini.training import speech_data
from re_llm.mini.training.fitting import Plan, command, fit, report
from re_llm.mini.training.speech_data import MelStore
from re_llm.mini.training.whisper_model import WhisperSize, save_whisper, train_tokenizer, transcribe
from re_llm.mini.training.whisper_task import Recipe, WhisperTask, read_characters

STEPS = 3900
WORST_WER = 0.10
CTC_HEAD = "char_ctc.safetensors"


def train_whisper(
    out: Path,
    world: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    threads: int = 1,
    progress: bool = True,
    size: WhisperSize | None = None,
    recipe: Recipe | None = None,
    plan: Plan | None = None,
    gate: bool = True,
) -> dict[str, Any]:
    """Train on `speech` train and the transcripts of `msp_podcast` Train; writes a Hugging Face folder to `out`.

    The training state, the curve and the cached log-mels live in `out/state`; a run that was killed goes on from
    there. `plan` replaces `seed`, `steps` and `threads`.

    Returns:
        What `metrics.json` holds: the results of `evaluate_whisper`, steps, seed, threads, seconds, sizes.

    Raises:
        RellmError: the world's tables or recordings are missing, or (with `gate`) the model is not good enough.
    """
    size, recipe = size or WhisperSize(), recipe or Recipe()
    plan = plan or Plan(steps, 1.5e-3, warmup=min(300, steps // 10), seed=seed, threads=threads)
    clips = speech_data.common_voice(world, "train") + speech_data.msp_podcast(world, "Train")
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    tokenizer = train_tokenizer([clip.text for clip in clips], size.vocabulary)
    processor = WhisperProcessor(WhisperFeatureExtractor(), tokenizer)
    state = out / "state"
    mels = MelStore.build(state, clips, progress=progress)
    task = WhisperTask(processor, size, recipe, clips, mels)
    fitted = fit(task, partial(task.terms, seed=plan.seed), plan, state, progress=progress)
    save_whisper(task.model, processor, out)
    save_file(task.heads.characters.state_dict(), state / CTC_HEAD)
    results = {
        **evaluate_whisper(out, world),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "clips": len(clips),
        "hours": round(float(mels.lengths.sum()) / speech_data.MEL_RATE / 3600, 2),
    }
    options = (("plan", plan), ("recipe", recipe), ("size", size))
    metrics = report(out, results, fitted, *options, check=_check if gate else None)
    if gate:
        MelStore.remove(state)
    return metrics


def _check(metrics: dict[str, Any]) -> None:
    if metrics["wer"] >= WORST_WER:
        raise RellmError(
            f"the miniature's Whisper has a word error rate of {metrics['wer']:.1%} on unseen voices "
            f"(with the window padded to 30 s {metrics['wer_full']:.1%}, encoder alone {metrics['encoder_cer']:.1%} "
            "of the characters)",
            allowed=f"less than {WORST_WER:.0%}",
            todo="Train for more steps; the run resumes from its state",
        )


def evaluate_whisper(folder: Path, world: Path, *, limit: int = 400, limit_full: int = 100) -> dict[str, Any]:
    """Errors of a saved Whisper on `speech` test (voices and sentences that training never had).

    Args:
        folder: what `train_whisper` wrote.
        world: the built world.
        limit: how many utterances, evenly spread over the table, are transcribed from their real frames.
        limit_full: how many through `generate` of plain transformers, padded to 30 s.

    Returns:
        `wer` and `wer_full` (word errors per reference word); `wer_same_as_full`, `wer` of just the utterances of
        `wer_full`; `exact`, the share of transcripts without an error; `utterances`; and `encoder_cer` and
        `encoder_wer`, of what the CTC head alone reads off the encoder, when the head is there.
    """
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    clips = _spread(speech_data.common_voice(world, "test"), limit)
    waves = [speech_data.read_wave(clip.path) for clip in clips]
    head = folder / "state" / CTC_HEAD
    found, characters = _transcripts(model, processor, waves, load_file(head) if head.exists() else None)
    few = _spread(range(len(clips)), limit_full)
    full = _full_transcripts(model, processor, [waves[i] for i in few])
    texts = [speech_data.plain(clip.text) for clip in clips]
    results = {
        "utterances": len(clips),
        "wer": error_rate([t.split() for t in texts], [speech_data.plain(t).split() for t in found]),
        "exact": round(sum(t == speech_data.plain(f) for t, f in zip(texts, found, strict=True)) / len(texts), 4),
        "wer_full": error_rate([texts[i].split() for i in few], [speech_data.plain(t).split() for t in full]),
        "wer_same_as_full": error_rate(
            [texts[i].split() for i in few], [speech_data.plain(found[i]).split() for i in few]
        ),
    }
    if characters:
        results["encoder_cer"] = error_rate(texts, characters)
        results["encoder_wer"] = error_rate([t.split() for t in texts], [c.split() for c in characters])
    return results


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int))]


def error_rate(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> float:
    """Edits over reference length, summed over all pairs."""
    wrong = sum(speech_data.edits(r, h) for r, h in zip(references, hypotheses, strict=True))
    return round(wrong / max(1, sum(map(len, references))), 4)


def _transcripts(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    waves: Sequence[np.ndarray],
    head: dict[str, torch.Tensor] | None,
) -> tuple[list[str], list[str]]:
    """Transcripts of the decoder, and of the encoder's character head where there is one."""
    texts, characters = [""] * len(waves), [""] * len(waves) if head else []
    order = np.argsort([len(wave) for wave in waves], kind="stable")
    for start in range(0, len(order), 16):
        chosen = order[start : start + 16]
        found, states, lengths = transcribe(model, processor, [speech_data.log_mel(waves[i]) for i in chosen])
        for row, index in enumerate(chosen):
            texts[index] = found[row]
            if head:
                scores = functional.linear(states[row, : lengths[row]], head["weight"], head["bias"])
                characters[index] = read_characters(scores.argmax(-1).tolist())
    return texts, characters


@torch.no_grad()
def _full_transcripts(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, waves: Sequence[np.ndarray]
) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(waves), 4):
        batch = processor(list(waves[start : start + 4]), sampling_rate=speech_data.SAMPLE_RATE, return_tensors="pt")
        texts += processor.batch_decode(model.generate(batch.input_features), skip_special_tokens=True)
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: train, evaluate, print the metrics as JSON."""
    return command(train_whisper, "Whisper", STEPS, arguments)


if __name__ == "__main__":
    sys.exit(main())
