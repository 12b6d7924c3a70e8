"""A text system whose label comes from an emotion encoder that was trained on the same manifest."""

from __future__ import annotations

from pathlib import Path

import emotion_world
import pytest
import tiny_world

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.llm.local import ChatLlm
from re_llm.pipeline.responding import RespondJob, respond_job
from re_llm.recipe.files import parse_recipe
from re_llm.train.emotion.run import train_emotion

RECIPE = """\
name: t
title: T
emotions: [sad, happy, angry]
components: {{llm: {llm}, speech_encoder: {whisper}}}
model: {{fusion: none}}
corpora: {{toy: {{reader: custom, root: toy}}}}
stages: {{tune: {{losses: {{response_ce: 1.0}}, lr: 1.0e-4}}}}
systems:
  label: {{kind: text-label, prompt: cascade}}
  classified: {{kind: text-label, prompt: cascade, classifier: {classifier}}}
decoding: {{max_new_tokens: 2}}
baseline: label
device: cpu
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_world.save_whisper(folder / "whisper")
    tiny_world.save_llm(folder / "llm")
    tiny_world.save_emotion(folder / "wav2vec2", normalize=False)
    path = emotion_world.manifest(folder, speakers=4, splits={"s0": "train", "s1": "train", "s2": "dev", "s3": "test"})
    write_records(path, [row.model_copy(update={"text": "It rains."}) for row in read_records(path, Utterance)])
    return folder


def encoder(world: Path, kind: str) -> Path:
    """One that reads Whisper's layers, or a wav2vec2 of its own; nothing but a short training."""
    changes = {}
    if kind == "separate":
        changes["emotion_encoder"] = {"kind": kind, "name": str(world / "wav2vec2"), "train": "head"}
        changes["fit"] = {"epochs": 1, "batch_size": 8, "background": 0.0}
    train_emotion(emotion_world.recipe(world / "whisper", **changes), [world / "toy.jsonl"], world / kind)
    return world / kind


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_classifier_s_label_stands_in_the_prompt(kind: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = encoder(world, kind)
    text = RECIPE.format(llm=world / "llm", whisper=world / "whisper", classifier=folder)
    recipe, asked = parse_recipe(text), []
    real = ChatLlm.answer
    monkeypatch.setattr(ChatLlm, "answer", lambda self, rows, **more: asked.extend(rows) or real(self, rows, **more))
    out = world / f"{kind}.jsonl"
    job = RespondJob(
        "classified", recipe.systems["classified"], recipe, str(folder), world / "toy.jsonl", out, 0, "toy"
    )
    respond_job(job)
    replies = list(read_records(out, ReplyRecord))
    assert len(replies) == len(asked) == 9 and all(reply.response and reply.answer is None for reply in replies)
    assert {reply.emotion for reply in replies} == {"sad", "happy", "angry"}, "the reference stays in the record"
    for (prompt, _), reply in zip(asked, replies, strict=True):
        assert reply.predicted_emotion in prompt.system + prompt.before + prompt.after
        assert not any(other in prompt.after for other in {"sad", "happy", "angry"} - {reply.predicted_emotion})
    if kind == "shared":
        assert sum(reply.predicted_emotion == reply.emotion for reply in replies) >= 7
    assert respond_job(job).endswith("complete")


def test_a_speech_system_has_no_classifier() -> None:
    text = RECIPE.format(llm="a", whisper="b", classifier="c")
    text = text.replace("kind: text-label, prompt: cascade, cl", "kind: speech, stage: tune, cl")
    with pytest.raises(RellmError, match="has no `classifier`"):
        parse_recipe(text)
