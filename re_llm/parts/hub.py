"""Parts from the hub, or from its cache on this machine; quick and quiet where there is no hub."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 5.0
WEIGHTS = "model.safetensors"
# A complete model of transformers; the hub's repositories hold the same weights in other formats as well.
FILES = (
    WEIGHTS, "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "normalizer.json", "chat_template.jinja",
)  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubOffer:
    """A repository that can be had: its cached folder, or the bytes to download."""

    repository: str
    folder: Path | None
    download: int


def look(repository: str) -> HubOffer | None:
    """What the hub has of a repository; None without a way to it."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True, allow_patterns=list(FILES)))
        if (folder / WEIGHTS).is_file() and (folder / "config.json").is_file():
            return HubOffer(repository, folder, 0)
    except Exception as error:  # not in the cache; which error says so changes with the package
        log.debug("%s is not in the hub's cache: %s", repository, error)
    try:
        found = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # no network, no such host, a proxy that refuses: the next source is tried
        log.debug("the hub cannot be reached for %s: %s", repository, error)
        return None
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or [] if file.rfilename in FILES}
    return HubOffer(repository, None, sum(sizes.values())) if WEIGHTS in sizes else None


def copy(offer: HubOffer, target: Path) -> None:
    """The files of an offer into a new folder, downloaded first if need be; linked where the disk allows it."""
    from huggingface_hub import snapshot_download

    folder = offer.folder or Path(snapshot_download(offer.repository, allow_patterns=list(FILES)))
    target.mkdir()
    for name in FILES:
        source = folder / name
        if source.is_file():
            try:
                os.link(source.resolve(), target / name)
            except OSError:
                shutil.copyfile(source, target / name)
