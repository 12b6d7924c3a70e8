"""The package as a user gets it: built as a wheel, installed outside of the checkout, run from another folder."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from re_llm.core.version import __version__

ROOT = Path(__file__).parent.parent
MAX_WHEEL_BYTES = 72 * 2**20  # miniature 25 MB, small model 31 MB

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed, without what would lead it to the checkout."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RE_LLM", "VIRTUAL_ENV"))}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that holds the wheel and nothing of the checkout.

    With RE_LLM_FULL_INSTALL=1 pip resolves every dependency anew, which takes minutes and a package index. Otherwise
    the environment sees the dependencies of this one: a .pth file adds the folder, and .pth files within a folder
    added in that way are not read, so that the editable install of the checkout stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    full = os.environ.get("RE_LLM_FULL_INSTALL") == "1"
    venv.create(folder, with_pip=full)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    if full:
        run(python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
        return scripts
    found = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).stdout.strip()
    (Path(found) / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=folder)
    return scripts


def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("re_llm/py.typed", "re_llm/recipes/mini.yaml", "re_llm/recipes/re_llm.yaml"):
        assert needed in names
    notices = {name.rpartition("/")[2] for name in names if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"} <= notices
    assert {name.split("/")[0] for name in names} == {"re_llm", f"re_llm-{__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".log", ".wav")) or "/tests/" in name]
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_it_is_the_installed_package_that_runs(installed: Path, tmp_path: Path) -> None:
    python = installed / "python"
    where = run(python, "-c", "import re_llm; print(re_llm.__file__)", cwd=tmp_path).stdout.strip()
    assert Path(where).is_relative_to(installed.parent)
    assert run(installed / "re-llm", "--version", cwd=tmp_path).stdout.strip() == f"re-llm {__version__}"


def test_help_and_recipes(installed: Path, tmp_path: Path) -> None:
    assert "reproduce" in run(installed / "re-llm", "--help", cwd=tmp_path).stdout
    code = "from re_llm.recipe.files import load_recipe; print(load_recipe('mini').name)"
    assert run(installed / "python", "-c", code, cwd=tmp_path).stdout.strip() == "mini"


def test_demo(installed: Path, tmp_path: Path) -> None:
    assets = ROOT / "re_llm" / "mini" / "assets"
    if not (assets / "recordings" / "recordings.json").is_file():
        pytest.skip("the trained miniature is not in this checkout")
    heard = json.loads(
        run(installed / "re-llm", "demo", "--model", "mini:re-llm", "--json", cwd=tmp_path, HF_HUB_OFFLINE="1").stdout
    )
    listed = json.loads((assets / "recordings" / "recordings.json").read_text())
    assert [each["recording"] for each in heard] == [each["recording"] for each in listed]
    assert all(each["response"] for each in heard)
