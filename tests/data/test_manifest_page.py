"""The page of a manifest check."""

from html.parser import HTMLParser

from re_llm.core.records import Utterance, write_records
from re_llm.data.check import check
from re_llm.data.manifest_page import LAST_BAR, SHOWN, page, write_page


def rows():
    for number in range(40):
        yield Utterance(
            key=f"k{number}", corpus="own", split="test" if number % 4 == 0 else "train", audio=f"{number}.wav",
            duration=0.3 + number, emotion="sad" if number % 2 else None, speaker=f"<s{number % 3}>",
            valence=number / 40, arousal=0.5, dominance=0.5, vad_source="annotated", sha256=str(number // 2),
            text=f"the words of number {number}",
        )  # fmt: skip


class Checker(HTMLParser):
    """Collects the tags, and that they are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not any(name in ("src", "href") and str(value).startswith("http") for name, value in attrs), attrs
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_page(tmp_path):
    write_records(tmp_path / "m.jsonl", rows())
    with (tmp_path / "m.jsonl").open("a") as out:
        out.write("<script>\n")
    report = check(tmp_path / "m.jsonl", decode=False)
    text = page(report)
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and {"svg", "table", "style"} <= checker.seen and "script" not in checker.seen
    assert "40 utterances" in text and "3 speakers" in text and "<strong>1 problem</strong>" in text
    assert "&lt;s0&gt;" in text and "<s0>" not in text, "texts are escaped"
    assert "k0, k1" in text and f"{LAST_BAR * 0.5:g} and longer" in text
    assert text == page(check(tmp_path / "m.jsonl", decode=False)), "the same manifest gives the same page"
    assert '<td class="text">&lt;s0&gt;</td>' in text and "Shared with the other manifests" not in text
    assert "Shared with the other manifests" in page(report, report.leakage)
    assert write_page(report, tmp_path / "deep" / "page.html").read_text() == text


def test_long_tables_say_how_many_rows_are_left_out(tmp_path):
    many = [row.model_copy(update={"key": f"{row.key}-{n}", "text": " "}) for n in range(6) for row in rows()]
    write_records(tmp_path / "m.jsonl", many)
    text = page(check(tmp_path / "m.jsonl", decode=False))
    assert f"{SHOWN} of 240 are shown." in text and "240 problems" in text
    assert '<td class="">1,234</td>' not in text and '<td class="">180</td>' in text, "numbers stand to the right"
