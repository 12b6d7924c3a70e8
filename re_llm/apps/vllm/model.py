"""A checkpoint of this package as a model of vLLM: its encoders and adapter, vLLM's own LLM, partial LoRA around it.

Shapes: L tokens of a step, S speech tokens of a recording, D LLM width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from re_llm.apps.vllm.lora import SpeechMask, wrap
from re_llm.apps.vllm.processing import FIELDS, SpeechDummies, SpeechInfo, SpeechProcessor, stacked
from re_llm.core.errors import RellmError
from re_llm.inference.encoding import BATCH
from re_llm.llm.rows import batches_by_length
from re_llm.model import components
from re_llm.model.cformer import make_adapter
from re_llm.model.components import PREFIXES
from re_llm.model.configuration import SPEECH_TOKEN, ReLlmConfig
from re_llm.model.hearing import Hearing
from re_llm.model.hub import locate
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_speech_encoder
from re_llm.model.weights import load_into, lora_weights

ADAPTER = "adapter."


@MULTIMODAL_REGISTRY.register_processor(SpeechProcessor, info=SpeechInfo, dummy_inputs=SpeechDummies)
class ReLlmForVllm(nn.Module, Hearing, SupportsMultiModal):
    """RE-LLM (section II) on vLLM: recordings to text. The emotion heads are not run: vLLM gives no place to them."""

    requires_raw_input_tokens: ClassVar[bool] = True  # where speech is, LoRA sees from the ids

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        stated = vllm_config.model_config
        config = stated.hf_config
        assert isinstance(config, ReLlmConfig)
        _refuse(config)
        self.config, self.folder = config, locate(stated.model, revision=stated.revision)
        places = {
            part: self.folder if source is None else locate(source, self.folder)
            for part, source in config.components.items()
        }
        with self._mark_tower_model(vllm_config, "audio"):  # type: ignore[operator]
            self.speech_encoder = components.load_speech_encoder(
                places["speech_encoder"], config.speech_config, config.speech_window, stated.dtype
            )
            self.emotion_encoder = None
            if config.emotion_config is not None:
                self.emotion_encoder = components.load_emotion_encoder(
                    places["emotion_encoder"],
                    stated.dtype,
                    config=config.emotion_config,
                    outputs=config.emotion_outputs,
                )
            if isinstance(self.emotion_encoder, SharedEmotionEncoder):
                check_speech_encoder(self.emotion_encoder.config, self.speech_encoder)
            width = config.speech_width + config.emotion_width
            self.adapter = make_adapter(width, config.llm_width, config.adapter, config.speech_config)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.text_config.model_type]],
                prefix=maybe_prefix(prefix, "language_model"),
            )
        vocabulary = config.text_config.vocab_size
        self.configure_mm_token_handling(vocabulary, [config.speech_token_id])  # type: ignore[operator]
        self.speech_mask: SpeechMask | None = None
        if config.lora is not None:
            self.speech_mask = SpeechMask(config.lora, vllm_config.scheduler_config.max_num_batched_tokens)
        self.secondary_weights = []
        if config.components["llm"] is not None:  # it is not in the checkpoint itself
            source = DefaultModelLoader.Source(str(places["llm"]), None, prefix=PREFIXES["llm"])
            self.secondary_weights.append(source)
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality != "audio":
            raise ValueError(f"{modality} cannot be heard; allowed: audio")
        return SPEECH_TOKEN

    @property
    def device(self) -> torch.device:
        return next(self.adapter.parameters()).device

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The LLM's weights from vLLM's reader; the rest is read here, as everywhere in this package."""
        prefix = PREFIXES["llm"]
        of_llm = ((name.removeprefix(prefix), value) for name, value in weights if name.startswith(prefix))
        self.language_model.load_weights(of_llm)
        own = components.own_tensors(self.folder, self.config)
        read = {name.removeprefix(ADAPTER): each.read() for name, each in own.items() if name.startswith(ADAPTER)}
        load_into(self.adapter, read, self.folder)
        if self.config.lora is not None:
            assert self.speech_mask is not None
            joined = getattr(self.language_model, "packed_modules_mapping", {})
            wrap(self.language_model, lora_weights(self.folder)[0], self.config.lora, joined, self.speech_mask)
        for part in (self.speech_encoder, self.emotion_encoder, self.adapter):
            if part is not None:
                part.to(self.device).requires_grad_(False).eval()
        return {name for name, _ in self.named_parameters()}

    def embed_multimodal(self, **inputs: object) -> MultiModalEmbeddings:
        """Speech tokens [S, D] of each recording of this step."""
        given: dict[str, Any] = {name: inputs[name] for name in FIELDS if inputs.get(name) is not None}
        if not given:
            return []
        frames = stacked(given["feature_lengths"]).tolist()
        found: dict[int, Tensor] = {}
        for few in batches_by_length(frames, BATCH):
            batch: dict[str, Any] = {
                name: stacked([values[i] for i in few]).to(self.device) for name, values in given.items()
            }
            speech = self.encode_speech(**batch)
            lengths = speech.lengths.tolist()
            found |= {i: tokens[:n] for i, tokens, n in zip(few, speech.embeddings, lengths, strict=True)}
        return [found[i] for i in range(len(frames))]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **_: object,
    ) -> Tensor | IntermediateTensors:
        if self.speech_mask is not None:
            assert input_ids is not None, "vLLM gives the ids to a model that asks for them"
            self.speech_mask.set(input_ids == self.config.speech_token_id)
        return self.language_model.model(None, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        return self.language_model.compute_logits(hidden_states)


def _refuse(config: ReLlmConfig) -> None:
    """Refuses what cannot be right here."""
    if not config.adapter.counts_beforehand:
        raise RellmError(
            "vLLM wants to know the number of speech tokens beforehand, and a CFormer, or an adapter with spoken_only, "
            "gives it afterwards",
            todo="Answer with `re-llm serve`",
        )
    if config.lora is not None and (size := get_tensor_model_parallel_world_size()) > 1:
        raise RellmError(
            f"partial LoRA over {size} GPUs is not written", allowed="--tensor-parallel-size 1; replicas are fine"
        )
