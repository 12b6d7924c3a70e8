"""Who may import whom (downward only), and that cheap commands stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "re_llm"
GROUND = {
    "answers",
    "audio",
    "audio_source",
    "audio_av",
    "config",
    "emotions",
    "errors",
    "progress",
    "prompts",
    "provenance",
    "recipe_files",
    "records",
    "terminal",
    "version",
    "vocabulary",
}
HEAVY = ("torch", "transformers", "peft", "accelerate", "sklearn", "scipy", "matplotlib")
STAGES = {"continuations", "corpora", "evaluate", "interchange", "leakage", "manifest", "replies", "report", "train"}
USE = {"chat", "cli", "conversation", "demo", "doctor", "engine", "jobs", "reproduce", "serve", "systems", "web"}


def modules() -> list[str]:
    """Dotted names of all modules, `re_llm.model.adapter`."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [".".join(("re_llm", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]


def part(module: str) -> str:
    """`model` of `re_llm.model.adapter`."""
    return module.split(".")[1] if "." in module else ""


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every name imported anywhere in a module, functions included; not what only the type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of ours, and top-level names of other packages, that a module imports itself."""
    path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    known, found = set(modules()), set()
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if not name.startswith("re_llm"):
            found.add(name.split(".")[0])
            continue
        while name not in known and f"{name}.__init__" not in known and "." in name:
            name = name.rpartition(".")[0]
        found.add(name if name in known else f"{name}.__init__")
    return frozenset(found)


@cache
def reach(module: str) -> frozenset[str]:
    """All modules of ours that a module can load, directly or through others."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        for name in imports(queue.pop()):
            # Every module loads `re_llm` itself, which is lazy (test_cheap).
            if name.startswith("re_llm.") and name != "re_llm.__init__" and name not in seen:
                seen.add(name)
                queue.append(name)
    return frozenset(seen)


CLUSTER = {"distribute", "distribute_ray"}
FORBIDDEN = {
    "ground": (GROUND, {part(m) for m in modules()} - GROUND - {"__init__"}),
    "cluster": (CLUSTER, {part(m) for m in modules()} - GROUND - CLUSTER - {"__init__"}),
    "model": ({"model"}, STAGES | USE | {"mini"}),
    "train": ({"train"}, {"corpora", "manifest", "evaluate", "report", "mini", *USE}),
    "corpora": ({"corpora", "manifest", "leakage"}, {"model", "train", "evaluate", "report", "mini", *USE}),
    "continuations": ({"continuations"}, {"model", "train", "corpora", "evaluate", "report", "mini", *USE}),
    "evaluate": ({"evaluate", "report"}, {"model", "train", "corpora", "continuations", "mini", *USE}),
    "engine": (
        {"ask", "chat", "conversation", "engine", "replies", "serve", "systems", "transcribe", "web"},
        {"train", "corpora", "evaluate", "report", "mini", "jobs", "reproduce", "cli"},
    ),
    "all but the command line": ({part(m) for m in modules()} - {"cli", "__main__"}, {"cli"}),
}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_imports_point_downward(rule: str) -> None:
    members, forbidden = FORBIDDEN[rule]
    wrong = {
        module: bad
        for module in modules()
        if part(module) in members and (bad := sorted(m for m in reach(module) if part(m) in forbidden))
    }
    assert not wrong


def test_ground_names_no_heavy_package() -> None:
    wrong = {m: sorted(imports(m) & set(HEAVY)) for m in modules() if part(m) in GROUND and imports(m) & set(HEAVY)}
    assert not wrong


@pytest.mark.parametrize(
    "statement",
    [
        "import re_llm",
        "import re_llm.cli",
        "import re_llm.corpora, re_llm.manifest",
        "import " + ", ".join(f"re_llm.{name}" for name in sorted(GROUND)),
    ],
)
def test_cheap(statement: str) -> None:
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_pays_for_nothing_but_typer() -> None:
    code = "import sys, re_llm.cli; print(*[m for m in ('numpy', 'pydantic', 'yaml', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_rules_see_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from re_llm.model import modeling\nif TYPE_CHECKING:\n    import torch\n")
    assert list(_imports(tree)) == ["re_llm.model.modeling"]
