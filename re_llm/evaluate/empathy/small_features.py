"""What the small empathy scorer sees of a response: sentences, n-grams and dense features.

S sentences, R responses, Ks and Kd dense features of a sentence and of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from re_llm.evaluate.empathy import text_features as tf
from re_llm.evaluate.empathy.text_features import CLASSES, Floats, Ints, Tokens

_I, _YOU, _WH = CLASSES.index("i"), CLASSES.index("you"), CLASSES.index("wh")


@dataclass(frozen=True)
class Batch:
    """Responses taken apart.

    Attributes:
        documents: [S] the response of each sentence, ascending; every response has at least one sentence.
        spans: of the sentences, characters of their response.
        words, chars: (rows, hashes) of the n-grams of the sentences.
        sentence_dense: [S, Ks]; document_dense: [R, Kd].
        count: R.
    """

    documents: Ints
    spans: list[tuple[int, int]]
    words: tuple[Ints, npt.NDArray[np.uint32]]
    chars: tuple[Ints, npt.NDArray[np.uint32]]
    sentence_dense: Floats
    document_dense: Floats
    count: int


def take_apart(seekers: Sequence[str], responses: Sequence[str]) -> Batch:
    """Sentences, n-grams and dense features of responses to seekers (same length, at least one)."""
    spans = [tf.sentences(response) for response in responses]
    documents = np.repeat(np.arange(len(responses)), [len(s) for s in spans])
    texts = [response[a:b] for response, each in zip(responses, spans, strict=True) for a, b in each]
    words, heard = Tokens.of(texts), Tokens.of(seekers)
    grams = words.grams()
    counts = tf.lexicon_counts(*grams, words.count)
    shared = tf.shared_words(words, documents, heard)
    asks = np.array(["?" in text for text in texts], np.float64)
    return Batch(
        documents=documents,
        spans=[span for each in spans for span in each],
        words=grams,
        chars=tf.char_grams(texts),
        sentence_dense=_sentence_dense(texts, words, counts, shared, asks, documents),
        document_dense=_document_dense(responses, words, counts, shared, asks, documents, heard),
        count=len(responses),
    )


def _first_words(words: Tokens) -> Floats:
    """Whether the first word of each sentence is of the classes i, you, wh: [S, 3]."""
    rows, index = np.unique(words.rows, return_index=True)
    first = Tokens(words.ids[index], rows, words.words[index], words.count).grams((1,))
    counts: Floats = tf.lexicon_counts(*first, words.count)[:, [_I, _YOU, _WH]]
    return counts


def _sentence_dense(
    texts: list[str], words: Tokens, counts: Floats, shared: npt.NDArray[np.bool_], asks: Floats, documents: Ints
) -> Floats:
    starts = np.searchsorted(documents, documents)
    total = np.bincount(documents)[documents]
    place = np.arange(len(texts)) - starts
    length = np.log1p(words.per_row())
    content = words.per_row(tf.is_content(words))
    overlap = words.per_row(shared)
    columns = [
        asks,
        np.array(["!" in text for text in texts], np.float64),
        np.array([".." in text for text in texts], np.float64),
        length,
        np.log1p(content),
        place == 0,
        place == total - 1,
        np.log1p(total),
        overlap / (content + 1),
        asks * np.minimum(counts[:, _YOU], 2),
        asks * (counts[:, _WH] > 0),
        asks * (counts[:, _I] > 0),
        asks * length,
        asks * np.log1p(content),
        asks * (overlap > 0),
    ]
    return np.column_stack([np.minimum(counts, 3), *columns, _first_words(words)])


def _document_dense(
    responses: Sequence[str], words: Tokens, counts: Floats, shared: npt.NDArray[np.bool_], asks: Floats,
    documents: Ints, heard: Tokens,
) -> Floats:  # fmt: skip
    def by_document(values: Floats) -> Floats:
        return np.bincount(documents, values, minlength=len(responses)).astype(np.float64)

    lexicon = np.stack([by_document(column) for column in counts.T], axis=1)
    length = by_document(words.per_row())
    content = by_document(words.per_row(tf.is_content(words)))
    n = by_document(np.ones(len(documents)))
    questions = by_document(asks)
    columns = [
        np.log1p(length),
        np.log1p(heard.per_row()),
        np.log1p(n),
        np.minimum(questions, 5),
        questions / n,
        np.array([response.rstrip().endswith("?") for response in responses], np.float64),
        np.array([min(response.count("!"), 5) for response in responses], np.float64),
        by_document(words.per_row(shared)) / (content + 1),
        length / n / 10,
    ]
    return np.column_stack([np.minimum(lexicon, 6), lexicon / (length[:, None] + 1) * 10, *columns])
