"""One run of `re-llm train` on a recipe of an emotion encoder: the encoder itself, or its tests on unseen speakers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from re_llm.core import files
from re_llm.core.assets import component_hash, resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.core.provenance import write_resolved
from re_llm.llm.device import half_on_cpu, pick_device
from re_llm.model.hub import locate
from re_llm.model.speech_layers import SpeechLayers
from re_llm.recipe.emotion import EmotionRecipe, FoldOptions, SharedOptions
from re_llm.train.emotion.background import VALIDATED, background_rows
from re_llm.train.emotion.calibration import calibrate
from re_llm.train.emotion.conditions import CONDITIONS
from re_llm.train.emotion.fit import Fitted, decide, fit
from re_llm.train.emotion.learners import Learner, SharedLearner
from re_llm.train.emotion.report import Tested, TestReport, summarize, table
from re_llm.train.emotion.rows import Corpora, Division, Fold, divide, folds, read_corpora
from re_llm.train.emotion.separate import SeparateLearner
from re_llm.train.emotion.states import Encoding, StateStore, recording_id

STAGE = "train-emotion 2"  # the number rises when the same inputs begin to give another encoder
STAGES = ("encoder", "folds")
Say = Callable[[str], None]


@dataclass
class EmotionReport(Made):
    """What a run did; `report.json` in its folder holds it.

    Attributes:
        utterances: corpus -> emotion -> number. dropped: reason -> number. dimensions: source -> number.
        background_unsure: fraction of recordings without speech, not trained on, in which it is unsure.
        validation_accuracy: unweighted accuracy on the validation's speakers, mean over corpora, before the refit.
    """

    out: Path
    stage: str
    utterances: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    dimensions: dict[str, int] = field(default_factory=dict)
    validation_speakers: list[str] = field(default_factory=list)
    validation_accuracy: float | None = None
    epochs: int | None = None
    background_unsure: float | None = None
    tests: list[TestReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """For a person."""
        lines = [f"{c}: " + ", ".join(f"{n} {e}" for e, n in counts.items()) for c, counts in self.utterances.items()]
        lines += [f"left out: {number} x {reason}" for reason, number in self.dropped.items()]
        lines.append("V/A/D: " + ", ".join(f"{number} {source}" for source, number in self.dimensions.items()))
        if self.validation_accuracy is not None:
            lines.append(f"validation UA {self.validation_accuracy:.1%} after {self.epochs} epochs: {self.out}")
        if self.background_unsure is not None:
            lines.append(f"unsure in {self.background_unsure:.0%} of recordings without speech")
        return "\n".join([*lines, *self.notes, *filter(None, [table(self.tests)]), f"{self.seconds:.0f} s"])


@dataclass(frozen=True)
class Run:
    """What all trainings of a run share."""

    recipe: EmotionRecipe
    corpora: Corpora
    learner: Callable[[int], Learner]
    say: Say
    store: StateStore | None = None

    def train(self, indices: Sequence[int], seed: int) -> tuple[Learner, Fitted, Division, Tensor]:
        """A learner trained on some utterances, how far, on which division, and its logits on the validation.

        With `refit` it is trained again on the validation's speakers too, for as many epochs as were best.
        """
        options, copies = self.recipe.fit, self.recipe.augment.copies
        division = divide(self.corpora, indices, options.validation, seed)
        learner = self.learner(seed)
        fitted = fit(learner, self.corpora, division, options, seed, copies=copies, say=self.say)
        logits = learner.predict([self.corpora.rows[i] for i in division.validation])
        if options.refit:
            whole = Division((*division.training, *division.validation), ())
            learner = self.learner(seed)
            fit(learner, self.corpora, whole, options, seed, copies=copies, epochs=fitted.epochs)
        return learner, fitted, division, logits


def train_emotion(
    recipe: EmotionRecipe,
    data: Sequence[Path],
    out: Path,
    *,
    stage: str = "encoder",
    states: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: Overwrite = Overwrite.NO,
    progress: bool = True,
    say: Say = lambda line: None,
) -> EmotionReport:
    """Trains the encoder of a recipe (`encoder`), or measures it on speakers left out in turn (`folds`).

    A killed run goes on: encoded states and finished folds stay.

    Args:
        data: manifests.
        states: folder of encoded states, to use or fill; default `out/states`.
        seed: of the encoder; `folds` takes the recipe's seeds.

    Raises:
        RellmError: the data do not fit the recipe, a recording cannot be read, or `out` holds another product.
    """
    if stage not in STAGES:
        raise RellmError(f"a recipe of an emotion encoder has no stage {stage!r}", allowed=", ".join(STAGES))
    begun = time.monotonic()
    corpora = read_corpora(data, recipe.emotions)
    out.mkdir(parents=True, exist_ok=True)
    product = _product(recipe, corpora, data, out, stage, seed)
    with product.making(overwrite, run={"device": device}) as before:
        if before.state is State.SAME:
            return product.stored(EmotionReport)
        states = states or out / "states"
        if recipe.fit.background:
            corpora.background = background_rows(states / "background")
        run = _run(recipe, corpora, states, pick_device(device), progress, say)
        report = EmotionReport(out, stage, dropped=dict(corpora.dropped), remade=before.why)
        report.utterances = corpora.counts(range(len(corpora.rows)))
        report.dimensions = dict(Counter(row.source or "without" for row in corpora.rows))
        if stage == "encoder":
            _encoder(run, report, seed)
        else:
            _folds(run, report)
        report.seconds = round(time.monotonic() - begun, 1)
        told = {name: value for name, value in asdict(report).items() if name != "out"}  # a folder may be moved
        files.write_json(out / "report.json", told)
        write_resolved(out, recipe.model_dump(mode="json"))
        product.finish(report)
    return report


def _product(
    recipe: EmotionRecipe, corpora: Corpora, data: Sequence[Path], out: Path, stage: str, seed: int
) -> Product:
    """Everything that decides the outcome: the manifests, the recordings, the pretrained encoder, the options."""
    options = recipe.emotion_encoder
    name = options.speech_encoder if isinstance(options, SharedOptions) else options.name
    inputs = {
        **{f"data {number}": files.file_hash(path) for number, path in enumerate(data, 1)},
        "recordings": files.hash_of(map(recording_id, corpora.rows)),
        "pretrained encoder": component_hash(name),
    }
    names = {f"data {number}": str(path) for number, path in enumerate(data, 1)}
    told = recipe.model_dump(mode="json")
    if not recipe.fit.consistency:  # as before there was any
        del told["fit"]["consistency"]
    settings = {"recipe": told, "stage": stage, "seed": seed if stage == "encoder" else None}
    parts = ("model.safetensors", "config.json", "report.json") if stage == "encoder" else ("folds", "report.json")
    return Product(out, STAGE, inputs, settings, names, parts)


def _run(recipe: EmotionRecipe, corpora: Corpora, states: Path, device: torch.device, progress: bool, say: Say) -> Run:
    if not isinstance(recipe.emotion_encoder, SharedOptions):
        return Run(recipe, corpora, lambda seed: SeparateLearner(recipe, seed, device), say)
    store = _store(recipe, states, device)
    store.fill(corpora.rows, range(recipe.augment.copies + 1), progress=progress)
    store.fill(corpora.background, (0,), progress=progress)
    return Run(recipe, corpora, lambda seed: SharedLearner(recipe, store, seed), say, store)


def _store(recipe: EmotionRecipe, folder: Path, device: torch.device) -> StateStore:
    options = recipe.emotion_encoder
    assert isinstance(options, SharedOptions)
    dtype = half_on_cpu() if device.type == "cpu" else torch.bfloat16
    speech = locate(resolve_component(options.speech_encoder))
    hearing = SpeechLayers.load(speech, options.speech_window, device=device, dtype=dtype)
    return StateStore(folder, Encoding(options, recipe.augment, hearing), hearing.encoder.config.d_model)


def _encoder(run: Run, report: EmotionReport, seed: int) -> None:
    """Trains on everything but held-out speakers and the manifests' test splits, and writes the component."""
    corpora, held = run.corpora, run.recipe.held_out
    tested = {corpus: corpora.held_out(corpus, speakers) for corpus, speakers in held.items()}
    gone = {i for indices in tested.values() for i in indices}
    gone |= {i for i, row in enumerate(corpora.rows) if row.split == "test" and _has_splits(corpora, row.corpus)}
    learner, fitted, division, logits = run.train([i for i in range(len(corpora.rows)) if i not in gone], seed)
    calibration = calibrate(corpora, division.validation, logits)
    if corpora.background:
        unheard = learner.predict(corpora.background[-VALIDATED:])
        report.background_unsure = calibration.unsure(unheard)
    learner.save(report.out, corpora, calibration)
    report.validation_speakers = corpora.speakers(division.validation)
    report.validation_accuracy, report.epochs = round(fitted.accuracy, 4), fitted.epochs
    for corpus, indices in tested.items():
        if indices:
            fold = Fold(f"held out of {corpus}", tuple(indices), ())
            found = _measured(run, learner, fold, list(corpora.label_sets[corpus]))
            report.tests.append(summarize(fold.name, [Tested(fold.name, fold.name, seed, found, fitted.epochs, 0)]))


def _has_splits(corpora: Corpora, corpus: str) -> bool:
    """Whether a corpus has splits of its own, so that `test` means what it says."""
    return any(row.split == "train" for row in corpora.rows if row.corpus == corpus)


def _folds(run: Run, report: EmotionReport) -> None:
    """Every fold of every test with every seed; what an earlier run finished is read."""
    kept = report.out / "folds"
    kept.mkdir(exist_ok=True)
    for name, options in run.recipe.tests.items():
        made, notes = folds(run.corpora, name, options)
        report.notes += notes
        tested = []
        for fold in made:
            for seed in run.recipe.seeds:
                file = kept / f"{fold.name}-seed{seed}.json"
                if not file.is_file():
                    files.write_json(file, asdict(_test(run, name, fold, options, seed)))
                tested.append(_read_tested(file))
                run.say(f"{fold.name}, seed {seed}: UA {tested[-1].accuracy:.1%}")
        report.tests.append(summarize(name, tested))


def _read_tested(file: Path) -> Tested:
    given = json.loads(file.read_bytes())
    return Tested(**{**given, "answers": [tuple(answer) for answer in given["answers"]]})


def _measured(run: Run, learner: Learner, fold: Fold, allowed: Sequence[int]) -> list[tuple[str, str, str]]:
    """Speaker, label and answer of every utterance of a fold."""
    rows, names = [run.corpora.rows[i] for i in fold.test], run.corpora.emotions
    found = decide(learner.predict(rows), allowed)
    return [(row.speaker, names[row.emotion], names[answer]) for row, answer in zip(rows, found, strict=True)]


def _test(run: Run, name: str, fold: Fold, options: FoldOptions, seed: int) -> Tested:
    begun = time.monotonic()
    learner, fitted, division, _ = run.train(fold.rest, seed)
    corpora, rows = run.corpora, [run.corpora.rows[i] for i in fold.test]
    chosen = options.emotions or tuple(corpora.emotions[e] for e in corpora.label_sets[rows[0].corpus])
    allowed = [corpora.emotions.index(emotion) for emotion in chosen]
    answers = _measured(run, learner, fold, allowed)
    found = [corpora.emotions.index(answer) for *_, answer in answers]
    kept = {}
    for condition in CONDITIONS if options.conditions else ():
        kept[condition] = float((decide(learner.predict(rows, condition), allowed) == found).mean())
    speakers = len(corpora.speakers([*division.training, *division.validation]))
    return Tested(name, fold.name, seed, answers, fitted.epochs, speakers, kept, round(time.monotonic() - begun, 1))
