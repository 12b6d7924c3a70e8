"""ESD: the same 350 sentences by 10 English and 10 Mandarin speakers in five emotions (Zhou et al. 2022).

Quirks: the encoding of the transcripts differs from speaker to speaker (UTF-8, UTF-16, GB 2312, Latin-1); some lines
have lost their tabs; some transcripts name the emotion in Chinese; some releases have `train`, `evaluation` and `test`
below the emotions. File number n of a speaker is sentence (n - 1) % 350, so a split must be by sentence: split by file,
the same words are on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan, pseudo_random_order
from re_llm.data.corpora.files import read_lines, recordings, visible

INFO = CorpusInfo(
    name="esd",
    title="Emotional Speech Dataset (ESD)",
    languages=("en", "zh"),
    utterances=35_000,
    hours=29,
    emotions=("neutral", "angry", "happy", "sad", "surprise"),
    licence="research only, form to be signed (NUS and SUTD)",
    get="https://hltsingapore.github.io/ESD/",
    citation="Zhou et al., Emotional voice conversion: Theory, databases and ESD, Speech Communication 137, 2022",
    root="0001 ... 0020 (0011 to 0020 for English)",
    protocols={
        "re-llm": "English; 245 sentences train, 105 test, in all four emotions by all speakers (RE-LLM III-A)",
        "speaker-independent": "the sentences of re-llm, and speakers 0018-0020 in the test set only",
        "mini": "speaker-independent; the last 30 % of the sentences are the test set, whatever their number",
        "blsp-emo": "training set of BLSP-Emo: both languages, five emotions, 5 words (characters) or more",
    },
    published={"blsp-emo": {"train": 33_443}},
    filters={"blsp-emo": Filters(min_words=5)},
    options={
        "emotions": "4 (without surprise) or 5; re-llm: 4",
        "test_speakers": "comma-separated (0018,0019,0020)",
        "languages": "comma-separated (re-llm: en)",
    },
)

SENTENCES = 350
TEST_FRACTION = 0.3
TEST_SPEAKERS = ("0018", "0019", "0020")
CHINESE = {
    "中立": "neutral", "生气": "angry", "愤怒": "angry", "开心": "happy", "快乐": "happy",
    "伤心": "sad", "悲伤": "sad", "惊喜": "surprise", "惊讶": "surprise",
}  # fmt: skip
_LINE = re.compile(r"^(?P<key>\d{4}_\d{6})\s*(?P<rest>\S.*)$")
# Some lines have blanks in place of the tabs, or nothing at all: `... every day.Surprise`.
_LABEL = re.compile(rf"^(?P<text>.*\S)\s*(?P<label>Neutral|Angry|Happy|Sad|Surprise|{'|'.join(CHINESE)})$")
_FILE = re.compile(r"^(?P<speaker>\d{4})_(?P<number>\d{6})$")


@dataclass(frozen=True)
class Row:
    """One recording with its transcript."""

    key: str
    path: Path
    emotion: str
    raw: str
    text: str | None

    @property
    def speaker(self) -> str:
        return self.key[:4]

    @property
    def language(self) -> str:
        return "zh" if int(self.speaker) <= 10 else "en"

    @property
    def sentence(self) -> int:
        """Number of the sentence, 0..349."""
        return (int(self.key[5:]) - 1) % SENTENCES


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by speaker and file number."""
    root = scan.path_root(_has_speakers, f"expected {INFO.root} in it")
    whole = scan.protocol in (None, "blsp-emo")
    emotions = scan.option("emotions", 5 if whole else 4, int, (4, 5))
    languages = scan.names("languages", ("en", "zh") if whole else ("en",))
    rows = []
    for folder in visible(p for p in root.glob("0[0-9][0-9][0-9]") if p.is_dir()):
        for row in _speaker(scan, folder):
            if row.language not in languages:
                scan.drop(f"language {row.language}")
            elif emotions == 4 and row.emotion == "surprise":
                scan.drop("emotion surprise")
            else:
                rows.append(row)
    # The whole list (35,000 rows at most) is needed before the split: which sentences there are decides it.
    splits = _splits(scan, rows)
    for row, split in zip(rows, splits, strict=True):
        if split is not None:
            yield INFO.utterance(
                row.path, key=row.key, split=split, text=row.text, language=row.language, speaker=row.speaker,
                emotion=row.emotion, emotion_raw=row.raw, sentence=f"{row.language}-{row.sentence:03}",
            )  # fmt: skip


def _has_speakers(folder: Path) -> bool:
    return any((folder / f"{n:04}" / f"{n:04}.txt").is_file() for n in range(1, 21))


def _speaker(scan: Scan, folder: Path) -> Iterator[Row]:
    listing = folder / f"{folder.name}.txt"
    if not listing.is_file():
        scan.problem(listing, "the transcripts of the speaker are missing")
    lines = dict(_transcripts(scan, listing)) if listing.is_file() else {}
    found = set()
    for path in recordings(folder):
        raw = path.relative_to(folder).parts[0]
        match = _FILE.match(path.stem)
        if match is None or match["speaker"] != folder.name:
            scan.problem(path, "the name is not SPEAKER_NUMBER.wav")
            continue
        emotion = scan.emotion(raw, path)
        if emotion is None:
            continue
        number, text, label = lines.get(path.stem, (None, None, None))
        if text is None:
            scan.problem(path, "no transcript")
        if label not in (None, emotion):
            scan.problem(listing, f"{path.stem} is called {label}, its folder {raw}; the folder is believed", number)
        found.add(path.stem)
        yield Row(path.stem, path, emotion, raw, text)
    for key in sorted(lines.keys() - found):
        scan.problem(listing, f"{key} has no recording", lines[key][0])


def _transcripts(scan: Scan, listing: Path) -> Iterator[tuple[str, tuple[int, str, str | None]]]:
    for number, line in read_lines(listing):
        if not line.lstrip("\ufeff"):
            continue
        match = _LINE.match(line.lstrip("\ufeff"))
        if match is None:
            scan.problem(listing, f"not a transcript: {line[:80]!r}", number)
            continue
        labelled = _LABEL.match(match["rest"].strip())
        if labelled is None:
            yield match["key"], (number, match["rest"].strip(), None)
        else:
            label = CHINESE.get(labelled["label"]) or labelled["label"].lower()
            yield match["key"], (number, labelled["text"], label)


def test_sentences(present: set[int], protocol: str, seed: int) -> set[int]:
    """Numbers of the sentences of the test set: 105 of 350 in an order fixed by the seed; of `mini`, the last 30 %."""
    if protocol == "mini":
        ordered = sorted(present)
        return set(ordered[len(ordered) - round(TEST_FRACTION * len(ordered)) :])
    return set(pseudo_random_order(range(SENTENCES), seed, "esd")[: round(TEST_FRACTION * SENTENCES)])


def _splits(scan: Scan, rows: list[Row]) -> list[str | None]:
    if scan.protocol in (None, "blsp-emo"):
        return ["train" if scan.protocol else "all"] * len(rows)
    chosen = test_sentences({row.sentence for row in rows}, scan.protocol, scan.seed)
    # The same words under two numbers would be on both sides: such a sentence is left out of the training set.
    tested = {_plain(row) for row in rows if row.sentence in chosen}
    held_out = () if scan.protocol == "re-llm" else scan.names("test_speakers", TEST_SPEAKERS)
    splits: list[str | None] = []
    for row in rows:
        side = "test" if row.sentence in chosen else "train"
        if side == "train" and _plain(row) in tested:
            scan.drop("words of a test sentence under another number")
            splits.append(None)
        elif held_out and (row.speaker in held_out) != (side == "test"):
            scan.drop(f"{side} sentence by a speaker of the other side")
            splits.append(None)
        else:
            splits.append(side)
    return splits


def _plain(row: Row) -> str:
    """The words alone, or the number of the sentence when they are not known."""
    words = "".join(c for c in (row.text or "").lower() if c.isalnum())
    return f"{row.language}:{words}" if words else f"{row.language}#{row.sentence}"
