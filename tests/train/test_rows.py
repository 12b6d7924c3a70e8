"""Training rows: what is read, what is dropped and said, how rows are cut, and that order and tasks repeat."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, write_records
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.collate import Collator, predicting
from re_llm.train.data import load_examples
from re_llm.train.examples import Example, Target
from re_llm.train.order import BucketedSampler, bucketed_order
from re_llm.train.rows import RowMaker, TrainingRows

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
TAUGHT = {"response_kl": 1.0}
VAD = {"valence": 0.2, "arousal": 0.6, "dominance": 0.4}


def options(**changes: object) -> StageOptions:
    return StageOptions(**{"losses": {"response_ce": 1.0}, "lr": 1e-3, **changes})


def continuation(key: str, **changes: object) -> Continuation:
    base = {
        "key": key, "corpus": "toy", "audio": f"{key}.wav", "text": "it rains", "emotion": "sad", "duration": 2.0,
        "instruction": "go on", "output": "so I stay", "early_stop": False, "llm": "x", **VAD,
    }  # fmt: skip
    return Continuation(**{**base, **changes})


def load(tmp_path: Path, rows: list[Continuation], **changes: object):
    file = tmp_path / "c.jsonl"
    write_records(file, rows)
    return load_examples([file], options(**changes), EMOTIONS, tiny_world.tokenizer())


def test_the_offline_filter_counts_what_it_drops(tmp_path: Path) -> None:
    rows = [
        continuation("kept"),
        continuation("short", duration=0.5),
        continuation("long", duration=31.0),
        continuation("wordy", text="a " * 200),
    ]
    loaded = load(tmp_path, rows)
    assert [e.key for e in loaded.examples] == ["toy/kept"]
    assert loaded.dropped == Counter({"shorter than 1 s": 1, "longer than 30 s": 1, "more than 256 text tokens": 1})
    assert [key for key, _ in loaded.dropped_keys] == ["short", "long", "wordy"]
    assert loaded.examples[0].audio == str(tmp_path / "kept.wav")


@pytest.mark.parametrize(
    ("row", "losses", "message"),
    [
        ({"emotion": "smug"}, {"response_ce": 1.0}, r"c\.jsonl:2.*'smug'|'smug'.*c\.jsonl:2"),
        ({"emotion": None}, {"input_er": 1.0}, r"c\.jsonl:2: no emotion"),
        ({"valence": None}, {"input_er_avd": 1.0}, r"c\.jsonl:2: no valence"),
    ],
)
def test_a_row_that_a_loss_cannot_use_is_named(tmp_path: Path, row: dict, losses: dict, message: str) -> None:
    with pytest.raises(RellmError, match=message):
        load(tmp_path, [continuation("a"), continuation("b", **row)], losses=losses)


CHAT = [{"prompt": "continue"}, {"prompt": "chat-empathetic", "continuation": "cascade"}]


def test_answers_to_several_prompts_are_joined(tmp_path: Path) -> None:
    files = {"toy.continue.jsonl": ("continue", "so I stay"), "toy.cascade.jsonl": ("cascade", "what a pity")}
    for name, (prompt, output) in files.items():
        rows = [
            continuation("a", prompt=prompt, output=output, corpus=None),
            continuation("b", duration=0.1, corpus=None),
        ]
        if prompt == "cascade":  # the LLM refused the other one
            rows.append(continuation("c", prompt=prompt, corpus=None))
        write_records(tmp_path / name, rows)
    stage = options(tasks=CHAT)
    loaded = load_examples([tmp_path / name for name in files], stage, EMOTIONS, tiny_world.tokenizer())
    assert [e.key for e in loaded.examples] == ["toy/a"]
    assert loaded.examples[0].targets == {p: Target(o, early_stop=False) for p, o in files.values()}
    assert loaded.dropped == Counter({"shorter than 1 s": 1, "no answer to the prompt continue": 1})
    maker = RowMaker(tiny_world.tokenizer(), stage)
    answers = [maker.make(0, loaded.examples[0], task).response for task in stage.tasks]
    encoded = [tuple(maker.tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in files.values()]
    assert answers == [ids + maker.end for ids in encoded]


def test_an_answer_that_nobody_trains_or_that_comes_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"c\.jsonl:1: an answer to the prompt 'cascade'"):
        load(tmp_path, [continuation("a", prompt="cascade")])
    with pytest.raises(RellmError, match=r"c\.jsonl:2: a second answer of 'toy/a'"):
        load(tmp_path, [continuation("a"), continuation("a")])


def test_nothing_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="shorter than 1 s"):
        load(tmp_path, [continuation("a", duration=0.2)])


def example(**changes: object) -> Example:
    base = {
        "key": "toy/a", "audio": "a.wav", "start": 0.0, "duration": 2.0, "text": "it rains",
        "targets": {"continue": Target("so I stay", early_stop=False)},
        "emotion_name": "sad", "emotion": 1, "dimensions": (0.2, 0.6, 0.4),
    }  # fmt: skip
    return Example(**{**base, **changes})


def test_a_row_is_the_chat_template_with_speech_in_place_of_the_words() -> None:
    tokenizer = tiny_world.tokenizer()
    task = TaskOptions(prompt="continue-speech", teacher_prompt="continue-emotion")
    row = RowMaker(tokenizer, options(tasks=[task], losses=TAUGHT)).make(0, example(), task)

    def text(*parts: tuple[int, ...]) -> str:
        return words(*parts)

    speech = text(row.prefix) + "@" + text(row.suffix, row.response)
    assert speech == (
        "<|im_start|>system\nYouareahelpfulassistant.<|im_end|>\n<|im_start|>user\n"
        "Continuethefollowingsentencethatreflectsatoneinacoherentstyle:@<|im_end|>\n<|im_start|>assistant\n"
        "soIstay<|im_end|>\n<|endoftext|>"
    )
    assert "reflectsasademotiontone" in text(row.teacher_prefix)
    assert text(row.transcript) == "itrains"


def words(*parts: tuple[int, ...]) -> str:
    return tiny_world.tokenizer().decode([i for part in parts for i in part]).replace(" ", "")


def test_the_teacher_reads_the_prompt_that_its_answer_was_given_to() -> None:
    """The emotion label stands there once, and in the student's row nowhere (RE-LLM section II-B)."""
    tokenizer = tiny_world.tokenizer()
    made = example(targets={p: Target("so I stay", early_stop=False) for p in ("continue-emotion", "cascade")})
    tasks = [{"prompt": "continue-speech"}, {"prompt": "chat-empathetic", "continuation": "cascade"}]
    stage = options(tasks=tasks, losses=TAUGHT, continuation="continue-emotion")
    maker = RowMaker(tokenizer, stage)
    for task, there in zip(stage.tasks, ("reflectsasademotiontone", "conveysasademotiontone"), strict=True):
        row = maker.make(0, made, task)
        student, teacher = words(row.prefix, row.suffix), words(row.teacher_prefix, row.transcript, row.teacher_suffix)
        assert (student.count("sad"), teacher.count("sad")) == (0, 1) and there in teacher
    hidden = options(tasks=[{**tasks[0], "teacher_prompt": "continue-speech"}], losses=TAUGHT)
    row = RowMaker(tokenizer, hidden).make(0, example(), hidden.tasks[0])
    assert (row.teacher_prefix, row.teacher_suffix) == (row.prefix, row.suffix)
    with pytest.raises(RellmError, match="'continue-emotion', but toy/a has no emotion"):
        TrainingRows([example(emotion_name=None)], maker, seed=0)
    untaught = RowMaker(tokenizer, options(tasks=[tasks[0]], continuation="continue-emotion"))
    TrainingRows([example(emotion_name=None)], untaught, seed=0)  # nothing reads the label
    row = untaught.make(0, made, untaught.tasks[0])
    assert not row.has_teacher and not row.teacher_prefix


def test_the_text_filter_counts_the_transcript_or_the_whole_row(tmp_path: Path) -> None:
    rows = [continuation("short"), continuation("long", output="so I stay here and " * 20)]
    maker = RowMaker(tiny_world.tokenizer(), options())
    short, long = (maker.text_row_length(row) for row in rows)
    whole = maker.make(0, example(), maker.tasks[0])
    assert short == len([*whole.prefix, *whole.transcript, *whole.suffix, *whole.response]) < long
    assert len(load(tmp_path, rows, max_text_tokens=short).examples) == 2  # both transcripts are short
    loaded = load(tmp_path, rows, max_text_tokens=short, text_filter="row")
    assert [e.key for e in loaded.examples] == ["toy/short"]
    assert loaded.dropped == Counter({f"a text row of more than {short} tokens": 1})
    with pytest.raises(RellmError, match=f"more than {short - 1} tokens"):
        load(tmp_path, rows, max_text_tokens=short - 1, text_filter="row")


def test_a_cut_continuation_trains_no_end() -> None:
    tokenizer = tiny_world.tokenizer()
    maker = RowMaker(tokenizer, options())
    cut = maker.make(0, example(targets={"continue": Target("so I stay", early_stop=True)}), maker.tasks[0])
    whole = maker.make(0, example(), maker.tasks[0])
    assert whole.response[: len(cut.response)] == cut.response
    assert whole.response[len(cut.response) :] == maker.end
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in maker.end


def test_tasks_are_drawn_by_share_and_again_the_same() -> None:
    tasks = [
        TaskOptions(prompt="continue", fraction=0.7),
        TaskOptions(prompt="recognize", target="emotion", fraction=0.3),
    ]
    maker = RowMaker(tiny_world.tokenizer(), options(tasks=tasks, losses=TAUGHT))
    rows = TrainingRows([example()] * 400, maker, seed=3)
    taught = [rows[0, i].has_teacher for i in range(400)]
    assert 0.6 < sum(taught) / 400 < 0.8
    assert taught == [rows[0, i].has_teacher for i in range(400)]
    assert taught != [rows[1, i].has_teacher for i in range(400)]  # another epoch, another draw
    with pytest.raises(RellmError, match="recognize"):
        TrainingRows([example(emotion_name=None)], maker, seed=0)


def test_the_order_is_a_permutation_with_batches_of_similar_length() -> None:
    lengths = [(7 * i) % 101 for i in range(1003)]
    order = bucketed_order(lengths, 16, seed=0, epoch=0)
    assert sorted(order) == list(range(1003))
    spread = [max(b) - min(b) for b in ([lengths[i] for i in order[k : k + 16]] for k in range(0, 992, 16))]
    assert sum(spread) / len(spread) < 10  # a shuffled order has about 90
    sampler = BucketedSampler(lengths, 16, seed=0)
    assert list(sampler) == [(0, i) for i in order[:992]] and len(sampler) == 992  # whole batches
    assert len(BucketedSampler(lengths, 16, seed=0, accumulate=4)) == 960  # whole steps
    assert len(BucketedSampler([1, 2], 16, seed=0)) == 2
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != order


def test_a_batch_asks_for_the_logits_that_predict_the_response() -> None:
    tokenizer = tiny_world.tokenizer()
    tasks = [TaskOptions(prompt="continue"), TaskOptions(prompt="recognize", target="emotion")]
    maker = RowMaker(tokenizer, options(tasks=tasks, losses=TAUGHT))
    examples = [example(), example(targets={"continue": Target("no", early_stop=False)}, dimensions=None)]
    rows = [maker.make(0, examples[0], tasks[0]), maker.make(1, examples[1], tasks[1])]
    collate = Collator(
        examples, lambda chosen, *_: {"n": len(chosen)}, lambda _: [3, 5], speech_token=999, pad_token=0, teacher=True
    )
    batch = collate(rows)
    ids, at = batch["input_ids"], batch["logits_at"]
    assert (ids == 999).sum(1).tolist() == [3, 5]
    assert torch.equal(ids.roll(-1, 1).flatten()[at], batch["targets"])
    assert batch["attention_mask"].sum(1).tolist() == [
        len(r.prefix) + n + len(r.suffix) + len(r.response) for r, n in zip(rows, (3, 5), strict=True)
    ]
    assert batch["dimensions"][1].isnan().all() and not batch["dimensions"][0].isnan().any()
    teacher = batch["teacher"]  # the label row has no teacher
    assert len(teacher["input_ids"]) == 1
    predicted = teacher["input_ids"].roll(-1, 1).flatten()[teacher["logits_at"]]
    assert torch.equal(predicted, batch["targets"][teacher["of_target"]])


def test_the_weight_of_a_task_is_that_of_each_token_of_its_answers() -> None:
    tasks = [TaskOptions(prompt="continue"), TaskOptions(prompt="recognize", target="emotion", weight=4.0)]
    maker = RowMaker(tiny_world.tokenizer(), options(tasks=tasks))
    rows = [maker.make(0, example(), task) for task in tasks]
    collate = Collator([example()], lambda *_: {}, lambda _: [3, 5], speech_token=9, pad_token=0, teacher=False)
    counts = [len(row.response) for row in rows]
    assert collate(rows)["weights"].tolist() == [1.0] * counts[0] + [4.0] * counts[1]
    assert "weights" not in collate(rows[:1])
    with pytest.raises(ValueError, match="weight of a task is for response_ce"):
        options(tasks=tasks, losses={"input_er": 1.0})


@pytest.mark.parametrize("cformer", [False, True])
def test_the_logits_at_the_tokens_themselves_are_compared_where_that_is_asked_for(cformer: bool) -> None:
    """One position later than the prediction, in both passes (released code)."""
    maker = RowMaker(tiny_world.tokenizer(), options(losses=TAUGHT))
    examples = [example(), example(text="no", targets={"continue": Target("no", early_stop=True)})]
    rows = [maker.make(i, each, maker.tasks[0]) for i, each in enumerate(examples)]
    counts = None if cformer else lambda _: [3, 5]
    collate = Collator(
        examples, lambda *_: {}, counts, speech_token=999, pad_token=0, teacher=True, compare_input=cformer,
        kl_at_tokens=True,
    )  # fmt: skip
    batch = collate(rows)
    for part in (batch, batch["teacher"]):
        ids, at = part["input_ids"].flatten(), part["logits_at"]
        assert torch.equal(ids[at[part["kl_at"]]], batch["targets"])
        assert torch.equal(ids.roll(-1)[at[part["response_at"]]], batch["targets"])
        used = torch.cat([part["kl_at"], part["response_at"], *([part["input_at"]] if cformer else [])])
        assert used.unique().tolist() == list(range(len(at))) and at.tolist() == sorted(at.tolist())


def test_predicting_marks_one_position_before_each_token() -> None:
    at = predicting([3, 2], [2, 1], 6)
    assert at.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0]]


def test_with_a_cformer_a_row_has_as_many_speech_tokens_as_its_transcript() -> None:
    tokenizer = tiny_world.tokenizer()
    tasks = [TaskOptions(prompt="continue"), TaskOptions(prompt="recognize", target="emotion")]
    maker = RowMaker(tokenizer, options(tasks=tasks, losses=TAUGHT))
    examples = [example(), example(text="no")]
    rows = [maker.make(0, examples[0], tasks[0]), maker.make(1, examples[1], tasks[1])]
    collate = Collator(examples, lambda *_: {}, None, speech_token=999, pad_token=0, teacher=True, compare_input=True)
    batch = collate(rows)
    ids, teacher = batch["input_ids"], batch["teacher"]
    lengths = [len(row.transcript) for row in rows]
    assert (ids == 999).sum(1).tolist() == batch["speech"]["token_lengths"].tolist() == lengths
    # Compared where a teacher reads: the speech tokens of the first row, and its transcript in the text pass.
    spoken = batch["logits_at"][batch["input_at"]]
    assert (ids.flatten()[spoken] == 999).all() and len(spoken) == lengths[0] and spoken.max() < ids.shape[1]
    written = teacher["logits_at"][teacher["input_at"]]
    assert teacher["input_ids"].flatten()[written].tolist() == list(rows[0].transcript)
    assert not predicting_of(batch, rows).flatten()[spoken].any()
    assert len(batch["logits_at"]) == len(batch["targets"]) + lengths[0]


def predicting_of(batch: dict, rows: list) -> torch.Tensor:
    counts = batch["speech"]["token_lengths"].tolist()
    before = [len(r.prefix) + n + len(r.suffix) for r, n in zip(rows, counts, strict=True)]
    return predicting(before, [len(r.response) for r in rows], batch["input_ids"].shape[1])
