"""EmoBox: 32 corpora of speech emotion through one format, with published folds (Ma et al. 2024).

`data/NAME/NAME.jsonl`, folds `data/NAME/fold_N/NAME_{train,valid,test}_fold_N.jsonl`; `label_map.json` maps the labels
of a corpus (`label_dict.json` for EMOVO). `wav` paths start from `audio_root`, the folder that holds `downloads`. The
rows have no speaker: it is read from the key where the corpus names its files by speaker, else from
`data.seg.wrd.stm`, which has the name of the file instead in MER2023 and RESD, a path in JL, and in IEMOCAP the actor
who wore the markers, not the one who speaks. The balanced sets of `data/track2` have other fields: `wav_filename`,
`label`, `speaker`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import KEPT, restored
from re_llm.data.corpora.files import Json, read_json_lines, read_lines, visible
from re_llm.data.identity import CORPORA

INFO = CorpusInfo(
    name="emobox",
    title="EmoBox folds",
    licence="that of each corpus",
    get="https://github.com/emo-box/EmoBox (folder data)",
    citation="Ma et al., EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit, Interspeech 2024",
    root="the folder of one corpus (NAME.jsonl, fold_1 ...), or a jsonl file",
    protocols={"fold": "training and test set of one published fold (option fold)"},
    options={
        "fold": "number of the fold (1)",
        "audio_root": "folder that the wav paths start from (the one above that holds downloads)",
        "language": "language that is recorded (that of the corpus)",
    },
)

SPLITS = {"train": "train", "valid": "dev", "test": "test"}
LANGUAGES = {
    "aesdd": "el", "ased": "am", "cafe": "fr", "casia": "zh", "cremad": "en", "emns": "en", "emodb": "de",
    "emovdb": "en", "emovo": "it", "emozionalmente": "it", "enterface": "en", "iemocap": "en", "jlcorpus": "en",
    "m3ed": "zh", "mead": "en", "meld": "en", "mer2023": "zh", "mesd": "es", "msppodcast": "en", "oreau": "fr",
    "pavoque": "de", "polish": "pl", "ravdess": "en", "resd": "ru", "savee": "en", "shemo": "fa", "subesco": "bn",
    "tess": "en", "turevdb": "tr", "urdu": "ur",
}  # fmt: skip
# What the label maps call by names of their own. ASVP-ESD, EMNS, EmoV-DB, JL and PAVOQUE have states without a
# canonical name.
LABELS = {
    **dict.fromkeys(("pleasure", "pain, groan", "disappointment, disapproval", "breath"), "other"),
    **dict.fromkeys(("sarcastic", "sleepy", "poker"), "other"),
    **dict.fromkeys(("apologetic", "assertive", "concerned", "encouraging"), "other"),
}  # fmt: skip
UNDECIDED = frozenset({"no-agreement", "unknown"})
# Speakers in keys, as the readers here write them: all groups of the match, joined.
IN_KEY = {
    name: re.compile(pattern)
    for name, pattern in {
        "aesdd": r"-0?(\d+)[a-z]?$", "ased": r"-(\d\d)$", "cremad": r"^(\d{4})-", "emodb": r"^(\d\d)[ab]",
        "esd": r"^(\d{4})-", "iemocap": r"^(Ses\d\d)[FM]_.*_([FM])\w+$", "jlcorpus": r"^((?:fe)?male\d)-",
        "mead": r"^([MW]\d{3})-", "ravdess": r"-(\d\d)$", "savee": r"^([A-Z]{2})-", "tess": r"^(OAF|YAF)-",
    }.items()
}  # fmt: skip
_FOLD = re.compile(r"fold_\d+")
_STM = re.compile(r"<id=(?P<key>[^>]+?),(?:[^>]*,)?spk=(?P<speaker>[^,>]+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the files."""
    root = scan.root if scan.root.is_file() else scan.path_root(_is_corpus, f"expected {INFO.root}")
    folder = root.parent if root.is_file() else root
    home = folder.parent if _FOLD.fullmatch(folder.name) else folder
    downloads = (p for p in home.resolve().parents if (p / "downloads").is_dir())
    corpus = _Corpus(
        audio=scan.option("audio_root", None, Path) or next(downloads, home.parent.parent),
        language=scan.option("language", None, str),
        labels=_label_map(home),
        speakers=dict(_speakers(home / "data.seg.wrd.stm")),
    )
    for file, split in _files(scan, folder):
        for line, row in read_json_lines(scan, file):
            try:
                yield corpus.utterance(scan, file, line, _named(row, file), split)
            except (KeyError, TypeError, ValueError) as error:
                scan.problem(file, f"not an EmoBox row: {error!r}".splitlines()[0], line)


def _is_corpus(folder: Path) -> bool:
    if _FOLD.fullmatch(folder.name):
        return False
    return any(next(folder.glob(pattern), None) for pattern in ("*.jsonl", "fold_*/*.jsonl"))


def _files(scan: Scan, folder: Path) -> list[tuple[Path, str]]:
    if scan.protocol == "fold":
        fold = scan.option("fold", 1, int)
        found = [(p, s) for s in SPLITS for p in visible((folder / f"fold_{fold}").glob(f"*_{s}_fold_{fold}.jsonl"))]
        if not found:
            raise RellmError(f"{folder} has no fold {fold}", todo="Check --root and the option fold")
        return [(path, SPLITS[split]) for path, split in found]
    if scan.root.is_file():
        return [(scan.root, "all")]
    whole = sorted(folder.glob("*.jsonl"))
    if len(whole) != 1:
        todo = "Give the file itself" if whole else "Give --protocol fold"
        raise RellmError(f"{folder} holds {len(whole)} jsonl files: expected {INFO.root}", todo=todo)
    return [(whole[0], "all")]


def _label_map(folder: Path) -> dict[str, str]:
    """What the labels of the corpus mean."""
    for path in (folder / "label_map.json", folder / "label_dict.json"):
        if path.is_file():
            try:
                return {str(k).lower(): str(v).lower() for k, v in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, AttributeError) as error:
                raise RellmError(f"{path} is not a map of labels: {error}") from error
    return {}


def _speakers(path: Path) -> Iterator[tuple[str, str]]:
    """(key, speaker) of the transcript file of a corpus, without the names of files that stand for speakers."""
    if not path.is_file():
        return
    for _, line in read_lines(path):
        match = _STM.search(line)
        if match and match["key"].partition("-")[2] != match["speaker"]:
            yield match["key"], match["speaker"].rpartition("/")[2]


def _named(row: Json, file: Path) -> Json:
    """A row of a balanced set with the names of the other rows."""
    if "wav_filename" not in row:
        return row
    name, place = file.stem.split("_")[0].lower(), str(row["wav_filename"])
    key = f"{name}-{Path(place).stem}"
    return {"key": key, "dataset": name, "wav": place, "emo": row["label"], "spk": row["speaker"]}


@dataclass(frozen=True)
class _Corpus:
    """What the rows of a corpus have in common."""

    audio: Path
    language: str | None
    labels: Mapping[str, str]
    speakers: Mapping[str, str]

    def utterance(self, scan: Scan, file: Path, line: int, row: Json, split: str) -> Utterance:
        raw, key, dataset = str(row["emo"]), str(row["key"]), str(row["dataset"])
        start = float(row.get("start_time") or 0.0)
        fields = {
            "key": key,
            "corpus": CORPORA.get(dataset, dataset),
            "split": split,
            "audio": str(self.audio / row["wav"]),
            "start": start,
            "duration": round(float(row["end_time"]) - start, 6) if "end_time" in row else None,
        }
        if KEPT in row:
            emotion = None if raw.lower() in UNDECIDED else raw
            return restored(scan, file, line, {**fields, "emotion": emotion, "speaker": row.get("spk")}, row[KEPT])
        speaker = str(row["spk"]) if row.get("spk") else self._speaker(dataset, key)
        label = self.labels.get(raw.lower(), raw)
        fields |= {
            "text": row.get("text"),
            "language": self.language or row.get("lang") or _language(dataset, speaker),
            "speaker": speaker,
            "emotion": None if label.lower() in UNDECIDED else scan.emotion(label, file, line, LABELS),
            "emotion_raw": raw,
        }
        return Utterance.model_validate(fields)

    def _speaker(self, dataset: str, key: str) -> str | None:
        match = IN_KEY[dataset].search(key.removeprefix(f"{dataset}-")) if dataset in IN_KEY else None
        return "".join(match.groups()) if match else self.speakers.get(key)


def _language(dataset: str, speaker: str | None) -> str | None:
    if dataset == "esd" and speaker is not None and speaker.isdigit():
        return "zh" if int(speaker) <= 10 else "en"
    return LANGUAGES.get(dataset)
