"""3,000 damaged recordings of each kind: `make campaign`; RE_LLM_SEED draws others."""

import os

import pytest
from fuzz_audio import KINDS, read_broken

pytestmark = pytest.mark.campaign
SEED = int(os.environ.get("RE_LLM_SEED", "1"))


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_recordings(suffix, tmp_path):
    read_broken(suffix, tmp_path, seed=SEED, count=3000)
