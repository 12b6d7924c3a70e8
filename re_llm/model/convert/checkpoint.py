"""A released checkpoint of BLSP-Emo or RE-LLM as a checkpoint of this package; Qwen version 1 as Qwen2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, WhisperFeatureExtractor

from re_llm.core.errors import RellmError
from re_llm.model import partial_lora, sizes
from re_llm.model.configuration import SPEECH_TOKEN, ReLlmConfig
from re_llm.model.convert import config as convert_config
from re_llm.model.convert.config import stored_dtype
from re_llm.model.convert.job import Job, pieces, rest
from re_llm.model.convert.names import Layout
from re_llm.model.convert.tokenizer import find_tokenizer, generation_config
from re_llm.model.emotion_encoder import head_outputs
from re_llm.model.processing import ReLlmProcessor, add_speech_token, emotion_input_kind
from re_llm.model.storage import own_weights
from re_llm.model.stored import Stored, stored_tensors

_EMBEDDED = "w2v2."


def plan(source: Path, given: Mapping[str, Any], emotion_folder: Path | None, tokenizer_folder: Path | None) -> Job:
    """What the conversion will do.

    Args:
        given: the source's config.json.
        emotion_folder, tokenizer_folder: see `re_llm.model.convert.run.convert`.

    Raises:
        RellmError: see there.
    """
    where = str(source / "config.json")
    stored = stored_tensors(source)
    cformer = given.get("adapter_type") == "cformer"
    layout = Layout.of(stored, plain_adapter=cformer)
    emotion, outputs, extra = _emotion(layout, stored, emotion_folder, source)
    stored = {**stored, **extra}
    layout = Layout.of(stored, plain_adapter=cformer)
    text = convert_config.qwen2_config(given["qwen_config"], f"{where}, qwen_config")
    tokenizer, notes = find_tokenizer(source, tokenizer_folder, text.vocab_size)
    generation = generation_config(tokenizer, text)
    head = stored.get("hidden2emotion.weight")
    emotions = convert_config.Options(given, where).whole("num_emotions", head.shape[0] if head else 5)
    config = ReLlmConfig(
        text_config=text,
        speech_config=convert_config.whisper_config(given["whisper_config"], f"{where}, whisper_config"),
        emotion_config=emotion,
        emotion_outputs=outputs,
        adapter=convert_config.adapter_settings(given, where, _feed_forward(stored, layout)),
        emotions=convert_config.emotion_names(emotions),
        speech_token_id=_speech_token(tokenizer, text.vocab_size),
        dtype=stored_dtype(given, stored.get(f"{layout.llm}lm_head.weight") or next(iter(stored.values()))),
    )
    lora = convert_config.lora_settings(given, where)
    with torch.device("meta"):
        model = config_model(config)
        if lora is not None:
            model.add_lora(lora)
    expected = own_weights(model, model.state_dict(), {})
    added = _added(expected, stored, layout)
    found = pieces({k: v for k, v in expected.items() if k not in added}, layout.find, stored, source)
    below = {k.removeprefix("language_model."): v for k, v in model.state_dict().items() if ".lora_" in k}
    peft = pieces(partial_lora.split_weights(below)[1], layout.find_lora, stored, source)
    if "dimension_head.weight" in added:
        notes.append("BLSP-Emo has no dimensional head: valence, arousal and dominance are 0 until it is trained")
    job = Job(
        source="re-llm (released)" if layout.fused else "blsp-emo",
        target="re-llm",
        stored=stored,
        model=found,
        finish=lambda folder: _finish(folder, model, generation, source, emotion_folder, tokenizer),
        lora=peft,
        added=added,
        left_out=rest(stored, found | peft, layout),
        notes=notes,
    )
    if config.speech_token_id < text.vocab_size:
        generation.suppress_tokens = [config.speech_token_id]
    return job


def _feed_forward(stored: Mapping[str, Stored], layout: Layout) -> int | None:
    """Inner width of a CFormer's layers."""
    first = stored.get(f"{layout.adapter}pre_cif_layers.0.fc1.weight")
    return first.shape[0] if first is not None else None


def config_model(config: ReLlmConfig) -> Any:
    """The model of a config; inside `torch.device("meta")` it has shapes and no values."""
    from re_llm.model.modeling import ReLlmForConditionalGeneration

    return ReLlmForConditionalGeneration(config)


def _speech_token(tokenizer: Any, vocab_size: int) -> int:
    """Id of the placeholder; behind the vocabulary when there is no tokenizer."""
    if tokenizer is None:
        return vocab_size
    add_speech_token(tokenizer)
    return int(tokenizer.convert_tokens_to_ids(SPEECH_TOKEN))


def _emotion(
    layout: Layout, stored: Mapping[str, Stored], folder: Path | None, source: Path
) -> tuple[Any, list[str] | None, dict[str, Stored]]:
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
    from re_llm.model.components import read_config

    config = read_config(folder)
    extra = {} if embedded else {_EMBEDDED + name: value for name, value in stored_tensors(folder).items()}
    names = {name.removeprefix(_EMBEDDED): value for name, value in {**stored, **extra}.items()}
    return config, head_outputs(config, {name: value.meta() for name, value in names.items()}), extra


def _added(expected: Mapping[str, Any], stored: Mapping[str, Stored], layout: Layout) -> dict[str, Any]:
    """Parts that the source never had, as zeros: BLSP-Emo's dimensional head, a mask vector of SpecAugment."""
    optional = ["emotion_encoder.backbone.masked_spec_embed"] + ["dimension_head.weight"] * (not layout.fused)
    return {
        name: torch.zeros(expected[name].shape)
        for name in optional
        if name in expected and layout.find(name).name not in stored
    }


def _finish(
    folder: Path, model: Any, generation: Any, source: Path, emotion_folder: Path | None, tokenizer: Any
) -> None:
    """Config, PEFT config, generation config and processor."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    if config.lora is not None:
        peft = model.language_model.peft_config[partial_lora.ADAPTER_NAME]
        peft.inference_mode = True
        peft.base_model_name_or_path = None
        peft.save_pretrained(folder)
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


def feature_extractor(source: Path, whisper: Any) -> WhisperFeatureExtractor:
    """Whisper's, from the source or by its config: one window is `max_source_positions` states of 20 ms."""
    if (source / "preprocessor_config.json").is_file():
        return WhisperFeatureExtractor.from_pretrained(source)
    return WhisperFeatureExtractor(
        feature_size=whisper.num_mel_bins, chunk_length=whisper.max_source_positions * 2 // 100
    )


def plan_qwen(source: Path, given: Mapping[str, Any], tokenizer: Path | None) -> Job:
    """Qwen version 1 on its own becomes Qwen2ForCausalLM."""
    stored = stored_tensors(source)
    config = convert_config.qwen2_config(given, str(source / "config.json"))
    layout = Layout(llm="")
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    model = pieces(expected, layout.find_llm, stored, source)
    config.architectures = ["Qwen2ForCausalLM"]
    config.dtype = stored_dtype(given, stored[layout.find_llm("lm_head.weight").name])
    made, notes = find_tokenizer(source, tokenizer, config.vocab_size)
    generation = generation_config(made, config)

    def finish(folder: Path) -> None:
        config.save_pretrained(folder)
        generation.save_pretrained(folder)
        if made is not None:
            made.save_pretrained(folder)

    left_out = rest(stored, model, layout)
    return Job("qwen", "qwen2", stored, model, finish, left_out=left_out, notes=notes)
