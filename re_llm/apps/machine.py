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

CORE = ("torch", "transformers", "peft", "accelerate", "safetensors", "soundfile", "numpy")


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes. `extras` maps each extra to the packages of it that are missing."""

    python: str
    system: str
    packages: dict[str, str | None]
    device: str
    device_memory: int | None
    cores: int
    memory: int
    disk_free: int
    extras: dict[str, list[str]]


def examine_machine() -> Machine:
    """Properties of this machine and of the installed packages."""
    device, device_memory = _device()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: installed(name) for name in CORE},
        device=device,
        device_memory=device_memory,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        disk_free=shutil.disk_usage(existing(hub_cache())).free,
        extras=missing_extras(),
    )


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


def missing_extras() -> dict[str, list[str]]:
    """For every extra of the installed distribution, the packages of it that are not installed."""
    try:
        required = metadata.requires("re-llm") or []
    except metadata.PackageNotFoundError:
        return {}
    result: dict[str, list[str]] = {}
    for line in required:
        match = re.match(r"([A-Za-z0-9._-]+)[^;]*;.*\bextra == ['\"]([a-z]+)['\"]", line)
        if match and match[1] != "re-llm":
            lacking = result.setdefault(match[2], [])
            if installed(match[1]) is None:
                lacking.append(match[1])
    return result
