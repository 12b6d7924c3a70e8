"""The shipped empathy scorer: linear models over word n-grams and a lexicon.

Three models score a response and a fourth combines their scores, once per mechanism:
1. sentences: does this sentence carry the mechanism, and how strongly? Learned from the annotators' rationales.
2. documents: the same question of the whole response.
3. ratios: which words stand in the response, each weighed by how much more often it stands in responses of the level
   (Wang and Manning: Baselines and Bigrams, ACL 2012).
4. the decision: multinomial regression on the strongest, mean and combined sentence and on the other two, then one
   factor per level (the levels are rare, so the most probable one is not the one that serves macro-F1).
`small_training.train_small` makes the weights; its cross-validation stands beside them in `assets/`.
S sentences, R responses, F n-grams, K dense features; two outputs: log-odds of the levels 1 and 2 against level 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.special import logit, softmax
from sklearn.preprocessing import normalize

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import ASSET, MECHANISMS, Empathy, Level
from re_llm.evaluate.empathy.small_features import Responses, take_apart, vectorizer
from re_llm.evaluate.empathy.text_features import Floats, Ints

FORMAT = 3
MAX_BYTES = 64 * 2**20
BATCH = 256
# Arrays with more numbers than this are stored with 16 bits each.
HALF_ABOVE = 1000

# Arrays of one mechanism. `idf` [F] is 0 for n-grams that are not used; `ratios` [F, 2] are the log-count ratios; the
# decision was fitted several times: weights [N, 18, 2], bias [N, 2].
WEIGHTS = (
    "idf", "sentence_words", "sentence_dense", "sentence_bias", "document_words", "document_dense", "document_bias",
    "ratios", "ratio_words", "ratio_bias", "decision_weights", "decision_bias", "factors",
)  # fmt: skip
Weights = Mapping[str, Floats]


def tfidf(counts: sp.csr_matrix, idf: Floats) -> sp.csr_matrix:
    """tf-idf with logarithmic counts; every row has length 1."""
    rows = counts.copy()
    rows.data = (1 + np.log(rows.data)) * idf[rows.indices]
    return normalize(rows, copy=False)


def present(counts: sp.csr_matrix, weights: Floats) -> sp.csr_matrix:
    """The weight of every n-gram that is there, however often; every row has length 1."""
    rows = counts.copy()
    rows.data = weights[rows.indices]
    return normalize(rows, copy=False)


def level_probabilities(scores: Floats) -> Floats:
    """[..., 2] log-odds against level 0 -> [..., 3]."""
    every: Floats = softmax(np.concatenate([np.zeros_like(scores[..., :1]), scores], axis=-1), axis=-1)
    return every


def decision_features(sentences: Floats, starts: Ints, document_scores: Floats) -> Floats:
    """What the decision sees of one mechanism: [R, 14 + columns of `document_scores`].

    Args:
        sentences: [S, 3] probabilities of the levels of each sentence.
        starts: [R] the first sentence of each response.
        document_scores: [R, .] of the models that look at the whole response.
    """
    weak, strong = sentences[:, 1], sentences[:, 2]
    either = weak + strong
    sizes = np.diff(starts, append=len(sentences))

    def highest(p: Floats) -> Floats:
        return np.maximum.reduceat(p, starts)

    def total(p: Floats) -> Floats:
        return np.add.reduceat(p, starts)

    def any_of(p: Floats) -> Floats:
        return 1 - np.exp(total(np.log1p(-np.minimum(p, 1 - 1e-9))))

    chances = [highest(weak), highest(strong), highest(either), total(weak) / sizes, total(strong) / sizes,
               any_of(weak), any_of(strong), any_of(either), either[starts], either[starts + sizes - 1],
               highest(strong) / (highest(either) + 1e-9)]  # fmt: skip
    others = [np.log(total(either) + 0.05), np.log(sizes), total(strong) / (total(either) + 1e-9)]
    return np.column_stack([*(logit(np.clip(p, 1e-3, 1 - 1e-3)) for p in chances), *others, document_scores])


def base_features(weights: Weights, batch: Responses) -> tuple[Floats, Floats]:
    """Decision features [R, 18] of a mechanism, and the probabilities of the levels of every sentence [S, 3]."""
    both = ("sentence", batch.counts, batch.sentence_dense), ("document", batch.whole, batch.document_dense)
    sentences, documents = (
        tfidf(counts, weights["idf"]) @ weights[f"{name}_words"]
        + dense @ weights[f"{name}_dense"]
        + weights[f"{name}_bias"]
        for name, counts, dense in both
    )
    ratios = [
        present(batch.whole, ratios) @ words
        for ratios, words in zip(weights["ratios"].T, weights["ratio_words"].T, strict=True)
    ]
    found = level_probabilities(sentences)
    scores = np.hstack([documents, np.stack(ratios, axis=1) + weights["ratio_bias"]])
    return decision_features(found, batch.starts, scores), found


def decide(weights: Weights, features: Floats) -> Floats:
    """[R, 18] decision features -> [R, 3] probabilities of the levels, the mean over all fits of the decision."""
    scores = features @ weights["decision_weights"] + weights["decision_bias"][:, None]
    return np.asarray(level_probabilities(scores).mean(axis=0))


class SmallScorer:
    """Scores responses with the shipped weights; see the module."""

    name = "small"
    window = None
    mechanisms = MECHANISMS
    content: str | None = None  # hash of its files, when it was loaded from some

    def __init__(self, weights: Mapping[str, Weights], vocabulary: list[str], meta: dict[str, Any]):
        self.weights, self.vocabulary, self.meta = weights, vocabulary, meta
        self._vectors = vectorizer(vocabulary)

    @classmethod
    def load(cls, path: Path | None = None) -> SmallScorer:
        """The shipped weights, or a file that `train_small` wrote.

        Raises:
            RellmError: the file is missing, too large, or not such a file. Pickles are never read.
        """
        return _load(Path(path or ASSET))

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
        batch = take_apart(seekers, responses, self._vectors)
        found: list[Empathy] = [{} for _ in responses]
        for mechanism, weights in self.weights.items():
            features, sentences = base_features(weights, batch)
            probabilities = decide(weights, features)
            levels = np.argmax(probabilities * weights["factors"], axis=1).tolist()
            carries: list[list[tuple[int, int]]] = [[] for _ in responses]
            for s in np.flatnonzero(sentences[:, 0] < 0.5):
                carries[batch.documents[s]].append(batch.spans[s])
            for r, (level, p) in enumerate(zip(levels, probabilities.tolist(), strict=True)):
                found[r][mechanism] = Level(level, (p[0], p[1], p[2]), tuple(carries[r]) if level else ())
        return found

    def save(self, path: Path) -> None:
        """Writes the weights without pickles; the same weights give the same bytes."""
        packed = {
            f"{mechanism}_{name}": array.astype(np.float16 if array.size > HALF_ABOVE else np.float64)
            for mechanism, weights in self.weights.items()
            for name, array in weights.items()
        }
        text = json.dumps({"format": FORMAT, "vocabulary": self.vocabulary, **self.meta}, sort_keys=True)
        with path.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, meta=np.frombuffer(text.encode(), np.uint8), **packed)


@lru_cache(maxsize=4)
def _load(path: Path) -> SmallScorer:
    if not path.is_file():
        raise RellmError(f"no such file: {path}", todo="Give a file that `re-llm score train --kind small` wrote")
    if path.stat().st_size > MAX_BYTES:
        raise RellmError(f"{path} has more than {MAX_BYTES} bytes: not a small scorer")
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(bytes(stored["meta"]))
            if meta.pop("format") != FORMAT:
                raise RellmError(f"{path} was written by another version of re-llm", todo="Train it again")
            weights = {m: {name: stored[f"{m}_{name}"].astype(np.float64) for name in WEIGHTS} for m in MECHANISMS}
            vocabulary = meta.pop("vocabulary")
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise RellmError(f"{path} is not a small empathy scorer: {error}") from None
    if any(len(each["idf"]) != len(vocabulary) for each in weights.values()):
        raise RellmError(f"{path} is not a small empathy scorer: vocabulary and weights differ in length")
    return SmallScorer(weights, vocabulary, meta)
