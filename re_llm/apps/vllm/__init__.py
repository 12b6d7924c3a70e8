"""A plugin of vLLM: `vllm serve CHECKPOINT` answers recordings with a checkpoint of this package.

vLLM finds it by the entry point `vllm.general_plugins` of the installed package, in every process that it starts.
"""

from __future__ import annotations


def register() -> None:
    """Tells transformers and vLLM what a checkpoint of this package is. Called by vLLM; a second call does nothing."""
    from vllm import ModelRegistry

    import re_llm.model.configuration
    import re_llm.model.processing  # noqa: F401 (registers itself)

    # By name: vLLM looks at the class in a process of its own, before a GPU is touched.
    ModelRegistry.register_model("ReLlmForConditionalGeneration", "re_llm.apps.vllm.model:ReLlmForVllm")
