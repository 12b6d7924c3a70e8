"""3,000 damaged lines of each record, and recipes: `make campaign`; RE_LLM_SEED=N: others, RE_LLM_COUNT=N: so many."""

import os

import pytest
from fuzz_text import RECORDS, read_lines, read_recipes

pytestmark = pytest.mark.campaign
SEED = int(os.environ.get("RE_LLM_SEED", "1"))
COUNT = int(os.environ.get("RE_LLM_COUNT", "3000"))


@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_records(kind, tmp_path):
    read_lines(kind, tmp_path, seed=SEED, count=COUNT)


def test_damaged_recipes(tmp_path):
    read_recipes(tmp_path, seed=SEED, count=COUNT)
