"""nEMO: nine Polish actors, ninety sentences, six emotions (Christop 2024).

Quirk: speaker ids in `data.tsv` are padded with blanks. The edition on the Hugging Face hub (parquet) is read by `hf`
with the options `corpus=nemo`, `default_language=pl` and `extract`.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
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
)

COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of `data.tsv`."""
    root = scan.path_root(lambda p: (p / "data.tsv").is_file(), f"expected {INFO.root} in it")
    table = root / "data.tsv"
    named = set()
    for line, row in read_table(scan, table, COLUMNS, delimiter="\t", quoted=False):
        file = row["file_id"] if row["file_id"].endswith(".wav") else f"{row['file_id']}.wav"
        named.add(str(root / "samples" / file))
        yield INFO.utterance(
            root / "samples" / file, text=row["raw_text"] or None, speaker=row["speaker_id"] or None,
            emotion=scan.emotion(row["emotion"], table, line), emotion_raw=row["emotion"], gender=row["gender"],
        )  # fmt: skip
    without_row(scan, [root / "samples"], named, table)
