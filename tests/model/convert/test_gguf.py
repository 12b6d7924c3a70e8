"""Chat LLMs in GGUF files: the same function and the same tokens afterwards, and no harm from a file that lies."""

from __future__ import annotations

import struct

import foreign_files as foreign
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import get_prompt
from re_llm.model.convert.gguf_header import read_header
from re_llm.model.convert.run import convert

pytest.importorskip("gguf")
IDS = torch.arange(40).reshape(2, 20) * 7 % 300
HARD = ("In 1984 there  25 were 12 cats.", "  3  4", "<|im_start|>user\nhi 5<|im_end|>\n", "é 🙂 ½", "12  34\n\n5")


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def loaded(folder, dtype="auto"):
    made, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return made.eval()


def converted(tmp_path, model, kind="F32", **options):
    file = foreign.gguf_file(tmp_path / "model.gguf", model, kind, **options)
    return convert(file, tmp_path / "out", progress=False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_float32_is_the_same_model(tmp_path, kind, tied):
    model = foreign.chat_llm(kind, tied=tied)
    report = converted(tmp_path, model)
    made = loaded(tmp_path / "out")
    assert torch.equal(logits(made), logits(model)) and made.dtype == torch.float32
    assert (report.source, report.target, report.tensors) == ("gguf", kind, len(model.state_dict()) - tied)
    assert made.config.tie_word_embeddings == tied and made.generation_config.eos_token_id == 2


def test_float16_keeps_every_matrix(tmp_path):
    model = foreign.chat_llm()
    converted(tmp_path, model, "F16")
    state = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(value.half(), state[name]) for name, value in model.state_dict().items())


def test_bfloat16_stays_bfloat16(tmp_path):
    model = foreign.chat_llm().bfloat16()
    converted(tmp_path, model, "BF16")
    state = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_0"])
def test_quantised_is_what_its_blocks_stand_for(tmp_path, kind):
    import gguf

    model = foreign.chat_llm("qwen2")
    report = converted(tmp_path, model, kind)
    held = gguf.GGMLQuantizationType[kind]
    made = loaded(tmp_path / "out")
    for name, value in made.state_dict().items():
        own = model.state_dict()[name].numpy()
        stands = gguf.quants.dequantize(gguf.quants.quantize(own, held), held) if own.ndim == 2 else own
        assert torch.equal(value, torch.from_numpy(stands.copy()).half()), name
    assert report.notes == [f"weights of type F32, {kind} are stored as float16"]


def test_a_weight_too_large_for_float16(tmp_path):
    model = foreign.chat_llm("qwen2")
    model.model.norm.weight.data[0] = 1e5
    converted(tmp_path, model, "Q8_0")
    assert loaded(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_the_same_tokens(tmp_path, pre):
    report = converted(tmp_path, foreign.chat_llm(), pre=pre)
    own, made = foreign.byte_tokenizer(pre), AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (*HARD, foreign.TEXT):
        assert made(text).input_ids == own(text).input_ids, text
        assert made.decode(made(text).input_ids) == text
    turn = [{"role": "user", "content": "hi 12"}]
    assert made.apply_chat_template(turn, tokenize=False) == own.apply_chat_template(turn, tokenize=False)
    assert made.special_tokens_map == own.special_tokens_map
    assert len(report.notes) == 1


def test_the_two_ways_of_cutting_differ():
    """Otherwise the test above would show nothing."""
    text = HARD[0]
    assert foreign.byte_tokenizer("smollm")(text).input_ids != foreign.byte_tokenizer("gpt-2")(text).input_ids


def test_what_is_not_known_is_noted(tmp_path):
    report = converted(tmp_path, foreign.chat_llm(), pre="klingon", template=False)
    assert "no chat template" in report.notes[1] and "'klingon'" in report.notes[2]


def test_the_result_answers(tmp_path):
    converted(tmp_path, foreign.chat_llm())
    llm = ChatLlm.load(str(tmp_path / "out"), device="cpu")
    rows = [(get_prompt("chat-empathetic"), text) for text in ("Hello there", "It rained.")]
    assert llm.answer(rows, max_new_tokens=5) == [llm.answer([row], max_new_tokens=5)[0] for row in rows]


def test_a_folder_and_the_command(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    foreign.gguf_file(folder / "model.gguf", foreign.chat_llm())
    done = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "gguf -> llama" in done.stdout and done.stderr == ""
    foreign.gguf_file(folder / "other.gguf", foreign.chat_llm())
    with pytest.raises(RellmError, match=r"several models\. Allowed: model\.gguf, other\.gguf"):
        convert(folder, tmp_path / "again", progress=False)


# --- files that lie ---


@pytest.fixture
def file(tmp_path):
    return foreign.gguf_file(tmp_path / "model.gguf", foreign.chat_llm(), "Q8_0")


def refused(file, expected):
    """The conversion fails with this message and leaves nothing."""
    with pytest.raises(RellmError, match=expected):
        convert(file, file.parent / "out", progress=False)
    assert not (file.parent / "out").exists() and not list(file.parent.glob(".out*"))


def test_cut_anywhere_it_is_refused(file):
    whole = file.read_bytes()
    for length in [*range(0, 3000, 53), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(RellmError, match="is not a whole GGUF file: it ends at byte"):
            read_header(file)


@pytest.mark.parametrize(
    ("at", "new", "expected"),
    [
        (0, b"GGUX", "does not begin with GGUF"),
        (4, struct.pack("<I", 9), "its version is 9"),
        (8, struct.pack("<Q", 2**62), "not a whole GGUF file"),
        (16, struct.pack("<Q", 2**62), "not a whole GGUF file"),
        (24, struct.pack("<Q", 2**62), "a name of 4611686018427387904 bytes"),
    ],
)
def test_a_header_that_lies(file, at, new, expected):
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + new + whole[at + len(new) :])
    refused(file, expected)


def test_a_tensor_that_the_file_does_not_hold(file):
    whole = file.read_bytes()
    at = whole.index(b"token_embd.weight") + len("token_embd.weight") + 4
    file.write_bytes(whole[:at] + struct.pack("<QQ", 2**40, 2**20) + whole[at + 16 :])
    refused(file, "within token_embd.weight")
    file.write_bytes(whole[: at + 16] + struct.pack("<I", 999) + whole[at + 20 :])
    refused(file, "of the unknown type 999")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("llama.block_count", 2**31, r"llama\.block_count is 2147483648"),
        ("llama.block_count", 1, "weights, and the model it describes has"),
        ("llama.embedding_length", 2**31 - 64, "weights, and the model it describes has"),
        ("llama.feed_forward_length", 2**31, "weights, and the model it describes has"),
        ("llama.attention.head_count", 0, "cannot be read"),
    ],
)
def test_options_that_the_tensors_do_not_fill(file, name, value, expected):
    """No model is made that is larger than the file."""
    whole = file.read_bytes()
    at = whole.index(name.encode()) + len(name)
    assert whole[at : at + 4] == struct.pack("<I", 4)
    file.write_bytes(whole[: at + 4] + struct.pack("<I", value) + whole[at + 8 :])
    refused(file, expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "scales its rotary positions"),
        ({"llama.expert_count": 8}, "is a mixture of experts"),
    ],
)
def test_a_variant_that_would_become_another_function(tmp_path, more, expected):
    refused(foreign.gguf_file(tmp_path / "model.gguf", foreign.chat_llm(), **more), expected)


def test_an_architecture_that_is_not_known(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "model.gguf", "architecture 'mamba'.*Allowed: llama, qwen2, qwen3")


def test_without_the_package(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    refused(file, r"needs the package gguf.*re-llm\[small\]")
