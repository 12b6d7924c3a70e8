"""What cannot be hashed as a recording is refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from re_llm.audio.content import segment_hash
from re_llm.core.errors import RellmError


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    for name in ("pipe.wav", "device.wav"):
        with pytest.raises(RellmError, match="not a regular file"):
            segment_hash(tmp_path / name)
