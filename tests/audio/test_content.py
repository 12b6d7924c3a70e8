"""What a hash of a stretch is made of; what cannot be hashed as a recording is refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from re_llm.audio.content import place_hash, segment_hash
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of


def test_a_place_is_hashed_by_file_offset_length_start_and_duration() -> None:
    """States of a store are found by it: another hash would make all of them anew."""
    assert place_hash("ab" * 32, 3, None, 0.5, 2.0) == hash_of(["ab" * 32, "3", "None", "0.5", "2.0"])[:32]
    assert place_hash("ab" * 32, 3, 4, 0.0, None) == hash_of(["ab" * 32, "3", "4", "0.0", "None"])[:32]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    for name in ("pipe.wav", "device.wav"):
        with pytest.raises(RellmError, match="not a regular file"):
            segment_hash(tmp_path / name)
