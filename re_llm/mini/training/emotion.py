"""The miniature world's emotion encoder: training and evaluation.

Run: python -m re_llm.mini.training.emotion --world DIR --out DIR
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from re_llm.audio.waveform import RATE
from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS
from re_llm.mini.training import speech_data
from re_llm.mini.training.component import report, settings_of
from re_llm.mini.training.emotion_model import EmotionNet, EmotionSize, embed, save_emotion
from re_llm.mini.training.emotion_task import EmotionSteps, EmotionTask, class_index, concordance
from re_llm.mini.training.fitting import Plan, command, fit

STEPS = 2000
LEAST_CCC = {"arousal": 0.5, "dominance": 0.5, "valence": 0.3}
LEAST_UA = 0.6
LONG = 100  # steps, from which another process is worth its start
PROBED = 2000  # Train utterances that the linear probe of the five emotions is fitted on


def default_plan(steps: int = STEPS, **more: Any) -> Plan:
    """The plan of the build, with another number of steps when it is asked for."""
    return Plan(steps, 1e-3, min(200, steps // 10), **more)


def settings(world: Path, size: EmotionSize, options: EmotionSteps) -> dict[str, Any]:
    """What decides the component beside its plan; see `fitting.settings_of`."""
    used = [("msp_podcast", "train"), ("msp_podcast", "test1")]
    return settings_of(speech_data.contents(world, used), size=size, options=options)


def default_settings(world: Path, seed: int) -> dict[str, Any]:
    """`settings` of what the build makes."""
    return settings(world, EmotionSize(), EmotionSteps())


def train_emotion(
    out: Path,
    world: Path,
    plan: Plan,
    *,
    progress: bool = True,
    size: EmotionSize | None = None,
    options: EmotionSteps | None = None,
    gate: bool = True,
) -> dict[str, Any]:
    """Train on `msp_podcast` Train; writes a folder in audeering's format to `out`, its training state to `out/state`.

    A run that was killed resumes from its state.

    Returns:
        What `metrics.json` holds: the results of `evaluate_emotion`, steps, seed, threads, seconds, sizes.

    Raises:
        RellmError: the world's tables or recordings are missing, or (with `gate`) the model is not good enough.
    """
    size, options = size or EmotionSize(), options or EmotionSteps()
    rows = speech_data.utterances(world, "msp_podcast", "train")
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    net = EmotionNet(size)
    net.wav2vec2.set_attn_implementation("eager")
    task = EmotionTask(net, options, rows, plan.steps)
    decides, state = settings(world, size, options), out / "state"
    with task.making_ahead() if plan.steps >= LONG else nullcontext():
        fitted = fit(net, lambda step: task.terms(step, plan.seed), plan, state, settings=decides, progress=progress)
    save_emotion(net, out)
    results = {
        **evaluate_emotion(out, world),
        "parameters": sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values()),
        "utterances_trained": len(rows),
        "hours": round(float(task.pieces.samples.sum()) / RATE / 3600, 2),
    }
    return report(out, results, fitted, _check if gate else None, plan, decides)


def evaluate_emotion(folder: Path, world: Path) -> dict[str, Any]:
    """Quality of a saved emotion encoder on `msp_podcast` Test1 (voices that training never had).

    Args:
        folder: what `train_emotion` wrote.
        world: the built world.

    Returns:
        `ccc` per dimension; `ua`, the unweighted accuracy of a logistic regression from the embedding to the five
        emotions; `recalls` per emotion; `utterances` and, of those, `with_class`.
    """
    train = [row for row in speech_data.utterances(world, "msp_podcast", "train") if class_index(row) >= 0][:PROBED]
    test = speech_data.utterances(world, "msp_podcast", "test1")
    fitted, _ = embed(folder, train)
    embeddings, predicted = embed(folder, test)
    ccc = concordance(torch.from_numpy(predicted), torch.tensor([row.dimensions() for row in test]))
    known = [i for i, row in enumerate(test) if class_index(row) >= 0]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1, class_weight="balanced"))
    probe.fit(fitted, [row.emotion for row in train])
    found = probe.predict(embeddings[known])
    truth = [test[i].emotion for i in known]
    names = [name for name in PROMPT_EMOTIONS if name in truth]
    recalls = recall_score(truth, found, labels=names, average=None, zero_division=0)
    return {
        "ccc": {name: round(float(value), 4) for name, value in zip(DIMENSIONS, ccc, strict=True)},
        "ua": round(float(np.mean(recalls)), 4),
        "recalls": {name: round(float(value), 4) for name, value in zip(names, recalls, strict=True)},
        "utterances": len(test),
        "with_class": len(known),
    }


def _check(metrics: dict[str, Any]) -> None:
    low = {name: value for name, value in metrics["ccc"].items() if value < LEAST_CCC[name]}
    if low or metrics["ua"] < LEAST_UA:
        raise RellmError(
            f"the miniature's emotion encoder reaches concordance {metrics['ccc']} and unweighted accuracy "
            f"{metrics['ua']:.3f} on unseen voices",
            allowed=f"concordance of at least {LEAST_CCC} and accuracy of at least {LEAST_UA}",
            todo="Train for more steps; the run resumes from its state",
        )


if __name__ == "__main__":
    sys.exit(command(train_emotion, "emotion encoder", STEPS, default_plan))
