"""Counts what the layout is judged by: `python tools/measure_code.py [--json] [--root re_llm]`.

Modules at the root, import circles (imports inside functions and modules named in strings count too), lines, tokens a
line, the longest modules and functions, and the share of parameters annotated `Any`. Standard library only, so that it
also runs on an old commit.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONGEST_MODULE, LONGEST_FUNCTION = 350, 60  # lines


class Function(NamedTuple):
    """A function of the package and its length in lines, decorators not counted."""

    lines: int
    name: str


def modules(root: Path) -> dict[str, Path]:
    """Dotted name to file; a package is its `__init__.py`."""
    files = sorted(root.rglob("*.py"))
    return {
        ".".join((root.name, *f.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): f for f in files
    }


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """Names that a module imports, functions included, and its own package's modules named in strings."""
    for child in ast.iter_child_nodes(node):
        if _only_for_types(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            if child.value.startswith(f"{package}.") and child.value.replace(".", "").replace("_", "").isalnum():
                yield child.value
        else:
            yield from imported(child, package)


def graph(known: dict[str, Path], package: str) -> dict[str, set[str]]:
    """Module to the modules of the package that it imports."""
    edges: dict[str, set[str]] = {}
    for module, file in known.items():
        found = set()
        for name in imported(ast.parse(file.read_text(encoding="utf-8")), package):
            while name.startswith(f"{package}.") and name not in known:
                name = name.rpartition(".")[0]
            found.add(name)
        # The package itself is lazy and public: what it names is loaded by the user, not by importing it.
        edges[module] = (found & known.keys()) - {module, package}
    edges[package] = set()
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(edges[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            cut = stack.index(module)
            group = sorted(stack[cut:])
            del stack[cut:]
            if len(group) > 1:
                groups.append(group)

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return sorted(groups)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    args = node.args
    extra = [each for each in (args.vararg, args.kwarg) if each]
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *extra]
    return [each for each in every if each.annotation is not None]


def measure(root: Path) -> dict[str, object]:
    """The figures of one package folder."""
    known = modules(root)
    lines: Counter[str] = Counter()
    functions: list[Function] = []
    parameters = vague = tokens = 0
    vague_by_folder: Counter[str] = Counter()
    for module, file in known.items():
        source = file.read_text(encoding="utf-8")
        lines[module] = source.count("\n")
        layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
        tokens += sum(t.type not in layout for t in tokenize.generate_tokens(io.StringIO(source).readline))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append(Function((node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}"))
                of_any = [a for a in _parameters(node) if ast.unparse(a.annotation) == "Any"]  # type: ignore[arg-type]
                parameters += len(_parameters(node))
                vague += len(of_any)
                vague_by_folder[".".join(module.split(".")[1:2])] += len(of_any)
    functions.sort(reverse=True)
    found = circles(graph(known, root.name))
    return {
        "modules": len(known),
        "modules at the root": sum(f.parent == root for f in known.values()),
        "lines": sum(lines.values()),
        "tokens": tokens,
        "tokens a line": round(tokens / max(1, sum(lines.values())), 2),
        "circles": found,
        "longest modules": lines.most_common(5),
        f"modules over {LONGEST_MODULE} lines": [m for m, n in lines.most_common() if n > LONGEST_MODULE],
        "longest functions": functions[:5],
        f"functions over {LONGEST_FUNCTION} lines": [f.name for f in functions if f.lines > LONGEST_FUNCTION],
        "parameters": parameters,
        "of type Any": vague,
        "of type Any, percent": round(100 * vague / max(1, parameters), 2),
        "of type Any, by folder": {k or "(root)": n for k, n in vague_by_folder.most_common() if n},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent / "re_llm", help="package folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    figures = measure(options.root)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        shown = "\n".join(f"    {each}" for each in value) if isinstance(value, list) and value else f"    {value}"
        print(f"{name}\n{shown}")


if __name__ == "__main__":
    main()
