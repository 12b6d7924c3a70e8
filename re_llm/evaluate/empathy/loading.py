"""Loads an empathy scorer by its name or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash, hash_of
from re_llm.evaluate.empathy.epitome import ASSET, SMALL_NAME, EmpathyScorer

if TYPE_CHECKING:
    from re_llm.evaluate.empathy.biencoder_scorer import BiEncoderScorer
    from re_llm.evaluate.empathy.small_scorer import SmallScorer


def load_scorer(name: str = "small", *, original: bool = False, device: str = "auto") -> EmpathyScorer:
    """The scorer `small` (shipped), or one that `re-llm score train` wrote.

    Args:
        name: `small`; a small scorer's file (.npz) or the folder with it; a folder of bi-encoders.
        original: bi-encoders attend to the seeker's padding, as the authors' code does.
        device: of bi-encoders; `auto` for the GPU if there is one.

    Raises:
        RellmError: there is no such scorer, or `original` with one that is no bi-encoder.
    """
    scorer = _load(name, original, device)
    scorer.content = scorer_hash(name, original=original)
    return scorer


def _load(name: str, original: bool, device: str) -> SmallScorer | BiEncoderScorer:
    folder = Path(name)
    small = folder / SMALL_NAME if (folder / SMALL_NAME).is_file() else folder
    if name == "small" or (small.suffix == ".npz" and small.is_file()):
        if original:
            raise RellmError("--original has no meaning with the small scorer", todo="Leave it out")
        from re_llm.evaluate.empathy.small_scorer import SmallScorer

        return SmallScorer.load(None if name == "small" else small)
    if folder.is_dir():
        from re_llm.evaluate.empathy.biencoder_scorer import BiEncoderScorer

        return BiEncoderScorer.load(folder, original=original, device=device)
    raise RellmError(
        f"no such empathy scorer: {name!r}",
        allowed="small; a folder or .npz file that `re-llm score train` or `re-llm score convert` wrote",
    )


def scorer_hash(name: str = "small", *, original: bool = False) -> str:
    """Hash of the files of the scorer that `load_scorer` loads under this name, and of its options."""
    place = ASSET if name == "small" else Path(name)
    held = sorted(path for path in (place, *place.rglob("*")) if path.is_file())
    return hash_of([str(original), *(f"{path.relative_to(place).as_posix()} {file_hash(path)}" for path in held)])
