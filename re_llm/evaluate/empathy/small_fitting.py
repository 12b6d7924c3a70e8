"""Fits the models of the small empathy scorer (see `small_scorer`) to annotated pairs.

R responses, S sentences, F n-grams, K dense features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import LEVELS, Pair, seeker_post
from re_llm.evaluate.empathy.small_features import Responses, take_apart
from re_llm.evaluate.empathy.small_scorer import Weights, base_features, present, tfidf
from re_llm.evaluate.empathy.text_features import Floats, Ints

FOLDS = 5
LEAST = 2  # responses that must hold an n-gram
DENSE_WEIGHT = 0.15  # how much dense features count against n-grams, whose rows have length 1
RATIO_C = 0.1
DECISION_C = (0.003, 0.01, 0.05)
REPEATS = 3  # divisions into folds that the decision is fitted on
# A sentence carries the level when a rationale covers this fraction of it, or this many characters.
COVER_FRACTION, COVER_CHARACTERS = 0.3, 12
BEST_FACTORS = 15
FACTORS = np.array([(1.0, a, b) for a in np.exp(np.linspace(-0.7, 2.8, 22)) for b in np.exp(np.linspace(-1, 2, 16))])

Folds = list[tuple[Ints, Ints]]


@dataclass(frozen=True)
class Annotated:
    """Pairs of one mechanism with their features.

    Attributes:
        levels: [R]. groups: [R] one number per seeker post.
        sentence_levels: [S], -1 where the rationale was not located.
    """

    batch: Responses
    levels: Ints
    groups: Ints
    sentence_levels: Ints

    @classmethod
    def of(cls, pairs: Sequence[Pair], vectors: CountVectorizer) -> Annotated:
        """Takes the responses apart and finds the sentences that the rationales cover.

        Raises:
            RellmError: a level is not there.
        """
        levels = np.array([pair.level for pair in pairs])
        if len(set(levels)) < LEVELS:
            raise RellmError("the pairs do not hold every level", allowed="0, 1 and 2, each at least 10 times")
        batch = take_apart([pair.seeker for pair in pairs], [pair.response for pair in pairs], vectors)
        groups = np.unique([seeker_post(pair) for pair in pairs], return_inverse=True)[1]
        each = zip(batch.documents, batch.spans, strict=True)
        sentence_levels = np.array([_sentence_level(pairs[r], *span) for r, span in each])
        return cls(batch, levels, groups, sentence_levels)

    def subset(self, members: Ints) -> Annotated:
        """The same for some of the responses, given in ascending order."""
        rows = np.isin(self.batch.documents, members)
        return Annotated(
            self.batch.subset(members), self.levels[members], self.groups[members], self.sentence_levels[rows]
        )

    def folds(self, seed: int) -> Folds:
        """(training, held) responses, by seeker post, levels spread evenly."""
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a level rarer than the folds
            return list(splitter.split(self.levels, self.levels, self.groups))


def _sentence_level(pair: Pair, start: int, end: int) -> int:
    if pair.level and not pair.spans:
        return -1
    covered = sum(max(0, min(end, b) - max(start, a)) for a, b in pair.spans)
    return pair.level if covered and covered >= min(COVER_FRACTION * (end - start), COVER_CHARACTERS) else 0


def _against_level_0(model: LogisticRegression) -> tuple[Floats, Floats]:
    """Coefficients [., 2] and intercepts [2] of the log-odds against level 0."""
    return (model.coef_[1:] - model.coef_[0]).T, model.intercept_[1:] - model.intercept_[0]


def _fit_linear(name: str, rows: sp.csr_matrix, dense: Floats, levels: Ints) -> dict[str, Floats]:
    """Sentence or document model: multinomial regression on n-grams and dense features."""
    scaler = StandardScaler().fit(dense)
    scale = DENSE_WEIGHT / scaler.scale_
    model = LogisticRegression(max_iter=200, tol=1e-3)
    model.fit(sp.hstack([rows, sp.csr_matrix((dense - scaler.mean_) * scale)]).tocsr(), levels)
    weights, bias = _against_level_0(model)
    folded = weights[rows.shape[1] :] * scale[:, None]
    return {
        f"{name}_words": weights[: rows.shape[1]],
        f"{name}_dense": folded,
        f"{name}_bias": bias - scaler.mean_ @ folded,
    }


def _fit_ratios(counts: sp.csr_matrix, used: Floats, levels: Ints) -> dict[str, Floats]:
    """Linear SVMs for "level 1 or 2" and "level 2", on words weighed by their log-count ratio."""
    columns = []
    there = (counts > 0) @ sp.diags(used)
    for least in (1, 2):
        own = levels >= least
        inside, outside = (np.asarray(there[rows].sum(axis=0)).ravel() + used for rows in (own, ~own))
        ratio = used * (np.log(np.maximum(inside, 1) / inside.sum()) - np.log(np.maximum(outside, 1) / outside.sum()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # close enough long before the last digit
            model = LinearSVC(C=RATIO_C, max_iter=300, tol=1e-2, random_state=0).fit(present(counts, ratio), own)
        columns.append((ratio, model.coef_[0], model.intercept_[0]))
    ratios, words, bias = (np.stack(parts, axis=-1) for parts in zip(*columns, strict=True))
    return {"ratios": ratios, "ratio_words": words, "ratio_bias": bias}


def fit_base(data: Annotated) -> Weights:
    """Sentence, document and ratio model of one mechanism."""
    batch, count = data.batch, len(data.levels)
    frequency = np.asarray((batch.whole > 0).sum(axis=0)).ravel()
    idf = np.where(frequency >= LEAST, np.log((1 + count) / (1 + frequency)) + 1, 0.0)
    known = data.sentence_levels >= 0
    sentences, levels = tfidf(batch.counts[known], idf), data.sentence_levels[known]
    return {
        "idf": idf,
        **_fit_linear("sentence", sentences, batch.sentence_dense[known], levels),
        **_fit_linear("document", tfidf(batch.whole, idf), batch.document_dense, data.levels),
        **_fit_ratios(batch.whole, (idf > 0).astype(np.float64), data.levels),
    }


def tune_factors(probabilities: Floats, levels: Ints) -> tuple[float, Floats]:
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


def _held_out_features(data: Annotated, seed: int) -> Floats:
    """[R, 18] decision features of every response, by base models that never saw its post."""
    folds = data.folds(seed)
    found = [base_features(fit_base(data.subset(train)), data.batch.subset(held))[0] for train, held in folds]
    return np.concatenate(found)[np.argsort(np.concatenate([held for _, held in folds]))]


def fit(data: Annotated, seed: int) -> dict[str, Floats]:
    """Fits one mechanism.

    The decision is fitted to the output of base models on folds that they were not fitted to, once for each of several
    divisions into folds; their probabilities are averaged, and the level factors tuned on them, out of fold as well.
    """
    seeds = [seed + 1000 * repeat for repeat in range(REPEATS)]
    features = [_held_out_features(data, each + 100) for each in seeds]
    folds = [data.folds(each + 200) for each in seeds]
    tried = []
    for strength in DECISION_C:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        probabilities = [
            cross_val_predict(model, found, data.levels, cv=cv, method="predict_proba")
            for found, cv in zip(features, folds, strict=True)
        ]
        tried.append((*tune_factors(np.mean(probabilities, axis=0), data.levels), model))
    _, factors, model = max(tried, key=lambda each: each[0])
    decisions = []
    for found in features:
        scaler, regression = model.fit(found, data.levels)
        coefficients, intercepts = _against_level_0(regression)
        coefficients /= scaler.scale_[:, None]
        decisions.append((coefficients, intercepts - scaler.mean_ @ coefficients))
    weights, bias = (np.stack(parts) for parts in zip(*decisions, strict=True))
    return {**fit_base(data), "decision_weights": weights, "decision_bias": bias, "factors": factors}
