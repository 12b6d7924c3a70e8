"""docs/corpora.md: its table is current, its protocols exist, and the reader that it shows works."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import corpus_worlds as worlds
import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data import corpora
from re_llm.data.corpora import run

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "corpora.md").read_text(encoding="utf-8")


def test_the_table_is_current():
    spec = importlib.util.spec_from_file_location("generate_corpora", DOCS / "generate_corpora.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == PAGE, "run python docs/generate_corpora.py"


def test_every_protocol_is_described_and_exists():
    table = PAGE.split("## Protocols")[1].split("##")[0]
    told = {
        (name.strip(), protocol)
        for names, protocol in re.findall(r"^\| ([\w, ]+) \| `([\w-]+)` \|", table, re.MULTILINE)
        for name in names.split(",")
    }
    there = {(info.name, protocol) for info in corpora.infos() for protocol in info.protocols}
    assert told == there


def test_common_options_are_described():
    table = PAGE.split("## Options of every reader")[1].split("```")[0]
    assert set(re.findall(r"`(\w+)`(?=[^|]*\|)", table)) >= set(run.COMMON_OPTIONS)


@pytest.fixture
def bells(tmp_path: Path) -> Path:
    """The reader that the page shows, copied into a folder of one's own."""
    source = re.search(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    return worlds.write(tmp_path / "bells.py", source)


def test_the_reader_shown_works_as_the_page_says(tmp_path, bells):
    for name in ("founder01_happy_1", "founder02_sadness_2", "founder02_ringing_3", "strange"):
        worlds.sound(tmp_path / "BELLS" / "wav" / f"{name}.wav", 0.1)
    command = re.search(r"^re-llm (prepare bells\.py .*)$", PAGE, re.MULTILINE)[1].split()
    runs = [command, [*command[:-1], "happy.jsonl", "--protocol", "happy"], ["prepare", "bells.py", "--list"]]
    # From another folder, as somebody does who has installed the package.
    told = [
        subprocess.run([sys.executable, "-m", "re_llm", *run], cwd=tmp_path, capture_output=True, text=True)
        for run in runs
    ]
    assert [done.returncode for done in told] == [0, 0, 0], told
    assert "2 problems" in told[0].stderr and "unknown emotion label 'ringing'" in told[0].stderr
    found = [(u.speaker, u.emotion) for u in read_records(tmp_path / "bells.jsonl", Utterance)]
    assert found == [("founder01", "happy"), ("founder02", None), ("founder02", "sad")]
    assert len(list(read_records(tmp_path / "happy.jsonl", Utterance))) == 1
    assert "--protocol happy: the happy ones" in told[2].stdout


def test_a_copied_reader_works_elsewhere(tmp_path):
    shutil.copy(Path(corpora.__file__).with_name("emodb.py"), tmp_path / "mine.py")
    worlds.sound(tmp_path / "emodb/wav/03a01Fa.wav", 0.1)
    assert corpora.prepare(str(tmp_path / "mine.py"), tmp_path / "emodb", tmp_path / "m.jsonl").rows == 1


def test_readers_that_are_none(tmp_path, bells):
    text = bells.read_text()
    for change, words in {
        ("INFO = CorpusInfo(", "INFO = CorpusInfo((("): r"bells\.py:\d+ cannot be imported: SyntaxError",
        ("import re\n", "import nowhere_to_be_found\n"): "cannot be imported: ModuleNotFoundError",
        ("INFO =", "INFORMATION ="): "has no INFO, a CorpusInfo",
        ("def read(", "def write("): "has no read",
        ("    name=", "    nome="): "unexpected keyword argument 'nome'",
    }.items():
        bells.write_text(text.replace(*change))
        with pytest.raises(RellmError, match=words):
            corpora.get(str(bells))
    with pytest.raises(RellmError, match="no such file"):
        corpora.get("absent.py")
