"""Where the recordings of the original systems are (MANIFEST.md in that folder), and whether all of them are there.

RE_LLM_GOLDEN names another set: the same files with other weights, lengths and sizes.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("RE_LLM_GOLDEN") or Path(__file__).parent / "golden").resolve()
_OUTPUTS = ("outputs.safetensors", "outputs.json")
_MODEL = ("config.json", "model.safetensors", *_OUTPUTS)
FILES = {
    "": ("inputs.safetensors",),
    "blsp_a_nolora": _MODEL,
    "blsp_b_lora_audio": _MODEL,
    "blsp_c_cformer": _MODEL,
    "blsp_d_longctx": ("config.json", *_OUTPUTS),
    "rellm": _MODEL,
    "audeering": (*_MODEL, "preprocessor_config.json"),
    "epitome": _MODEL,
}


def complaint(folder: Path = FOLDER) -> str | None:
    """What is wrong with a folder of recordings; None when every file of every case is there."""
    if not folder.is_dir():
        return f"there is no folder {folder} with recordings; set RE_LLM_GOLDEN to one, or unset it for tests/golden"
    missing = [f"{case}/{name}".lstrip("/") for case, names in FILES.items() for name in names]
    missing = [name for name in missing if not (folder / name).is_file()]
    if missing:
        return f"the recordings in {folder} lack {len(missing)} files: {', '.join(missing)}"
    return None
