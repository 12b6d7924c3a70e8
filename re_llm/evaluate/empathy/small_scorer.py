"""The shipped empathy scorer: linear models over n-grams and a lexicon; numpy only.

Three models look at a response and a fourth weighs what they say, once per mechanism:
1. sentences: does this sentence carry the mechanism, and how strongly? Learned from the annotators' rationales.
2. documents: the same question of the whole response.
3. ratios: which words stand in the response, each weighed by how much more often it stands in responses of the level.
4. the decision: multinomial regression on the strongest, mean and combined sentence and on the other two, then one
   factor per level (the levels are rare, so the most probable one is not the one that serves macro-F1).
`empathy_training.train_small` makes the weights; its cross-validation stands beside them in `assets/`.
S sentences, R responses, F n-grams, K dense features, M outputs (2 log-odds against level 0 per mechanism).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy import text_features as tf
from re_llm.evaluate.empathy.epitome import ASSET, LEVELS, MECHANISMS, Empathy, Level
from re_llm.evaluate.empathy.small_features import Batch, take_apart
from re_llm.evaluate.empathy.text_features import Floats, Ints

FORMAT = 2
MAX_BYTES = 64 * 2**20
# How much characters and dense features count against words; every n-gram block has length 1.
CHAR_WEIGHT = 0.7
BATCH = 256
SHORTEST = 1e-6  # a response without a known word has length 0
# Arrays with more numbers than this are stored with 16 bits each.
HALF_ABOVE = 1000


@dataclass(frozen=True)
class Sparse:
    """Entries of a sparse matrix, sorted by row: values [n] at (rows, columns)."""

    rows: Ints
    columns: Ints
    values: Floats

    def dot(self, weights: npt.NDArray[Any], count: int) -> Floats:
        """[count, M] product with weights [F, M]."""
        terms = self.values[:, None] * weights[self.columns]
        return np.stack([np.bincount(self.rows, terms[:, m], minlength=count) for m in range(weights.shape[1])], axis=1)


def count_grams(rows: Ints, columns: Ints, width: int) -> tuple[Ints, Ints, Floats]:
    """(rows, columns, counts) of n-gram occurrences, each pair once, sorted."""
    keys, counts = np.unique(rows * width + columns, return_counts=True)
    return keys // width, keys % width, counts.astype(np.float64)


def weigh(rows: Ints, columns: Ints, counts: Floats, idf: npt.NDArray[Any], height: int) -> Sparse:
    """tf-idf with logarithmic counts; every row has length 1."""
    values = (1 + np.log(counts)) * idf[columns]
    norm = np.sqrt(np.bincount(rows, values**2, minlength=height))
    return Sparse(rows, columns, values / norm[rows])


def softmax(scores: Floats) -> Floats:
    """[R, 2] log-odds against level 0 -> [R, 3] probabilities."""
    full = np.concatenate([np.zeros((len(scores), 1)), scores], axis=1)
    powers = np.exp(full - full.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def decision_features(sentences: Floats, documents: Ints, document_scores: Floats) -> Floats:
    """What the decision sees of one mechanism: [R, 14 + K].

    Args:
        sentences: [S, 3] probabilities of the levels of each sentence.
        documents: [S] their responses, ascending, none without a sentence.
        document_scores: [R, K] of the models that look at the whole response.
    """
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    sizes = np.diff(starts, append=len(documents)).astype(np.float64)
    weak, strong = sentences[:, 1], sentences[:, 2]
    either = weak + strong
    ends = np.append(starts[1:], len(documents)) - 1

    def highest(p: Floats) -> Floats:
        return np.maximum.reduceat(p, starts)

    def total(p: Floats) -> Floats:
        return np.add.reduceat(p, starts)

    def any_of(p: Floats) -> Floats:
        return 1 - np.exp(total(np.log1p(-np.minimum(p, 1 - 1e-9))))

    chances = [highest(weak), highest(strong), highest(either), total(weak) / sizes, total(strong) / sizes,
               any_of(weak), any_of(strong), any_of(either), either[starts], either[ends],
               highest(strong) / (highest(either) + 1e-9)]  # fmt: skip
    others = [np.log(total(either) + 0.05), np.log(sizes), total(strong) / (total(either) + 1e-9)]
    return np.column_stack([*[_logit(p) for p in chances], *others, document_scores])


def ratio_scores(weighed: Floats, squares: Floats, bias: npt.NDArray[Any]) -> Floats:
    """Scores [R, M] of the ratio model, from the sums [R, M] of its weights and of its squared ratios."""
    return weighed / np.maximum(np.sqrt(squares), SHORTEST) + bias


@dataclass(frozen=True)
class LinearText:
    """A linear model over one set of rows (sentences or documents): word_weights, char_weights [F, M], dense [K, M]."""

    word_weights: npt.NDArray[Any]
    char_weights: npt.NDArray[Any]
    dense: npt.NDArray[Any]
    bias: npt.NDArray[Any]

    def __call__(self, words: Sparse, chars: Sparse, dense: Floats) -> Floats:
        count = len(dense)
        sparse = words.dot(self.word_weights, count) + CHAR_WEIGHT * chars.dot(self.char_weights, count)
        return sparse + dense @ self.dense + self.bias


ARRAYS = (
    "word_hashes", "word_idf", "char_hashes", "char_idf",
    *(f"{rows}_{part}" for rows in ("sentence", "document") for part in ("words", "chars", "dense", "bias")),
    "ratio_weights", "ratio_squares", "ratio_bias", "decision_weights", "decision_bias", "factors",
)  # fmt: skip


class SmallScorer:
    """Scores responses with the shipped weights; see the module."""

    name = "small"
    window = None
    mechanisms = MECHANISMS
    content: str | None = None  # hash of its files, when it was loaded from some

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]):
        self.arrays, self.meta = arrays, meta
        self._widen = {name: array.astype(np.float64) for name, array in arrays.items() if array.dtype.kind == "f"}
        self._ratio = np.hstack([self._widen["ratio_weights"], self._widen["ratio_squares"]])

    @classmethod
    def load(cls, path: Path | None = None) -> SmallScorer:
        """The shipped weights, or a file that `train_small` wrote.

        Raises:
            RellmError: the file is missing, too large, or not such a file. Pickles are never read.
        """
        return _load(Path(path or ASSET))

    def _linear(self, rows: str) -> LinearText:
        return LinearText(*(self._widen[f"{rows}_{part}"] for part in ("words", "chars", "dense", "bias")))

    def _sparse(self, kind: str, grams: tuple[Ints, Any], rows: Ints | None, height: int) -> Sparse:
        """tf-idf of n-grams; `rows` maps the rows of the grams onto others (sentences onto documents)."""
        place = tf.lookup(self.arrays[f"{kind}_hashes"], grams[1])
        known = place >= 0
        at = grams[0][known] if rows is None else rows[grams[0][known]]
        idf = self._widen[f"{kind}_idf"]
        return weigh(*count_grams(at, place[known], len(idf)), idf, height)

    def scores(self, batch: Batch) -> tuple[Floats, Floats, Floats]:
        """What the decision is made of: log-odds of sentences [S, M] and documents [R, M], ratio scores [R, M]."""
        both = (("word", batch.words), ("char", batch.chars))
        parts = [self._sparse(kind, grams, None, len(batch.documents)) for kind, grams in both]
        whole = [self._sparse(kind, grams, batch.documents, batch.count) for kind, grams in both]
        return (
            self._linear("sentence")(parts[0], parts[1], batch.sentence_dense),
            self._linear("document")(whole[0], whole[1], batch.document_dense),
            self._ratios(whole[0], batch.count),
        )

    def _ratios(self, words: Sparse, count: int) -> Floats:
        there = Sparse(words.rows, words.columns, np.ones_like(words.values))
        outputs = self._ratio.shape[1] // 2
        sums = there.dot(self._ratio, count)
        return ratio_scores(sums[:, :outputs], sums[:, outputs:], self._widen["ratio_bias"])

    def probabilities(self, batch: Batch) -> tuple[list[Floats], list[Floats]]:
        """Probabilities of the levels per mechanism: of the responses [R, 3] each, of the sentences [S, 3] each."""
        sentence, document, ratio = self.scores(batch)
        whole, parts = [], []
        for m in range(len(MECHANISMS)):
            own = slice(2 * m, 2 * m + 2)
            p = softmax(sentence[:, own])
            columns = np.hstack([document[:, own], ratio[:, own]])
            features = decision_features(p, batch.documents, columns)
            weights, bias = self._widen["decision_weights"][m], self._widen["decision_bias"][m]
            whole.append(softmax(features @ weights + bias))
            parts.append(p)
        return whole, parts

    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """Levels of ER, IP and EX with probabilities; rationales are the sentences that carry the level.

        Raises:
            ValueError: the two lists differ in length.
        """
        if len(seekers) != len(responses):
            raise ValueError(f"{len(seekers)} seekers but {len(responses)} responses")
        out: list[Empathy] = []
        for start in range(0, len(responses), BATCH):
            out += self._score_batch(seekers[start : start + BATCH], responses[start : start + BATCH])
        return out

    def _score_batch(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        batch = take_apart(seekers, responses)
        whole, parts = self.probabilities(batch)
        found: list[Empathy] = [{} for _ in responses]
        for m, mechanism in enumerate(MECHANISMS):
            levels = np.argmax(whole[m] * self._widen["factors"][m], axis=1)
            carries: list[list[tuple[int, int]]] = [[] for _ in responses]
            for s in np.flatnonzero(parts[m][:, 0] < 0.5):
                carries[batch.documents[s]].append(batch.spans[s])
            for r, level in enumerate(levels):
                p = whole[m][r]
                spans = tuple(carries[r]) if level else ()
                found[r][mechanism] = Level(int(level), (float(p[0]), float(p[1]), float(p[2])), spans)
        return found

    def save(self, path: Path) -> None:
        """Writes the weights without pickles; the same weights give the same bytes."""
        half = {k for k, a in self.arrays.items() if a.dtype.kind == "f" and a.size > HALF_ABOVE}
        packed = {k: a.astype(np.float16) if k in half else a for k, a in self.arrays.items()}
        meta = np.frombuffer(json.dumps(self.meta, sort_keys=True).encode(), np.uint8)
        with path.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, meta=meta, **packed)


@lru_cache(maxsize=4)
def _load(path: Path) -> SmallScorer:
    if not path.is_file():
        raise RellmError(f"no such file: {path}", todo="Give a file that train_small wrote")
    if path.stat().st_size > MAX_BYTES:
        raise RellmError(f"{path} has more than {MAX_BYTES} bytes: not a small scorer")
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(bytes(stored["meta"]))
            arrays = {name: stored[name] for name in ARRAYS}
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise RellmError(f"{path} is not a small empathy scorer: {error}") from None
    if meta.get("format") != FORMAT or arrays["factors"].shape != (len(MECHANISMS), LEVELS):
        raise RellmError(f"{path} was written by another version of re-llm", todo="Train it again with train_small")
    return SmallScorer(arrays, meta)
