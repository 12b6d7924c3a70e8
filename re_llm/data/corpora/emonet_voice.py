"""EmoNet-Voice Bench: synthetic speech whose 40 emotions experts listened for (Schuhmann et al. 2025).

Parquet with the recording in `audioId` and, in `label`, the experts' ratings as Python prints a list:
`[{'human-1': {'Shame': 1}}, {'human-4': {'Shame': 2}}]`. Each heard one emotion, whose name may be quoted as in a
URL, and said how strongly: 0 not at all, 1 mildly, 2 intensely. A row has an `emotion` when all of them heard it and
it has a canonical name (or one of the option `label_set`); its own name is `emotion_raw`, and `ratings` holds who said
what. Speakers, words and languages are not told.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from urllib.parse import unquote

from re_llm.core.emotions import find_label
from re_llm.core.records import Utterance
from re_llm.data.corpora import hf
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import Table

INFO = CorpusInfo(
    name="emonet_voice",
    title="EmoNet-Voice Bench",
    languages=("en", "de", "es", "fr"),
    utterances=12_600,
    hours=36,
    emotions=("happy", "sad", "angry", "fear", "disgust", "contempt", "surprise"),
    licence="CC BY 4.0",
    get="https://huggingface.co/datasets/laion/emonet-voice-bench",
    citation="Schuhmann et al., EmoNet-Voice: A Fine-Grained, Expert-Verified Benchmark, 2025",
    root="folder with its parquet files (also in data)",
    protocols={"agreed": "what every expert heard, at least mildly"},
    options={"extract": hf.INFO.options["extract"]},
)

LABELS = {"amusement": "happy", "elation": "happy", "astonishment": "surprise", "astonishment/surprise": "surprise"}
HIGHEST = 2
LONGEST = 4096  # characters of a label


def read(scan: Scan) -> Iterator[Utterance]:
    """Rows in their order; all of them are for testing."""
    for part, dataset in hf.datasets_in(scan.root).items():
        table = Table(scan.root, INFO.name, scan.root, split=part, columns={"audio": "audioId"})
        for number, row, place in hf.dataset_rows(scan, table, dataset):
            try:
                name, ratings = ratings_of(str(row["label"]))
            except (KeyError, ValueError) as error:
                scan.problem(scan.root, f"label: {error}", number)
                continue
            heard = min(ratings.values()) > 0
            if scan.protocol == "agreed" and not heard:
                scan.drop("an expert did not hear the emotion")
                continue
            label = name.lower()
            emotion = find_label(label if label in scan.labels else LABELS.get(label, label), scan.labels)
            yield INFO.utterance(
                place, key=f"{part}-{number:07}", split="test", emotion=emotion if heard else None, emotion_raw=name,
                ratings=ratings,
            )  # fmt: skip


def ratings_of(label: str) -> tuple[str, dict[str, int]]:
    """The emotion that was listened for, and the rating of each expert.

    Raises:
        ValueError: it is no such list.
    """
    try:
        given = [pair for each in ast.literal_eval(label[:LONGEST]) for pair in each.items()]
        ratings = {str(rater): int(value) for rater, rated in given for value in rated.values()}
        names = {unquote(str(name)) for _, rated in given for name in rated}
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
        raise ValueError(f"{label[:80]!r} is no list of ratings") from None
    if len(names) != 1 or not all(0 <= value <= HIGHEST for value in ratings.values()):
        raise ValueError(f"{label[:80]!r} rates other than one emotion on 0..{HIGHEST}")
    return names.pop(), ratings
