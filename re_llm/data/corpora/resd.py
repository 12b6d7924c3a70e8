"""RESD: Russian emotional dialogues by actors (Aniemore, 2022).

Layout of the archive: `train.csv` and `test.csv` with columns name, path, emotion (and text in the annotated edition),
recordings in `train` and `test`. The edition on the Hugging Face hub is read by `hf`.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan
from re_llm.data.corpora.columns import Table, read_utterances
from re_llm.data.corpora.files import without_row

INFO = CorpusInfo(
    name="resd",
    title="Russian Emotional Speech Dialogs (RESD)",
    languages=("ru",),
    utterances=1_396,
    hours=2.3,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust", "excited"),
    licence="MIT",
    get="https://huggingface.co/datasets/Aniemore/resd_annotated",
    citation="Aniemore: Russian Emotional Speech Dialogs, Hugging Face, 2022",
    root="train.csv, test.csv, train, test",
    protocols={"blsp-emo": "test set of BLSP-Emo: neutral, happy, angry, sad of the test part"},
    filters={"blsp-emo": Filters(emotions=PROMPT_EMOTIONS)},
    published={"blsp-emo": {"test": 158}},
)


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances of the training, then of the test part."""
    root = scan.path_root(lambda p: (p / "test.csv").is_file(), f"expected {INFO.root} in it")
    for split in ("test",) if scan.protocol == "blsp-emo" else ("train", "test"):
        file = root / f"{split}.csv"
        if file.is_file():
            columns = {"audio": "path", "emotion": "emotion"}
            table = Table(file, "resd", root / split, split=split, language="ru", columns=columns)
            named = set()
            for utterance in read_utterances(scan, table):
                named.add(utterance.audio)
                utterance.key = f"resd-{split}-{utterance.key.removeprefix('resd-')}"
                yield utterance
            without_row(scan, [root / split], named, file)
        else:
            scan.problem(file, "the table is missing")
