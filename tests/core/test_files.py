"""Files: whole or not at all, known by their content, one writer at a time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from re_llm.core import files
from re_llm.core.errors import RellmError


def test_an_interrupted_write_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), files.writing(path) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == '{\n  "a": 1\n}\n' and os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"loss": float("nan")})


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RellmError, match=r"cannot write .*Free space or choose another --out"):
        files.write_text(tmp_path / "taken" / "a.txt", "text")


def test_a_new_folder_appears_whole_and_an_old_one_is_filled_last_file_last(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "a") as new:
        (new / "config.json").write_text("{}")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    for _ in range(2):  # the second time it exists
        with files.new_folder(tmp_path / "a") as new:
            (new / "config.json").write_text("{}")
            (new / "weights").write_text("w")
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "weights"] and os.listdir(tmp_path) == ["a"]


def test_only_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    for owner in (os.getpid(), process.pid):
        (tmp_path / f".m.jsonl.{owner}.tmp").touch()
    (tmp_path / ".other.jsonl.1.tmp").touch()
    files.sweep(tmp_path / "m.jsonl")
    assert {p.name for p in tmp_path.iterdir()} == {f".m.jsonl.{os.getpid()}.tmp", ".other.jsonl.1.tmp"}


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FRESH", -1.0)  # files of a test are new
    path = tmp_path / "weights"
    path.write_bytes(b"1" * 100)
    first = files.file_hash(path)
    reads = []
    real = files.hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *given: reads.append(1) or real(*given))
    assert files.file_hash(path) == first and not reads
    # The same size and the same date: only the inode tells.
    date = path.stat().st_mtime_ns
    path.write_bytes(b"2" * 100)
    os.utime(path, ns=(date, date))
    assert files.file_hash(path) != first and len(reads) == 1
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "moved")
    again = files.file_hash(tmp_path / "folder" / "moved")
    assert again != first
    # Another process takes over what is remembered.
    known = files.known_hashes([tmp_path / "folder" / "moved"])
    assert set(known.values()) == {again} and not files.known_hashes([tmp_path / "folder" / "moved"], at_least=101)
    monkeypatch.setattr(files, "_hashes", {})
    files.remember_hashes({**known, "broken": "x"})
    reads.clear()
    assert files.file_hash(tmp_path / "folder" / "moved") == again and not reads


def test_a_file_that_was_written_just_now_is_read_again(tmp_path: Path) -> None:
    """Two writes within one tick of the clock give one stamp."""
    path = tmp_path / "a"
    path.write_bytes(b"1")
    files.file_hash(path)
    assert files.known_hashes([path]) == {}


HOLDS = """
import sys, time
from pathlib import Path
from re_llm.core import files
with files.lock(Path(sys.argv[1]), folder=True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RellmError, match=f"another process is writing {out}"), files.lock(out, folder=True):
            pass
    finally:
        holder.kill()
        holder.wait()
    with files.lock(out, folder=True):
        pass
    assert os.listdir(out) == []


def test_whoever_waits_for_a_lock_gets_it_alone(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    inside: list[int] = []
    most = []

    def work() -> None:
        for _ in range(20):
            with files.lock(tmp_path / "f", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "_locked", refuses)
    with files.lock(tmp_path, folder=True):
        pass


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_a_hash_of_texts_is_that_of_the_texts_with_their_lengths(count: int) -> None:
    """Products and stores are known by it, whatever number of texts is hashed at a time."""
    parts = [f"{i} é\ud800" for i in range(count)]
    whole = "".join(f"{len(part)}:{part}\n" for part in parts).encode("utf-8", "surrogatepass")
    assert files.hash_of(iter(parts)) == hashlib.sha256(whole).hexdigest()
