"""Tokens, sentences, hashed n-grams."""

from __future__ import annotations

import numpy as np

from re_llm.evaluate.empathy import text_features as tf
from re_llm.evaluate.empathy.text_features import CLASSES, Tokens


def test_tokens_and_quotes():
    assert tf.tokens("Don\u2019t worry... REALLY?? It's 5!") == [
        "don't",
        "worry",
        "...",
        "really",
        "??",
        "it's",
        "5",
        "!",
    ]


def test_sentences_cover_what_is_said():
    text = "I see. What now?! ... Fine :)"
    assert [text[a:b].strip() for a, b in tf.sentences(text)] == ["I see.", "What now?! ...", "Fine :)"]
    assert tf.sentences("") == [(0, 0)]
    assert tf.sentences("...") == [(0, 3)]


def test_word_grams_stay_within_a_text():
    rows, hashes = Tokens.of(["a b", "c", "", "a b"]).grams()
    assert np.bincount(rows, minlength=4).tolist() == [3, 1, 0, 3]
    assert sorted(hashes[rows == 0]) == sorted(hashes[rows == 3])
    assert len(np.unique(hashes)) == 4
    assert len(np.unique(Tokens.of(["a b c", "c b a"]).grams((3,))[1])) == 2


def test_char_grams_stay_within_words():
    rows, hashes = tf.char_grams(["ab cd", "ab"])
    # " ab ": two 2-grams at the edges and one inside, two 3-grams, one 4-gram; twice in the first text.
    assert np.bincount(rows).tolist() == [12, 6]
    assert set(hashes[rows == 1]) < set(hashes[rows == 0])
    again = tf.char_grams(["  AB\n cd"])[1]
    assert sorted(again) == sorted(hashes[rows == 0])


def test_features_do_not_depend_on_the_batch():
    texts = ["How are you, my friend?", "naïve 😀 text", "x", "?!"]
    rows, hashes = tf.char_grams(texts)
    for n, text in enumerate(texts):
        assert sorted(tf.char_grams([text])[1]) == sorted(hashes[rows == n])


def test_lexicon_finds_phrases():
    counts = tf.lexicon_counts(*Tokens.of(["Don't give up, I'm here for you.", "What happened?", "xyz"]).grams(), 3)
    found = [{CLASSES[k] for k in np.flatnonzero(row)} for row in counts]
    assert {"courage", "offer", "you"} <= found[0]
    assert {"wh", "explore"} <= found[1]
    assert found[2] == set()


def test_shared_words_leave_function_words_out():
    heard = Tokens.of(["I failed the exam.", "I failed the exam."])
    words = Tokens.of(["The exam was hard.", "The dog."])
    shared = tf.shared_words(words, np.array([0, 1]), heard)
    assert words.per_row(shared).tolist() == [1, 0]


def test_lookup():
    table = np.array([3, 7, 9], np.uint32)
    assert tf.lookup(table, np.array([9, 3, 4, 10], np.uint32)).tolist() == [2, 0, -1, -1]
