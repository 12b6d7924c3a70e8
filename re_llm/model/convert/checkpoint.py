"""A released checkpoint of BLSP-Emo or RE-LLM as a checkpoint of this package; Qwen version 1 as Qwen2."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from re_llm.core.errors import RellmError
from re_llm.model import partial_lora, sizes
from re_llm.model.components import PREFIXES, read_config
from re_llm.model.configuration import SPEECH_TOKEN, ReLlmConfig
from re_llm.model.convert import config as released
from re_llm.model.convert.generation import converted_generation
from re_llm.model.convert.names import Layout
from re_llm.model.convert.plan import ConversionPlan, ConvertReport, Target, left_out, pieces
from re_llm.model.convert.tokenizer import find_tokenizer
from re_llm.model.emotion_encoder import head_outputs
from re_llm.model.hub import reading
from re_llm.model.inputs import add_speech_token, emotion_input_kind, load_extractor
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.storage import own_weights
from re_llm.model.weights import Stored, below, stored_tensors
from re_llm.recipe.options import LoraOptions

_EMBEDDED = "w2v2."


def plan(
    source: Path, given: Mapping[str, object], emotion_folder: Path | None, tokenizer_folder: Path | None
) -> ConversionPlan:
    """What the conversion will do.

    Args:
        given: the source's config.json.
        emotion_folder, tokenizer_folder: see `re_llm.model.convert.run.convert`.

    Raises:
        RellmError: see there.
    """
    where = str(source / "config.json")
    options = released.ReleasedConfig.read(given, where)
    stored = stored_tensors(source)
    cformer = options.kind == "cformer"
    layout = Layout.of(stored, plain_adapter=cformer)
    emotion, outputs, extra = _emotion(layout, stored, emotion_folder, source)
    stored = {**stored, **extra}
    layout = Layout.of(stored, plain_adapter=cformer)
    text = released.qwen2_config(options.qwen_config, f"{where}, qwen_config")
    tokenizer, notes = find_tokenizer(source, tokenizer_folder, text.vocab_size)
    generation = converted_generation(source, tokenizer, text)
    head = stored.get("hidden2emotion.weight")
    with reading(where):
        config = ReLlmConfig(
            text_config=text,
            speech_config=WhisperConfig(**options.whisper_config.model_dump(exclude_none=True)),
            emotion_config=emotion,
            emotion_outputs=outputs,
            adapter=options.adapter(where),
            emotions=released.emotion_names(options.num_emotions or (head.shape[0] if head else 5)),
            speech_token_id=_speech_token(tokenizer, text.vocab_size),
            dtype=released.intended_dtype(given, stored.get(f"{layout.llm}lm_head.weight")),
        )
        model = laid_out(config, options.lora(where))
    expected = own_weights(model, model.state_dict(), {})
    added = _added(expected, stored, layout)
    found = pieces({k: v for k, v in expected.items() if k not in added}, layout.find, stored, source)
    lora = partial_lora.split_weights(below(model.state_dict(), PREFIXES["llm"]))[1]
    peft = pieces(lora, layout.find_lora, stored, source)
    if "dimension_head.weight" in added:
        notes.append("BLSP-Emo has no dimensional head: valence, arousal and dominance are 0 until it is trained")
    if config.speech_token_id < text.vocab_size:
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or []), config.speech_token_id})
    kind = "re-llm (released)" if layout.fused else "blsp-emo"
    report = ConvertReport(kind, "re-llm", left_out=left_out(stored, found | peft, layout), notes=notes)
    files = partial(_finish, model, generation, source, emotion_folder, tokenizer)
    return ConversionPlan(report, stored, added | found, files, peft)


def laid_out(config: ReLlmConfig, lora: LoraOptions | None) -> ReLlmForConditionalGeneration:
    """The model of a config with names, shapes and no values."""
    with torch.device("meta"):
        model = ReLlmForConditionalGeneration(config)
        if lora is not None:
            model.add_lora(lora)
    return model


def _speech_token(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> int:
    """Id of the placeholder; behind the vocabulary when there is no tokenizer."""
    if tokenizer is None:
        return vocab_size
    add_speech_token(tokenizer)
    return int(tokenizer.convert_tokens_to_ids(SPEECH_TOKEN))


def _emotion(
    layout: Layout, stored: Mapping[str, Stored], folder: Path | None, source: Path
) -> tuple[PretrainedConfig | None, list[str] | None, dict[str, Stored]]:
    """Config and outputs of the emotion encoder, and its tensors when the checkpoint does not embed them."""
    if not layout.fused:
        if folder is not None:
            what = f"{source} is a BLSP-Emo, which has no emotion encoder"
            raise RellmError(what, todo="Leave out --emotion-encoder")
        return None, None, {}
    embedded = any(name.startswith(f"{_EMBEDDED}wav2vec2.") for name in stored)
    if folder is None:
        config = sizes.audeering_config()
        sample = stored.get(f"{_EMBEDDED}wav2vec2.encoder.layer_norm.weight")
        if not embedded or sample is None or sample.shape != (config.hidden_size,):
            state = "of another size than audeering's" if embedded else "not in the checkpoint"
            raise RellmError(
                f"the emotion encoder of {source} is {state}",
                todo="Name it: --emotion-encoder FOLDER, for the released RE-LLM "
                "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
            )
        return config, list(sizes.AUDEERING_OUTPUTS), {}
    config = read_config(folder)
    extra = {} if embedded else {_EMBEDDED + name: value for name, value in stored_tensors(folder).items()}
    names = {name.removeprefix(_EMBEDDED): value for name, value in {**stored, **extra}.items()}
    return config, head_outputs(config, {name: value.meta() for name, value in names.items()}), extra


def _added(expected: Mapping[str, torch.Tensor], stored: Mapping[str, Stored], layout: Layout) -> dict[str, Target]:
    """Parts that the source never had, as zeros: BLSP-Emo's dimensional head, a mask vector of SpecAugment."""
    optional = ["emotion_encoder.backbone.masked_spec_embed"] + ["dimension_head.weight"] * (not layout.fused)
    made = {}
    for name in optional:
        if name in expected and layout.find(name).name not in stored:
            shape = expected[name].shape
            made[name] = Target((), partial(torch.zeros, shape), 4 * shape.numel())
    return made


def _finish(
    model: ReLlmForConditionalGeneration,
    generation: GenerationConfig,
    source: Path,
    emotion_folder: Path | None,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
) -> None:
    """Config, PEFT config, generation config and processor."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    if config.lora is not None:
        partial_lora.save_config(model.language_model, folder, None)
    if tokenizer is None:
        return
    kind = None
    if config.emotion_config is not None:
        kind = "normalized" if emotion_folder is None else emotion_input_kind(emotion_folder)
    processor = ReLlmProcessor(
        feature_extractor(source, config.speech_config),
        tokenizer,
        emotion_input=kind,
        speech_window=config.speech_window,
        adapter=config.adapter,
    )
    processor.save_pretrained(folder)


def feature_extractor(source: Path, whisper: WhisperConfig) -> WhisperFeatureExtractor:
    """Whisper's, from the source or by its config: one window is `max_source_positions` states of 20 ms."""
    if (source / "preprocessor_config.json").is_file():
        return load_extractor(source)
    return WhisperFeatureExtractor(
        feature_size=whisper.num_mel_bins, chunk_length=whisper.max_source_positions * 2 // 100
    )


def plan_qwen(source: Path, given: Mapping[str, object], tokenizer: Path | None) -> ConversionPlan:
    """Qwen version 1 on its own becomes Qwen2ForCausalLM."""
    where = str(source / "config.json")
    stored, layout = stored_tensors(source), Layout(llm="")
    config = released.qwen2_config(released.QwenOptions.read(given, where), where)
    with reading(where), torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    model = pieces(expected, layout.find_llm, stored, source)
    config.architectures = ["Qwen2ForCausalLM"]
    config.dtype = released.intended_dtype(given, stored[layout.find_llm("lm_head.weight").name])
    made, notes = find_tokenizer(source, tokenizer, config.vocab_size)
    generation = converted_generation(source, made, config)

    def finish(folder: Path) -> None:
        for part in (config, generation, made):
            if part is not None:
                part.save_pretrained(folder)

    report = ConvertReport("qwen", "qwen2", left_out=left_out(stored, model, layout), notes=notes)
    return ConversionPlan(report, stored, model, finish)
