"""The documents stay true: commands parse, links lead somewhere, generated pages are current, examples run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_imports import LAYERS
from typer.main import get_command

from re_llm.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(re-llm [^`]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(#[^)\s]*)?\)")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def commands() -> list[tuple[str, str]]:
    """(page, line) of `re-llm` and `make` commands: in shell blocks, in the text, in the first line of a recipe."""
    found = [
        (page.name, line.removeprefix("$ ").strip())
        for page in PAGES
        for text in blocks(page, "", "sh", "bash", "shell", "console")
        for line in text.replace("\\\n", " ").splitlines()
        if re.match(r"(\$ )?(re-llm|make)\b", line)
    ]
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        found += [(page.name, line) for line in INLINE.findall(text) if "COMMAND" not in line]
    for recipe in sorted(ROOT.glob("recipes/*.yaml")):
        found.append((recipe.name, recipe.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")))
    return found


def parse(arguments: list[str]) -> None:
    """Parses a command line as `re-llm` would, without running it."""
    command = get_command(app)
    context = command.make_context("re-llm", arguments)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def mentioned() -> list[list[str]]:
    """Names of commands and groups without arguments."""
    found = [["--help"], ["--debug"]]
    for name, command in get_command(app).commands.items():
        found += [[name], *([name, inner] for inner in getattr(command, "commands", ()))]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_the_documents_exist(page: str, line: str) -> None:
    words = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words[1:] if "=" not in word and word not in targets] == []
        return
    assert words[0] == "re-llm"
    if words[1:] in mentioned():  # a command that is spoken of, not called
        return
    parse([word for word in words[1:] if word != "..."])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/tour.md", "docs/serving.md", "docs/cluster.md"])
def test_modules_and_folders_that_are_named_exist(name: str) -> None:
    """`model/losses.py`, `re_llm/data/corpora/`, ...: of the package or of the repository."""
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    named = set(re.findall(r"`([\w./]+\.py|[\w/]+/)`", text)) - {"checkpoint/", "report/"}
    assert [each for each in named if not any((top / each).exists() for top in (ROOT, ROOT / "re_llm"))] == []


def test_the_table_of_folders_is_the_order_of_imports() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| folder |")[1].split("\n\n")[0]
    rows = [tuple(re.findall(r"`([\w.]+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert tuple(rows) == tuple(names for names in LAYERS if names != ("__main__",))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_page_of_commands_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_commands", ROOT / "docs" / "generate_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == module.text(), "run `make docs`"


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.name)
def test_python_examples_run(page: Path, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = next((assets / "recordings").glob("*.flac"))
    shutil.copy(recording, tmp_path / "question.wav")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)
    assert "re_llm" in names


def test_the_change_log_knows_this_version() -> None:
    from re_llm.core.version import __version__

    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
