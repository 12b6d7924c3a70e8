"""Labels in other spellings, and other label sets."""

import pytest

from re_llm.core.emotions import (
    CANONICAL,
    EMPATHETIC_DIALOGUES,
    NEAREST,
    SPELLINGS,
    canonical,
    find_label,
    is_label,
    parse_label_set,
)
from re_llm.core.errors import RellmError


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("Worried", "anxious"),
        ("annoyed", "angry"),
        ("disappointed", "sad"),
        ("pleasant_surprise", "surprise"),
        (" Pleasant Surprise ", "surprise"),
        ("joy", "happy"),
        ("NEUTRAL", "neutral"),
    ],
)
def test_spellings_of_corpora(label, meant):
    assert canonical(label) == find_label(label) == meant
    assert find_label("grumpy") is None
    with pytest.raises(RellmError, match=r"unknown emotion label 'grumpy' in m\.jsonl:3"):
        canonical("grumpy", where="m.jsonl:3")


def test_every_spelling_leads_to_a_canonical_name():
    assert {*SPELLINGS.values(), *NEAREST.values()} <= set(CANONICAL)
    assert not (set(SPELLINGS) & set(NEAREST)) and not set(CANONICAL) & {*SPELLINGS, *NEAREST}


def test_sets_of_labels(tmp_path):
    assert len(set(EMPATHETIC_DIALOGUES)) == 32
    assert parse_label_set("empathetic_dialogues") == ("empathetic_dialogues", EMPATHETIC_DIALOGUES)
    assert parse_label_set("Proud, grateful,,proud") == ("custom", ("proud", "grateful"))
    (tmp_path / "labels.txt").write_text("proud\n\nGrateful\n")
    assert parse_label_set(str(tmp_path / "labels.txt")) == ("custom", ("proud", "grateful"))
    assert parse_label_set(",".join(EMPATHETIC_DIALOGUES))[1] == EMPATHETIC_DIALOGUES, "longer than a name of a file"
    with pytest.raises(ValueError, match="proud"):
        parse_label_set("proud")
    assert is_label("proud", "empathetic_dialogues") and is_label("whatever", "custom") and is_label("sad")
    assert not is_label("proud") and not is_label("calm", "empathetic_dialogues") and not is_label(None, "custom")


def test_a_label_set_comes_before_the_spellings():
    assert find_label("joyful", EMPATHETIC_DIALOGUES) == "joyful" and find_label("joyful") == "happy"
    assert find_label("surprise", ("happy", "surprised")) is None
