"""Hashes of an interrupted `prepare`, so that the next run does not compute them again.

`.OUT.hashes` beside the manifest holds the time of the first run, then a line for each recording. It is deleted when
the manifest is complete. A hash is used if its recording has not been modified since.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from re_llm.core.files import disk_error
from re_llm.data.corpora.recordings import Checked

EVERY = 16  # recordings between two writes to the disk


class Journal:
    """Hashes by recording (`known`) of an interrupted run, and those of this one.

    Attributes:
        known: hash of every recording that an interrupted run had finished and that has not changed since.
    """

    def __init__(self, out: Path):
        self.path = out.with_name(f".{out.name}.hashes")
        self._began = time.time()
        self._file: TextIO | None = None
        found = dict(self._read())
        self.known = {audio: digest for audio, digest in found.items() if self._untouched(audio)}

    def _read(self) -> Iterator[tuple[str, str]]:
        """(recording, hash) of the lines that were written whole."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                row = json.loads(line)
                if "began" in row:
                    self._began = min(self._began, float(row["began"]))
                    continue
                pair = str(row["audio"]), str(row["sha256"])
            except (ValueError, KeyError, TypeError):  # torn when the run was killed
                continue
            yield pair

    def _untouched(self, audio: str) -> bool:
        try:
            stat = os.stat(audio)
        except (OSError, ValueError):  # also a member of an archive, which is hashed again
            return False
        return max(stat.st_mtime, stat.st_ctime) < self._began

    def keep(self, checked: Iterable[Checked]) -> Iterator[Checked]:
        """Yields the utterances, and writes their hashes to the journal.

        Raises:
            RellmError: the disk is full, or the folder cannot be written.
        """
        last = None  # segments of one recording follow each other
        for number, (utterance, error) in enumerate(checked):
            audio, digest = utterance.audio, utterance.sha256
            if error is None and digest is not None and audio != last and audio not in self.known:
                self._write(json.dumps({"audio": audio, "sha256": digest}), flush=number % EVERY == 0)
                last = audio
            yield utterance, error

    def _write(self, line: str, *, flush: bool) -> None:
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
                # On a line of its own, whatever the last run left.
                self._file.write("\n" + json.dumps({"began": self._began}) + "\n")
            self._file.write(line + "\n")
            if flush:
                self._file.flush()
        except OSError as error:
            raise disk_error(self.path, error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def delete(self) -> None:
        """The manifest is complete."""
        self.close()
        self.path.unlink(missing_ok=True)
