"""What the small empathy scorer sees of responses: counts of n-grams, and dense features of sentences and responses.

R responses, S sentences of them, F n-grams of the vocabulary, K classes of the lexicon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

from re_llm.evaluate.empathy.text_features import (
    CLASSES,
    LEXICON,
    MEMBERSHIP,
    PHRASES,
    Floats,
    Ints,
    is_content,
    ngrams,
    sentences,
    tokens,
)

_I, _YOU, _WH = CLASSES.index("i"), CLASSES.index("you"), CLASSES.index("wh")
_OPENERS = [frozenset(LEXICON[CLASSES[k]].split("|")) for k in (_I, _YOU, _WH)]


@dataclass(frozen=True)
class Responses:
    """Responses by sentence.

    Attributes:
        documents: [S] the response of each sentence, ascending; every response has at least one sentence.
        spans: [S] characters of their response.
        counts: [S, F] of the n-grams. sentence_dense: [S, Ks]. document_dense: [R, Kd].
    """

    documents: Ints
    spans: list[tuple[int, int]]
    counts: sp.csr_matrix
    sentence_dense: Floats
    document_dense: Floats

    @cached_property
    def starts(self) -> Ints:
        """[R] the first sentence of each response."""
        return np.flatnonzero(np.diff(self.documents, prepend=-1))

    @cached_property
    def whole(self) -> sp.csr_matrix:
        """[R, F] counts of the responses: n-grams stay within a sentence."""
        return _gather(self.documents) @ self.counts

    def subset(self, members: Ints) -> Responses:
        """Some of the responses, given in ascending order."""
        rows = np.flatnonzero(np.isin(self.documents, members))
        return Responses(
            np.searchsorted(members, self.documents[rows]),
            [self.spans[row] for row in rows],
            self.counts[rows],
            self.sentence_dense[rows],
            self.document_dense[members],
        )


def _gather(documents: Ints) -> sp.csr_matrix:
    """[R, S] sums sentences into responses."""
    return sp.csr_matrix((np.ones(len(documents)), (documents, np.arange(len(documents)))))


def fit_vocabulary(responses: Sequence[str]) -> list[str]:
    """The lexicon's phrases, then the n-grams that stand in at least two responses."""
    split = [[tokens(text[a:b]) for a, b in sentences(text)] for text in responses]
    vectors = CountVectorizer(analyzer=lambda each: chain.from_iterable(map(ngrams, each)), min_df=2).fit(split)
    return [*PHRASES, *sorted(vectors.vocabulary_.keys() - set(PHRASES))]


def vectorizer(vocabulary: Sequence[str]) -> CountVectorizer:
    """Counts the n-grams of tokenised sentences."""
    return CountVectorizer(analyzer=ngrams, vocabulary=vocabulary)


def take_apart(seekers: Sequence[str], responses: Sequence[str], vectors: CountVectorizer) -> Responses:
    """Sentences, n-grams and dense features of responses to seekers (same length, at least one)."""
    spans = [sentences(response) for response in responses]
    sizes = np.array([len(each) for each in spans])
    documents = np.repeat(np.arange(len(responses)), sizes)
    texts = [response[a:b] for response, each in zip(responses, spans, strict=True) for a, b in each]
    words = [tokens(text) for text in texts]
    counts = vectors.transform(words).astype(np.float64)
    gather = _gather(documents)
    posts = [tokens(seeker) for seeker in seekers]
    known = [set(post) for post in posts]
    content = [[word for word in each if is_content(word)] for each in words]
    shared = [sum(word in known[d] for word in each) for d, each in zip(documents, content, strict=True)]
    # [S, 4]: a question; tokens; content words; content words that the seeker used as well.
    each_sentence = zip(texts, words, content, shared, strict=True)
    basic = np.array([["?" in text, len(all_words), len(own), n] for text, all_words, own, n in each_sentence])
    lexicon = counts[:, : len(PHRASES)] @ MEMBERSHIP
    places = np.concatenate([np.arange(n) for n in sizes]), np.repeat(sizes, sizes)
    whole = gather @ lexicon, gather @ basic, np.array([len(post) for post in posts]), sizes
    return Responses(
        documents,
        list(chain.from_iterable(spans)),
        counts,
        _sentence_dense(texts, words, lexicon, basic, *places),
        _document_dense(responses, *whole),
    )


def _sentence_dense(
    texts: list[str], words: list[list[str]], lexicon: Floats, basic: Ints, place: Ints, total: Ints
) -> Floats:
    asks, length, content, shared = basic.T
    columns = [
        asks,
        np.array(["!" in text for text in texts]),
        np.array([".." in text for text in texts]),
        np.log1p(length),
        np.log1p(content),
        place == 0,
        place == total - 1,
        np.log1p(total),
        shared / (content + 1),
        asks * np.minimum(lexicon[:, _YOU], 2),
        asks * (lexicon[:, _WH] > 0),
        asks * (lexicon[:, _I] > 0),
        asks * np.log1p(length),
        asks * np.log1p(content),
        asks * (shared > 0),
        *(np.array([bool(each) and each[0] in opener for each in words]) for opener in _OPENERS),
    ]
    return np.column_stack([np.minimum(lexicon, 3), *columns])


def _document_dense(responses: Sequence[str], lexicon: Floats, basic: Floats, post_length: Ints, sizes: Ints) -> Floats:
    questions, length, content, shared = basic.T
    columns = [
        np.log1p(length),
        np.log1p(post_length),
        np.log1p(sizes),
        np.minimum(questions, 5),
        questions / sizes,
        np.array([response.rstrip().endswith("?") for response in responses]),
        np.array([min(response.count("!"), 5) for response in responses]),
        shared / (content + 1),
        length / sizes / 10,
    ]
    return np.column_stack([np.minimum(lexicon, 6), lexicon / (length[:, None] + 1) * 10, *columns])
