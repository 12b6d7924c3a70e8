"""Emotions drawn for synthetic recordings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.norms import norm
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.small.drawn import draw_emotions


def test_training_rows_that_say_something_get_an_emotion_and_its_norms(tmp_path: Path) -> None:
    said = {"train": "the dog barked", "dev": "the dog barked"}
    rows = [
        Utterance(key=f"{split}{i}", corpus="c", split=split, audio=f"a/{i}.flac", text=text)
        for split, text in said.items()
        for i in range(200)
    ]
    rows.append(Utterance(key="empty", corpus="c", split="train", audio="a/x.flac", text="it is what it is"))
    (tmp_path / "rooms").mkdir()
    write_records(tmp_path / "rooms" / "manifest.jsonl", rows)
    out = tmp_path / "drawn" / "manifest.jsonl"
    assert draw_emotions(tmp_path / "rooms" / "manifest.jsonl", out, seed=0) == 200
    found = list(read_records(out, Utterance))
    counts = Counter(row.emotion for row in found)
    assert set(counts) == set(PROMPT_EMOTIONS) and min(counts.values()) > 20
    assert all(row.dimensions() == norm(row.emotion) for row in found)
    assert found[0].audio == "../rooms/a/0.flac"
