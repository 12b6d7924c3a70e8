"""`re-llm score train`: a scorer of the user's own from EPITOME's csv files, measured on pairs that it has not seen.

Writes a folder that `re-llm score --scorer FOLDER` reads:
    scorer.json  tokenizer*  metrics.json  provenance.json  recipe.resolved.yaml
    ER/  IP/  EX/    config.json and model.safetensors of each mechanism
A later run adds a mechanism to the folder or replaces it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.files import disk_error
from re_llm.core.progress import progress_bar
from re_llm.core.provenance import write_provenance
from re_llm.evaluate.empathy.biencoder import save_biencoder
from re_llm.evaluate.empathy.biencoder_start import ScratchOptions, Start, read_start, scratch_start
from re_llm.evaluate.empathy.biencoder_training import BiEncoderOptions, Trained, judge_pairs, train_biencoder
from re_llm.evaluate.empathy.epitome import CSV_NAMES, MECHANISMS, PUBLISHED, Pair, read_pairs, seeker_post
from re_llm.evaluate.empathy.measures import beside_trivial
from re_llm.evaluate.empathy.scorer_files import check_folder, write_json, write_shared
from re_llm.evaluate.empathy.train_report import TrainReport

OURS = "bi-encoder"
SCRATCH_LR = 5e-4  # a small encoder from nothing learns nothing at the published 2e-5


@dataclass(frozen=True)
class BiEncoderPlan:
    """What to train.

    Attributes:
        csvs: file of each mechanism.
        encoder: folder or hub id of a RoBERTa; None for one from nothing (`scratch`).
        tokenizer: folder or hub id, when it is not the encoder's own (or not to be trained).
        test_share, dev_share: of the seeker posts; development pairs are held out for early stopping only.
    """

    csvs: dict[str, Path]
    encoder: str | None = None
    tokenizer: str | None = None
    scratch: ScratchOptions = field(default_factory=ScratchOptions)
    options: BiEncoderOptions = field(default_factory=BiEncoderOptions)
    test_fraction: float = 0.2
    dev_fraction: float = 0.05

    def __post_init__(self) -> None:
        for name in ("test_fraction", "dev_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise RellmError(f"{name} = {getattr(self, name)}", allowed="between 0 and 0.5")


def find_csvs(where: Path, mechanisms: Sequence[str] = ()) -> dict[str, Path]:
    """The csv file of each wanted mechanism.

    Args:
        where: folder with files of the published names, or one file; its mechanism is told by its name or wanted.
        mechanisms: None of them for all that are there.

    Raises:
        RellmError: an unknown mechanism, no such file, or a file whose mechanism nothing tells.
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
    if not where.is_file():
        raise RellmError(f"no such file: {where}", todo="Give the folder of the EPITOME csv files, or one of them")
    named = [m for m, name in CSV_NAMES.items() if name == where.name]
    if len(wanted or named) != 1:
        raise RellmError(f"{where} is of which mechanism?", allowed="one --mechanism ER, IP or EX")
    return {(wanted or named)[0]: where}


def split_pairs(pairs: Sequence[Pair], dev_fraction: float, test_fraction: float, seed: int) -> tuple[list[Pair], ...]:
    """(training, development, test) pairs; the responses to one seeker post stay together.

    Posts are ranked by a hash, so the files of the three mechanisms are split alike.

    Raises:
        RellmError: there are too few posts for the shares.
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
    pairs = {mechanism: read_pairs(path) for mechanism, path in plan.csvs.items()}
    dev_fraction = plan.dev_fraction if options.patience else 0.0
    parts = {m: split_pairs(each, dev_fraction, plan.test_fraction, options.seed) for m, each in pairs.items()}
    start = _start(plan, [train for train, _, _ in parts.values()])
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
                write_shared(out, start.tokenizer, options.window)
        write_json(out / "metrics.json", _all_metrics(out))
        write_provenance(out, seed=options.seed, inputs=plan.csvs.values(), settings=_settings(plan, dev_fraction))
    except OSError as error:
        raise disk_error(out, error) from error
    return report


def _all_metrics(out: Path) -> dict[str, Any]:
    """Of every mechanism in the folder, also of those that an earlier run trained."""
    paths = {mechanism: out / mechanism / "metrics.json" for mechanism in MECHANISMS}
    return {m: json.loads(path.read_text(encoding="utf-8")) for m, path in paths.items() if path.is_file()}


def _settings(plan: BiEncoderPlan, dev_fraction: float) -> dict[str, Any]:
    start = {"encoder": plan.encoder} if plan.encoder else {"scratch": asdict(plan.scratch)}
    fractions = {"test_fraction": plan.test_fraction, "dev_fraction": dev_fraction}
    return {"mechanisms": list(plan.csvs), **start, "tokenizer": plan.tokenizer, **fractions, **asdict(plan.options)}


def _start(plan: BiEncoderPlan, trains: Sequence[Sequence[Pair]]) -> Start:
    if plan.encoder:
        return read_start(plan.encoder, plan.tokenizer)
    # The three files hold the same texts: the first is enough, and test posts are in none of them.
    texts = [text for pair in trains[0] for text in (pair.seeker, pair.response)]
    return scratch_start(texts, plan.options.window, plan.scratch, plan.tokenizer)


def _measure(
    mechanism: str, trained: Trained, start: Start, options: BiEncoderOptions, parts: tuple[list[Pair], ...]
) -> dict[str, Any]:
    train, dev, test = parts
    levels, agreement = judge_pairs(
        trained.model, start.tokenizer, test, window=options.window, batch_size=options.batch_size
    )
    accuracy, f1 = PUBLISHED[mechanism]
    return {
        "mechanism": mechanism,
        "pairs": {"train": len(train), "development": len(dev), "test": len(test)},
        "measures": beside_trivial(OURS, levels, train, test),
        "rationales": agreement,
        "rationales_not_located": sum(pair.lost_rationales for part in parts for pair in part),
        "epochs": max(len(trained.dev_macro_f1), trained.best_epoch + 1),
        "best_epoch": trained.best_epoch + 1,
        "development_macro_f1": [round(value, 4) for value in trained.dev_macro_f1],
        "first_loss": round(trained.losses[0], 4),
        "last_loss": round(trained.losses[-1], 4),
        "published_roberta_base_on_another_split": {"accuracy": accuracy, "macro_f1": f1},
    }
