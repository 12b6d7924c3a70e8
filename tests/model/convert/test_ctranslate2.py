"""Whisper of CTranslate2: the same function afterwards, and no harm from a file that lies."""

from __future__ import annotations

import json
import struct

import foreign_files as foreign
import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from typer.testing import CliRunner

from re_llm.audio.waveform import RATE
from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.inference.transcribe import Transcriber
from re_llm.model.convert.ctranslate2 import stored_variables
from re_llm.model.convert.run import convert


def logits(model, dtype=torch.float32):
    """Of one batch of features and words."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn((2, 80, 100), generator=draw)
    ids = torch.randint(0, 200, (2, 7), generator=draw)
    with torch.inference_mode():
        return model.to(dtype)(input_features=features.to(dtype), decoder_input_ids=ids).logits


def converted(tmp_path, model, kind, **options):
    source = foreign.faster_whisper(tmp_path / "source", model, kind)
    report = convert(source, tmp_path / "out", progress=False, **options)
    made, found = WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype="auto"
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return made.eval(), report


@pytest.mark.parametrize("tied", [True, False])
def test_float32_is_the_same_model(tmp_path, tied):
    model = foreign.whisper(tied=tied)
    made, report = converted(tmp_path, model, "float32")
    assert torch.equal(logits(made), logits(model))
    assert made.dtype == torch.float32 and (report.source, report.target) == ("ctranslate2", "whisper")
    assert report.tensors == len(model.state_dict()) - tied
    assert sorted(report.left_out) == ["decoder/activation", "decoder/num_heads", "encoder/num_heads"]


def test_float16_keeps_every_value(tmp_path):
    model = foreign.whisper().half()
    made, _ = converted(tmp_path, model.float(), "float16")
    assert made.dtype == torch.float16
    assert all(torch.equal(value, model.half().state_dict()[name]) for name, value in made.state_dict().items())


def test_int8_is_what_its_numbers_stand_for(tmp_path):
    model = foreign.whisper()
    made, _ = converted(tmp_path, model, "int8")
    for name, value in model.state_dict().items():
        step = value.abs().amax(-1, keepdim=True) / 127
        near = value.dim() == 2 and "positions" not in name
        assert ((made.state_dict()[name] - value).abs() <= (step * 0.501 if near else 0)).all(), name
    assert made.dtype == torch.float32


def test_the_processor_and_the_settings_of_decoding(tmp_path):
    made, _ = converted(tmp_path, foreign.whisper(), "float16")
    own, config = made.generation_config, made.config
    assert (own.eos_token_id, own.decoder_start_token_id, own.no_timestamps_token_id) == (256, 257, 265)
    assert (own.suppress_tokens, own.begin_suppress_tokens) == ([1, 2], [220, 256])
    assert own.alignment_heads == [[1, 2], [2, 0]] and own.is_multilingual is False and own.max_length == 32
    assert (config.encoder_layers, config.decoder_layers, config.decoder_attention_heads) == (2, 3, 4)
    processor = WhisperProcessor.from_pretrained(tmp_path / "out")
    tokenizer = processor.tokenizer
    assert len(tokenizer) == config.vocab_size and tokenizer.convert_tokens_to_ids("<|0.20|>") == 276
    ids = tokenizer("a b", add_special_tokens=False).input_ids
    assert tokenizer.decode([257, 266, *ids, 276, 256], skip_special_tokens=True) == "a b"
    assert tokenizer.decode([266, *ids, 276], decode_with_timestamps=True) == "<|0.00|>a b<|0.20|>"
    assert processor.feature_extractor.chunk_length == 1


def test_a_multilingual_one_knows_languages_and_tasks(tmp_path):
    made, _ = converted(tmp_path, foreign.whisper(words=51865), "float16")
    own = made.generation_config
    assert own.is_multilingual and own.lang_to_id == {"<|en|>": 51867, "<|de|>": 51868}
    assert own.task_to_id == {"transcribe": 51870, "translate": 51869}


def test_the_result_transcribes(tmp_path):
    converted(tmp_path, foreign.whisper(), "float16")
    transcriber = Transcriber.load(str(tmp_path / "out"), device="cpu")
    waves = [np.sin(np.arange(n) / 9).astype("float32") for n in (RATE // 2, RATE)]
    together, alone = transcriber.transcribe(waves), [transcriber.transcribe([wave])[0] for wave in waves]
    assert together == alone


def test_the_command(tmp_path):
    source = foreign.faster_whisper(tmp_path / "source", foreign.whisper())
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["target"] == "whisper" and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_tokenizer_from_elsewhere(tmp_path):
    source = foreign.faster_whisper(tmp_path / "source", foreign.whisper())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (source / "tokenizer.json").rename(elsewhere / "tokenizer.json")
    refused(source, r"there is no .*tokenizer\.json.*--tokenizer")
    convert(source, tmp_path / "out", tokenizer=elsewhere, progress=False)
    assert len(WhisperProcessor.from_pretrained(tmp_path / "out").tokenizer) == 277


# --- files that lie ---


@pytest.fixture
def source(tmp_path):
    return foreign.faster_whisper(tmp_path / "source", foreign.whisper())


def refused(source, expected, **options):
    """The conversion fails with this message and leaves nothing."""
    with pytest.raises(RellmError, match=expected):
        convert(source, source.parent / "out", progress=False, **options)
    assert not (source.parent / "out").exists() and not list(source.parent.glob(".out*"))


def rewritten(source, change=lambda found: None, aliases=(), **options):
    found = foreign.quantised(foreign.variables(foreign.whisper()), "float16")
    change(found)
    names = {"decoder/projection/weight": "decoder/embeddings/weight", **dict(aliases)}
    (source / "model.bin").write_bytes(foreign.model_bin(found, names, **options))


def test_cut_anywhere_it_is_refused(source):
    path = source / "model.bin"
    whole = path.read_bytes()
    for length in [*range(0, 400, 7), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(RellmError, match=r"not a whole Whisper of CTranslate2|its version is"):
            stored_variables(path)
    path.write_bytes(whole + b"x")
    refused(source, "1 bytes follow its end")


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"version": 5}, "its version is 5"), ({"spec": "TransformerSpec"}, "it holds a TransformerSpec")],
)
def test_another_format(source, options, expected):
    rewritten(source, **options)
    refused(source, expected)


def test_sizes_that_the_file_does_not_hold_allocate_nothing(source):
    path = source / "model.bin"
    whole = path.read_bytes()
    at = whole.index(b"decoder/embeddings/weight\0") + len(b"decoder/embeddings/weight\0")
    shape = struct.pack("<BII", 2, 277, 16)
    assert whole[at : at + 9] == shape
    path.write_bytes(whole[:at] + struct.pack("<BII", 2, 2**31, 2**31) + whole[at + 9 :])
    refused(source, r"decoder/embeddings/weight has the shape \[2147483648, 2147483648\] and \d+ bytes")
    claimed = struct.pack("<BIIBI", 2, 2**15, 2**15, 4, 2**31)
    path.write_bytes(whole[:at] + claimed + whole[at + 14 :])
    refused(source, "it ends at byte .*, and 2147483648 bytes should follow")


def test_a_name_that_is_none(source):
    rewritten(source, lambda found: found.update({"decoder/\x1b[2J": np.zeros(1, "float16")}))
    refused(source, "a name that cannot be printed")


def changed(name, value):
    return lambda found: found.update({name: value})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found.pop("encoder/layer_1/ffn/linear_1/bias"), "lacks encoder/layer_1/ffn/linear_1/bias"),
        (lambda found: found.pop("decoder/num_heads"), "lacks decoder/num_heads"),
        (changed("encoder/num_heads", np.int16(3)), "encoder/num_heads is 3"),
        (changed("encoder/num_heads", np.int16(0)), "encoder/num_heads is 0"),
        (
            changed("decoder/layer_norm/gamma", np.zeros(17, "float16")),
            r"decoder/layer_norm/gamma has the shape \[17\]",
        ),
        (changed("encoder/conv1/weight", np.zeros((16, 80), "float16")), "encoder/conv1/weight"),
        (changed("decoder/embeddings/weight", np.zeros((277, 16), "int8")), "has no scales for its 277 rows"),
        (changed("decoder/layer_0/ffn/linear_0/bias", np.zeros(40, "int8")), "has no scales"),
    ],
)
def test_variables_that_do_not_fit(source, change, expected):
    rewritten(source, change)
    refused(source, expected)


def test_a_scale_of_zero(source):
    def change(found):
        found["decoder/embeddings/weight"] = np.ones((277, 16), "int8")
        found["decoder/embeddings/weight_scale"] = np.zeros(277, "float32")

    rewritten(source, change)
    refused(source, "scale of 0")


def test_an_alias_of_nothing(source):
    rewritten(source, aliases={"a": "b"}.items())
    refused(source, "a cannot be another name of b")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"suppress_ids": [277]}, "suppress_ids is no list of token ids"),
        ({"suppress_ids_begin": "all"}, "suppress_ids_begin is no list"),
        ({"alignment_heads": [[3, 0]]}, "alignment_heads"),
        ({"alignment_heads": 5}, "alignment_heads"),
    ],
)
def test_settings_that_do_not_fit(source, given, expected):
    (source / "config.json").write_text(json.dumps(given))
    refused(source, expected)


def test_a_tokenizer_of_another_model(source):
    foreign.whisper_tokenizer(source / "tokenizer.json", words=300)
    refused(source, "ids up to 309, and the model 277 embeddings")
    (source / "tokenizer.json").write_text("{}")
    refused(source, r"tokenizer\.json cannot be read")
