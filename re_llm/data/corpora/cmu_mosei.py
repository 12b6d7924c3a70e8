"""CMU-MOSEI: opinions on YouTube, six emotions rated 0..3 by three workers each (Zadeh et al. 2018).

Two layouts. `Raw`: segments `VIDEO___CLIP___START___END___TEXT` in `Transcript/Segmented/Combined`, ratings in
`Labels/*.csv`, whole recordings in `Audio/Full/WAV_16000`. MMSA: `label.csv` with clips in `Raw/VIDEO/CLIP.mp4` (or
wav), sentiment only. An emotion is present when its mean rating is above `threshold`; a clip with exactly one carries
it as its label, with none it is neutral, with several it has no label (BLSP-Emo leaves those out).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import BLSP_EMO, CorpusInfo, Scan
from re_llm.data.corpora.files import any_format, read_lines, read_table, visible

INFO = CorpusInfo(
    name="cmu_mosei",
    title="CMU-MOSEI",
    languages=("en",),
    utterances=23_453,
    hours=65,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust"),
    licence="free for research; the recordings are of YouTube",
    get="http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
    citation="Zadeh et al., Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset, ACL 2018",
    root="Raw (or Audio, Labels, Transcript), or the label.csv of MMSA",
    protocols={"blsp-emo": "training set of BLSP-Emo: clips with exactly one of five emotions, 5 words or more"},
    filters={"blsp-emo": BLSP_EMO},
    options={"threshold": "mean rating above which an emotion is present (0)"},
    published={"blsp-emo": {"train": 13_557}},
)

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
SEVERAL = "several"
MMSA_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
Ratings = dict[str, list[float]]


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by recording and segment; of MMSA in the order of `label.csv`."""
    root = scan.path_root(lambda p: _raw(p) is not None or (p / "label.csv").is_file(), f"expected {INFO.root} in it")
    raw = _raw(root)
    return _mmsa(scan, root) if raw is None else _segments(scan, raw)


def _raw(root: Path) -> Path | None:
    return next((p for p in (root, root / "Raw") if (p / "Transcript" / "Segmented" / "Combined").is_dir()), None)


def _segments(scan: Scan, raw: Path) -> Iterator[Utterance]:
    threshold = scan.option("threshold", 0.0, float)
    ratings = _ratings(scan, raw / "Labels")
    for file in visible((raw / "Transcript" / "Segmented" / "Combined").glob("*.txt")):
        for number, line in read_lines(file):
            if not line:
                continue
            try:
                video, clip, fields = _segment(line)
                emotion, label = _label(ratings[video, clip], threshold)
            except ValueError as error:
                scan.problem(file, str(error), number)
            except KeyError:
                scan.problem(file, f"no ratings of {video} {clip}", number)
            else:
                audio = raw / "Audio" / "Full" / "WAV_16000" / f"{video}.wav"
                yield INFO.utterance(audio, **fields, split="train", emotion=emotion, emotion_raw=label)


def _segment(line: str) -> tuple[str, str, dict[str, object]]:
    """(video, clip, fields of the utterance) of one line of a transcript."""
    # The text itself may hold three underscores; an id may begin with a hyphen.
    try:
        video, clip, start, end, text = line.split("___", 4)
        times = float(start), float(end)
    except ValueError:
        raise ValueError(f"not VIDEO___CLIP___START___END___TEXT: {line[:80]!r}") from None
    if times[1] <= times[0]:
        raise ValueError(f"{video} {clip} ends where it starts")
    return (
        video,
        clip,
        {**_clip(video, clip, text.strip()), "start": times[0], "duration": round(times[1] - times[0], 3)},
    )


def _clip(video: str, clip: str, text: str) -> dict[str, object]:
    turn = int(clip) if clip.isdigit() else None
    return {"key": f"{video}-{clip}", "text": text or None, "speaker": video, "dialogue": video, "turn": turn}


def _ratings(scan: Scan, folder: Path) -> dict[tuple[str, str], Ratings]:
    """Ratings of all workers by (video, clip) and emotion; a blank answer counts as 0, a blank row as none."""
    found: dict[tuple[str, str], Ratings] = {}
    columns = [f"Answer.{name}" for name in EMOTIONS]
    for file in visible(folder.glob("*.csv")):
        for line, row in read_table(scan, file, ("Input.VIDEO_ID", "Input.CLIP", *columns)):
            answers = [row[column] for column in columns]
            if not any(answers):
                scan.drop("row of a worker without answers")
                continue
            try:
                values = [float(answer or 0) for answer in answers]
            except ValueError:
                scan.problem(file, f"ratings are not numbers: {answers}", line)
                continue
            for name, value in zip(EMOTIONS, values, strict=True):
                found.setdefault((row["Input.VIDEO_ID"], row["Input.CLIP"]), defaultdict(list))[name].append(value)
    return found


def _label(ratings: Ratings, threshold: float) -> tuple[str | None, str]:
    """(canonical emotion, label): the only emotion that is present, `neutral`, or none for several."""
    present = [name for name in EMOTIONS if sum(ratings[name]) / len(ratings[name]) > threshold]
    if len(present) > 1:
        return None, SEVERAL
    names = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
    return (names.get(present[0], present[0]), present[0]) if present else ("neutral", "none")


def _mmsa(scan: Scan, root: Path) -> Iterator[Utterance]:
    table = root / "label.csv"
    for line, row in read_table(scan, table, ("video_id", "clip_id", "text", "label", "mode")):
        video, clip = row["video_id"], row["clip_id"]
        split = MMSA_SPLITS.get(row["mode"])
        if split is None:
            scan.problem(table, f"unknown mode {row['mode']!r}", line)
            continue
        audio = any_format(root / "Raw" / video / f"{clip}.mp4")
        yield INFO.utterance(audio, **_clip(video, clip, row["text"]), split=split, sentiment=row["label"])
