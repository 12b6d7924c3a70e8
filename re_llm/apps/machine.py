"""What this machine has: packages, device, memory, disk, extras. Works without torch too."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

CPU_WHEEL = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
CORE = ("torch", "transformers", "peft", "accelerate", "safetensors", "soundfile", "numpy")


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes.

    Attributes:
        extras: for each extra, the packages of it that are missing.
        sizes: bytes on disk of each extra's own packages that are installed.
        advice: what would suit this machine better; empty when nothing does.
    """

    python: str
    system: str
    packages: dict[str, str | None]
    device: str
    device_memory: int | None
    cores: int
    memory: int
    disk_free: int
    extras: dict[str, list[str]]
    sizes: dict[str, int]
    advice: str = ""


def examine_machine() -> Machine:
    """Properties of this machine and of the installed packages."""
    device, device_memory = _device()
    extras = extra_packages()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: installed(name) for name in CORE},
        device=device,
        device_memory=device_memory,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        disk_free=shutil.disk_usage(existing(hub_cache())).free,
        extras={name: [each for each in packages if installed(each) is None] for name, packages in extras.items()},
        sizes={name: sum(map(size, packages)) for name, packages in extras.items()},
        advice=_advice(device),
    )


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def size(package: str) -> int:
    """Bytes of an installed package on disk, without what it needs; 0 when it is not installed."""
    if installed(package) is None:
        return 0
    files = (Path(str(file.locate())) for file in metadata.files(package) or ())
    return sum(file.stat().st_size for file in files if file.is_file())


def _advice(device: str) -> str:
    """A build of torch for CUDA on a machine without such a GPU takes gigabytes for nothing."""
    if not device.startswith("cpu") or platform.system() != "Linux":
        return ""
    import torch

    if torch.version.cuda is None:
        return ""
    return f"no GPU is used here, and torch is a build for CUDA (several GB): {CPU_WHEEL}"


def _device() -> tuple[str, int | None]:
    if installed("torch") is None:
        return "none: torch is not installed", None
    import torch

    from re_llm.llm.device import pick_device

    device = pick_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return f"cuda: {count} x {properties.name}", properties.total_memory
    return f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type, None


def _memory() -> int:
    """Physical memory in bytes; the limit of a container when that is lower."""
    total: int = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def hub_cache() -> Path:
    """Where Hugging Face keeps downloads on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def extra_packages() -> dict[str, list[str]]:
    """The packages of every extra of the installed distribution."""
    try:
        required = metadata.requires("re-llm") or []
    except metadata.PackageNotFoundError:
        return {}
    result: dict[str, list[str]] = {}
    for line in required:
        match = re.match(r"([A-Za-z0-9._-]+)[^;]*;.*\bextra == ['\"]([a-z-]+)['\"]", line)
        if match and match[1] != "re-llm":
            result.setdefault(match[2], []).append(match[1])
    return result
