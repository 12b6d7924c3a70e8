"""The report: what must stand in it, whatever the systems, and that foreign text cannot break it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reply_world import SENTENCES, Keywords, write_replies

from re_llm.core.errors import RellmError
from re_llm.core.page import Heading, Paragraph, Table, Value, html_page, markdown_page, quote
from re_llm.evaluate import score_file
from re_llm.report.write import write_report

NASTY = "<script>alert(1)</script>|*x* $\\frac{$"


def world(folder: Path, systems: dict[str, float], corpora: tuple[str, ...] = ("esd", "iemocap")) -> tuple[list, list]:
    scores, replies = [], []
    for n, (system, fraction) in enumerate(systems.items()):
        for corpus in corpora:
            replies.append(write_replies(folder / f"{n}.{corpus}.jsonl", system, fraction=fraction, corpus=corpus))
            scores.append(folder / f"{n}.{corpus}.scores.jsonl")
            score_file(replies[-1], scores[-1], scorer=Keywords(), progress=False)
    return scores, replies


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    scores, replies = world(folder, {"text": 0.0, "blsp-emo-ft": 0.3, "re-llm": 0.9, NASTY: 0.5})
    made = {"seed": 7, "versions": {"torch": "2.9"}, "inputs": {"manifest.jsonl": "abc"}}
    return write_report(scores, replies, folder / "out", title="Eight systems", provenance=made).out


def test_scores_that_were_edited_or_are_of_other_replies_are_told(tmp_path: Path):
    scores, replies = world(tmp_path, {"text": 0.0, "re-llm": 0.9}, ("esd",))
    assert write_report(scores, replies, tmp_path / "sound").doubts == []
    assert "doubts" not in json.loads((tmp_path / "sound" / "results.json").read_text())
    scores[0].write_text(scores[0].read_text().replace('"value":0', '"value":1', 1))
    replies[1].write_text(replies[1].read_text().replace('"response":"', '"response":"Well. ', 1))
    found = write_report(scores, replies, tmp_path / "out")
    assert len(found.doubts) == 2
    assert re.search(r"0\.esd\.scores\.jsonl was changed after it was written", found.doubts[0])
    assert re.search(r"1\.esd\.scores\.jsonl is of other replies than those given", found.doubts[1])
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("doubtful") == 2 and "was changed after it was written" in page
    assert json.loads((tmp_path / "out" / "results.json").read_text())["doubts"] == found.doubts
    assert write_report(scores, replies, tmp_path / "out").doubts == found.doubts  # as it says when it is complete


def test_what_must_stand_in_it(report: Path):
    page = (report / "report.md").read_text()
    for wanted in (
        "## Table I", "RE-LLM w/o dimensional task", "system minus BLSP-Emo fine-tuned", "question-mark detector",
        "Wilcoxon signed-rank", "Holm", "Not measured here", "name the right emotion", "versions.torch", "sha256 of",
        "figures/confusion_esd.png", "name no emotion", "## Examples",
    ):  # fmt: skip
        assert wanted in page, wanted
    # The paper's numbers and the measured ones stand in tables of their own.
    assert page.index("1.805") > page.index("Not measured here")
    assert (report / "figures" / "confusion_iemocap.png").read_bytes().startswith(b"\x89PNG")
    assert (report / "figures" / "levels_esd.png").stat().st_size > 5000


def test_numbers_for_machines_are_those_of_the_page(report: Path):
    numbers = json.loads((report / "results.json").read_text())
    assert numbers["baseline"] == "blsp-emo-ft"
    cells = {(c["system"], c["corpus"], c["metric"]): c for c in numbers["cells"]}
    row = next(line for line in (report / "report.md").read_text().splitlines() if line.startswith("| RE-LLM |"))
    cell = cells["re-llm", "iemocap", "ER"]
    assert f"**{cell['mean']:.3f} ({cell['std']:.2f})**" in row.split("|")[2]
    assert {gain["metric"] for gain in numbers["gains"]} == {"ER", "EX", "UA"}


def test_html_is_one_sound_file(report: Path):
    page = (report / "report.html").read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.seen
    assert "&lt;script&gt;" in page
    assert parser.seen.count("img") == 6  # confusions, levels and what explains the replies, on two corpora
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "prefers-color-scheme: dark" in page


def test_same_words_in_several_emotions_are_the_example(report: Path):
    examples = (report / "report.md").read_text().split("## Examples")[1].split("## The paper")[0]
    first = examples.split("### ")[1]
    assert any(sentence in first for sentence in SENTENCES)
    assert {line.split("|")[1].strip() for line in first.splitlines() if line.startswith("| ")} >= {"sad", "happy"}


def test_other_systems_without_baseline_and_without_replies(tmp_path: Path):
    scores, _ = world(tmp_path, {"mine": 0.5}, ("calls",))
    page = write_report(scores, [], tmp_path / "out").page.with_suffix(".md").read_text()
    assert "nothing is tested" in page
    assert "## Gains" not in page and "## Audits" not in page
    assert "| mine |" in page
    with pytest.raises(RellmError, match="blsp-emo"):
        write_report(scores, [], tmp_path / "out", baseline="blsp-emo")


def test_missing_cells_are_dashes_and_few_replies_are_said(tmp_path: Path):
    scores, replies = world(tmp_path, {"re-llm": 0.9, "text": 0.1}, ("esd",))
    more, _ = world(tmp_path / "more", {"re-llm": 0.9}, ("msp_podcast",))
    kept = more[0].read_text().splitlines()[:20]
    more[0].write_text("\n".join(kept) + "\n")
    page = write_report(scores + more, replies, tmp_path / "out").page.with_suffix(".md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| Text + LLM |"))
    assert row.count("—") == 3
    assert "RE-LLM on MSP-Podcast: 20" in page


def test_seeds_give_a_spread(tmp_path: Path):
    scores = []
    for seed in (1, 2, 3):
        replies = write_replies(tmp_path / f"{seed}.jsonl", "re-llm", fraction=0.5, seed=seed)
        scores.append(tmp_path / f"{seed}.scores.jsonl")
        score_file(replies, scores[-1], scorer=Keywords(), progress=False)
    page = write_report(scores, [], tmp_path / "out").page.with_suffix(".md").read_text()
    assert "Seeds: 1, 2, 3." in page
    assert re.search(r"\| RE-LLM \| \d\.\d{3} \(\d\.\d\d\) ± \d\.\d{3} \|", page)


def test_foreign_text_is_harmless_in_both_forms():
    blocks = [
        Heading(1, quote("a_b")),
        Paragraph("`x` **y** <z>"),
        Table(["h"], [[Value(quote("a|b\n*c*"), best=True)]]),
    ]
    page, text = html_page("t & u", blocks), markdown_page(blocks)
    assert "<p><code>x</code> <strong>y</strong> &lt;z&gt;</p>" in page
    assert "<title>t &amp; u</title>" in page
    assert 'best">a|b *c*</td>' in page
    assert r"| **a\|b \*c\*** |" in text


def test_a_narrow_screen_leaves_room_for_sentences_and_not_for_names():
    table = Table(["system", "reply", "ER"], [["s", "I am so sorry to hear that about the kettle.", "2"]], (0, 1))
    cells = re.findall(r'<td class="([a-z ]*)">', table.html())
    assert cells == ["text", "text wide", ""]
