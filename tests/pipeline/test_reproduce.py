"""A whole recipe on tiny parts: from rendered corpora to the report, skipping what is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, ReplyRecord, read_records
from re_llm.pipeline.layout import Run
from re_llm.pipeline.reproduce import reproduce
from re_llm.recipe.config import Recipe
from re_llm.recipe.files import parse_recipe

RECIPE = """\
name: tiny
title: Tiny
seeds: [0, 1]
components: {{llm: {llm}, speech_encoder: {whisper}, emotion_encoder: {emotion}}}
model: {{speech_window: trimmed, adapter: {{bottleneck: 16}}, lora: {{r: 2}}}}
corpora:
  esd: {{reader: esd, root: mini, scale: 0.04, protocol: mini, options: {{emotions: 5}}, pseudo_vad: true}}
  iemocap: {{reader: iemocap, root: mini, scale: 0.04, protocol: re-llm}}
stages:
  emotion:
    data: [iemocap]
    continuation: continue-emotion
    model: {{fusion: none}}
    losses: {{response_ce: 1.0, input_er: 1.0}}
    lr: 1.0e-3
    max_steps: 2
    batch_size: 4
  finetune:
    start: emotion
    continuation: continue-emotion
    tasks: [{{prompt: continue-speech}}, {{prompt: recognize, target: emotion}}]
    losses: {{response_ce: 1.0, input_er: 1.0, input_er_avd: 1.0}}
    lr: 1.0e-3
    max_steps: 2
    batch_size: 4
systems:
  text: {{kind: text}}
  text-label: {{kind: text-label, prompt: cascade}}
  blsp-emo: {{kind: speech, stage: emotion}}
  blsp-emo-ft:
    kind: speech
    stage: finetune
    per_corpus: true
    model: {{fusion: none}}
    stage_options: {{losses: {{response_ce: 1.0, input_er: 1.0}}}}
  re-llm: {{kind: speech, stage: finetune, per_corpus: true}}
decoding: {{max_new_tokens: 4, continuation_tokens: 8, batch_size: 32}}
workers: 1
device: cpu
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("parts")
    return parse_recipe(
        RECIPE.format(
            llm=tiny_world.save_llm(root / "llm"),
            whisper=tiny_world.save_whisper(root / "whisper"),
            emotion=tiny_world.save_emotion(root / "emotion"),
        )
    )


@pytest.mark.slow
def test_a_recipe_runs_through_and_skips_what_is_complete(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    out = tmp_path / "run"
    result = reproduce(recipe, out)
    assert result.report is not None and result.report.is_file()
    table = result.report.read_text()
    for name in ("Text + LLM", "BLSP-Emo", "RE-LLM", "ESD", "IEMOCAP"):
        assert name.lower() in table.lower()
    # Systems that are not trained answer once, trained ones once per seed.
    assert sorted(p.name for p in (out / "replies" / "esd").glob("*.jsonl")) == [
        "blsp-emo-ft.0.jsonl", "blsp-emo-ft.1.jsonl", "blsp-emo.0.jsonl", "re-llm.0.jsonl", "re-llm.1.jsonl",
        "text-label.0.jsonl", "text.0.jsonl",
    ]  # fmt: skip
    replies = list(read_records(out / "replies" / "esd" / "re-llm.1.jsonl", ReplyRecord))
    trained_on = {r.key for r in read_records(out / "continuations" / "esd.continue-emotion.jsonl", Continuation)}
    assert replies and not trained_on & {r.key for r in replies}
    assert all(r.seed == 1 and r.system == "re-llm" and r.valence is not None for r in replies)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    said: list[str] = []
    reproduce(recipe, out, say=said.append)
    changed = {p.relative_to(out).as_posix() for p, when in before.items() if p.stat().st_mtime_ns != when}
    assert changed == {"recipe.resolved.yaml", "provenance.json", "seconds.jsonl"}
    # Two manifests and their continuations, one stage, two systems tuned on both corpora with both seeds; on both
    # corpora three systems that answer once and two that answer once per seed, and their scores; the report.
    assert sum("complete" in line for line in said) == 2 * 2 + 1 + 2 * 2 * 2 + 2 * 2 * (3 + 2 * 2) + 1


def test_stages_run_after_what_they_start_from(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path, lambda _: None)
    assert run.stage_order() == ["emotion"]  # finetune has no data of its own: systems run it
    assert len(run.tuning_jobs()) == 2 * 2 * 2
    stages = dict(recipe.stages)
    stages["emotion"] = stages["emotion"].model_copy(update={"start": "finetune"})
    with pytest.raises(RellmError, match="start from each other"):
        Run(recipe.model_copy(update={"stages": stages}), tmp_path, lambda _: None).stage_order()
