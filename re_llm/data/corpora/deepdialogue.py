"""DeepDialogue: spoken dialogues of two LLMs about 41 subjects, by XTTS-v2 in emotional voices (Koudounas et al. 2025).

`dialogues_qwen2.5-72B/art_22_4.json` holds `domain` and `conversation`, a list of `speaker` (`LLM1`, `LLM2`), `text`,
`emotion`; beside it `art_22_4/segments/001_LLM1_happy.wav` is its first utterance. The label in the name is that of
the voice, one of RAVDESS'; the finer one of the text is kept as `dialogue_emotion`. Two dialogues may have one actor:
which one is not told by the files that are read, so a speaker is one of a dialogue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_table, recordings, visible

INFO = CorpusInfo(
    name="deepdialogue",
    title="DeepDialogue (XTTS)",
    languages=("en",),
    hours=480,
    emotions=("happy", "neutral", "calm", "surprise", "sad", "angry", "fear", "disgust"),
    licence="CC BY-NC 4.0",
    get="https://huggingface.co/datasets/SALT-Research/DeepDialogue-xtts (data)",
    citation="Koudounas et al., DeepDialogue: A Multi-Turn Emotionally-Rich Spoken Dialogue Dataset, 2025",
    root="folders such as dialogues_qwen2.5-72B, with a json and a folder of segments for each dialogue",
    options={
        "splits": "folder with the authors' train.csv, val.csv, test.csv "
        "(github.com/SALT-Research/DeepDialogue-code, ser/data); what they do not name is left out"
    },
)

_SEGMENT = re.compile(r"(\d+)_(LLM\d)_(\w+)")
SPLITS = {"train": "train", "val": "dev", "test": "test"}


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by dialogue."""
    root = scan.path_root(lambda p: any(p.glob("dialogues_*/*.json")), f"expected {INFO.root} in it")
    splits = _splits(scan)
    for path in visible(root.glob("dialogues_*/*.json")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            said = [(str(each["speaker"]), str(each["text"]), str(each["emotion"])) for each in about["conversation"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            scan.problem(path, f"{type(error).__name__} {error}")
            continue
        for utterance in _utterances(scan, path, said):
            name = Path(utterance.audio).relative_to(root).as_posix()
            if splits is not None and name not in splits:
                scan.drop("not in the tables of `splits`")
                continue
            utterance.split = "all" if splits is None else splits[name]
            yield utterance.model_copy(update={"domain": about.get("domain")})


def _utterances(scan: Scan, path: Path, said: list[tuple[str, str, str]]) -> Iterator[Utterance]:
    dialogue, folder = f"{path.parent.name}-{path.stem}", path.with_suffix("") / "segments"
    found = {
        (int(name[1]), name[2]): (sound, name[3])
        for sound in recordings(folder)
        if (name := _SEGMENT.fullmatch(sound.stem))
    }
    for turn, (speaker, text, emotion) in enumerate(said, start=1):
        if (turn, speaker) not in found:
            scan.problem(folder, f"no recording {turn:03}_{speaker}_*")
            continue
        sound, raw = found[turn, speaker]
        yield INFO.utterance(
            sound, key=f"{dialogue}-{turn:03}", text=text.strip() or None, speaker=f"{dialogue}-{speaker}",
            dialogue=dialogue, turn=turn, emotion=scan.emotion(raw, sound), emotion_raw=raw, dialogue_emotion=emotion,
        )  # fmt: skip


def _splits(scan: Scan) -> Mapping[str, str] | None:
    """Split of a recording, by its path from the root; None without the option."""
    folder = scan.option("splits", None, Path)
    if folder is None:
        return None
    tables = {split: read_table(scan, folder / f"{part}.csv", ["segment_id"]) for part, split in SPLITS.items()}
    return {row["segment_id"]: split for split, rows in tables.items() for _, row in rows}
