"""What this machine has, and what a recipe needs that is missing here: `re-llm doctor [RECIPE]`.

Every part is opened and every corpus recognised; nothing is downloaded and no weight is loaded. Sizes come from the
headers of local safetensors files, or from the table below for hub ids that were not downloaded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from re_llm.apps.machine import Machine as Machine
from re_llm.apps.machine import examine_machine as examine_machine
from re_llm.apps.machine import existing, hub_cache
from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.part_list import PARTS
from re_llm.core.parts import PREFIX
from re_llm.recipe.config import Recipe

if TYPE_CHECKING:
    from rich.console import Console

GB = 1e9
# Bytes per weight. 8 and 4 bit: linear layers of the LLM quantised, with their scales; its embeddings and output layer
# (16 % of a Qwen-7B) stay in bfloat16, as do the encoders.
BYTES = {"bf16": 2.0, "8-bit": 1.16, "4-bit": 0.76}
# Beside the weights: activations, key/value cache of a batch of 8, the CUDA context.
OVERHEAD = 2.0 * GB


@dataclass(frozen=True)
class Known:
    """A model on the hub: parameters in millions that are used here, size of the download in GB, licence."""

    millions: float
    download_gb: float
    licence: str


_QWEN = "Tongyi Qianwen licence: research, and commercial use under its terms"
_AUDEERING = "CC BY-NC-SA 4.0: not for commercial use"
# Whisper counts its encoder only: the decoder is downloaded and not loaded.
KNOWN = {
    "Qwen/Qwen-7B-Chat": Known(7721, 15.4, _QWEN),
    "Qwen/Qwen-7B": Known(7721, 15.4, _QWEN),
    "Qwen/Qwen2.5-0.5B-Instruct": Known(494, 1.0, "Apache-2.0"),
    "Qwen/Qwen2.5-1.5B-Instruct": Known(1544, 3.1, "Apache-2.0"),
    "Qwen/Qwen2.5-7B-Instruct": Known(7616, 15.2, "Apache-2.0"),
    "openai/whisper-tiny": Known(8, 0.15, "Apache-2.0"),
    "openai/whisper-base": Known(21, 0.29, "Apache-2.0"),
    "openai/whisper-small": Known(88, 0.97, "Apache-2.0"),
    "openai/whisper-medium": Known(307, 3.1, "Apache-2.0"),
    "openai/whisper-large-v2": Known(637, 6.2, "Apache-2.0"),
    "openai/whisper-large-v3": Known(637, 3.1, "Apache-2.0"),
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": Known(165, 0.66, _AUDEERING),
}


@dataclass(frozen=True)
class Part:
    """One of the three models of a recipe. `here`: its weights are in a local folder or in the hub's cache."""

    role: str
    name: str
    here: bool
    parameters: int | None
    download: int | None
    licence: str | None
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What a recipe needs.

    Attributes:
        missing: what is not here and how to get it, one line each.
        trained: parameters that training adds (adapter, heads, LoRA), when the components are those of the papers.
        notes: what a reader of the results should know.
    """

    recipe: str
    parts: list[Part]
    memory: dict[str, int]
    corpora: dict[str, str]
    missing: list[str]
    trained: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def count_parameters(folder: Path, only: str = "") -> int | None:
    """Parameters in a folder's safetensors files whose name contains `only`; None when there are no such files.

    Raises:
        RellmError: a file is not in safetensors format.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    total = 0
    for file in files:
        try:
            with safe_open(file, framework="numpy") as stored:  # reads the header alone
                names = [name for name in stored.keys() if only in name]  # noqa: SIM118
                total += sum(math.prod(stored.get_slice(name).get_shape()) for name in names)
        except SafetensorError as error:
            raise RellmError(f"{file} is not in safetensors format: {error}", todo="Copy the file again") from None
    return total if files else None


def _part(role: str, name: str) -> Part:
    """One model of the recipe: in a folder, in the hub's cache, or to be downloaded."""
    folder, known, part = _folder(name), KNOWN.get(name), PARTS.get(name.removeprefix(PREFIX))
    if part is not None and name.startswith(PREFIX):
        known = Known(0, part.download / GB, part.licence)
    count = count_parameters(folder, "encoder." if role == "speech_encoder" else "") if folder else None
    if count is None and known and known.millions:
        count = int(known.millions * 1e6)
    return Part(
        role=role,
        name=name,
        here=folder is not None,
        parameters=count,
        download=int(known.download_gb * GB) if known and folder is None else None,
        licence=known.licence if known else None,
        memory={}
        if count is None
        else {n: int(count * (b if role == "llm" else BYTES["bf16"])) for n, b in BYTES.items()},
    )


def _folder(name: str) -> Path | None:
    """Local folder with the weights of a component, in the hub's cache too; None when there is none."""
    from re_llm.model.hub import locate

    try:
        folder = locate(resolve_component(name), local_files_only=True)
    except RellmError:
        return None
    return folder if [*folder.glob("*.safetensors"), *folder.glob("*.bin")] else None


def examine_recipe(
    recipe: Recipe,
    machine: Machine,
    *,
    convert_into: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Needs:
    """What the recipe needs, and what is missing or does not fit on this machine (see `pipeline.preflight`).

    Args:
        convert_into: folder of a run; parts in a format of the original systems are converted into it.

    Raises:
        RellmError: a local weight file is broken.
    """
    from re_llm.model.sizes import trained_parameters
    from re_llm.pipeline.preflight import preflight

    recipe, found = preflight(recipe, convert_into, convert=convert_into is not None, say=say)
    parts = [_part(role, name) for role, name in recipe.components.model_dump(exclude_none=True).items()]
    missing = list(map(str, found.findings))
    downloads = sum(part.download or 0 for part in parts if not part.here)
    if downloads > machine.disk_free:
        missing.append(f"disk: {_gb(downloads)} to download, {_gb(machine.disk_free)} free in {hub_cache()}")
    small = all(part.parameters is not None and part.parameters < 1e8 for part in parts)
    beside = int(OVERHEAD / 4 if small else OVERHEAD)
    known = all(part.memory for part in parts)
    memory = {name: sum(part.memory[name] for part in parts) + beside for name in BYTES} if known else {}
    have = machine.device_memory or machine.memory
    if have and memory and memory["4-bit"] > have:
        missing.append(f"memory: about {_gb(memory['4-bit'])} even in 4 bit, {_gb(have)} here; choose a smaller LLM")
    trained = trained_parameters(recipe.components.model_dump(), recipe.model)
    roots = {name: corpus.root for name, corpus in recipe.corpora.items()}
    return Needs(recipe.name, parts, memory, roots, missing, trained, found.notes)


def _gb(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / GB:.2g} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB" if count >= 1e6 else "< 1 MB"


def _millions(count: int | None) -> str:
    return "?" if not count else f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def as_dict(machine: Machine, needs: Needs | None) -> dict[str, Any]:
    """For `--json`."""
    return {"machine": asdict(machine), "recipe": asdict(needs) if needs else None}


def show(machine: Machine, needs: Needs | None) -> None:
    """Prints the findings for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="This machine", title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_row("python", f"{machine.python}, {machine.system}  ({sys.executable})")
    table.add_row("packages", ", ".join(f"{n} {v or 'MISSING'}" for n, v in machine.packages.items()))
    memory = f", {_gb(machine.device_memory)}" if machine.device_memory else ""
    table.add_row("device", machine.device + memory)
    table.add_row("memory", f"{_gb(machine.memory)}, {machine.cores} cores")
    table.add_row("disk", f"{_gb(machine.disk_free)} free in {existing(hub_cache())}")
    for extra, lacking in machine.extras.items():
        state = "[green]ready[/]" if not lacking else f'without {", ".join(lacking)}: pip install "re-llm\\[{extra}]"'
        size = f"  {machine.sizes[extra] / 1e6:.0f} MB" if machine.sizes.get(extra) else ""
        table.add_row(f"extra {extra}", state + size)
    console.print(table)
    if machine.advice:
        console.print(f"  [yellow]{machine.advice}[/]", soft_wrap=True)
    if needs:
        _show_needs(console, needs, machine)


def _show_needs(console: Console, needs: Needs, machine: Machine) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Recipe {needs.recipe}: parts", title_justify="left", box=None)
    for name in ("part", "parameters", *BYTES, "state"):
        table.add_column(name, justify="left" if name in ("part", "state") else "right")
    for part in needs.parts:
        download = f"download {_gb(part.download)}" if part.download else "missing"
        count = _millions(part.parameters)
        state = "[green]here[/]" if part.here else f"[yellow]{download}[/]"
        table.add_row(part.role, count, *(_gb(part.memory.get(name)) for name in BYTES), state)
    for name, trained in needs.trained.items():
        size = [_gb(int(trained * BYTES["bf16"]))] * len(BYTES)
        table.add_row(name, _millions(trained), *size, "made by training")
    table.add_row("to answer", "", *(_gb(needs.memory.get(name)) for name in BYTES), "with activations")
    console.print()
    console.print(table)
    for part in needs.parts:
        console.print(f"  {part.role}: [bold]{part.name}[/]  [dim]{part.licence or ''}[/]", soft_wrap=True)
    have = machine.device_memory or machine.memory
    if have and needs.memory:
        fitting = ", ".join(name for name in BYTES if needs.memory[name] <= have) or "none of these"
        how = "8 and 4 bit: --quantize 8bit or 4bit when answering, with the extra quantize"
        console.print(f"\n{_gb(have)} here hold it in {fitting}; {how}.", soft_wrap=True)
    if needs.missing:
        console.print("\n[bold]Missing[/]")
        for line in needs.missing:
            console.print(f"  [red]-[/] {escape(line)}", soft_wrap=True)
    else:
        console.print(f"\n[green]Nothing is missing:[/] re-llm reproduce {needs.recipe}")
    for note in needs.notes:
        console.print(f"  [dim]note:[/] {escape(note)}", soft_wrap=True)
