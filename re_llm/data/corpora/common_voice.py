"""Common Voice: read sentences by volunteers, one folder a language (Ardila et al. 2020).

Quirks: quotation marks in the tables quote nothing; `client_id` is the only speaker; lengths stand in
`clip_durations.tsv` of newer releases. There are no emotions in it: it serves the semantic alignment (BLSP stage).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.audio.waveform import SUFFIXES
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_table

INFO = CorpusInfo(
    name="common_voice",
    title="Common Voice",
    languages=("en", "zh", "and more than 100 others"),
    licence="CC0-1.0",
    get="https://commonvoice.mozilla.org/datasets (BLSP-Emo used release 13.0)",
    citation="Ardila et al., Common Voice: A massively-multilingual speech corpus, LREC 2020",
    root="validated.tsv, train.tsv, dev.tsv, test.tsv and clips (the folder of one language)",
    protocols={"validated": "every validated sentence, as split `train`"},
    options={"language": "code that is recorded (name of the folder)"},
)

TABLES = ("train", "dev", "test")
SPEAKER_DIGITS = 16  # of the 128 of client_id: unique among volunteers


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the tables."""
    root = scan.path_root(lambda p: (p / "clips").is_dir() and any(p.glob("*.tsv")), f"expected {INFO.root} in it")
    language = scan.option("language", root.resolve().name.split("-")[0], str)
    lengths = _durations(scan, root / "clip_durations.tsv")
    names = ("validated",) if scan.protocol == "validated" else TABLES
    present = [name for name in names if (root / f"{name}.tsv").is_file()]
    if not present:
        raise RellmError(f"{root} has none of {', '.join(f'{n}.tsv' for n in names)}", todo="Check --root")
    for name in present:
        table = root / f"{name}.tsv"
        split = "train" if scan.protocol else name
        for line, row in read_table(scan, table, ("client_id", "path", "sentence"), delimiter="\t", quoted=False):
            if not row["path"] or not row["sentence"]:
                scan.problem(table, "no path or no sentence", line)
                continue
            # Releases before 5.0 name the clips without `.mp3`; custom tables may name other formats.
            file = row["path"] if Path(row["path"]).suffix.lower() in SUFFIXES else row["path"] + ".mp3"
            speaker = row["client_id"][:SPEAKER_DIGITS] or None
            yield INFO.utterance(
                root / "clips" / file, split=split, text=row["sentence"], language=language, speaker=speaker,
                duration=lengths.get(file),
            )  # fmt: skip


def _durations(scan: Scan, path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    found = {}
    for line, row in read_table(scan, path, ("clip", "duration[ms]"), delimiter="\t", quoted=False):
        try:
            found[row["clip"]] = float(row["duration[ms]"]) / 1000
        except ValueError:
            scan.problem(path, f"{row['duration[ms]']!r} is not a number of milliseconds", line)
    return {clip: seconds for clip, seconds in found.items() if seconds > 0}
