"""Finding a model and opening its JSON files: a folder, or a repository of the hub. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.parts import PREFIX

# What a repository is downloaded for; never its pickles or code.
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
MAX_CONFIG_BYTES = 2**22
# A model is laid out before it is compared with its weights: a config may not ask for one that takes for ever.
MAX_NUMBER, MAX_LAYERS = 2**31, 1024
_MOST = {"n_fft": 2**16, "hop_length": 2**16, "feature_size": 2**10, "chunk_length": 3600, "num_mel_bins": 2**10}


def locate(
    name: str | os.PathLike[str], base: Path | None = None, *, also: Sequence[str] = (), **download: object
) -> Path:
    """The folder that a name means: a folder (relative to `base` when given), a part or what ships (`small:NAME`), else
    a repository of the hub.

    Args:
        also: patterns of further files that a repository is downloaded for.
        download: `revision`, `token`, `cache_dir`, `local_files_only` for the hub.

    Raises:
        RellmError: there is no such folder and no such repository, or the part is not here.
    """
    text = os.fspath(name)
    if text.startswith(PREFIX):
        return Path(resolve_component(text))
    try:
        folder = (base or Path()) / Path(text).expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
    except (ValueError, OSError, RuntimeError) as error:  # a NUL byte, a name that is too long, an unknown home
        raise RellmError(f"{text[:80]!r} is no path: {error}") from error
    if is_folder:
        return folder
    if exists:
        raise RellmError(f"{folder} is a file", allowed="the folder of a model")
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise RellmError(f"there is no folder {folder}", todo="Check the path, or give a hub id such as owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    given = {key: value for key, value in download.items() if value is not None}
    try:
        return Path(snapshot_download(text, allow_patterns=[*_FILES, *also], **given))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RellmError(f"there is no folder {folder}, and {text} cannot be had from the hub: {error}") from error


@contextmanager
def reading(what: object, todo: str | None = None) -> Iterator[None]:
    """Whatever a library raises while it makes something of a user's file becomes a RellmError that names the file.

    Broad on purpose: a file with wrong types in it raises almost anything inside transformers and tokenizers.
    """
    try:
        yield
    except RellmError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RellmError(f"{what} cannot be used: {reason}", todo=todo) from error


def read_json(path: Path) -> dict[str, object]:
    """A config.json.

    Raises:
        RellmError: it is missing, too large, or no JSON object; or it asks for something beyond all measure.
    """
    if not path.is_file():
        raise RellmError(f"there is no {path}", allowed="the folder of a model, with its config.json")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise RellmError(f"{path} has {path.stat().st_size} bytes", allowed=f"at most {MAX_CONFIG_BYTES}")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RellmError(f"{path} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise RellmError(f"{path} holds no object", allowed="the config of a model")
    _refuse_beyond_measure(given, path)
    return given


def _refuse_beyond_measure(given: object, path: Path, key: str = "") -> None:
    if isinstance(given, Mapping):
        for name, value in given.items():
            _refuse_beyond_measure(value, path, name)
    elif isinstance(given, list):
        for value in given:
            _refuse_beyond_measure(value, path, key)
    elif isinstance(given, int) and abs(given) > (limit := _limit(key)):
        raise RellmError(f"{path}: {key} is a number of {given.bit_length()} bits", allowed=f"at most {limit}")


def _limit(key: str) -> int:
    return _MOST.get(key, MAX_LAYERS if "layers" in key else MAX_NUMBER)
