"""Tokens, sentences, n-grams."""

from __future__ import annotations

from re_llm.evaluate.empathy import text_features as tf


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
    assert [token for token in tf.tokens("I see the exam, 5!") if tf.is_content(token)] == ["see", "exam", "5"]


def test_sentences_cover_what_is_said():
    text = "I see. What now?! ... Fine :)"
    assert [text[a:b].strip() for a, b in tf.sentences(text)] == ["I see.", "What now?! ...", "Fine :)"]
    assert tf.sentences("") == [(0, 0)]
    assert tf.sentences("...") == [(0, 3)]


def test_ngrams():
    assert tf.ngrams(["a", "b", "c"]) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert tf.ngrams([]) == []


def test_a_phrase_is_of_its_classes():
    row = tf.MEMBERSHIP[tf.PHRASES.index("sad")]
    assert [name for name, member in zip(tf.CLASSES, row, strict=True) if member] == ["emotion"]
    assert max(len(phrase.split()) for phrase in tf.PHRASES) <= tf.WORDS_TOGETHER
