"""What the small scorer sees of responses."""

from __future__ import annotations

import numpy as np

from re_llm.evaluate.empathy.small_features import Responses, fit_vocabulary, take_apart, vectorizer
from re_llm.evaluate.empathy.text_features import CLASSES, PHRASES

SEEKERS = ["I failed the exam.", "My dog ran away.", ""]
RESPONSES = ["The exam was hard. Don't give up, I'm here for you.", "What happened? What happened to the dog?", ""]
VOCABULARY = [*PHRASES, "the exam", "exam was", "hard don't", "the dog"]


def apart(seekers: list[str] = SEEKERS, responses: list[str] = RESPONSES) -> Responses:
    return take_apart(seekers, responses, vectorizer(VOCABULARY))


def test_ngrams_stay_within_a_sentence():
    got = apart()
    own = got.whole[:, len(PHRASES) :].toarray()
    assert own.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert got.documents.tolist() == [0, 0, 1, 1, 2]
    assert got.starts.tolist() == [0, 2, 4]
    assert (got.whole.sum(axis=0) == got.counts.sum(axis=0)).all()


def test_lexicon_finds_phrases():
    lexicon = apart().document_dense[:, : len(CLASSES)]
    found = [{CLASSES[k] for k in np.flatnonzero(row)} for row in lexicon]
    assert {"courage", "offer", "you"} <= found[0]
    assert {"wh", "explore"} <= found[1]
    assert found[2] == set()


def test_words_shared_with_the_seeker_leave_function_words_out():
    shared = apart().sentence_dense[:, len(CLASSES) + 8]
    # "exam" of the content words "exam, hard"; "dog" of "happened, dog".
    assert shared.tolist() == [1 / 3, 0, 0, 1 / 3, 0]


def test_features_depend_neither_on_the_batch_nor_on_its_parts():
    got = apart()
    for n, (seeker, response) in enumerate(zip(SEEKERS, RESPONSES, strict=True)):
        (alone, part) = (apart([seeker], [response]), got.subset(np.array([n])))
        for each in (alone, part):
            assert (each.whole != got.whole[n]).nnz == 0
            np.testing.assert_array_equal(each.document_dense[0], got.document_dense[n])
            np.testing.assert_array_equal(each.sentence_dense, got.sentence_dense[got.documents == n])
        assert part.spans == alone.spans and part.documents.tolist() == alone.documents.tolist()


def test_the_vocabulary_is_the_lexicon_and_what_stands_in_two_responses():
    words = fit_vocabulary(["The exam was hard.", "The exam.", "Exam. Was it?"])
    assert words[: len(PHRASES)] == list(PHRASES)
    assert words[len(PHRASES) :] == sorted({"the", "the exam", "exam", "was", ".", "exam ."} - set(PHRASES))
