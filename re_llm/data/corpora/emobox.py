"""EmoBox: 32 corpora of speech emotion through one format, with published folds (Ma et al. 2024).

`data/NAME/NAME.jsonl`, folds `data/NAME/fold_N/NAME_{train,valid,test}_fold_N.jsonl`; `label_map.json` says what the
labels of a corpus mean (`label_dict.json` for EMOVO). `wav` paths start from `audio_root`, the folder that holds
`downloads`. Speakers stand in `data.seg.wrd.stm` only, where MER2023 and RESD have the name of the file instead. The
balanced sets of `data/track2` have rows of their own: `wav_filename`, `label`, `speaker`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_json_lines, read_lines, visible

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
    "worried": "anxious", "enthusiastic": "excited",
    **dict.fromkeys(("pleasure", "pain, groan", "disappointment, disapproval", "breath"), "other"),
    **dict.fromkeys(("sarcastic", "sleepy", "poker"), "other"),
    **dict.fromkeys(("apologetic", "assertive", "concerned", "encouraging"), "other"),
}  # fmt: skip
UNDECIDED = frozenset({"no-agreement", "unknown"})
_FOLD = re.compile(r"fold_\d+")
_SPEAKER = re.compile(r"<id=(?P<key>[^>]+?),(?:[^>]*,)?spk=(?P<speaker>[^,>]+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the files."""
    root = scan.root if scan.root.is_file() else scan.path_root(_is_corpus, f"expected {INFO.root}")
    folder = root.parent if root.is_file() else root
    home = folder.parent if _FOLD.fullmatch(folder.name) else folder
    labels = _label_map(home)
    speakers = dict(_speakers(home / "data.seg.wrd.stm"))
    downloads = (p for p in home.resolve().parents if (p / "downloads").is_dir())
    audio = scan.option("audio_root", None, Path) or next(downloads, home.parent.parent)
    for file, split in _files(scan, folder):
        for line, row in read_json_lines(scan, file):
            try:
                yield _utterance(scan, file, line, _spelt_out(row, file), split, audio, labels, speakers)
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
    """(key, speaker) of the transcript file of a corpus."""
    if not path.is_file():
        return
    for _, line in read_lines(path):
        match = _SPEAKER.search(line)
        if match and not match["key"].endswith(match["speaker"]):
            yield match["key"], match["speaker"]


def _spelt_out(row: dict[str, Any], file: Path) -> dict[str, Any]:
    if "wav_filename" not in row:
        return row
    name = file.stem.split("_")[0].lower()
    place = str(row["wav_filename"])
    return {
        "key": f"{name}-{Path(place).stem}",
        "dataset": name,
        "wav": place,
        "emo": row["label"],
        "spk": row["speaker"],
    }


def _language(dataset: str, speaker: str | None) -> str | None:
    if dataset == "esd" and speaker is not None and speaker.isdigit():
        return "zh" if int(speaker) <= 10 else "en"
    return LANGUAGES.get(dataset)


def _utterance(
    scan: Scan,
    file: Path,
    line: int,
    row: dict[str, Any],
    split: str,
    audio: Path,
    labels: dict[str, str],
    speakers: dict[str, str],
) -> Utterance:
    raw, key, dataset = str(row["emo"]), str(row["key"]), str(row["dataset"])
    label = labels.get(raw.lower(), raw)
    start = float(row.get("start_time") or 0.0)
    speaker = str(row["spk"]) if row.get("spk") else speakers.get(key)
    return Utterance(
        key=key,
        corpus=dataset,
        split=split,
        audio=str(audio / row["wav"]),
        start=start,
        duration=round(float(row["end_time"]) - start, 6) if "end_time" in row else None,
        text=row.get("text"),
        language=scan.option("language", "", str) or row.get("lang") or _language(dataset, speaker),
        speaker=speaker,
        emotion=None if label.lower() in UNDECIDED else scan.emotion(label, file, line, LABELS),
        emotion_raw=raw,
    )
