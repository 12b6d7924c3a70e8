"""Transcripts as they would stand inside a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world

from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.data import load_examples
from re_llm.train.plan import Plan, build_model
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train
from re_llm.train.setup import _collator
from re_llm.train.spelling import Speller


class Pieces:
    """A tokenizer: the longest piece that it knows, else a letter."""

    known = (" kids", " are", " it", " Victoria", " vic", " i", " I", " a", " A", " dr", " Dr", " won", " Won")

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        ids = []
        while text:
            piece = max((p for p in self.known if text.startswith(p)), key=len, default=text[0])
            ids.append(self.known.index(piece) if piece in self.known else 100 + ord(piece))
            text = text[len(piece) :]
        return {"input_ids": ids}


@pytest.mark.parametrize(
    ("written", "running"),
    [
        ("Kids are here.", " kids are here."),
        ("I won.", " I won."),
        ("I'm here. It won! A kid? Are I", " I'm here. it won! a kid? are I"),
        ("Victoria won.", " Victoria won."),  # shorter with its capital
        ("NASA won.", " NASA won."),
        ("McDonald won.", " McDonald won."),
        ("3.5 Kids", " 3.5 Kids"),
        ("  Won Kids ", " won Kids"),
        ("", " "),
    ],
)
def test_running(written: str, running: str) -> None:
    assert Speller(Pieces()).running(written) == running


def test_a_first_word_has_the_ids_of_any_other() -> None:
    speller = Speller(Pieces())
    assert speller.ids("Kids are here.")[:2] == (Pieces.known.index(" kids"), Pieces.known.index(" are"))
    assert speller.ids("It are kids.")[-2] == speller.ids("Kids are.")[0]


def stage(**changes: object) -> StageOptions:
    task = TaskOptions(prompt="continue-speech")
    given = {"tasks": (task,), "losses": {"adapter_ctc": 1.0, "response_kl": 1.0}, "lr": 1e-3, "features": "none"}
    return StageOptions(**{**given, **changes})


def test_it_is_an_option_of_the_ctc_term() -> None:
    with pytest.raises(ValueError, match="ctc_text is for adapter_ctc"):
        stage(losses={"response_kl": 1.0}, ctc_text="running")


def test_the_ctc_term_reads_it_and_the_teacher_does_not(plan: Plan) -> None:
    found = {}
    for text in ("written", "running"):
        changed = replace(plan, stage=stage(ctc_text=text))
        model, processor = build_model(changed, attention="eager")
        examples = load_examples(plan.data, changed.stage, plan.emotions, processor.tokenizer).examples
        rows = TrainingRows(examples, RowMaker(processor.tokenizer, changed.stage), seed=0)
        found[text] = _collator(changed, examples, model, processor, None)([rows[0, 0], rows[0, 1]])
    written, running = found["written"], found["running"]
    own, spelled = (
        [ids[:length].tolist() for ids, length in zip(b["transcripts"], b["transcript_lengths"], strict=True)]
        for b in (written, running)
    )
    maker = RowMaker(processor.tokenizer, stage(ctc_text="running"))
    assert maker.speller is not None
    assert own == [list(maker.ids(e.text)) for e in (examples[0], examples[1])]
    assert spelled == [list(maker.speller.ids(e.text)) for e in (examples[0], examples[1])]
    assert written["teacher"]["input_ids"].tolist() == running["teacher"]["input_ids"].tolist()


def test_earlier_recordings_are_spelled_likewise(plan: Plan) -> None:
    options = stage(ctc_text="running", losses={"adapter_ctc": 1.0})
    tokenizer = tiny_world.tokenizer()
    maker = RowMaker(tokenizer, options)
    examples = load_examples(plan.data, options, plan.emotions, tokenizer).examples
    row = TrainingRows(examples, maker, seed=0)[0, 0]
    assert maker.speller is not None
    earlier = maker.speller.ids("It was")
    assert replace(row, earlier_spelled=(earlier,)).heard() == [earlier, maker.speller.ids(examples[row.index].text)]


def test_a_stage_trains_with_it_and_another_form_is_another_training(plan: Plan, tmp_path: Path) -> None:
    changed = replace(plan, stage=stage(ctc_text="running", losses={"adapter_ctc": 1.0}, max_steps=2, batch_size=4))
    train(changed, tmp_path / "run", progress=False)
    again = train(changed, tmp_path / "run", progress=False)
    assert again.skipped
    other = replace(changed, stage=changed.stage.model_copy(update={"ctc_text": "written"}))
    with pytest.raises(Exception, match="ctc_text"):
        train(other, tmp_path / "run", progress=False)
