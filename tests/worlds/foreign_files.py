"""Tiny models in the formats of CTranslate2 and llama.cpp, written here from models of transformers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, WhisperConfig, WhisperForConditionalGeneration

TYPES = {np.dtype("float32"): 0, np.dtype("int8"): 1, np.dtype("int16"): 2, np.dtype("float16"): 4}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WHISPER_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
TIMES = 11
TEXT = "The quick brown fox jumps over the lazy dog. It was 1984, and 25 cats sat there  12 hours long. "


# --- Whisper of CTranslate2 ---


def whisper(words: int = 256, *, tied: bool = True, seed: int = 0) -> WhisperForConditionalGeneration:
    """A complete Whisper with random weights; `words` ids before the special ones."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=words + len(WHISPER_TOKENS) + TIMES, d_model=16, encoder_layers=2, encoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_layers=3, decoder_attention_heads=4, decoder_ffn_dim=40, num_mel_bins=80,
        max_source_positions=50, max_target_positions=32, init_std=0.3, pad_token_id=words, bos_token_id=words,
        eos_token_id=words, decoder_start_token_id=words + 1, tie_word_embeddings=tied,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    for name, value in model.named_parameters():  # biases and norms are made as zeros and ones
        if value.dim() == 1:
            value.data += 0.1 * torch.randn(value.shape)
        assert value.dim() > 0, name
    return model


def whisper_tokenizer(path: Path, words: int = 256) -> None:
    """A tokenizer.json as faster-whisper has it: special tokens, and none for times."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {f"word{i}": i for i in range(256, words)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in WHISPER_TOKENS])
    backend.save(str(path))


def variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The model's tensors in CTranslate2's names, fused as there."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    found: dict[str, np.ndarray] = {}

    def linear(to: str, *names: str) -> None:
        weights = [state[f"{name}.weight"] for name in names]
        biases = [
            state.get(f"{name}.bias", np.zeros(len(w), "float32")) for name, w in zip(names, weights, strict=True)
        ]
        found[f"{to}/weight"], found[f"{to}/bias"] = np.concatenate(weights), np.concatenate(biases)

    def norm(to: str, name: str) -> None:
        found[f"{to}/gamma"], found[f"{to}/beta"] = state[f"{name}.weight"], state[f"{name}.bias"]

    for half in ("encoder", "decoder"):
        theirs, config = f"model.{half}", model.config
        found[f"{half}/position_encodings/encodings"] = state[f"{theirs}.embed_positions.weight"]
        found[f"{half}/num_heads"] = np.int16(getattr(config, f"{half}_attention_heads"))
        norm(f"{half}/layer_norm", f"{theirs}.layer_norm")
        for i in range(getattr(config, f"{half}_layers")):
            name, to = f"{theirs}.layers.{i}", f"{half}/layer_{i}"
            attention = f"{name}.self_attn"
            linear(f"{to}/self_attention/linear_0", *(f"{attention}.{each}_proj" for each in "qkv"))
            linear(f"{to}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{to}/self_attention/layer_norm", f"{name}.self_attn_layer_norm")
            linear(f"{to}/ffn/linear_0", f"{name}.fc1")
            linear(f"{to}/ffn/linear_1", f"{name}.fc2")
            norm(f"{to}/ffn/layer_norm", f"{name}.final_layer_norm")
            if half == "decoder":
                attention = f"{name}.encoder_attn"
                linear(f"{to}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{to}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{to}/attention/linear_2", f"{attention}.out_proj")
                norm(f"{to}/attention/layer_norm", f"{name}.encoder_attn_layer_norm")
    for i in (1, 2):
        linear(f"encoder/conv{i}", f"model.encoder.conv{i}")
    found["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    found["decoder/activation"] = np.int8(3)
    if not model.config.tie_word_embeddings:
        found["decoder/projection/weight"] = state["proj_out.weight"]
    return found


def quantised(found: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """`float32`, `float16`, or `int8` as CTranslate2 quantises: matrices, with a scale for each row."""
    result: dict[str, np.ndarray] = {}
    for name, value in found.items():
        if kind == "int8" and name.endswith("/weight") and value.ndim == 2:
            largest = np.abs(value).max(axis=1)
            scale = 127 / np.where(largest == 0, 127, largest)
            result[name] = np.rint(value * scale[:, None]).astype("int8")
            result[f"{name}_scale"] = scale.astype("float32")
        else:
            is_float = value.dtype.kind == "f"
            result[name] = value.astype("float16" if kind == "float16" else "float32") if is_float else value
    return result


def model_bin(
    found: dict[str, np.ndarray], aliases: dict[str, str], *, version: int = 6, spec: str = "WhisperSpec"
) -> bytes:
    """The bytes of a `model.bin`."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(spec), struct.pack("<II", 3, len(found))]
    for name, value in found.items():
        parts += [text(name), struct.pack("<B", value.ndim), struct.pack(f"<{value.ndim}I", *value.shape)]
        parts += [struct.pack("<BI", TYPES[value.dtype], value.nbytes), value.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [text(alias) + text(target) for alias, target in aliases.items()]
    return b"".join(parts)


def faster_whisper(folder: Path, model: WhisperForConditionalGeneration, kind: str = "float16") -> Path:
    """The whole folder."""
    folder.mkdir(parents=True)
    words = model.config.eos_token_id
    tied = model.config.tie_word_embeddings
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if tied else {}
    (folder / "model.bin").write_bytes(model_bin(quantised(variables(model), kind), aliases))
    config = {"suppress_ids": [1, 2], "suppress_ids_begin": [220, words], "alignment_heads": [[1, 2], [2, 0]]}
    (folder / "config.json").write_text(json.dumps({**config, "lang_ids": [words + 2, words + 3]}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "chunk_length": 1}))
    whisper_tokenizer(folder / "tokenizer.json", words)
    return folder


# --- chat LLMs of llama.cpp ---


def chat_llm(kind: str = "llama", *, tied: bool = True, seed: int = 0) -> Any:
    """A causal LM with random weights, of an architecture that GGUF knows; the vocabulary is `byte_tokenizer`'s."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    torch.manual_seed(seed)
    own = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind]
    config = own(
        vocab_size=len(byte_tokenizer()), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=2, rms_norm_eps=1e-5,
        rope_theta=50_000.0, head_dim={"qwen3": 128}.get(kind, 16),
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    for value in model.parameters():
        if value.dim() == 1:
            value.data += 0.1 * torch.randn(value.shape)
    return model


def byte_tokenizer(pre: str = "gpt-2") -> Any:
    """Byte-level BPE with ChatML's marks, cut into words as `smollm` or `gpt-2` does."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level]) if pre == "smollm" else level
    backend.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # Learned from one text, however it is cut: a space before a digit is merged, which shows the difference.
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = level
    learner.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=320, special_tokens=marks, initial_alphabet=alphabet, show_progress=False),
    )
    backend.model = learner.model
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )  # fmt: skip
    made.chat_template = CHAT_TEMPLATE
    return made


def gguf_file(
    path: Path, model: Any, kind: str = "F32", *, pre: str = "gpt-2", template: bool = True, **more: Any
) -> Path:
    """Writes a model and its tokenizer as llama.cpp's converter does.

    Args:
        kind: of the matrices; vectors stay float32.
        more: further options, by name.
    """
    import gguf

    config, own = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, own)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if own == "llama":
        writer.add_rope_dimension_count(16)
    _add_tokenizer(writer, byte_tokenizer(pre), pre, template)
    for name, value in more.items():
        writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[own.upper()], config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = value.float().numpy()
        if own == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            data = _halves_to_pairs(data, heads)
        held = gguf.GGMLQuantizationType[kind if data.ndim == 2 else "F32"]
        short, ending = name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(short)}.{ending}", gguf.quants.quantize(data, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, pre: str, template: bool) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token in special else 1 for token, _ in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template:
        writer.add_chat_template(tokenizer.chat_template)


def _halves_to_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring pairs of a head's rows, transformers its two halves."""
    inner = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, inner, -1).swapaxes(1, 2).reshape(weight.shape)
