"""Any table (csv, tsv or JSON lines with a column for the audio and further columns), or a folder of labels.

Columns are found by their usual names; options name others (`audio=wav_path`, `emotion=gold`). This is also the reader
of corpora that come with a metadata file and have no reader here. A folder without a table is read as `LABEL/*.wav` or
`SPLIT/LABEL/*.wav`: the folder of a recording is its emotion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import COLUMN_OPTIONS, KINDS, OPTIONS, Table, from_rows, read_utterances, table_file
from re_llm.data.corpora.files import Json, recordings, without_row

INFO = CorpusInfo(
    name="table",
    title="Any csv, tsv or jsonl; folders of labels",
    licence="that of the recordings",
    get="your own",
    root="the file itself, a folder with one such file, or folders of recordings named by their labels",
    options={
        **COLUMN_OPTIONS,
        **OPTIONS,
        "audio_root": OPTIONS["audio_root"] + ", or a .zip or .tar",
        "suffix": "added to audio names without one, e.g. .wav",
    },
    dimensions=True,
)

SPLITS = {"train": "train", "training": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev"}
SPLITS |= {"test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file, or of the folders."""
    if _is_folder_of_labels(scan.root):
        corpus = scan.root.resolve().name
        yield from from_rows(scan, Table.from_options(scan, scan.root, corpus=corpus), _labelled(scan, scan.root))
        return
    file = table_file(scan.root)
    table = Table.from_options(scan, file)
    named = set()
    for utterance in read_utterances(scan, table):
        named.add(utterance.audio)
        yield utterance
    if table.audio_root.is_dir():
        without_row(scan, sorted({Path(name).parent for name in named}), named, file, deep=False)


def _is_folder_of_labels(root: Path) -> bool:
    if not root.is_dir() or any(path.suffix.lower() in KINDS for path in root.iterdir()):
        return False
    return any(len(path.relative_to(root).parts) > 1 for path in recordings(root))


def _labelled(scan: Scan, root: Path) -> Iterator[tuple[None, Json, str]]:
    for path in recordings(root):
        *folders, name = path.relative_to(root).with_suffix("").parts
        split = SPLITS.get(folders[0].lower()) if len(folders) > 1 else None
        if not folders:
            scan.problem(path, "not in the folder of a label")
        else:
            key = "-".join((scan.option("corpus", root.resolve().name, str), *folders, name))
            yield None, {"key": key, "emotion": folders[-1], "split": split}, str(path)
