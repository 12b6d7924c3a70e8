"""3,000 damaged recordings of each kind: `make campaign`; RE_LLM_SEED=N draws others, RE_LLM_COUNT=N so many."""

import os

import pytest
from fuzz_audio import KINDS, read_broken

pytestmark = pytest.mark.campaign
SEED = int(os.environ.get("RE_LLM_SEED", "1"))
COUNT = int(os.environ.get("RE_LLM_COUNT", "3000"))


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_recordings(suffix, tmp_path):
    read_broken(suffix, tmp_path, seed=SEED, count=COUNT)
