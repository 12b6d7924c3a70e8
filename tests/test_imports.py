"""Who may import whom, and that cheap commands stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from measure_code import circles, graph, imported, modules

import re_llm

PACKAGE = Path(__file__).parent.parent / "re_llm"

# From the ground up. A module may import modules of its own line and of the lines above it. What stands on one line in
# several names is side by side: these import each other neither directly nor through others. The longest name counts.
LAYERS = (
    ("core",),
    ("audio",),
    ("llm",),
    ("recipe",),
    ("cluster",),
    ("model",),
    ("model.convert",),
    ("parts",),
    ("evaluate.empathy",),
    ("evaluate", "data", "continuations", "train", "inference"),
    ("report",),
    ("mini",),
    ("pipeline",),
    ("mini.training", "small"),
    ("apps",),
    ("cli",),
    ("__main__",),
)
# Beyond the order: what must never be known, however it is reached.
NEVER = {
    "core": ("torch", "transformers", "peft", "accelerate", "sklearn", "scipy", "matplotlib"),
    "evaluate": ("re_llm.model", "re_llm.llm.local"),
    "report": ("re_llm.model", "re_llm.llm.local"),
    "train": ("re_llm.data",),
}
HEAVY = NEVER["core"]
FILES = modules(PACKAGE)
EDGES = graph(FILES, "re_llm")


def layer(module: str) -> str:
    """The name in `LAYERS` that a module belongs to: `model.convert` of `re_llm.model.convert.names`."""
    inner = module.removeprefix("re_llm.")
    names = [name for names in LAYERS for name in names if inner == name or inner.startswith(f"{name}.")]
    assert names, f"{module} has no line in LAYERS"
    return max(names, key=len)


HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
MODULES = sorted(FILES.keys() - {"re_llm"})


def test_every_module_has_its_line() -> None:
    assert {layer(module) for module in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("name", HEIGHT)
def test_imports_point_downward(name: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if layer(module) == name
        for other in sorted(EDGES[module])
        if layer(other) != name and HEIGHT[layer(other)] >= HEIGHT[name]
    ]
    assert not wrong


def test_no_circles() -> None:
    assert circles(EDGES) == []


def test_no_module_imports_the_public_package() -> None:
    """`re_llm` itself loads lazily from above: a module that imports it could reach everything."""
    public = {"re_llm", *(f"re_llm.{name}" for name in re_llm.__all__)}
    assert [module for module in MODULES if direct(module) & public] == []


def direct(module: str) -> set[str]:
    """Names that a module imports itself, of other packages too."""
    return set(imported(ast.parse(FILES[module].read_text(encoding="utf-8")), "re_llm"))


@pytest.mark.parametrize("name", NEVER)
def test_what_must_never_be_known(name: str) -> None:
    wrong = []
    for module in (m for m in MODULES if m.removeprefix("re_llm.").split(".")[0] == name):
        reached, queue = {module}, [module]
        while queue:
            new = EDGES[queue.pop()] - reached
            reached |= new
            queue.extend(new)
        found = {inner for outer in reached for inner in direct(outer)} | reached
        wrong += [f"{module}: {n}" for n in sorted(found) for bad in NEVER[name] if n == bad or n.startswith(f"{bad}.")]
    assert not wrong


def test_at_most_six_modules_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize(
    "statement",
    [
        "import re_llm",
        "import re_llm.cli",
        "import re_llm.data.corpora, re_llm.data.manifest",
        "import re_llm.audio.waveform, re_llm.llm.prompts, re_llm.llm.server_options, re_llm.recipe.files",
        "import " + ", ".join(module for module in MODULES if layer(module) == "core"),
    ],
)
def test_cheap(statement: str) -> None:
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_pays_for_nothing_but_typer() -> None:
    code = "import sys, re_llm.cli; print(*[m for m in ('numpy', 'pydantic', 'yaml', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_rules_see_imports_in_functions_and_modules_named_in_strings(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "low.py").write_text("def f():\n    from toy import high\n")
    (package / "high.py").write_text("import importlib\nimportlib.import_module('toy.low')\n")
    (package / "types.py").write_text("if TYPE_CHECKING:\n    from toy import low\n")
    edges = graph(modules(package), "toy")
    assert circles(edges) == [["toy.high", "toy.low"]] and edges["toy.types"] == set()
