"""IEMOCAP: two actors a session, five sessions, scripted and improvised dialogues (Busso et al. 2008).

Quirks: some transcripts are Latin-1; lines such as `M: ...` belong to no utterance; `._name` twins of macOS lie beside
the label files; the first letter of a dialogue names the actor who wore the markers, the letter in an utterance's
name the one who speaks. `xxx` means that the annotators did not agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan, dimensions
from re_llm.data.corpora.files import read_lines, recordings, visible

FOUR = ("neutral", "happy", "angry", "sad")

INFO = CorpusInfo(
    name="iemocap",
    title="IEMOCAP",
    languages=("en",),
    utterances=10_039,
    hours=12.4,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust", "excited", "frustrated", "other"),
    licence="research licence of USC SAIL, to be signed",
    get="https://sail.usc.edu/iemocap/iemocap_release.htm",
    citation="Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, LRE 42, 2008",
    root="Session1 ... Session5",
    protocols={
        "re-llm": "5,531 utterances: neutral, happy with excited, angry, sad; test set session 5 (RE-LLM III-A)",
        "blsp-emo": "neutral, happy, angry, sad without excited; test set session 5, the others of 5 words or more",
    },
    options={"test_session": "session that is the test set (5)"},
    published={"re-llm": {"all": 5_531, "train": 4_290}, "blsp-emo": {"train": 2_610, "test": 942}},
    filters={
        "re-llm": Filters(emotions=FOUR),
        "blsp-emo": Filters(emotions=FOUR, min_words=5, min_words_in=("train",)),
    },
    dimensions=True,
)

SCALE = (1.0, 5.0)
UNDECIDED = "xxx"
_TURN = re.compile(
    r"^\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<key>Ses\w+)\s+(?P<label>\w+)\s+"
    r"\[(?P<valence>[-\d.]+),\s*(?P<arousal>[-\d.]+),\s*(?P<dominance>[-\d.]+)\]\s*$"
)
_WORDS = re.compile(r"^(?P<key>Ses\w+)\s*\[[\d.\s-]*\]\s*:?\s*(?P<text>.*)$")
_KEY = re.compile(r"^Ses(?P<session>\d\d)[FM]_\w+_(?P<speaker>[FM])\w+$")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by session and dialogue, in the order of time."""
    root = scan.path_root(lambda p: next(p.glob("Session[1-5]"), None) is not None, f"expected {INFO.root} in it")
    test = scan.option("test_session", 5, int, range(1, 6))
    sessions = list(visible(root.glob("Session[1-5]")))
    for absent in sorted({f"Session{n}" for n in range(1, 6)} - {p.name for p in sessions}):
        scan.problem(root / absent, "the session is missing")
    for session in sessions:
        split = "test" if session.name == f"Session{test}" else "train"
        labels = session / "dialog" / "EmoEvaluation"
        files = list(visible(labels.glob("Ses*.txt")))
        if not files:
            scan.problem(labels, "no label files")
        for file in files:
            yield from _dialogue(scan, session, file, split)
        _unlabelled(scan, session, files)


def _dialogue(scan: Scan, session: Path, labels: Path, split: str) -> Iterator[Utterance]:
    texts = _transcript(scan, session / "dialog" / "transcriptions" / labels.name)
    turns = []
    for number, line in read_lines(labels):
        if not line.startswith("["):
            continue
        match = _TURN.match(line)
        if match is None or not _KEY.match(match["key"]):
            scan.problem(labels, f"not a turn: {line[:80]!r}", number)
        else:
            turns.append((float(match["start"]), number, match))
    for turn, (_, number, match) in enumerate(sorted(turns, key=lambda t: t[:2])):
        key = match["key"]
        if key not in texts:
            scan.problem(labels, f"{key} has no transcript", number)
        ratings = {name: float(match[name]) for name in ("valence", "arousal", "dominance")}
        label = match["label"]
        emotion = None if label == UNDECIDED else scan.emotion(label, labels, number)
        if scan.protocol == "re-llm" and emotion == "excited":
            emotion = "happy"
        yield INFO.utterance(
            session / "sentences" / "wav" / labels.stem / f"{key}.wav", split=split, text=texts.get(key),
            speaker=_speaker(key), dialogue=labels.stem, turn=turn, emotion=emotion, emotion_raw=label,
            **dimensions(scan, ratings, SCALE, labels, number),
        )  # fmt: skip


def _unlabelled(scan: Scan, session: Path, files: list[Path]) -> None:
    """Counts dialogues that have recordings and no label file."""
    labelled = {file.stem for file in files}
    for folder in visible((session / "sentences" / "wav").glob("Ses*")):
        if folder.name not in labelled:
            scan.drop(f"recording of {folder.name}, which has no label file", sum(1 for _ in recordings(folder)))


def _speaker(key: str) -> str:
    match = _KEY.match(key)
    assert match is not None, key
    return f"Ses{match['session']}{match['speaker']}"


def _transcript(scan: Scan, path: Path) -> dict[str, str]:
    if not path.is_file():
        scan.problem(path, "the transcript is missing")
        return {}
    return {m["key"]: m["text"].strip() for _, line in read_lines(path) if (m := _WORDS.match(line))}
