"""The RE-LLM model: configuration, processor, and the model class, registered with transformers' Auto classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from re_llm.model.configuration import (
    COMPONENTS,
    DIMENSIONS,
    SPEECH_TOKEN,
    AdapterSettings,
    LoraSettings,
    ReLlmConfig,
)

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.outputs import EncodedAudio, ReLlmOutput, SpeechTokens
    from re_llm.model.processing import ReLlmProcessor

__all__ = [
    "COMPONENTS",
    "DIMENSIONS",
    "SPEECH_TOKEN",
    "AdapterSettings",
    "EncodedAudio",
    "LoraSettings",
    "ReLlmConfig",
    "ReLlmForConditionalGeneration",
    "ReLlmOutput",
    "ReLlmProcessor",
    "SpeechTokens",
]

_LAZY = {
    "ReLlmForConditionalGeneration": "modeling",
    "EncodedAudio": "outputs",
    "ReLlmOutput": "outputs",
    "SpeechTokens": "outputs",
    "ReLlmProcessor": "processing",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
