"""Damaged lines of records and damaged recipes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mutations import mutated

from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Record, ReplyRecord, Score, Utterance, read_records, write_records
from re_llm.data.check import check
from re_llm.recipe.files import load_recipe, parse_overrides, parse_recipe

DEEP = 3_000
# Values that a JSON or YAML parser accepts, or almost, and that few programs expect.
ODD = (
    "1e400", "-1e400", "NaN", "Infinity", "-0.0", "1" + "0" * 5000, "-" + "9" * 400, "1e-400", "0.1" + "1" * 500,
    "null", "true", '""', '"\\ud800"', '"\\u0000"', '"\x7f"', "{}", "[]", '{"a": {"b": [1]}}', "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP, '"' + "x" * 100_000 + '"', "2.5", "-1", "99999999999999999999", '"1e400"',
)  # fmt: skip
_DIMENSIONS = {"valence": 0.5, "arousal": 0.25, "dominance": 1.0, "vad_source": "annotated", "vad_range": [1.0, 5.0]}
RECORDS: dict[type[Record], Record] = {
    Utterance: Utterance(
        key="k", corpus="c", split="train", audio="a.wav", start=0.5, duration=1.0, sample_rate=16_000, text="Éa",
        turn=3, language="en", speaker="s", dialogue="d", emotion="sad", emotion_raw="SAD", sha256="0" * 64,
        **_DIMENSIONS,
    ),
    Continuation: Continuation(
        key="k", audio="a.wav", text="t", emotion="sad", instruction="i", output="o", early_stop=False, llm="l",
        **_DIMENSIONS,
    ),
    ReplyRecord: ReplyRecord(
        key="k", system="s", response="r", emotion="sad", probabilities={"sad": 0.5}, tokens=3, seed=1, **_DIMENSIONS
    ),
    Score: Score(key="k", system="s", metric="ER", value=1.0, seed=0),
}  # fmt: skip


def lines(record: Record, seed: int, count: int) -> Iterator[bytes]:
    """Damaged lines of a record: half with odd values, names or structure, half with damaged bytes."""
    whole = record.to_line().encode()
    fields = json.loads(whole)
    for number, broken in enumerate(mutated([whole, "\ufeff".encode() + whole], seed, count)):
        rng = random.Random(f"{seed}:{number}")
        if number % 2:
            yield broken.replace(b"\n", b" ") + b"\n"
            continue
        members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
        for _ in range(rng.randint(1, 3)):
            name = rng.choice([*fields, "", "extra", "__class__", "model_extra", "key"])
            member = f"{json.dumps(name)}:{rng.choice(ODD)}"
            members.insert(rng.randrange(len(members) + 1), member)
        rng.shuffle(members)
        yield ("{" + ",".join(members) + "}\n").encode("utf-8", "surrogatepass")


def read_lines(kind: type[Record], folder: Path, seed: int, count: int) -> int:
    """Reads, writes and resumes files of damaged lines; returns how often that is refused."""
    path, again = folder / "records.jsonl", folder / "again.jsonl"

    def copy() -> None:
        found = list(read_records(path, kind))
        write_records(again, found)
        assert [r.to_line() for r in read_records(again, kind)] == [r.to_line() for r in found]

    refused = 0
    for line in lines(RECORDS[kind], seed, count):
        path.write_bytes(line)
        uses = (copy, lambda: RecordAppender(path).close(), lambda: check(path, decode=False))
        refused += sum(_is_refused(use) for use in uses)
    return refused


def _is_refused(use: Callable[[], object]) -> bool:
    try:
        use()
    except RellmError:
        return True
    return False


def recipes(seed: int, count: int) -> Iterator[tuple[str, list[str]]]:
    """(text, overrides) of damaged recipes: lines with odd values, moved, doubled or indented; then damaged bytes."""
    shipped = sorted(Path(__file__).parents[2].joinpath("recipes").glob("*.yaml"))
    texts = [path.read_text(encoding="utf-8") for path in shipped]
    odd = (
        *ODD, "&a [*a]", "*b", "!!python/object:os.system x", "!!binary x", "2001-01-01", "? [1]\n: 2", "<<: {a: 1}",
        "- 1", "{[1]: 2}", "{1: 2}", "~", "0x7", "1_000", "on", ".inf", ".nan", "!!float x", "|\n  x", "{? {a: b} : c}",
        "'", "&c {d: *c}", "!!timestamp x", "!!int ''", "0b", "1:99:99", "!!set {a}", "!!omap [a: 1]", "2001-99-99",
    )  # fmt: skip
    for number, broken in enumerate(mutated([text.encode() for text in texts], seed, count)):
        rng = random.Random(f"{seed}:{number}")
        if number % 2:
            yield broken.decode("utf-8", "replace"), []
            continue
        parts = rng.choice(texts).splitlines()
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(parts))
            name, colon, _ = parts[at].partition(":")
            parts[at] = rng.choice((f"{name}{colon or ':'} {rng.choice(odd)}", "  " + parts[at], parts[at].strip(), ""))
            if rng.random() < 0.3:
                parts.insert(rng.randrange(len(parts)), rng.choice(parts))
        key = rng.choice(
            ("", "stages", "stages.finetune.lr", "a.b.c", "corpora.x.y", "seed", "components.llm.z", "emotions")
        )
        yield "\n".join(parts), [f"{key}={rng.choice(odd)}"] if rng.random() < 0.5 else []


def read_recipes(folder: Path, seed: int, count: int) -> int:
    """Reads damaged recipes; returns how often that is refused."""
    refused, path = 0, folder / "recipe.yaml"
    for text, overrides in recipes(seed, count):
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        refused += _is_refused(lambda: load_recipe(path))
        refused += _is_refused(partial(lambda t, o: parse_recipe(t, "r", parse_overrides(o)), text, overrides))
    return refused
