"""Exchange: words of one corpus, emotion of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_world

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, read_records, write_records
from re_llm.model.losses import IGNORE_INDEX
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions, unfit
from re_llm.train.collate import Collator
from re_llm.train.data import load_examples
from re_llm.train.examples import Example, Target
from re_llm.train.features import Features
from re_llm.train.plan import Plan
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train
from re_llm.train.store import StateStore

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
EXCHANGE = {"exchange": ("words",), "donors": ("people",)}


def options(**changes: object) -> StageOptions:
    return StageOptions(**{"losses": {"response_ce": 1.0}, "lr": 1e-3, **changes})


def example(key: str, emotion: str, role: str, valence: float = 0.5) -> Example:
    number = EMOTIONS.index(emotion) if emotion else IGNORE_INDEX
    target = {"continue": Target("so", False)}
    return Example(key, f"{key}.wav", 0.0, 1.0, "it rains", target, emotion, number, (valence, 0.5, 0.5), role)  # type: ignore[arg-type]


WORLD = [
    example("d-sad", "sad", "donor", 0.1),
    example("w-sad", "sad", "exchanged"),
    example("d-happy", "happy", "donor", 0.9),
    example("w-happy", "happy", "exchanged"),
    example("d-sad-2", "sad", "donor", 0.2),
]


def rows(examples: Sequence[Example], **changes: object) -> TrainingRows:
    return TrainingRows(examples, RowMaker(tiny_world.tokenizer(), options(**changes)), seed=1)


def test_a_row_takes_the_emotion_of_a_donor_with_its_label_and_another_one_in_another_epoch() -> None:
    made = rows(WORLD)
    assert len(made) == 2  # donors are no rows
    drawn = {WORLD[made[epoch, 0].donor].key for epoch in range(20)}
    assert drawn == {"d-sad", "d-sad-2"}
    assert {WORLD[made[epoch, 1].donor].key for epoch in range(20)} == {"d-happy"}
    assert made[3, 0] == rows(WORLD)[3, 0]  # a resumed run draws the same


def test_recordings_that_are_rows_themselves_give_their_emotion_too_and_keep_it() -> None:
    made = rows([replace(each, role="row") if each.role == "donor" else each for each in WORLD])
    assert len(made) == len(WORLD)
    assert made[0, 0].donor is None
    assert made[0, 1].donor in (0, 4)


def test_a_label_that_nobody_else_has_is_named() -> None:
    with pytest.raises(RellmError, match=r"w-angry: no recording of another corpus is angry"):
        rows([*WORLD, example("w-angry", "angry", "exchanged")])


def test_a_batch_has_the_words_of_the_row_and_the_emotion_and_dimensions_of_the_donor(tmp_path: Path) -> None:
    keys = {each.key: each.key for each in WORLD}
    speech, emotion = StateStore(tmp_path / "speech"), StateStore(tmp_path / "emotion")
    for i, key in enumerate(keys):
        speech.add({key: np.full((2 + i, 3), i, np.float16)})
        emotion.add({key: np.full((1, 4), 10 + i, np.float32)})
    features = Features(keys, speech, emotion)

    def encode(chosen: Sequence[Example], felt: Sequence[Example], heard: Sequence[int]) -> dict:
        return {"speech": features.batch([e.key for e in chosen], [e.key for e in felt])}

    collate = Collator(WORLD, encode, lambda speech: [1] * 2, speech_token=9, pad_token=0, teacher=False)
    made = rows(WORLD)
    batch = collate([made[0, 0], made[0, 1]])
    states = batch["speech"]["speech"]
    assert states.speech_states[:, 0, 0].tolist() == [1, 3]
    assert states.speech_lengths.tolist() == [3, 5]
    donor = made[0, 0].donor
    assert states.emotion_states[:, 0].tolist() == [10 + donor, 12]
    assert batch["dimensions"][:, 0].tolist() == pytest.approx([WORLD[donor].dimensions[0], 0.9])
    assert batch["emotions"].tolist() == [1, 3]


def test_files_say_by_their_name_which_corpus_exchanges(tmp_path: Path) -> None:
    row = {"audio": "a.wav", "text": "it rains", "duration": 2.0, "instruction": "", "output": "so", "llm": "x"}
    files = []
    for corpus, emotion in (("words", "sad"), ("people", "sad"), ("others", "sad")):
        files.append(tmp_path / f"{corpus}.continue.jsonl")
        write_records(files[-1], [Continuation(key=corpus, emotion=emotion, early_stop=False, **row)])  # type: ignore[arg-type]
    loaded = load_examples(files, options(**EXCHANGE), EMOTIONS, tiny_world.tokenizer())
    assert [each.role for each in loaded.examples] == ["exchanged", "donor", "row"]
    write_records(files[1], [Continuation(key="p", emotion="fear", early_stop=False, **row)])  # type: ignore[arg-type]
    fewer = load_examples(files, options(**EXCHANGE), EMOTIONS, tiny_world.tokenizer())
    assert fewer.dropped == {"a donor's emotion is fear": 1}
    drawn = [Continuation(key=emotion, emotion=emotion, early_stop=False, **row) for emotion in ("sad", "surprise")]  # type: ignore[arg-type]
    write_records(files[0], drawn)
    fewer = load_examples(files, options(**EXCHANGE), EMOTIONS[:4], tiny_world.tokenizer())
    assert fewer.dropped == {"a donor's emotion is fear": 1, "a drawn emotion is surprise": 1}
    assert [each.key for each in fewer.examples if each.role == "exchanged"] == ["words/sad"]
    write_records(files[0], [Continuation(key="x", early_stop=False, **row)])  # type: ignore[arg-type]
    with pytest.raises(RellmError, match=r"words\.continue\.jsonl:1: no emotion, by which"):
        load_examples(files, options(**EXCHANGE), EMOTIONS, tiny_world.tokenizer())
    with pytest.raises(RellmError, match="exchange names words, and the given files are of people, others") as told:
        load_examples(files[1:], options(**EXCHANGE), EMOTIONS, tiny_world.tokenizer())
    assert "words.jsonl, or its folder words/manifest.jsonl" in str(told.value)


def test_a_task_may_answer_with_the_transcript() -> None:
    tokenizer = tiny_world.tokenizer()
    tasks = ({"prompt": "repeat", "target": "transcript"},)
    maker = RowMaker(tokenizer, options(tasks=tasks, losses={"response_kl": 1.0}))
    row = maker.make(0, WORLD[0], maker.tasks[0])
    assert row.response == row.transcript + maker.end
    assert row.has_teacher and row.teacher_prefix == row.prefix  # nobody was asked for it: the task's own prompt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exchange": ("a",), "donors": ("a",)}, "a is in exchange and in donors"),
        ({"donors": ("a",)}, "donors are for exchange, which is not set"),
        ({"exchange": ("a",), "train": ("speech_encoder",)}, "frozen speech encoder"),
    ],
)
def test_contradictions_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_exchange_needs_one_embedding_an_utterance() -> None:
    why = unfit(options(exchange=("a",)), ModelOptions(fusion="frames"))
    assert why is not None and "set model.fusion to pooled" in why


def test_a_stage_with_exchange_trains(plan: Plan, data: Path, tmp_path: Path) -> None:
    hums = list(read_records(data, Continuation))
    for corpus in ("words", "people"):
        moved = [row.model_copy(update={"audio": str(data.parent / row.audio), "corpus": corpus}) for row in hums]
        write_records(tmp_path / f"{corpus}.continue.jsonl", moved)
    stage = plan.stage.model_copy(
        update={
            **EXCHANGE,
            "max_steps": 2,
            "tasks": (*plan.stage.tasks, TaskOptions(prompt="repeat", target="transcript")),
        }
    )
    given = (tmp_path / "words.continue.jsonl", tmp_path / "people.continue.jsonl")
    report = train(replace(plan, stage=stage, data=given), tmp_path / "out", device="cpu", progress=False)
    assert (report.steps, report.examples) == (2, 24)
    assert {"response_ce", "input_er", "input_er_avd"} <= report.final.keys()
