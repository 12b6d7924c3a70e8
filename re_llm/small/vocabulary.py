"""Common words, said one after another: speech tokens spell a word that training said, and hardly any other."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from re_llm.core.errors import MissingExtra

LENGTHS = range(4, 9)  # words in a line
COMMAS = 0.5  # of the lines, read with pauses; the others run on


def common_words(count: int) -> list[str]:
    """The most frequent English words of two letters and more (wordfreq: subtitles, news, books, Reddit, Twitter).

    Raises:
        MissingExtra: wordfreq is not installed.
    """
    if not count:
        return []
    with MissingExtra.unless("wordfreq", "small-build", "The list of common words"):
        from wordfreq import top_n_list
    listed = top_n_list("en", 2 * count)
    return [word for word in listed if len(word) > 1 and word.isascii() and word.isalpha()][:count]


def word_lists(words: Sequence[str], times: int, seed: int) -> Iterator[str]:
    """Lines of a few words in an order of chance; each word comes `times` times, in other company."""
    rng = random.Random(f"vocabulary {seed}")
    for _ in range(times):
        left = rng.sample(words, len(words))
        while left:
            size = rng.choice(LENGTHS)
            line, left = left[:size], left[size:]
            yield (", " if rng.random() < COMMAS else " ").join(line)
