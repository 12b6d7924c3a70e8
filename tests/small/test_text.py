"""Sentences: what is kept, where they come from, and what never gets in."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import read_records, write_records
from re_llm.data.corpora import emodb, ravdess
from re_llm.evaluate.word_errors import plain
from re_llm.small import text
from re_llm.small.dialogues import OPENERS, Dialogue, prompts, topics
from re_llm.small.facts import TEMPLATES, facts
from re_llm.small.vocabulary import common_words, word_lists

NEMO = Path(__file__).parents[3] / "shared" / "data" / "nemo" / "data.tsv"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("  im so tired of this ", "I'm so tired of this."),
        ("Is it \u201creally\u201d  over?!", "Is it really over?"),
        ("Well... i dont know", "Well, I don't know."),
        ("1. Take the second door on the left", "Take the second door on the left."),
        (",it was late ,and 1,200 people were there,I think,", "It was late, and 1,200 people were there, I think."),
        ("Sentence 2: We all went home.", "We all went home."),
        ("Anna: We met at 7:30.", "Anna: We met at 7:30."),
        ("He paid $45.99 for it!!!", "He paid $45.99 for it!"),
        ("It isn't what she'd say, I'm sure.", "It isn't what she'd say, I'm sure."),
    ],
)
def test_clean_writes_as_a_transcript(raw: str, kept: str) -> None:
    assert text.clean(raw) == kept


@pytest.mark.parametrize(
    "raw",
    [
        "Too short.",
        "one " * 21,
        "See https://example.org for more of it.",
        "It costs 20 \u20ac in the shop.",
        "death death death",
        "THEY NEVER LISTEN to me.",
        "tbh I do not care.",
        "My [Your Name] is here.",
        "Kropka nie jest zdaniem, \u017ce tak.",
        "",
    ],
)
def test_clean_leaves_out_what_nobody_says(raw: str) -> None:
    assert text.clean(raw) is None


def sentences(out: Path, **sources: list[str]) -> tuple[dict[str, dict[str, int]], list[text.Sentence]]:
    counts = text.write_sentences(out, sources)
    return counts, list(read_records(out, text.Sentence))


def test_every_sentence_once_and_counted(tmp_path: Path) -> None:
    a = ["The cat sat on the mat.", "the cat sat, on the mat!", "No."]
    b = ["The cat sat on the mat.", "A dog ran through the park."]
    counts, kept = sentences(tmp_path / "s.jsonl", a=a, b=b)
    assert {row.text: row.source for row in kept} == {a[0]: "a", b[1]: "b"}
    assert counts["a"] == {"kept": 1, "repeated": 1, "unsuitable": 1, "reserved": 0}
    assert counts["b"] == {"kept": 1, "repeated": 1, "unsuitable": 0, "reserved": 0}


def test_lists_of_words_say_every_word_as_often_and_are_never_held_out(tmp_path: Path) -> None:
    words = [f"{a}{b}" for a in ("wo", "hal", "tor", "min") for b in ("den", "ly", "per", "gas", "tle", "room")]
    lines = list(word_lists(words, 5, seed=0))
    assert lines == list(word_lists(words, 5, seed=0)) != list(word_lists(words, 5, seed=1))
    assert Counter(" ".join(lines).replace(",", "").split()) == Counter(words * 5)
    assert any("," in line for line in lines) and any("," not in line for line in lines)
    long = [line for line in lines if len(line.split()) > 3]
    text.write_sentences(tmp_path / "s.jsonl", {"words": long}, trained=("words",))
    kept = list(read_records(tmp_path / "s.jsonl", text.Sentence))
    assert len(kept) == len(long) and {row.split for row in kept} == {"train"}


def test_common_words_are_words_that_people_say() -> None:
    pytest.importorskip("wordfreq", reason="wordfreq is not installed (extra small-build)")
    found = common_words(5000)
    assert len(found) == len(set(found)) == 5000 and {"kids", "dogs", "garage"} <= set(found)
    assert all(word.isalpha() and word.islower() for word in found) and common_words(0) == []


def test_acted_sentences_never_get_in(tmp_path: Path) -> None:
    acted = [*ravdess.STATEMENTS, *emodb.SENTENCES.values(), "kids are talking by the door"]
    counts, kept = sentences(tmp_path / "s.jsonl", a=[*acted, "Kids are shouting by the door."])
    assert [row.text for row in kept] == ["Kids are shouting by the door."]
    assert counts["a"]["reserved"] >= len(ravdess.STATEMENTS) + 1


@pytest.mark.skipif(not NEMO.is_file(), reason="nEMO's table is not here")
def test_nemo_sentences_never_get_in(tmp_path: Path) -> None:
    with NEMO.open(encoding="utf-8") as file:
        acted = {plain(row["raw_text"]) for row in csv.DictReader(file, delimiter="\t")}
    _, kept = sentences(tmp_path / "s.jsonl", a=sorted(acted), b=["This one is English."])
    assert acted and not acted & {plain(row.text) for row in kept}


def test_a_sentence_keeps_its_split_whatever_else_is_there(tmp_path: Path) -> None:
    texts = [f"My number is {n} today." for n in range(2000)]
    _, all_of_them = sentences(tmp_path / "s.jsonl", a=texts)
    _, some = sentences(tmp_path / "t.jsonl", b=texts[::7])
    split = {row.text: row.split for row in all_of_them}
    assert all(split[row.text] == row.split for row in some)
    for name in ("dev", "test"):
        assert 0.01 < sum(s == name for s in split.values()) / len(split) < 0.03


def test_epitome_posts_are_cut_once_each(tmp_path: Path) -> None:
    post = "I miss him. " + "it was a long day at work and " * 5 + "I went home. Why is that?"
    for name in ("a", "b"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            names = ["sp_id", "rp_id", "seeker_post", "response_post"]
            rows.writerows([names, ["1", "2", post, "An answer to it."], ["1", "3", post, "And one more. Bye."]])
    cut = list(text.epitome(tmp_path))
    clause = "it was a long day at work"  # the last clause, "and I went home", is too short
    assert cut == ["I miss him.", clause, *[f"and {clause}"] * 4, "Why is that?"]
    assert list(text.epitome(tmp_path, "response")) == ["An answer to it.", "And one more.", "Bye."]
    with pytest.raises(RellmError, match="no csv table"):
        list(text.epitome(tmp_path / "nowhere"))


def test_dialogues_lose_their_broken_last_sentence(tmp_path: Path) -> None:
    whole = "I am late. Sorry!<|im_end|>\n<|im_start|>assistant\nNo problem at all.<|im_end|>\n"
    broken = "Can you help?<|im_end|>\n<|im_start|>assistant\nOf course. Tell me wh"
    write_records(
        tmp_path / "d.jsonl", [Dialogue(key="0", topic="x", text=whole), Dialogue(key="1", topic="x", text=broken)]
    )
    found = [sentence for sentence in text.dialogues(tmp_path / "d.jsonl") if sentence]
    assert found == ["I am late.", "Sorry!", "No problem at all.", "Can you help?", "Of course."]


def test_prompts_take_topics_and_openers_in_turn() -> None:
    made = prompts(len(topics()), 0)
    assert {topic for topic, _, _ in made} == set(topics()) and len(topics()) > 400
    assert {opener for _, _, opener in made} == set(OPENERS)
    assert made[:50] == prompts(50, 0) != prompts(50, 1)
    assert all(prompt.endswith(f"<|im_start|>user\n{opener}") for _, prompt, opener in made)


def test_facts_are_filled_and_repeatable() -> None:
    made = list(facts(500, 3))
    assert made == list(facts(500, 3)) != list(facts(500, 4))
    assert not any("{" in sentence for sentence in made)
    assert sum(any(c.isdigit() for c in sentence) for sentence in made) > 350
    assert len({sentence.split()[0] for sentence in made}) > 20 and len(TEMPLATES) > 40


def test_topics_are_no_duplicates() -> None:
    assert len(topics()) == len(set(topics()))
    assert json.dumps(topics()).isascii()


def write_wordnet(folder: Path, **parts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text('  1 Princeton\'s licence says "AS IS"\n' + parts.get(part, ""), "utf-8")
    return folder


def test_examples_of_wordnet_are_its_quotations(tmp_path: Path) -> None:
    line = "02084442 05 n 01 dog 0 001 @ 02083346 n 0000 | a member of the genus Canis; "
    folder = write_wordnet(
        tmp_path / "dict",
        noun=line + '"the dog barked all night"; "beware of it"\n',
        verb=line + "no example\n",
        adj=line + '"a dog | with a bar"\n',
    )
    assert list(text.wordnet(folder)) == ["the dog barked all night", "beware of it", "a dog | with a bar"]


def test_a_folder_without_wordnet_is_named(tmp_path: Path) -> None:
    (write_wordnet(tmp_path / "dict") / "data.adj").unlink()
    with pytest.raises(RellmError, match=r"dict holds no file data\.adj of WordNet"):
        list(text.wordnet(tmp_path / "dict"))


def test_wordnet_is_for_training_alone(tmp_path: Path) -> None:
    said = [f"The {name} runs over the hill." for name in ("dog", "cat", "cow", "boy", "girl", "man", "horse")] * 2
    text.write_sentences(tmp_path / "s.jsonl", {"wordnet": said}, trained=("wordnet",))
    rows = list(read_records(tmp_path / "s.jsonl", text.Sentence))
    assert len(rows) == 7 and {row.split for row in rows} == {"train"}
