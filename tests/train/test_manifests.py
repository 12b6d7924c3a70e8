"""Where no loss reads what the LLM answers, a stage trains on manifests as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Utterance, read_records, write_records
from re_llm.model.losses import IGNORE_INDEX
from re_llm.pipeline.layout import Run
from re_llm.recipe.files import load_recipe
from re_llm.recipe.stages import StageOptions
from re_llm.train.data import load_examples
from re_llm.train.plan import Plan
from re_llm.train.run import train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
WORDS = {"losses": {"adapter_ctc": 1.0, "input_er": 1.0}, "lr": 1e-3}


def manifest(data: Path, folder: Path, corpus: str, **changes: object) -> Path:
    """The hums as a corpus; one is of the split dev, one has no transcript."""
    rows = []
    for i, row in enumerate(read_records(data, Continuation)):
        split, text = "dev" if i == 0 else "train", None if i == 1 else row.text
        known = {
            "start": row.start,
            "duration": row.duration,
            "emotion": row.emotion,
            "valence": row.valence,
            "arousal": row.arousal,
            "dominance": row.dominance,
        }
        audio = str(data.parent / row.audio)
        rows.append(Utterance(key=row.key, corpus=corpus, split=split, audio=audio, text=text, **{**known, **changes}))
    out = folder / corpus / "manifest.jsonl"
    out.parent.mkdir()
    write_records(out, rows)
    return out


def loaded(files: list[Path], **options: object):
    return load_examples(files, StageOptions(**options), EMOTIONS, tiny_world.tokenizer())


def test_words_need_no_answers(data: Path, tmp_path: Path) -> None:
    found = loaded([manifest(data, tmp_path, "hums")], **WORDS)
    assert len(found.examples) == 10 and found.dropped == {"no transcript": 1}
    assert {each.split for each in found.examples} == {"train"}
    assert {each.targets["continue"].output for each in found.examples} == {"a hum"}
    held_out = loaded([tmp_path / "hums" / "manifest.jsonl"], **WORDS, validation={"split": "dev"})
    assert {each.split for each in held_out.examples} == {"train", "dev"}


def test_a_stage_of_words_trains_on_a_manifest(plan: Plan, data: Path, tmp_path: Path) -> None:
    stage = plan.stage.model_copy(update={"losses": WORDS["losses"], "max_steps": 2, "ctc_sample": 8})
    given = manifest(data, tmp_path, "hums")
    report = train(replace(plan, stage=stage, data=(given,)), tmp_path / "out", device="cpu", progress=False)
    assert (report.steps, report.examples) == (2, 10)
    assert {"adapter_ctc", "input_er"} <= report.final.keys() and "response_ce" not in report.final


def test_answers_are_asked_for_where_they_are_trained(data: Path, tmp_path: Path) -> None:
    given = manifest(data, tmp_path, "hums")
    with pytest.raises(RellmError, match="is a manifest, and the stage trains what the LLM answers") as refused:
        loaded([given], losses={"response_ce": 1.0}, lr=1e-3)
    assert f"re-llm continue {given}" in str(refused.value)


@pytest.mark.parametrize("line", ["[1]", "3", "{", '{"key": "x", "corpus": "c", "split": "train", "audio": 5}'])
def test_a_broken_line_of_a_manifest_is_named(data: Path, tmp_path: Path, line: str) -> None:
    given = manifest(data, tmp_path, "hums")
    given.write_text(given.read_text() + line + "\n")
    with pytest.raises(RellmError, match=r"manifest\.jsonl:13: not a valid"):
        loaded([given], **WORDS)


def test_donors_need_no_answers_and_no_words(data: Path, tmp_path: Path) -> None:
    """The folder of a manifest names its corpus, as in a run."""
    rows = [row.model_copy(update={"audio": str(data.parent / row.audio)}) for row in read_records(data, Continuation)]
    write_records(tmp_path / "words.jsonl", rows)
    files = [tmp_path / "words.jsonl", manifest(data, tmp_path, "people")]
    found = loaded(files, losses={"response_ce": 1.0}, lr=1e-3, exchange=("words",), donors=("people",))
    assert [each.role for each in found.examples].count("donor") == 11  # all but the one of the split dev


def test_a_run_asks_the_llm_for_nothing_that_nobody_reads(tmp_path: Path) -> None:
    run = Run(load_recipe("small_components"), tmp_path, print)
    stages = run.recipe.stages
    assert run.continuations(stages["words"].data, stages["words"]) == (run.manifest("drawn"),)
    joined = run.continuations(stages["re_llm"].data, stages["re_llm"])
    assert [path.name for path in joined] == ["drawn.cascade.jsonl", "manifest.jsonl"]
    assert {(each.corpus, each.prompt) for each in run._wanted_continuations()} == {("drawn", "cascade")}


def test_an_emotion_that_only_other_recipes_name_is_no_matter_where_nobody_reads_it(data: Path, tmp_path: Path) -> None:
    given = manifest(data, tmp_path, "hums", emotion="contempt")
    words = {"losses": {"adapter_ctc": 1.0}, "lr": 1e-3}
    assert {each.emotion for each in loaded([given], **words).examples} == {IGNORE_INDEX}
    asked = {"tasks": ({"prompt": "recognize", "target": "emotion"},), "losses": {"response_ce": 1.0}, "lr": 1e-3}
    for reading in (WORDS, asked):
        with pytest.raises(RellmError, match=r"unknown emotion label 'contempt' in .*manifest\.jsonl:3"):
            loaded([given], **reading)


def test_a_misspelt_emotion_is_named_in_every_stage(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"unknown emotion label 'sadd' in .*manifest\.jsonl:3"):
        loaded([manifest(data, tmp_path, "hums", emotion="sadd")], losses={"adapter_ctc": 1.0}, lr=1e-3)
