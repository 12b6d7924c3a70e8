"""Variants of replies: which utterances are exchanged with which, when a head is unsure, what the records say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.inference.reply import Reply, ReplyOptions
from re_llm.inference.reply_records import to_record
from re_llm.inference.variant import PLAIN, Unsure, Variant

EMOTIONS = ("neutral", "sad", "happy")


def utterances(count: int = 20, corpus: str = "esd") -> list[Utterance]:
    return [
        Utterance(
            key=f"u{n}", corpus=corpus, split="test", audio=f"{n}.wav", text="Hello there.", emotion=EMOTIONS[n % 3],
        )
        for n in range(count)
    ]  # fmt: skip


def test_a_dose_exchanges_its_fraction_with_utterances_of_another_emotion() -> None:
    rows = utterances()
    for fraction, count in ((0.25, 5), (1.0, 20)):
        donors = Variant(fraction).exchange(rows).donors
        assert len(donors) == count
        assert all(donor.emotion != next(r for r in rows if r.key == key).emotion for key, donor in donors.items())


def test_smaller_doses_are_part_of_larger_ones_and_seeds_differ() -> None:
    rows = utterances(200)
    small, large = (Variant(fraction).exchange(rows).donors for fraction in (0.3, 0.6))
    assert small.items() <= large.items()
    assert Variant(0.3).exchange(rows[::-1]).donors.keys() == small.keys()
    assert Variant(0.3, 1).exchange(rows).donors.keys() != small.keys()


def test_donors_are_of_the_same_corpus() -> None:
    rows = [*utterances(9), *(row.model_copy(update={"key": f"b{row.key}"}) for row in utterances(9, "iemocap"))]
    donors = Variant(1.0).exchange(rows).donors
    assert all(donor.key.startswith("b") == key.startswith("b") for key, donor in donors.items())


def test_what_cannot_be_exchanged_is_refused() -> None:
    same = [row.model_copy(update={"emotion": "sad"}) for row in utterances(3)]
    with pytest.raises(RellmError, match="all of esd is sad"):
        Variant(1.0).exchange(same)
    unknown = [row.model_copy(update={"emotion": None}) for row in utterances(3)]
    with pytest.raises(RellmError, match="no reference emotion"):
        Variant(1.0).exchange(unknown)
    with pytest.raises(RellmError, match="corrupt_emotion is"):
        Variant(1.5)
    with pytest.raises(RellmError, match="a variant changes replies"):
        ReplyOptions(prompt=None, recognize="recognize", variant=Variant(max_words=3))


def test_unsure_is_who_has_no_emotion_or_several_that_are_probable_enough() -> None:
    unsure = Unsure(0.3)
    assert not unsure.of({"sad": 0.8, "happy": 0.2})
    assert unsure.of({"sad": 0.5, "happy": 0.5}) and Unsure(0.6).of({"sad": 0.5, "happy": 0.5})
    assert not unsure.of({"sad": 0.7, "happy": 0.3 - 1e-9})
    assert Unsure(0.3, temperature=4.0).of({"sad": 0.8, "happy": 0.2})  # flatter: .59 and .41


def test_unsure_is_a_probability_or_what_calibrate_wrote(tmp_path: Path) -> None:
    rows = [{"system": "re-llm", "threshold": 0.4, "temperature": 2.0, "corpus": c} for c in "ab"]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert Unsure.parse("0.7", "re-llm") == Unsure(0.7)
    assert Unsure.parse(str(tmp_path), "re-llm") == Unsure.parse(str(tmp_path / "results.json"), "re-llm")
    assert Unsure.parse(str(tmp_path), "re-llm") == Unsure(0.4, 2.0)
    with pytest.raises(RellmError, match="does not calibrate the system 'other'"):
        Unsure.parse(str(tmp_path), "other")
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(RellmError, match="no result of"):
        Unsure.parse(str(tmp_path), "re-llm")
    with pytest.raises(RellmError, match="unsure at a probability of"):
        Unsure.parse("1.5", "re-llm")


def test_records_name_the_variant_and_plain_ones_are_as_they_were() -> None:
    row = utterances()[0]
    changed = ReplyOptions("s", variant=Variant(1.0, max_words=20).exchange(utterances()))
    record = to_record(row, Reply(response="Yes."), changed)
    assert (record.system, record.variant_of) == ("s, 100 % corrupted, 20 words", "s")
    assert record.variant == {"corrupt_emotion": 1.0, "corrupt_seed": 0, "max_words": 20}
    assert record.exchanged_with in {f"u{n}" for n in range(20)}
    plain = to_record(row, Reply(response="Yes."), ReplyOptions("s"))
    assert "variant" not in plain.to_line() and "exchanged" not in plain.to_line()


def test_settings_of_plain_replies_are_as_they_were(tmp_path: Path) -> None:
    class Models:
        names, dtype, quantized = ("m",), "float32", None

    plain = ReplyOptions().product(tmp_path / "a.jsonl", Models())
    assert "variant" not in plain.settings
    changed = ReplyOptions(variant=Variant(end_with_question=True)).product(tmp_path / "a.jsonl", Models())
    assert changed.settings["variant"] == {"end_with_question": True}
    assert not PLAIN and Variant(unsure=Unsure(0.5))


class Labels:
    """A stand-in for the chat LLM: its reply is the prompt's label."""

    name = "labels"

    class model:
        dtype = "float32"

    def answer(self, rows: Sequence[tuple[object, str]], **options: object) -> list[object]:
        from re_llm.llm.completion import Completion

        return [Completion(f"{prompt.before}|{prompt.after}") for prompt, _ in rows]  # type: ignore[attr-defined]


def test_a_cascade_is_told_the_label_of_the_other_utterance_and_the_record_keeps_its_own(tmp_path: Path) -> None:
    from re_llm.inference.respond import respond_manifest
    from re_llm.inference.systems import TextSystem

    rows = utterances()
    write_records(tmp_path / "manifest.jsonl", rows)
    system = TextSystem(Labels())  # type: ignore[arg-type]
    options = ReplyOptions("label", "cascade", variant=Variant(0.5))
    out = tmp_path / "replies.jsonl"
    respond_manifest(system, tmp_path / "manifest.jsonl", out, options, progress=False)
    replies = list(read_records(out, ReplyRecord))
    emotions = {row.key: row.emotion for row in rows}
    exchanged = [reply for reply in replies if reply.exchanged_with]
    assert len(replies) == 20 and len(exchanged) == 10
    for reply in replies:
        told = emotions[reply.exchanged_with or reply.key]
        assert told in reply.response and reply.emotion == emotions[reply.key]
        assert not any(other in reply.response for other in EMOTIONS if other != told)
    before = out.read_bytes()
    report = respond_manifest(system, tmp_path / "manifest.jsonl", out, options, progress=False)
    assert report.skipped and out.read_bytes() == before
    # Killed in the middle: the same command gives the same bytes.
    out.write_bytes(b"".join(before.splitlines(keepends=True)[:7]))
    respond_manifest(system, tmp_path / "manifest.jsonl", out, options, progress=False)
    assert sorted(out.read_bytes().splitlines()) == sorted(before.splitlines())
    with pytest.raises(RellmError, match="variant"):
        respond_manifest(system, tmp_path / "manifest.jsonl", out, replace(options, variant=PLAIN), progress=False)


def test_a_system_without_emotion_information_is_refused(tmp_path: Path) -> None:
    from re_llm.inference.systems import TextSystem
    from re_llm.inference.varied import varied

    system = TextSystem(Labels())  # type: ignore[arg-type]
    with pytest.raises(RellmError, match="names no emotion"):
        varied(system, ReplyOptions("s", "chat-empathetic", variant=Variant(0.5)), tmp_path)
    with pytest.raises(RellmError, match="only a speech system"):
        varied(system, ReplyOptions("s", "cascade", variant=Variant(unsure=Unsure(0.5))), tmp_path)
    assert varied(system, ReplyOptions("s", "cascade", variant=Variant(max_words=5)), tmp_path) is system
    with pytest.raises(RellmError, match="of a Labels cannot be varied"):  # as a system behind a server
        varied(Labels(), ReplyOptions("s", variant=Variant(max_words=5)), tmp_path)  # type: ignore[arg-type]


def test_exchanged_embeddings_change_what_the_head_hears_and_asking_asks(assets: Path, tmp_path: Path) -> None:
    """The shipped model; nothing here depends on which emotions it hears."""
    from re_llm.inference.engine import load
    from re_llm.inference.varied import varied
    from re_llm.llm.length import FEELING, is_question

    engine = load("mini:re-llm", device="cpu")
    rng = np.random.default_rng(0)
    rows = [row.model_copy(update={"audio": str(tmp_path / f"{row.key}.wav")}) for row in utterances(4)]
    samples = [(0.1 * rng.standard_normal(16_000 + 1600 * n)).astype(np.float32) for n in range(4)]
    for row, wave in zip(rows, samples, strict=True):
        import soundfile

        soundfile.write(row.audio, wave, 16_000, subtype="FLOAT")
    plain = engine.respond_rows(rows, samples, ReplyOptions(max_new_tokens=8))
    options = ReplyOptions(max_new_tokens=8, variant=Variant(1.0).exchange(rows))
    changed = varied(engine, options, tmp_path).respond_rows(rows, samples, options)
    donors = options.variant.donors
    felt = [samples[int(donors[row.key].key[1:])] for row in rows]
    own = [engine.encode([wave], [other])[0].estimate for wave, other in zip(samples, felt, strict=True)]
    for before, after, expected in zip(plain, changed, own, strict=True):
        assert after.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert after.probabilities != pytest.approx(before.probabilities, abs=1e-6)
    asking = ReplyOptions(max_new_tokens=8, variant=Variant(unsure=Unsure(1 - 1e-9)))  # nothing is that probable
    batches: list[int] = []
    asked = varied(engine, asking, tmp_path).respond_rows(rows, samples, asking, lambda i, r: batches.extend(i))
    assert all(r.asked and r.response.startswith(FEELING) and is_question(r.response) for r in asked)
    assert batches == [0, 1, 2, 3] and [r.probabilities for r in asked] == [r.probabilities for r in plain]


def test_a_changed_option_is_named_as_it_is_given(tmp_path: Path) -> None:
    """`variant.max_words` is no option of the command line."""
    names = ReplyOptions(variant=Variant(max_words=8)).product(tmp_path / "r.jsonl", Nobody()).names
    assert names["variant.max_words"] == "--max-words"
    assert names["variant.end_with_question"] == "--end-with-question"


class Nobody:
    names: tuple[str, ...] = ()
    dtype, quantized, needs_audio = "float32", None, False
