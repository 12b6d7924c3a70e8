"""MSP-Podcast: segments of podcasts, rated by several workers (Lotfian and Busso 2019).

Three generations of label files are read: `labels_consensus.csv`, the older `labels_concensus.csv` or `.json` (sic),
and the `Labels.txt` of release 1.8 with one line of each worker below the consensus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan, dimensions, pseudo_random_order
from re_llm.data.corpora.files import TEXT_BYTES, decode_text, read_lines, read_table, without_row

INFO = CorpusInfo(
    name="msp_podcast",
    title="MSP-Podcast",
    languages=("en",),
    utterances=151_654,
    hours=238,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust", "contempt", "other"),
    licence="academic licence of UT Dallas, to be signed",
    get="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    citation="Lotfian and Busso, Building naturalistic emotionally balanced speech corpus, IEEE TAFFC 10, 2019",
    root="Labels and Audios (or Audio)",
    protocols={"re-llm": "4,290 of Train and 1,245 of Test1 at random: neutral, happy, angry, sad (RE-LLM III-A)"},
    options={
        "train": "size of the training sample (4290)",
        "test": "size of the test sample (1245)",
        "emotions": "4, or 5 with surprise (4)",
    },
    dimensions=True,
    published={"re-llm": {"train": 4_290, "test": 1_245}},
)

SCALE = (1.0, 7.0)
CODES = {
    "N": "neutral", "H": "happy", "A": "angry", "S": "sad", "U": "surprise",
    "F": "fear", "D": "disgust", "C": "contempt", "O": "other",
}  # fmt: skip
UNDECIDED = "X"
SPLITS = {
    "train": "train", "validation": "dev", "development": "dev", "test1": "test1", "test2": "test2", "test3": "test3"
}  # fmt: skip
AUDIO = ("Audios", "Audio")
LABEL_FILES = (
    "labels_consensus.csv", "labels_concensus.csv", "labels_consensus.json", "labels_concensus.json", "Labels.txt"
)  # fmt: skip
FIELDS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Split_Set")
NOBODY = frozenset({"", "unknown"})
GENDERS = frozenset({"female", "male"})
_TEXT_LINE = re.compile(
    r"^(?P<file>[\w.-]+\.wav);\s*(?P<code>\w)\w*;\s*A:\s*(?P<a>[-\d.]+);\s*V:\s*(?P<v>[-\d.]+);\s*D:\s*(?P<d>[-\d.]+);"
)


@dataclass(frozen=True)
class Row:
    """One line of a label file; the ratings are as written, on 1..7."""

    file: str
    code: str
    valence: float
    arousal: float
    dominance: float
    speaker: str | None
    split: str
    gender: str | None
    line: int | None


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the label file."""
    root = scan.path_root(_is_release, f"expected {INFO.root} in it")
    labels = _label_file(root)
    assert labels is not None, root
    audio = next((root / name for name in AUDIO if (root / name).is_dir()), root / AUDIO[0])
    named: set[str] = set()
    rows = _noted(_rows(scan, labels), audio, named)
    if scan.protocol is not None:
        rows = iter(_sample(scan, list(rows)))
    for row in rows:
        yield _utterance(scan, root, audio, labels, row)
    without_row(scan, [audio], named, labels)  # the labels of Test3 are kept secret


def _noted(rows: Iterator[Row], audio: Path, named: set[str]) -> Iterator[Row]:
    for row in rows:
        named.add(str(audio / row.file))
        yield row


def _is_release(root: Path) -> bool:
    labels = _label_file(root)
    # The folder of the labels itself is one level too low.
    return labels is not None and (labels.parent != root or any((root / name).is_dir() for name in AUDIO))


def _label_file(root: Path) -> Path | None:
    folders = (root / "Labels", root / "Label", root / "labels", root / "label", root)
    candidates = (folder / name for name in LABEL_FILES for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


def _rows(scan: Scan, labels: Path) -> Iterator[Row]:
    found: Iterator[Row | None]
    if labels.suffix == ".csv":
        found = (_row(scan, labels, row, line) for line, row in read_table(scan, labels, FIELDS))
    elif labels.suffix == ".json":
        found = _json_rows(scan, labels)
    else:
        found = _text_rows(scan, labels)
    return (row for row in found if row is not None)


def _row(scan: Scan, labels: Path, fields: dict[str, str], line: int | None) -> Row | None:
    split = SPLITS.get(fields["Split_Set"].strip().lower())
    if split is None:
        scan.problem(labels, f"{fields['FileName']}: unknown split {fields['Split_Set']!r}", line)
        return None
    try:
        valence, arousal, dominance = (float(fields[name]) for name in ("EmoVal", "EmoAct", "EmoDom"))
    except ValueError:
        scan.problem(labels, f"{fields['FileName']}: ratings are not numbers", line)
        return None
    speaker = None if str(fields["SpkrID"]).strip().lower() in NOBODY else str(fields["SpkrID"]).strip()
    gender = fields.get("Gender", "").strip().lower()
    return Row(
        fields["FileName"], fields["EmoClass"].strip(), valence, arousal, dominance, speaker, split,
        gender if gender in GENDERS else None, line,
    )  # fmt: skip


def _json_rows(scan: Scan, labels: Path) -> Iterator[Row | None]:
    if labels.stat().st_size > TEXT_BYTES:
        raise RellmError(f"{labels} is larger than {TEXT_BYTES} bytes")
    try:
        table = json.loads(decode_text(labels.read_bytes()))
        items = list(table.items())
    except (ValueError, AttributeError) as error:
        raise RellmError(f"{labels} is not a JSON object by file name: {error}") from error
    for file, fields in items:
        if not isinstance(fields, dict) or any(name not in fields for name in FIELDS[1:]):
            scan.problem(labels, f"{file}: fields are missing")
        else:
            yield _row(scan, labels, {"FileName": file, **{k: str(v) for k, v in fields.items()}}, None)


def _text_rows(scan: Scan, labels: Path) -> Iterator[Row | None]:
    # Release 1.8 keeps speakers and splits in files of their own.
    speakers = dict(_pairs(labels.with_name("Speaker_ids.txt")))
    splits = dict(_pairs(labels.with_name("Partitions.txt"), swapped=True))
    for number, line in read_lines(labels):
        if not line.startswith("MSP-"):
            continue
        match = _TEXT_LINE.match(line)
        if match is None:
            scan.problem(labels, f"not a label: {line[:80]!r}", number)
            continue
        file = match["file"]
        fields = {"FileName": file, "EmoClass": match["code"], "EmoAct": match["a"], "EmoVal": match["v"]}
        fields |= {"EmoDom": match["d"], "SpkrID": speakers.get(file, ""), "Split_Set": splits.get(file, "")}
        yield _row(scan, labels, fields, number)


def _pairs(path: Path, *, swapped: bool = False) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    for _, line in read_lines(path):
        first, mark, second = (part.strip() for part in line.partition(";"))
        if mark:
            yield (second, first) if swapped else (first, second)


def _sample(scan: Scan, rows: list[Row]) -> list[Row]:
    """The random sample of RE-LLM: the order is fixed by the seed and the file names, so it can be made again.

    Raises:
        RellmError: the corpus has fewer rows than the sample.
    """
    codes = tuple(CODES)[: scan.option("emotions", 4, int, (4, 5))]
    wanted = {"train": scan.option("train", 4290, int), "test1": scan.option("test", 1245, int)}
    chosen: set[str] = set()
    for split, size in wanted.items():
        names = [row.file for row in rows if row.split == split and row.code in codes]
        if len(names) < size:
            raise RellmError(
                f"protocol re-llm takes {size} utterances of {split}, but there are {len(names)} of {', '.join(codes)}",
                todo="Give smaller numbers with the options train and test",
            )
        chosen.update(pseudo_random_order(names, scan.seed, "msp_podcast")[:size])
    for row in rows:
        if row.split not in wanted:
            scan.drop(f"split {row.split}")
        elif row.code not in codes:
            scan.drop(f"emotion {row.code}")
        elif row.file not in chosen:
            scan.drop(f"not in the sample of {row.split}")
    return [row for row in rows if row.file in chosen]


def _utterance(scan: Scan, root: Path, audio: Path, labels: Path, row: Row) -> Utterance:
    code = row.code
    known = CODES.get(code)
    if known is None and code != UNDECIDED:
        scan.problem(labels, f"unknown emotion label {code!r}", row.line)
    ratings = {"valence": row.valence, "arousal": row.arousal, "dominance": row.dominance}
    stem = Path(row.file).stem
    return INFO.utterance(
        audio / row.file, split="test" if scan.protocol and row.split == "test1" else row.split,
        text=_transcript(scan, root / "Transcripts" / f"{stem}.txt"), speaker=row.speaker, emotion=known,
        emotion_raw=code, gender=row.gender, **dimensions(scan, ratings, SCALE, labels, row.line),
    )  # fmt: skip


def _transcript(scan: Scan, path: Path) -> str | None:
    if not path.is_file():
        scan.problem(path, "the transcript is missing")
        return None
    return " ".join(line for _, line in read_lines(path) if line) or None
