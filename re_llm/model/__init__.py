"""The RE-LLM model: configuration, processor, and the model class, registered with transformers' Auto classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from re_llm.model.configuration import ReLlmConfig
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.outputs import EncodedAudio, ReLlmOutput, SpeechTokens
    from re_llm.model.processing import ReLlmProcessor
    from re_llm.recipe.options import AdapterOptions, LoraOptions

__all__ = [
    "AdapterOptions",
    "EncodedAudio",
    "LoraOptions",
    "ReLlmConfig",
    "ReLlmForConditionalGeneration",
    "ReLlmOutput",
    "ReLlmProcessor",
    "SpeechTokens",
]


def __getattr__(name: str) -> type:
    """Any public name loads all of them: a config whose model class is unknown to the Auto classes is of no use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from re_llm.model import configuration, modeling, outputs, processing

    return next(
        getattr(module, name) for module in (configuration, modeling, outputs, processing) if name in vars(module)
    )
