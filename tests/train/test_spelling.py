"""Transcripts as they would stand inside a text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from re_llm.core.errors import RellmError
from re_llm.model import AdapterOptions, ReLlmForConditionalGeneration
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions, unfit
from re_llm.train.data import load_examples
from re_llm.train.examples import EarlierTurn, Target
from re_llm.train.identity import plan_settings
from re_llm.train.plan import Plan, build_model
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train
from re_llm.train.setup import _collator
from re_llm.train.spelling import Speller, first_tokens


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


# Ids rise as in any tokenizer: letters first, then what was merged.
TH, HU, HUM = 97, 98, 99


def merging() -> PreTrainedTokenizerFast:
    """The tiny tokenizer as byte-pair encoding whose last ids are merged tokens."""
    letters = {token: number for token, number in tiny_world.tokenizer().get_vocab().items() if number < TH}
    vocabulary = {**letters, "th": TH, "hu": HU, "hum": HUM}
    model = models.BPE(vocabulary, [("t", "h"), ("h", "u"), ("hu", "m")])
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = tiny_world.CHAT_TEMPLATE
    return made


@pytest.mark.parametrize(("units", "pieces"), [(None, ["hum", "th"]), (HUM, ["hu", "m", "th"]), (TH, list("humth"))])
def test_units_are_the_first_tokens(units: int | None, pieces: list[str]) -> None:
    tokenizer = merging()
    ids = Speller(tokenizer, as_written=True, units=units).ids("humth")
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    assert tokenizer.convert_ids_to_tokens(Speller(tokenizer, units=TH).ids("Hum."))[:3] == [" ", "h", "u"]
    if units is not None:
        special = first_tokens(tokenizer, units).encode("<|im_start|>", add_special_tokens=False).ids
        assert len(special) == len("<|im_start|>"), "special tokens are plain text"


def test_tokenizers_without_such_units_are_refused() -> None:
    with pytest.raises(RellmError, match=r"does not merge pairs \(WordLevel\)"):
        Speller(tiny_world.tokenizer(), units=50)
    with pytest.raises(RellmError, match=r"does not merge pairs \(Pieces\)"):
        Speller(Pieces(), units=50)
    with pytest.raises(RellmError, match=r"adapter\.units is 50.*more than 94"):
        Speller(merging(), units=50)


def test_units_and_their_loss_belong_together() -> None:
    named = stage(losses={"intermediate_ctc": 1.0}, ctc_text="running")
    assert "set model.adapter.units" in str(unfit(named, ModelOptions()))
    assert unfit(named, ModelOptions(adapter=AdapterOptions(hidden_layers=2, units=8))) is None


def test_units_that_do_not_fit_are_refused_before_anything_is_encoded(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("re_llm.train.run._train", lambda *_: pytest.fail("too late"))
    adapter = AdapterOptions(bottleneck=16, hidden_layers=2, units=3)
    options = stage(losses={"intermediate_ctc": 1.0}, train=("adapter",), max_steps=2, batch_size=4)
    model = plan.model.model_copy(update={"adapter": adapter})
    with pytest.raises(RellmError, match=r"adapter\.units is 3"):
        train(replace(plan, model=model, stage=options), tmp_path / "run", progress=False)


def test_a_model_without_units_is_known_as_before_there_were_any(plan: Plan) -> None:
    """Else what was trained before would be made again."""
    assert "units" not in plan_settings(plan)["model"]["adapter"]
    adapter = AdapterOptions(hidden_layers=2, units=8)
    other = replace(plan, model=plan.model.model_copy(update={"adapter": adapter}))
    assert plan_settings(other)["model"]["adapter"]["units"] == 8


def test_a_stage_learns_units_and_the_next_one_goes_on(plan: Plan, tmp_path: Path) -> None:
    llm = tmp_path / "llm"
    shutil.copytree(plan.components.llm, llm)
    merging().save_pretrained(llm)
    adapter = AdapterOptions(bottleneck=16, hidden_layers=2)
    words = replace(
        plan,
        components=plan.components.model_copy(update={"llm": str(llm)}),
        model=plan.model.model_copy(update={"adapter": adapter}),
        stage=stage(losses={"adapter_ctc": 1.0}, train=("adapter",), max_steps=2, batch_size=4),
    )
    train(words, tmp_path / "words", progress=False)
    grown = replace(
        words,
        start=str(tmp_path / "words"),
        model=words.model.model_copy(update={"adapter": adapter.model_copy(update={"hidden_layers": 3, "units": HUM})}),
        stage=stage(
            losses={"adapter_ctc": 1.0, "intermediate_ctc": 0.5}, ctc_text="running", train=("adapter",),
            lr=2e-2, max_steps=60, warmup=5, batch_size=4, precision="fp32",
        ),
    )  # fmt: skip
    train(grown, tmp_path / "units", progress=False)
    log = [json.loads(line) for line in (tmp_path / "units" / "log.jsonl").read_text().splitlines()]
    terms = [step["intermediate_ctc"] for step in log if "intermediate_ctc" in step]
    assert terms[-1] < 0.3 * terms[0], "twelve times the same two words"
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "units").eval()
    examples = load_examples(plan.data, grown.stage, plan.emotions, merging()).examples
    _, processor = build_model(grown, attention="eager")
    maker = RowMaker(processor.tokenizer, grown.stage, HUM)
    batch = _collator(grown, examples, model, processor, None)([TrainingRows(examples, maker, seed=0)[0, 0]])
    with torch.no_grad():
        heard = model.encode_speech(**batch["speech"]).units[0].argmax(-1)
    said = [number for number in heard.unique_consecutive().tolist() if number != HUM]
    assert said == batch["units"][0].tolist() == list(Speller(processor.tokenizer, units=HUM).ids("a hum"))


def test_earlier_recordings_have_units(plan: Plan) -> None:
    options = stage(losses={"intermediate_ctc": 1.0})
    maker = RowMaker(merging(), options, TH)
    examples = load_examples(plan.data, options, plan.emotions, merging()).examples
    task = TaskOptions(prompt="continue-speech", history="speech")
    target = Target("I hum", False, (EarlierTurn("th", "yes", "th"), EarlierTurn("hu", "no", "hu")))
    example = replace(examples[0], targets={options.continuation: target})
    row = maker.make(0, example, task, heard=(None, 1))
    spell = Speller(merging(), as_written=True, units=TH).ids
    assert row.units == (spell("hu"), spell(example.text)) and len(row.units) == len(row.recordings())
