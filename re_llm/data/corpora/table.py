"""Any table: csv, tsv or JSON lines with a column for the audio and further columns.

Columns are found by their usual names; options name others (`audio=wav_path`, `emotion=gold`). This is also the reader
of corpora that come with a metadata file and have no reader here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import COLUMN_OPTIONS, OPTIONS, Table, read_utterances, table_file
from re_llm.data.corpora.files import without_row

INFO = CorpusInfo(
    name="table",
    title="Any csv, tsv or jsonl",
    licence="that of the recordings",
    get="your own",
    root="the file itself, or a folder with one such file",
    options={
        **COLUMN_OPTIONS,
        **OPTIONS,
        "audio_root": OPTIONS["audio_root"] + ", or an uncompressed .zip or .tar",
        "suffix": "added to audio names without one, e.g. .wav",
    },
    dimensions=True,
)


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    file = table_file(scan.root)
    table = Table.from_options(scan, file)
    named = set()
    for utterance in read_utterances(scan, table):
        named.add(utterance.audio)
        yield utterance
    if table.audio_root.is_dir():
        without_row(scan, sorted({Path(name).parent for name in named}), named, file, deep=False)
