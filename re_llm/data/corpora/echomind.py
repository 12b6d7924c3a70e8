"""EchoMind: the same neutral script in a target voice, a neutral one and another (Zhou et al. 2025).

`script_info_synthesis.json` (or `script_info_human.json`) lists cases with `case_id`, `topic`, `spoken_info` (what the
target voice conveys: `sad-toned expressive voice`, `cough voice`, `sound of raining`) and, for each voice,
`target_audio_info` with `target_input_audio_file`, a path from `audio`. These are the fields that the authors' scripts
read (eval_response_main.py, eval_asr_main.py); none of them reads the words of the script or the reference replies, so
the name of the words' field is given with the option `text`. What the third voice conveys is not told there either.
The multiple-choice questions in `MCQ` are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import json_list

INFO = CorpusInfo(
    name="echomind",
    title="EchoMind (conversations)",
    languages=("en",),
    emotions=("happy", "sad", "surprise", "angry", "fear", "disgust", "neutral"),
    licence="see the dataset",
    get="https://huggingface.co/datasets/hlt-cuhksz/EchoMind (data_synthesis or data_human)",
    citation="Zhou et al., EchoMind: An Interrelated Multi-Level Benchmark for Evaluating Empathetic SLMs, ICLR 2026",
    root="script_info_synthesis.json or script_info_human.json, and audio",
    options={
        "text": "field of a case that holds the words of the script",
        "voices": "comma-separated voices (target,neutral,alternative)",
    },
)

VOICES = ("target", "neutral", "alternative")
EMOTIONS = {f"{tone}-toned expressive voice": tone for tone in ("happy", "sad", "surprise", "angry", "fear", "disgust")}


def read(scan: Scan) -> Iterator[Utterance]:
    """Recordings by case and voice, in the order of the file."""
    root = scan.path_root(lambda p: any(p.glob("script_info_*.json")), f"expected {INFO.root} in it")
    voices = scan.names("voices", VOICES)
    if not set(voices) <= set(VOICES):
        raise RellmError(f"option voices={','.join(voices)}", allowed=", ".join(VOICES))
    for path in sorted(root.glob("script_info_*.json")):
        for number, case in enumerate(json_list(path, INFO)):
            try:
                yield from _recordings(scan, root, path, case, voices)
            except (KeyError, TypeError, AttributeError) as error:
                scan.problem(path, f"case {number}: {type(error).__name__} {error}")


def _recordings(
    scan: Scan, root: Path, path: Path, case: Mapping[str, Any], voices: tuple[str, ...]
) -> Iterator[Utterance]:
    name, conveyed, column = str(case["case_id"]), str(case["spoken_info"]), scan.option("text", None, str)
    if column is not None and not case.get(column):
        scan.once(path, f"cases without {column!r}, the field that the option text names")
    for voice in voices:
        if not (place := (case.get(f"{voice}_audio_info") or {}).get(f"{voice}_input_audio_file")):
            scan.drop(f"no {voice} voice")
            continue
        emotion = {"target": EMOTIONS.get(conveyed), "neutral": "neutral"}.get(voice)
        yield INFO.utterance(
            root / "audio" / place, key=f"{name}-{voice}", split="test", emotion=emotion,
            emotion_raw=conveyed if voice == "target" else None, voice=voice, topic=case.get("topic"),
            text=str(case.get(column) or "").strip() or None if column else None,
        )  # fmt: skip
