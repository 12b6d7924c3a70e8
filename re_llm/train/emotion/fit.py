"""The loop that trains an emotion encoder: balanced draws, mixup, corpora with their own label sets, early stopping."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from re_llm.core.errors import RellmError
from re_llm.recipe.emotion import FitOptions
from re_llm.train.emotion.background import VALIDATED
from re_llm.train.emotion.learners import Learner, Mix
from re_llm.train.emotion.rows import NO_EMOTION, Corpora, Division, Labelled

WARMUP = 30  # steps
MAX_GRAD_NORM = 2.0
NEVER = -1e4  # logit of an emotion that the corpus does not name
Say = Callable[[str], None]


@dataclass
class Fitted:
    """What a training came to.

    Attributes:
        epochs: for which the kept weights were trained.
        accuracy: unweighted accuracy on the validation, mean over corpora; curve: after every epoch.
    """

    epochs: int
    accuracy: float = 0.0
    curve: list[float] = field(default_factory=list)


def fit(
    learner: Learner,
    corpora: Corpora,
    division: Division,
    options: FitOptions,
    seed: int,
    *,
    copies: int = 0,
    epochs: int | None = None,
    say: Say = lambda line: None,
) -> Fitted:
    """Trains on `division.training`; with a validation, the weights of its best epoch are kept.

    Args:
        copies: disturbed copies that there are of every utterance.
        epochs: how many are trained of the schedule over `options.epochs`; None = as the validation says.

    Raises:
        RellmError: the loss is not finite.
    """
    rng = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    learner.start([corpora.rows[i] for i in division.training], rng)
    weights = balance(corpora, division.training)
    steps = max(1, (options.utterances or len(division.training)) // options.batch_size)
    average = _Average(learner.module, options.average)
    train = _Training(learner, corpora, options, copies, steps * options.epochs, rng, average)
    fitted = Fitted(epochs or options.epochs)
    best = average.weights
    for epoch in range(epochs or options.epochs):
        learner.module.train()
        drawn = rng.choice(division.training, (steps, options.batch_size), p=weights)
        loss = sum(train.step(chosen.tolist()) for chosen in drawn) / steps
        if epochs is None and division.validation:
            with average.in_place(learner.module):
                accuracy = validate(learner, corpora, division.validation)
            fitted.curve.append(round(accuracy, 4))
            say(f"epoch {epoch + 1}: loss {loss:.3f}, validation UA {accuracy:.1%}")
            if accuracy > fitted.accuracy:
                fitted.accuracy, fitted.epochs, best = accuracy, epoch + 1, average.copy()
            elif epoch + 1 - fitted.epochs >= options.patience:
                break
    learner.module.load_state_dict(best if fitted.curve else average.weights)
    learner.module.eval()
    return fitted


def balance(corpora: Corpora, indices: Sequence[int]) -> np.ndarray:
    """Probability of every utterance to be drawn: corpora, and classes within them, by the root of their number."""
    labels = [(corpora.rows[i].corpus, corpora.rows[i].emotion) for i in indices]
    by_label = {label: labels.count(label) for label in set(labels)}
    by_corpus: dict[str, float] = {}
    for (corpus, _), number in by_label.items():
        by_corpus[corpus] = by_corpus.get(corpus, 0.0) + math.sqrt(number)
    size = {corpus: sum(n for (c, _), n in by_label.items() if c == corpus) for corpus in by_corpus}
    weights = np.array([math.sqrt(size[c] / by_label[c, e]) / by_corpus[c] for c, e in labels])
    return weights / weights.sum()


class _Average:
    """Running mean of the weights, or the weights themselves with a decay of 0."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))  # short at first, or the start would linger
        with torch.no_grad():
            for name, value in module.state_dict().items():
                if value.is_floating_point():
                    self.weights[name].lerp_(value, 1 - decay)
                else:
                    self.weights[name].copy_(value)

    def copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.weights.items()}

    @contextlib.contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module has the averaged weights."""
        own = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)


class _Training:
    """The steps of one training."""

    def __init__(
        self,
        learner: Learner,
        corpora: Corpora,
        options: FitOptions,
        copies: int,
        steps: int,
        rng: np.random.Generator,
        average: _Average,
    ):
        self.learner, self.corpora, self.options = learner, corpora, options
        self.copies, self.steps, self.rng, self.average = copies, steps, rng, average
        self.done = 0
        parameters = [p for p in learner.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr)

    def step(self, chosen: list[int]) -> float:
        """One step on these utterances; returns the loss.

        Raises:
            RellmError: it is not finite.
        """
        rate = min(1.0, (self.done + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * self.done / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * rate
        self.optimizer.zero_grad()
        loss = self._loss(chosen)
        if not torch.isfinite(loss):
            raise RellmError(f"the loss is not finite at step {self.done + 1}", todo="Lower fit.lr")
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.average.update(self.learner.module)
        self.done += 1
        return float(loss.detach())

    def _loss(self, chosen: list[int]) -> Tensor:
        options, rows = self.options, [self.corpora.rows[i] for i in chosen]
        disturbed = self.rng.integers(0, self.copies + 1, len(rows))
        copies = np.where(self.rng.random(len(rows)) < options.clean, 0, disturbed).tolist()
        silent = self._background(len(rows))
        rows, copies = rows + silent, copies + [0] * len(silent)
        named = torch.from_numpy(self.corpora.masks(rows))
        uniform = named / named.sum(1, keepdim=True)
        labels = torch.tensor([row.emotion for row in rows])
        targets = one_hot(labels.clamp_min(0), named.shape[1]).float()
        targets = torch.where(labels[:, None] == NO_EMOTION, uniform, targets)
        targets = (1 - options.label_smoothing) * targets + options.label_smoothing * uniform
        known = torch.tensor([row.dimensions is not None for row in rows])
        wanted = torch.tensor([row.dimensions or (0.5, 0.5, 0.5) for row in rows])
        apart = self._apart(rows, copies, named) if options.consistency else None
        mix = None
        if options.mixup:
            drawn = torch.from_numpy(self.rng.beta(options.mixup, options.mixup, (len(rows), 1))).float()
            mix = Mix(drawn, torch.from_numpy(self.rng.permutation(len(rows))))
            targets, wanted = mix.of(targets), mix.of(wanted)
            named, known = named | named[mix.partner], known & known[mix.partner]
        logits, dimensions = self.learner.forward(rows, copies, mix, self.rng)
        likely = logits.masked_fill(~named, NEVER).log_softmax(1)
        loss = -(targets * likely).masked_fill(~named, 0.0).sum(1).mean()
        if dimensions is not None and known.any():
            loss = loss + options.dimension_weight * (dimensions - wanted)[known].square().mean()
        return loss if apart is None else loss + options.consistency * apart

    def _apart(self, rows: list[Labelled], copies: list[int], named: Tensor) -> Tensor | None:
        """How differently recordings and their disturbed copies are heard: divergence, mean of both directions.

        Both are in one batch, so that they are standardised alike. None where no copy was drawn.
        """
        disturbed = [i for i, copy in enumerate(copies) if copy]
        if not disturbed:
            return None
        some, drawn = [rows[i] for i in disturbed], [copies[i] for i in disturbed]
        logits, _ = self.learner.forward(some + some, [0] * len(some) + drawn, None, self.rng)
        likely = logits.masked_fill(~named[disturbed].repeat(2, 1), NEVER).log_softmax(1)
        clean, other = likely.chunk(2)
        return 0.5 * ((clean.exp() - other.exp()) * (clean - other)).sum(1).mean()

    def _background(self, batch: int) -> list[Labelled]:
        """What is no speech, drawn for a batch: any emotion is as likely as another in it."""
        known = self.corpora.background[:-VALIDATED]
        number = round(self.options.background * batch) if known else 0
        return [known[i] for i in self.rng.integers(0, len(known), number)] if number else []


def decide(logits: Tensor, allowed: Sequence[int]) -> np.ndarray:
    """The likeliest of some emotions, [B]."""
    return np.asarray(allowed)[logits[:, list(allowed)].argmax(1).numpy()]


def unweighted_accuracy(labels: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """Mean recall of the classes that occur."""
    pairs = list(zip(labels, found, strict=True))
    return float(np.mean([np.mean([f == c for label, f in pairs if label == c]) for c in set(labels)]))


def validate(learner: Learner, corpora: Corpora, indices: Sequence[int]) -> float:
    """Unweighted accuracy on the undisturbed recordings, mean over corpora."""
    logits = learner.predict([corpora.rows[i] for i in indices])
    scores = []
    for corpus in sorted({corpora.rows[i].corpus for i in indices}):
        own = [n for n, i in enumerate(indices) if corpora.rows[i].corpus == corpus]
        found = decide(logits[own], corpora.label_sets[corpus])
        scores.append(unweighted_accuracy([corpora.rows[indices[n]].emotion for n in own], found.tolist()))
    return float(np.mean(scores))
