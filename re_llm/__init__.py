"""RE-LLM: a speech LLM that hears how something is said and answers with empathy.

    import re_llm
    engine = re_llm.load("folder or hub id")
    reply = engine.respond("question.wav")

Importing this package is cheap: torch and transformers are imported with the first name that needs them. It also
makes transformers' Auto classes know the model type `re_llm`, whichever of the two is imported first.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError
from re_llm.core.version import __version__

if TYPE_CHECKING:
    from re_llm.inference.engine import load
    from re_llm.model import ReLlmConfig, ReLlmForConditionalGeneration, ReLlmProcessor

__all__ = [
    "ReLlmConfig",
    "ReLlmForConditionalGeneration",
    "ReLlmProcessor",
    "RellmError",
    "__version__",
    "load",
]

_LAZY = {
    "load": "re_llm.inference.engine",
    "ReLlmConfig": "re_llm.model",  # which loads the model class as well, so that the Auto classes know it
    "ReLlmForConditionalGeneration": "re_llm.model",
    "ReLlmProcessor": "re_llm.model",
}

# Module of transformers -> (its class, the module of ours that registers itself with it). The model class is registered
# when a config of our type is read: importing it is slow, and other models are read with the same AutoConfig.
_AUTO = {
    "transformers.models.auto.configuration_auto": ("AutoConfig", "re_llm.model.configuration"),
    "transformers.models.auto.processing_auto": ("AutoProcessor", "re_llm.model.processing"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def _register_on_first_use(module: ModuleType) -> None:
    """`from_pretrained` of an Auto class registers ours with it when it is first called.

    Registering any earlier would import ours while transformers is still half imported.
    """
    class_name, ours = _AUTO[module.__name__]
    auto = getattr(module, class_name)
    original = auto.__dict__["from_pretrained"]

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type, *args: object, **kwargs: object) -> object:
        importlib.import_module(ours)
        found = original.__func__(cls, *args, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        if getattr(config, "model_type", None) == "re_llm":
            importlib.import_module("re_llm.model.modeling")
        return found

    auto.from_pretrained = classmethod(from_pretrained)


class _AfterImport:
    """Import hook that prepares the Auto classes once transformers has loaded them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _AUTO:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_prepare(module: ModuleType) -> None:
            execute(module)
            _register_on_first_use(module)

        spec.loader.exec_module = execute_and_prepare  # type: ignore[method-assign]
        return spec


for _name in _AUTO:
    if _name in sys.modules:
        _register_on_first_use(sys.modules[_name])
sys.meta_path.insert(0, _AfterImport)
