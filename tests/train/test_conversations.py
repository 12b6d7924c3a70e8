"""Training on conversations: earlier turns as speech and as text, whole turns, and the recordings that a row holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, read_records, write_records
from re_llm.inference.conversation import Turn
from re_llm.inference.conversation import row as conversation_row
from re_llm.llm.prompts import get_prompt, split_chat
from re_llm.recipe.config import Recipe
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.collate import Collator
from re_llm.train.data import Loaded, load_examples
from re_llm.train.plan import Plan
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
TAUGHT = {"response_kl": 1.0}


def options(**changes: object) -> StageOptions:
    return StageOptions(**{"losses": {"response_ce": 1.0}, "lr": 1e-3, **changes})


def continuation(key: str, **changes: object) -> Continuation:
    base = {
        "key": key, "corpus": "toy", "audio": f"{key}.wav", "text": "it rains", "emotion": "sad", "duration": 2.0,
        "instruction": "go on", "output": "so I stay", "early_stop": False, "llm": "x",
    }  # fmt: skip
    return Continuation(**{**base, **changes})


SAID = [
    Earlier(role="user", text="it rains", key="b", emotion="happy", prompt="cascade-dialogue"),
    Earlier(role="assistant", text="so sad"),
    Earlier(role="user", text="the sun", key="c", emotion="sad", prompt="cascade-dialogue"),
    Earlier(role="assistant", text="so nice"),
    Earlier(role="user", text="a stranger", key="gone"),
    Earlier(role="assistant", text="who"),
]


def load(tmp_path: Path, **task: object) -> tuple[Loaded, list[TaskOptions]]:
    tasks = [TaskOptions.model_validate({"prompt": "chat-empathetic", "continuation": "cascade-dialogue", **task})]
    write_records(tmp_path / "c.continue.jsonl", [continuation(key, prompt="continue") for key in "abc"])
    talks = [continuation(key, prompt="cascade-dialogue", output="I see") for key in "bc"]
    talks += [continuation("a", prompt="cascade-dialogue", output="I see", history=SAID)]
    write_records(tmp_path / "c.cascade-dialogue.jsonl", talks)
    files = [tmp_path / "c.continue.jsonl", tmp_path / "c.cascade-dialogue.jsonl"]
    return load_examples(files, options(tasks=tasks), EMOTIONS, tiny_world.tokenizer()), tasks


def rows_of(loaded: Loaded, tasks: list[TaskOptions], **changes: object) -> TrainingRows:
    maker = RowMaker(tiny_world.tokenizer(), options(tasks=tasks, **changes))
    return TrainingRows(loaded.examples, maker, seed=1)


def text_of(*parts: tuple[int, ...]) -> str:
    return tiny_world.tokenizer().decode([i for part in parts for i in part])


@pytest.mark.parametrize("history", ["speech", "text"])
def test_a_row_is_the_conversation_of_inference(tmp_path: Path, history: str) -> None:
    """The same ids as `inference.conversation` lays out, with placeholders for the recordings."""
    loaded, tasks = load(tmp_path, history=history)
    rows = rows_of(loaded, tasks)
    row = rows[0, 0]
    assert row.recordings() == ([1, 2, 0] if history == "speech" else [0])

    class Engine:
        tokenizer = tiny_world.tokenizer()

    turns = [Turn(each.role, (each.text,)) for each in SAID]
    expected, _ = conversation_row(Engine(), [*turns, Turn("user", ("it rains",))], get_prompt("chat-empathetic"))
    ids: list[int] = []
    for (before, _), transcript in zip(row.earlier, row.earlier_spelled, strict=True):
        ids += (*before, *transcript)
    assert [*ids, *row.prefix, *row.transcript, *row.suffix] == expected


def test_mixed_turns_are_drawn_anew_and_repeat(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path, history="mixed")
    rows, again = rows_of(loaded, tasks), rows_of(loaded, tasks)
    kinds = {tuple(rows[epoch, 0].recordings()) for epoch in range(40)}
    assert kinds == {(0,), (1, 0), (2, 0), (1, 2, 0)}
    assert [rows[epoch, 0] for epoch in range(5)] == [again[epoch, 0] for epoch in range(5)]


def test_a_task_without_history_reads_the_turn_alone(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path)
    assert rows_of(loaded, tasks)[0, 0].earlier == () and loaded.shortened == 0
    assert "so sad" not in text_of(rows_of(loaded, tasks)[0, 0].prefix)


def test_the_oldest_turns_beyond_the_limit_are_left_out_whole_and_counted(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path, history="text")
    whole = rows_of(loaded, tasks)
    history = loaded.examples[0].targets["cascade-dialogue"].history
    lengths = [whole.maker.turn_length(turn, 2.0 if turn.key == "toy/c" else None) for turn in history]
    assert lengths[1] > whole.maker.turn_length(history[1])  # 2 s of speech
    loaded, tasks = load(tmp_path, history="text", history_tokens=sum(lengths[1:]))
    assert loaded.shortened == 1
    prefix = text_of(rows_of(loaded, tasks)[0, 0].prefix).replace(" ", "")
    assert "sosad" not in prefix and "sonice" in prefix and prefix.count("<|im_start|>assistant") == 2
    loaded, tasks = load(tmp_path, history="text", history_tokens=1)
    assert rows_of(loaded, tasks)[0, 0].prefix == rows_of(*load(tmp_path))[0, 0].prefix


def test_the_teacher_reads_the_same_turns_with_their_labels(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path, history="speech")
    row = rows_of(loaded, tasks, losses=TAUGHT)[0, 0]
    prompt = get_prompt("cascade-dialogue").with_history(SAID).with_emotion("sad")
    before, _ = split_chat(tiny_world.tokenizer(), prompt)
    assert text_of(row.teacher_prefix) == text_of(tuple(tiny_world.tokenizer()(before)["input_ids"]))
    assert "conveysahappyemotion" in text_of(row.teacher_prefix).replace(" ", "")


def test_a_batch_holds_the_recordings_of_all_turns(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path, history="speech")
    rows = rows_of(loaded, tasks, losses=TAUGHT)
    batch_rows = [rows[0, 1], rows[0, 0]]
    seen: list[str] = []

    def encode(chosen, felt, heard):
        seen.extend(each.key for each in chosen)
        return {}

    collate = Collator(
        loaded.examples, encode, lambda _: [2, 3, 4, 5], speech_token=999, pad_token=0, teacher=True, kl_at_tokens=True
    )
    batch = collate(batch_rows)
    assert seen == ["toy/b", "toy/b", "toy/c", "toy/a"]
    ids = batch["input_ids"]
    assert (ids == 999).sum(1).tolist() == [2, 12]
    runs = [len(run) for run in "".join("x" if i == 999 else " " for i in ids[1].tolist()).split()]
    assert runs == [3, 4, 5]  # apart, in order
    assert torch.equal(ids.roll(-1, 1).flatten()[batch["logits_at"][batch["response_at"]]], batch["targets"])
    assert torch.equal(ids.flatten()[batch["logits_at"][batch["kl_at"]]], batch["targets"])
    assert len(batch["emotions"]) == len(batch["transcripts"]) == len(batch["dimensions"]) == 4


def test_rows_with_earlier_turns_stand_together(tmp_path: Path) -> None:
    loaded, tasks = load(tmp_path, history="text")
    rows = rows_of(loaded, tasks)
    longer = rows.earlier_tokens(0)
    assert longer[0] == sum(map(rows.maker.turn_length, loaded.examples[0].targets["cascade-dialogue"].history))
    assert longer[1:] == [0, 0]


def test_turns_out_of_order_are_named(tmp_path: Path) -> None:
    write_records(tmp_path / "c.jsonl", [continuation("a", history=SAID[1:])])
    with pytest.raises(RellmError, match=r"c\.jsonl:1: the history does not begin with the user"):
        load_examples([tmp_path / "c.jsonl"], options(), EMOTIONS, tiny_world.tokenizer())


def test_history_without_dialogues_is_refused() -> None:
    with pytest.raises(ValueError, match="target to output"):
        TaskOptions(prompt="recognize", target="emotion", history="text")
    recipe = {
        "name": "r", "title": "r", "components": {"llm": "x", "speech_encoder": "y"}, "model": {"fusion": "none"},
        "stages": {
            "s": {
                "losses": {"response_ce": 1.0}, "lr": 1e-3,
                "tasks": [{"prompt": "chat", "continuation": "cascade-dialogue", "history": "text"}],
            }
        },
    }  # fmt: skip
    with pytest.raises(ValueError, match="set `dialogues`"):
        Recipe.model_validate(recipe)
    assert Recipe.model_validate({**recipe, "dialogues": {}}).dialogues is not None


def test_a_run_trains_on_conversations(plan: Plan, data: Path, tmp_path: Path) -> None:
    """Two turns of speech in a row pass through the whole model, all losses included."""
    rows = list(read_records(data, Continuation))
    talks = [
        row.model_copy(
            update={
                "audio": str((data.parent / row.audio).resolve()),
                "history": [
                    Earlier(role="user", text="a hum", key=str((i + 1) % 12), emotion="sad"),
                    Earlier(role="assistant", text="I hum"),
                ],
            }
        )
        for i, row in enumerate(rows)
    ]
    write_records(tmp_path / "talks.jsonl", talks)
    tasks = (TaskOptions(prompt="continue-speech", history="speech"),)
    losses = {**plan.stage.losses, "adapter_ctc": 0.1}
    stage = plan.stage.model_copy(update={"tasks": tasks, "max_steps": 4, "losses": losses})
    report = train(replace(plan, stage=stage, data=(tmp_path / "talks.jsonl",)), tmp_path / "out", progress=False)
    assert report.steps == 4 and report.shortened == 0
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert {"response_ce", "response_kl", "input_er", "input_er_avd", "adapter_ctc"} <= set(log[0])
