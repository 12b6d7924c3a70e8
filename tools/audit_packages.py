"""Known vulnerabilities of the packages in constraints.txt, by pip-audit: `make audit`.

The databases are on the network, and a machine may reach none: then nothing is audited, which is said and no failure.
Standard library only; pip-audit runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

SECONDS = 300.0
PINS = Path(__file__).parent.parent / "constraints.txt"


def verdict(found: dict[str, Any], pinned: int) -> tuple[int, str]:
    """Exit code and words for the JSON of pip-audit: 1 when a package has a known vulnerability."""
    packages = found.get("dependencies", [])
    audited = [package for package in packages if "skip_reason" not in package]
    wrong = [package for package in audited if package.get("vulns")]
    if not audited:
        return 0, f"not audited: no vulnerability index answers for any of the {pinned} pinned packages"
    lines = [f"{len(audited)} of {pinned} pinned packages audited, {len(wrong)} with known vulnerabilities"]
    for package in wrong:
        for each in package["vulns"]:
            mended = ", ".join(each.get("fix_versions") or ()) or "no version yet"
            lines.append(f"  {package['name']} {package['version']}: {each['id']}, mended in {mended}")
    return int(bool(wrong)), "\n".join(lines)


def _installed(environment: Path, tools: str) -> Path | None:
    """pip-audit of the environment, installed when it is missing; None when it cannot be had."""
    program = environment / "bin" / "pip-audit"
    if not program.is_file():
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *tools.split()], check=False, timeout=SECONDS)
        if done.returncode:
            return None
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, required=True, help="folder of the virtual environment with pip-audit"
    )
    parser.add_argument("--tools", default="pip-audit", help="what is installed into it")
    options = parser.parse_args()
    pinned = sum("==" in line for line in PINS.read_text(encoding="utf-8").splitlines())
    try:
        program = _installed(options.environment, options.tools)
        if program is None:
            print("not audited: pip-audit cannot be installed here")
            return 0
        command = [program, "-r", PINS, "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        print("not audited: no vulnerability index answers")
        return 0
    code, words = verdict(found, pinned)
    print(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
