"""A chat LLM in a GGUF file (llama.cpp, Ollama) as an ordinary folder: safetensors, tokenizer, chat template.

transformers dequantises it. What is checked here is that the file is whole, that its tensors are exactly those of the
model its options describe, and that nothing in it is a variant that transformers would read as another function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from re_llm.core.errors import RellmError
from re_llm.llm.vocabulary import require_words
from re_llm.model.convert.gguf_header import GgufHeader, read_header
from re_llm.model.convert.plan import ConversionPlan, ConvertReport, Target
from re_llm.model.hub import MAX_LAYERS
from re_llm.model.weights import Stored, quiet_loading

# Architectures that the tests compare with transformers; Mistral is stored as llama.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Their words were cut with every digit alone, which transformers does not do for a GGUF file.
SINGLE_DIGITS = ("command-r", "refact", "smollm", "starcoder")
# Ways of cutting words that transformers knows; the first two are GPT-2's, which it takes for any other name.
KNOWN_CUTS = ("default", "gpt-2", "llama-bpe", "qwen2", "tekken", *SINGLE_DIGITS)


def find_gguf(source: Path) -> Path | None:
    """The GGUF file that a path is, or that is the only one in a folder without a config.

    Raises:
        RellmError: there are several.
    """
    if source.is_file():
        return source if source.suffix == ".gguf" else None
    files = sorted(source.glob("*.gguf")) if not (source / "config.json").is_file() else []
    if len(files) > 1:
        raise RellmError(f"{source} holds several models", allowed=", ".join(file.name for file in files))
    return files[0] if files else None


def plan(path: Path) -> ConversionPlan:
    """What the conversion of a file will do. Reads the whole model, four bytes a weight.

    The weights become float16, in which GGUF keeps the scales of its blocks (measured: `docs/log.md`); bfloat16 when
    the file itself holds some or a weight is too large; float32 when it holds nothing else.

    Raises:
        RellmError: a broken file, or a model that transformers would not read as it is.
        MissingExtra: the package gguf is not installed.
    """
    header = read_header(path)
    _check_options(header, path)
    with _foreign(path), quiet_loading():
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        _check_sizes(header, config, path)
        tokenizer = _tokenizer(header, path)
        with redirect_stderr(StringIO()):  # a progress bar that cannot be turned off
            model, found = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, config=config, dtype=torch.float32, output_loading_info=True
            )
    if found["missing_keys"]:
        raise RellmError(f"{path} lacks the tensor {sorted(found['missing_keys'])[0]}")
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    weights = {name: value for name, value in model.state_dict().items() if name not in tied}
    dtype = _dtype(header, weights)
    config = model.config
    config.__dict__.pop("quantization_config", None)
    config.dtype, config.architectures = dtype, [type(model).__name__]

    def finish(folder: Path) -> None:
        config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    stored = {name: Stored(path, tuple(v.shape), v.dtype, lambda v=v: v) for name, v in weights.items()}  # type: ignore[misc]
    recipes = {
        name: Target((name,), lambda value: value.to(dtype), value.numel() * dtype.itemsize)
        for name, value in weights.items()
    }
    report = ConvertReport("gguf", config.model_type, notes=_notes(header, tokenizer, dtype))
    return ConversionPlan(report, stored, recipes, finish)


@contextmanager
def _foreign(path: Path) -> Iterator[None]:
    """Errors of other packages about an untrusted file, as one RellmError."""
    try:
        yield
    except (RellmError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RellmError(f"{path} cannot be read: {reason}") from error


def _check_options(header: GgufHeader, path: Path) -> None:
    """The model is one that transformers reads as the same function."""
    kind = header.text("general.architecture")
    if kind not in ARCHITECTURES:
        raise RellmError(
            f"{path} holds a model of the architecture {kind or 'none'!r}",
            allowed=", ".join(ARCHITECTURES),
            todo="Take the safetensors of its owner instead",
        )
    layers = header.options.get(f"{kind}.block_count")
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        raise RellmError(f"{path}: {kind}.block_count is {layers!r}", allowed=f"1 to {MAX_LAYERS}")
    scaled = header.text(f"{kind}.rope.scaling.type") not in ("", "none") or "rope_freqs.weight" in header.values
    if scaled or header.options.get(f"{kind}.expert_count"):
        what = "scales its rotary positions" if scaled else "is a mixture of experts"
        raise RellmError(
            f"{path} {what}, which cannot be converted exactly", todo="Take the safetensors of its owner instead"
        )


def _check_sizes(header: GgufHeader, config: Any, path: Path) -> None:
    """The tensors fill the model that the options describe: nothing is made that the file does not hold."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    needed, held = sum(value.numel() for value in model.parameters()), sum(header.values.values())
    if needed != held:
        raise RellmError(f"{path} holds {held} weights, and the model it describes has {needed}")


def _tokenizer(header: GgufHeader, path: Path) -> Any:
    from tokenizers import pre_tokenizers

    made = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    require_words(made, path)
    if header.text("tokenizer.ggml.model") == "gpt2" and header.text("tokenizer.ggml.pre") in SINGLE_DIGITS:
        digits, rest = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    return made


def _dtype(header: GgufHeader, weights: Mapping[str, Tensor]) -> torch.dtype:
    kinds = set(header.kinds.values())
    if kinds == {"F32"}:
        return torch.float32
    largest = max(float(value.abs().max()) for value in weights.values())
    return torch.bfloat16 if "BF16" in kinds or largest > torch.finfo(torch.float16).max else torch.float16


def _notes(header: GgufHeader, tokenizer: Any, dtype: torch.dtype) -> list[str]:
    kinds = ", ".join(sorted(set(header.kinds.values())))
    notes = [f"weights of type {kinds} are stored as {str(dtype).removeprefix('torch.')}"]
    if not tokenizer.chat_template:
        notes.append("no chat template in the file: a base model, or one that needs a template from its owner")
    cut = header.text("tokenizer.ggml.pre")
    if header.text("tokenizer.ggml.model") == "gpt2" and cut not in KNOWN_CUTS:
        notes.append(f"how the vocabulary {cut!r} cuts words is not known here: it may differ from its owner's")
    return notes
