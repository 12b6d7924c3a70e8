"""3,000 damaged checkpoints of each kind: `make campaign`; RE_LLM_SEED=N draws others, RE_LLM_COUNT=N so many."""

import os

import pytest
from fuzz_checkpoints import KINDS, use_damaged

pytestmark = pytest.mark.campaign
SEED = int(os.environ.get("RE_LLM_SEED", "1"))
COUNT = int(os.environ.get("RE_LLM_COUNT", "3000"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints(kind, tmp_path):
    use_damaged(kind, tmp_path, seed=SEED, count=COUNT)
