"""IEMOCAP: two actors a session, five sessions, scripted and improvised dialogues (Busso et al. 2008).

Quirks: some transcripts are Latin-1; lines such as `M: ...` belong to no utterance; `._name` twins of macOS lie beside
the label files; the first letter of a dialogue names the actor who wore the markers, the letter in an utterance's
name the one who speaks. `xxx` means that the annotators did not agree. `votes` holds the labels by annotator, `ratings`
their valence, arousal and dominance on 1..5: E1 ... are evaluators, F1 ... and M1 ... the actors themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan, dimensions
from re_llm.data.corpora.files import read_lines, visible, without_row

MERGED = ("re-llm", "5-fold", "10-fold")  # excited counts as happy
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
        "5-fold": "the utterances of re-llm; one session is the test set (option fold)",
        "10-fold": "the utterances of re-llm; one speaker is the test set, the other of the session dev (option fold)",
    },
    options={
        "test_session": "session that is the test set (5)",
        "fold": "session of 5-fold, 1 to 5, or speaker of 10-fold, 1 to 10 in the order Ses01F, Ses01M ... (1)",
        "style": "improvised or scripted: dialogues of one kind alone (both)",
    },
    published={"re-llm": {"all": 5_531, "train": 4_290}, "blsp-emo": {"train": 2_610, "test": 942}},
    filters={
        **dict.fromkeys(MERGED, Filters(emotions=FOUR)),
        "blsp-emo": Filters(emotions=FOUR, min_words=5, min_words_in=("train",)),
    },
    dimensions=True,
)

SCALE = (1.0, 5.0)
UNDECIDED = "xxx"
RATINGS = {"val": "valence", "act": "arousal", "dom": "dominance"}
STYLES = {"impro": "improvised", "script": "scripted"}
_TURN = re.compile(
    r"^\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<key>Ses\w+)\s+(?P<label>\w+)\s+"
    r"\[(?P<valence>[-\d.]+),\s*(?P<arousal>[-\d.]+),\s*(?P<dominance>[-\d.]+)\]\s*$"
)
_WORDS = re.compile(r"^(?P<key>Ses\w+)\s*\[[\d.\s-]*\]\s*:?\s*(?P<text>.*)$")
# `C-E2:	Neutral; Other;	(comment)` and `A-E3:	val 2; act 2; dom  2;	()`, where a number can be missing.
_VOTE = re.compile(r"^(?P<kind>[CA])-(?P<annotator>\w+):\s*(?P<values>[^(]*?);?\s*(?:\(.*)?$")
_KEY = re.compile(r"^Ses(?P<session>\d\d)[FM]_\w+_(?P<speaker>[FM])\w+$")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by session and dialogue, in the order of time."""
    root = scan.path_root(lambda p: next(p.glob("Session[1-5]"), None) is not None, f"expected {INFO.root} in it")
    style = scan.option("style", "", str, STYLES.values())
    split = _splits(scan)
    sessions = list(visible(root.glob("Session[1-5]")))
    for absent in sorted({f"Session{n}" for n in range(1, 6)} - {p.name for p in sessions}):
        scan.problem(root / absent, "the session is missing")
    for session in sessions:
        labels = session / "dialog" / "EmoEvaluation"
        files = list(visible(labels.glob("Ses*.txt")))
        if not files:
            scan.problem(labels, "no label files")
        named = set()
        for utterance in (utterance for file in files for utterance in _dialogue(scan, session, file)):
            named.add(utterance.audio)
            utterance.split = split(utterance.speaker or "")
            if style and (utterance.model_extra or {}).get("style") != style:
                scan.drop(f"not {style}")
            else:
                yield utterance
        without_row(scan, [session / "sentences" / "wav"], named, labels)


def _splits(scan: Scan) -> Callable[[str], str]:
    """The split of a speaker such as `Ses05F`."""
    if scan.protocol == "10-fold":
        speakers = [f"Ses{session:02}{actor}" for session in range(1, 6) for actor in "FM"]
        fold = scan.option("fold", 1, int, range(1, 11)) - 1
        splits = {speakers[fold]: "test", speakers[fold ^ 1]: "dev"}
        return lambda speaker: splits.get(speaker, "train")
    name, default = ("fold", 1) if scan.protocol == "5-fold" else ("test_session", 5)
    test = f"Ses{scan.option(name, default, int, range(1, 6)):02}"
    return lambda speaker: "test" if speaker.startswith(test) else "train"


@dataclass
class _Turn:
    """A turn of a label file, with the votes in the lines below it."""

    line: int
    match: re.Match[str]
    speaker: str
    votes: dict[str, list[str]] = field(default_factory=dict)
    ratings: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Adds the vote of an annotator; another line is left alone."""
        match = _VOTE.match(line)
        if match is None:
            return
        values = [value.strip() for value in match["values"].split(";") if value.strip()]
        if match["kind"] == "C":
            self.votes.setdefault(match["annotator"], []).extend(values)
            return
        pairs = (value.split() for value in values)
        ratings = {RATINGS[p[0]]: float(p[1]) for p in pairs if len(p) == 2 and p[0] in RATINGS and p[1].isdigit()}
        if ratings:
            self.ratings[match["annotator"]] = ratings


def _turns(scan: Scan, labels: Path) -> list[_Turn]:
    """The turns of a label file in the order of time."""
    turns: list[_Turn] = []
    turn: _Turn | None = None  # that the votes belong to
    for number, line in read_lines(labels):
        if line.startswith("["):
            match = _TURN.match(line)
            key = _KEY.match(match["key"]) if match is not None else None
            turn = _Turn(number, match, f"Ses{key['session']}{key['speaker']}") if match and key else None
            if turn is None:
                scan.problem(labels, f"not a turn: {line[:80]!r}", number)
            else:
                turns.append(turn)
        elif turn is not None:
            turn.add(line)
    return sorted(turns, key=lambda turn: (float(turn.match["start"]), turn.line))


def _dialogue(scan: Scan, session: Path, labels: Path) -> Iterator[Utterance]:
    texts = _transcript(scan, session / "dialog" / "transcriptions" / labels.name)
    style = next((style for part, style in STYLES.items() if part in labels.stem), None)
    for number, turn in enumerate(_turns(scan, labels)):
        match, line, key = turn.match, turn.line, turn.match["key"]
        if key not in texts:
            scan.problem(labels, f"{key} has no transcript", line)
        ratings = {name: float(match[name]) for name in ("valence", "arousal", "dominance")}
        label = match["label"]
        emotion = None if label == UNDECIDED else scan.emotion(label, labels, line)
        if scan.protocol in MERGED and emotion == "excited":
            emotion = "happy"
        yield INFO.utterance(
            session / "sentences" / "wav" / labels.stem / f"{key}.wav", text=texts.get(key), speaker=turn.speaker,
            dialogue=labels.stem, turn=number, emotion=emotion, emotion_raw=label, style=style,
            votes=turn.votes or None, ratings=turn.ratings or None, **dimensions(scan, ratings, SCALE, labels, line),
        )  # fmt: skip


def _transcript(scan: Scan, path: Path) -> dict[str, str]:
    if not path.is_file():
        scan.problem(path, "the transcript is missing")
        return {}
    return {m["key"]: m["text"].strip() for _, line in read_lines(path) if (m := _WORDS.match(line))}
