"""nEMO: nine Polish actors, ninety sentences, six emotions (Christop 2024).

Quirk: speaker ids in `data.tsv` are padded with blanks. The edition on the Hugging Face hub (parquet) is read by `hf`
with the options `corpus=nemo`, `default_language=pl` and `extract`.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan, speaker_folds
from re_llm.data.corpora.files import read_table, without_row

INFO = CorpusInfo(
    name="nemo",
    title="nEMO",
    languages=("pl",),
    utterances=4_481,
    hours=3.1,
    emotions=("neutral", "happy", "angry", "sad", "fear", "surprise"),
    licence="CC BY-NC-SA 4.0",
    get="https://github.com/amu-cai/nEMO",
    citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024",
    root="data.tsv and samples",
    protocols={"9-fold": "speaker-independent: one speaker is the test set, the next one dev (option fold)"},
    options={"fold": "number of the test speaker in the order of their names, 1 to 9 (1)"},
)

COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of `data.tsv`."""
    root = scan.path_root(lambda p: (p / "data.tsv").is_file(), f"expected {INFO.root} in it")
    table = root / "data.tsv"
    rows = list(read_table(scan, table, COLUMNS, delimiter="\t", quoted=False))
    splits = speaker_folds(scan, sorted({row["speaker_id"] for _, row in rows})) if scan.protocol else {}
    named = set()
    for line, row in rows:
        file = row["file_id"] if row["file_id"].endswith(".wav") else f"{row['file_id']}.wav"
        named.add(str(root / "samples" / file))
        yield INFO.utterance(
            root / "samples" / file, split=splits.get(row["speaker_id"], "all"), text=row["raw_text"] or None,
            speaker=row["speaker_id"] or None, emotion=scan.emotion(row["emotion"], table, line),
            emotion_raw=row["emotion"], gender=row["gender"],
        )  # fmt: skip
    without_row(scan, [root / "samples"], named, table)
