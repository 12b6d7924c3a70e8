"""Fits the models of the small empathy scorer (see `empathy_small`) to annotated pairs.

R responses (documents), S sentences, F n-grams, K dense features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy import small_scorer as small
from re_llm.evaluate.empathy.epitome import LEVELS, Pair, seeker_post
from re_llm.evaluate.empathy.small_features import Batch, take_apart
from re_llm.evaluate.empathy.small_scorer import decision_features, softmax
from re_llm.evaluate.empathy.text_features import Floats, Ints, lookup

FOLDS = 5
WORD_MIN, CHAR_MIN = 2, 4  # documents that must hold an n-gram
SENTENCE_C = DOCUMENT_C = 1.0
DENSE_WEIGHT = 0.15
RATIO_C = 0.1
DECISION_C = (0.003, 0.01, 0.05)
# A sentence carries the level when a rationale covers this share of it, or this many characters.
COVER_FRACTION, COVER_CHARACTERS = 0.3, 12
BEST_FACTORS = 15
FACTORS = np.array([(1.0, a, b) for a in np.exp(np.linspace(-0.7, 2.8, 22)) for b in np.exp(np.linspace(-1, 2, 16))])


class Design:
    """The pairs of one mechanism with everything that does not depend on a fold.

    Attributes:
        levels [R], groups [R] (one number per seeker post), batch; sentence_levels [S] (-1: rationale not located).
    """

    def __init__(self, pairs: Sequence[Pair]):
        self.pairs = pairs
        self.levels = np.array([pair.level for pair in pairs])
        if len(set(self.levels)) < LEVELS:
            raise RellmError("the pairs do not hold every level", allowed="0, 1 and 2, each at least 10 times")
        posts = [seeker_post(pair) for pair in pairs]
        self.groups = np.unique(posts, return_inverse=True)[1]
        self.batch: Batch = take_apart([pair.seeker for pair in pairs], [pair.response for pair in pairs])
        self.sentence_levels = self._sentence_levels()

    def _sentence_levels(self) -> Ints:
        levels = np.zeros(len(self.batch.documents), np.int64)
        for s, (r, (a, b)) in enumerate(zip(self.batch.documents, self.batch.spans, strict=True)):
            pair = self.pairs[r]
            if pair.level and not pair.spans:
                levels[s] = -1
                continue
            covered = sum(max(0, min(b, d) - max(a, c)) for c, d in pair.spans)
            if covered and covered >= min(COVER_FRACTION * (b - a), COVER_CHARACTERS):
                levels[s] = pair.level
        return levels

    @cached_property
    def grams(self) -> dict[str, tuple[npt.NDArray[np.uint32], sp.csr_matrix]]:
        """Sorted hashes and sentence counts [S, F] of all word and character n-grams."""
        found = {}
        for kind, (rows, hashes) in (("word", self.batch.words), ("char", self.batch.chars)):
            known, columns = np.unique(hashes, return_inverse=True)
            at, column, counts = small.count_grams(rows, columns, len(known))
            shape = (len(self.batch.documents), len(known))
            found[kind] = known, sp.csr_matrix((counts, (at, column)), shape=shape)
        return found

    @cached_property
    def gather(self) -> sp.csr_matrix:
        """[R, S] sums sentences into documents."""
        s = len(self.batch.documents)
        return sp.csr_matrix((np.ones(s), (self.batch.documents, np.arange(s))), shape=(self.batch.count, s))

    def folds(self, documents: Ints, seed: int) -> list[tuple[Ints, Ints]]:
        """(training, held) positions in `documents`, by seeker post, levels spread evenly."""
        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        y = self.levels[documents]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a level rarer than the folds is this corpus
            return list(splitter.split(y, y, self.groups[documents]))


@dataclass(frozen=True)
class Vocabulary:
    """The n-grams that a model looks at: columns of the design [F], sorted hashes [F], idf [F], per kind."""

    columns: dict[str, Ints]
    hashes: dict[str, npt.NDArray[np.uint32]]
    idf: dict[str, Floats]

    @classmethod
    def fit(cls, design: Design, documents: Ints) -> Vocabulary:
        parts: tuple[dict, dict, dict] = ({}, {}, {})
        for kind, least in (("word", WORD_MIN), ("char", CHAR_MIN)):
            known, counts = design.grams[kind]
            presence = ((design.gather[documents] @ counts) > 0).sum(axis=0)
            frequency = np.asarray(presence).ravel()
            columns = np.flatnonzero(frequency >= least)
            parts[0][kind], parts[1][kind] = columns, known[columns]
            parts[2][kind] = np.log((1 + len(documents)) / (1 + frequency[columns])) + 1
        return cls(*parts)

    def on(self, design: Design) -> Vocabulary:
        """The same vocabulary as columns of another design; n-grams that the other lacks are dropped from it."""
        parts: tuple[dict, dict, dict] = ({}, {}, {})
        for kind, hashes in self.hashes.items():
            place = lookup(design.grams[kind][0], hashes)
            kept = place >= 0
            parts[0][kind], parts[1][kind], parts[2][kind] = place[kept], hashes[kept], self.idf[kind][kept]
        return Vocabulary(*parts)

    def tfidf(self, counts: sp.csr_matrix, kind: str) -> sp.csr_matrix:
        entries = counts[:, self.columns[kind]].tocoo()
        order = np.lexsort((entries.col, entries.row))
        rows, columns = entries.row[order].astype(np.int64), entries.col[order].astype(np.int64)
        sparse = small.weigh(rows, columns, entries.data[order], self.idf[kind], entries.shape[0])
        return sp.csr_matrix((sparse.values, (sparse.rows, sparse.columns)), shape=entries.shape)

    def presence(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Which words and runs of words there are: 0 and 1."""
        return (counts[:, self.columns["word"]] > 0).astype(np.float64)


@dataclass(frozen=True)
class Linear:
    """Log-odds against level 0 of one set of rows: sparse [Fw + Fc, 2], dense [K, 2], bias [2]."""

    sparse: Floats
    dense: Floats
    bias: Floats


def _fit_linear(features: sp.csr_matrix, dense: Floats, levels: Ints, strength: float) -> Linear:
    from sklearn.linear_model import LogisticRegression

    mean, spread = dense.mean(0), dense.std(0)
    scale = DENSE_WEIGHT / np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
    model.fit(sp.hstack([features, sp.csr_matrix((dense - mean) * scale)]).tocsr(), levels)
    coefficients = (model.coef_[1:] - model.coef_[0]).T
    intercept = model.intercept_[1:] - model.intercept_[0]
    cut = features.shape[1]
    folded = coefficients[cut:] * scale[:, None]
    return Linear(coefficients[:cut], folded, intercept - mean @ folded)


@dataclass(frozen=True)
class Ratio:
    """Linear SVMs for "level 1 or 2" and "level 2", on words weighed by their log-count ratio.

    Wang and Manning: Baselines and Bigrams, ACL 2012. weights [Fw, 2]: ratio times coefficient; squares [Fw, 2]: ratio
    squared, which gives the length that a row is divided by; bias [2].
    """

    weights: Floats
    squares: Floats
    bias: Floats

    def __call__(self, presence: sp.csr_matrix) -> Floats:
        """[R, Fw] of 0 and 1 -> [R, 2]."""
        return small.ratio_scores(presence @ self.weights, presence @ self.squares, self.bias)


def _fit_ratio(presence: sp.csr_matrix, levels: Ints) -> Ratio:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    columns = []
    for least in (1, 2):
        own = levels >= least
        here, there = (np.asarray(presence[rows].sum(axis=0)).ravel() + 1 for rows in (own, ~own))
        ratio = np.log(here / here.sum()) - np.log(there / there.sum())
        scaled = presence.multiply(ratio).tocsr()
        length = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
        rows = sp.diags(1 / np.maximum(length, small.SHORTEST)) @ scaled
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # close enough long before the last digit
            model = LinearSVC(C=RATIO_C, max_iter=300, tol=1e-2, dual=True, random_state=0).fit(rows, own)
        columns.append((ratio * model.coef_[0], ratio**2, model.intercept_[0]))
    weights, squares, bias = (np.stack(parts, axis=-1) for parts in zip(*columns, strict=True))
    return Ratio(weights, squares, bias)


class Base:
    """Sentence, document and ratio model of one mechanism, fitted on some documents of a design."""

    def __init__(self, design: Design, documents: Ints, vocabulary: Vocabulary | None = None):
        self.design = design
        self.vocabulary = vocabulary or Vocabulary.fit(design, documents)
        member = np.isin(design.batch.documents, documents) & (design.sentence_levels >= 0)
        rows = np.flatnonzero(member)
        dense = design.batch.sentence_dense[rows]
        self.sentence = _fit_linear(self._sentences(rows), dense, design.sentence_levels[rows], SENTENCE_C)
        dense = design.batch.document_dense[documents]
        self.document = _fit_linear(self._documents(documents), dense, design.levels[documents], DOCUMENT_C)
        self.ratio = _fit_ratio(self._presence(documents), design.levels[documents])

    def _blocks(self, counts: dict[str, sp.csr_matrix]) -> sp.csr_matrix:
        word, char = (self.vocabulary.tfidf(counts[kind], kind) for kind in ("word", "char"))
        return sp.hstack([word, small.CHAR_WEIGHT * char]).tocsr()

    def _sentences(self, rows: Ints) -> sp.csr_matrix:
        return self._blocks({kind: counts[rows] for kind, (_, counts) in self.design.grams.items()})

    def _documents(self, documents: Ints) -> sp.csr_matrix:
        gather = self.design.gather[documents]
        return self._blocks({kind: gather @ counts for kind, (_, counts) in self.design.grams.items()})

    def _presence(self, documents: Ints) -> sp.csr_matrix:
        return self.vocabulary.presence(self.design.gather[documents] @ self.design.grams["word"][1])

    def features(self, documents: Ints) -> Floats:
        """What the decision sees of these documents (ascending): [len(documents), 18]."""
        batch = self.design.batch
        rows = np.flatnonzero(np.isin(batch.documents, documents))
        scores = []
        for model, sparse, dense in (
            (self.sentence, self._sentences(rows), batch.sentence_dense[rows]),
            (self.document, self._documents(documents), batch.document_dense[documents]),
        ):
            scores.append(sparse @ model.sparse + dense @ model.dense + model.bias)
        whole = np.hstack([scores[1], self.ratio(self._presence(documents))])
        return decision_features(softmax(scores[0]), batch.documents[rows], whole)


@dataclass(frozen=True)
class Decision:
    """Multinomial regression on decision features: weights [18, 2], bias [2]; factors [3] multiply the levels."""

    weights: Floats
    bias: Floats
    factors: Floats

    def probabilities(self, features: Floats) -> Floats:
        return softmax(features @ self.weights + self.bias)

    def levels(self, features: Floats) -> Ints:
        return np.argmax(self.probabilities(features) * self.factors, axis=1)


def _fit_decision(features: Floats, levels: Ints, strength: float) -> Decision:
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=strength, max_iter=300).fit((features - mean) / spread, levels)
    weights = (model.coef_[1:] - model.coef_[0]).T / spread[:, None]
    bias = model.intercept_[1:] - model.intercept_[0] - mean @ weights
    return Decision(weights, bias, np.ones(LEVELS))


def _tune_factors(probabilities: Floats, levels: Ints) -> tuple[float, Floats]:
    """The best macro-F1 that factors of the levels give, and factors in the middle of the best ones.

    The very best ones owe their place to a few rare pairs; the geometric mean of some near them holds better elsewhere.
    """
    found = (probabilities[None] * FACTORS[:, None]).argmax(axis=2)
    f1 = np.zeros(len(FACTORS))
    for level in range(LEVELS):
        hit = ((found == level) & (levels == level)).sum(1)
        f1 += 2 * hit / np.maximum(1, (found == level).sum(1) + (levels == level).sum())
    best = np.argsort(-f1, kind="stable")[:BEST_FACTORS]
    return float(f1[best[0]] / LEVELS), np.exp(np.log(FACTORS[best]).mean(axis=0))


@dataclass(frozen=True)
class Fitted:
    """Everything learned of one mechanism."""

    base: Base
    decision: Decision
    strength: float


def fit(design: Design, documents: Ints, seed: int, vocabulary: Vocabulary | None = None) -> Fitted:
    """Learns one mechanism from some documents (ascending) of a design; see the module."""
    levels = design.levels[documents]
    folds = design.folds(documents, seed + 100)
    pieces = []
    for train, held in folds:
        pieces.append((held, Base(design, documents[train]).features(documents[held])))
    features = np.zeros((len(documents), pieces[0][1].shape[1]))
    for held, values in pieces:
        features[held] = values
    tried = []
    again = design.folds(documents, seed + 200)
    for strength in DECISION_C:
        probabilities = np.zeros((len(documents), LEVELS))
        for train, held in again:
            decision = _fit_decision(features[train], levels[train], strength)
            probabilities[held] = decision.probabilities(features[held])
        tried.append((*_tune_factors(probabilities, levels), strength))
    _, factors, strength = max(tried, key=lambda each: each[0])
    decision = _fit_decision(features, levels, strength)
    chosen = Decision(decision.weights, decision.bias, factors)
    return Fitted(Base(design, documents, vocabulary), chosen, strength)
