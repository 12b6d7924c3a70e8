"""`re-llm score train`: a custom scorer from EPITOME's csv files, measured on pairs that it has not seen.

Writes a folder that `re-llm score --scorer FOLDER` reads:
    scorer.json  tokenizer*  metrics.json
    ER/  IP/  EX/    config.json, model.safetensors, metrics.json, provenance.json, recipe.resolved.yaml
A later run adds a mechanism to the folder or replaces it; what tells how it was made goes with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.core.files import disk_error, existing, write_json
from re_llm.core.progress import progress_bar
from re_llm.core.provenance import RESOLVED, write_provenance
from re_llm.evaluate.empathy.biencoder import save_biencoder
from re_llm.evaluate.empathy.biencoder_start import SCRATCH, BiEncoderOptions, Start, read_start, scratch_start
from re_llm.evaluate.empathy.biencoder_training import Trained, judge_pairs, train_biencoder
from re_llm.evaluate.empathy.epitome import CSV_NAMES, MECHANISMS, PUBLISHED, Pair, read_pairs, seeker_post
from re_llm.evaluate.empathy.measures import TrainReport, measures, trivial_levels
from re_llm.evaluate.empathy.scorer_files import check_folder, write_shared

OURS = "bi-encoder"


@dataclass(frozen=True)
class BiEncoderPlan:
    """What to train.

    Attributes:
        csvs: file of each mechanism.
        encoder: folder or hub id of a RoBERTa; None for one from scratch.
        tokenizer: folder or hub id, when it is not the encoder's own (or not to be trained).
    """

    csvs: dict[str, Path]
    encoder: str | None = None
    tokenizer: str | None = None
    options: BiEncoderOptions = field(default_factory=BiEncoderOptions)

    def settings(self) -> dict[str, Any]:
        """What the result depends on."""
        unused = SCRATCH if self.encoder else set()
        named = {"mechanisms": list(self.csvs), "encoder": self.encoder, "tokenizer": self.tokenizer}
        return {**named, **self.options.model_dump(exclude=unused)}


def make_plan(
    csv: Path, mechanisms: Sequence[str], encoder: str | None, tokenizer: str | None, options: dict[str, Any]
) -> BiEncoderPlan:
    """The plan of a command line; options that are not given keep their published values.

    Raises:
        RellmError: there is no such csv file, mechanism or option, or options contradict each other.
    """
    checked = BiEncoderOptions.checked(options, scratch=encoder is None)
    return BiEncoderPlan(find_csvs(csv, mechanisms), encoder, tokenizer, checked)


def find_csvs(where: Path, mechanisms: Sequence[str] = ()) -> dict[str, Path]:
    """The csv file of each wanted mechanism.

    Args:
        where: folder with files of the published names, or one file, whose name or the wanted mechanism decides.
        mechanisms: None of them for all that are there.

    Raises:
        RellmError: an unknown mechanism, no such file, or a file whose mechanism is not known.
    """
    wanted = [mechanism.upper() for mechanism in mechanisms]
    for mechanism in wanted:
        if mechanism not in MECHANISMS:
            raise RellmError(f"no such mechanism: {mechanism!r}", allowed=", ".join(MECHANISMS))
    if where.is_dir():
        present = [m for m, name in CSV_NAMES.items() if (where / name).is_file()]
        found = {m: where / CSV_NAMES[m] for m in wanted or present}
        if not found:
            raise RellmError(f"{where} holds no EPITOME csv file", allowed=", ".join(CSV_NAMES.values()))
        return found
    existing(where, todo="Give the folder of the EPITOME csv files, or one of them")
    named = [m for m, name in CSV_NAMES.items() if name == where.name]
    if len(wanted or named) != 1:
        raise RellmError(f"the mechanism of {where} is not known", allowed="one --mechanism ER, IP or EX")
    return {(wanted or named)[0]: where}


def split_pairs(pairs: Sequence[Pair], dev_fraction: float, test_fraction: float, seed: int) -> tuple[list[Pair], ...]:
    """(training, development, test) pairs; the responses to one seeker post stay together.

    Posts are ranked by a hash, so the files of the three mechanisms are split alike.

    Raises:
        RellmError: there are too few posts for the fractions.
    """
    posts = {seeker_post(pair) for pair in pairs}
    ranked = sorted(posts, key=lambda post: hashlib.sha256(f"{seed}:{post}".encode()).digest())
    tests = round(test_fraction * len(ranked))
    devs = round(dev_fraction * len(ranked))
    if not tests or (dev_fraction and not devs) or tests + devs >= len(ranked):
        raise RellmError(f"{len(ranked)} different seeker posts are too few to hold some out", allowed="20 or more")
    part = {post: 2 if n < tests else 1 if n < tests + devs else 0 for n, post in enumerate(ranked)}
    parts: tuple[list[Pair], ...] = ([], [], [])
    for pair in pairs:
        parts[part[seeker_post(pair)]].append(pair)
    return parts


def train_biencoders(plan: BiEncoderPlan, out: Path, *, device: str = "cpu", progress: bool = True) -> TrainReport:
    """Trains a bi-encoder for each csv file of the plan and writes the scorer's folder.

    Raises:
        RellmError: a csv file, the encoder or an option is wrong; nothing is written then.
    """
    options = plan.options
    dev_fraction = options.dev_fraction if options.patience else 0.0
    parts = {
        mechanism: split_pairs(read_pairs(path), dev_fraction, options.test_fraction, options.seed)
        for mechanism, path in plan.csvs.items()
    }
    start = _start(plan, next(iter(parts.values()))[0])
    check_folder(out, start.tokenizer, options.window)
    report = TrainReport(out, "held-out pairs")
    total = options.epochs * sum(len(train) for train, _, _ in parts.values())
    try:
        with progress_bar("train", total, unit="pairs", show=progress) as advance:
            for mechanism, (train, dev, test) in parts.items():
                trained = train_biencoder(train, start, options, dev=dev, device=device, advance=advance)
                report.metrics[mechanism] = _measure(mechanism, trained, start, options, (train, dev, test))
                save_biencoder(trained.model, out / mechanism)
                write_json(out / mechanism / "metrics.json", report.metrics[mechanism])
                csv = [plan.csvs[mechanism]]
                write_provenance(out / mechanism, seed=options.seed, inputs=csv, settings=plan.settings())
                write_shared(out, start.tokenizer, options.window)
        # An earlier run may have trained other mechanisms of the folder.
        files = {mechanism: out / mechanism / "metrics.json" for mechanism in MECHANISMS}
        known = {m: json.loads(path.read_text(encoding="utf-8")) for m, path in files.items() if path.is_file()}
        write_json(out / "metrics.json", known)
        for stale in ("provenance.json", RESOLVED):  # of an earlier version: about the last run, whichever it trained
            (out / stale).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(out, error) from error
    return report


def _start(plan: BiEncoderPlan, train: Sequence[Pair]) -> Start:
    """`train`: pairs of the first csv file; the others hold the same texts, and no test post is among them."""
    if plan.encoder:
        return read_start(plan.encoder, plan.tokenizer)
    texts = [text for pair in train for text in (pair.seeker, pair.response)]
    return scratch_start(texts, plan.options, plan.tokenizer)


def _measure(
    mechanism: str, trained: Trained, start: Start, options: BiEncoderOptions, parts: tuple[list[Pair], ...]
) -> dict[str, Any]:
    train, dev, test = parts
    levels, agreement = judge_pairs(trained.model, start.tokenizer, test, options)
    truth = np.array([pair.level for pair in test])
    rules = trivial_levels(np.array([pair.level for pair in train]), [pair.response for pair in test])
    accuracy, f1 = PUBLISHED[mechanism]
    return {
        "mechanism": mechanism,
        "pairs": {"train": len(train), "development": len(dev), "test": len(test)},
        "measures": {name: measures(truth, found) for name, found in {OURS: levels, **rules}.items()},
        "rationales": agreement,
        "rationales_not_located": sum(pair.lost_rationales for part in parts for pair in part),
        "epochs": max(len(trained.dev_macro_f1), trained.best_epoch + 1),
        "best_epoch": trained.best_epoch + 1,
        "development_macro_f1": [round(value, 4) for value in trained.dev_macro_f1],
        "first_loss": round(trained.losses[0], 4),
        "last_loss": round(trained.losses[-1], 4),
        "published_roberta_base_on_another_split": {"accuracy": accuracy, "macro_f1": f1},
    }
