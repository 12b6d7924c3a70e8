"""Damaged checkpoints and parts are refused with what is wrong in them, or they answer; nothing else escapes."""

import json

import pytest
import tiny_world
from fuzz_checkpoints import KINDS, respond, use_damaged, write_checkpoint

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_the_users_error(kind, tmp_path):
    """Seeded; `make campaign` reads thousands."""
    assert use_damaged(kind, tmp_path, seed=7, count=25) > 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), self_contained=True)


@pytest.mark.parametrize(
    ("file", "place", "value", "said"),
    [
        ("config.json", ("speech_token_id",), "1e400", "speech_token_id is inf"),
        ("config.json", ("emotions",), '"sad"', "emotions is 'sad'"),
        ("config.json", ("components", "llm"), "0.5", "components.llm is 0.5"),
        ("config.json", ("text_config", "num_hidden_layers"), "100000000", "num_hidden_layers is a number of 27 bits"),
        ("config.json", ("text_config", "hidden_size"), '{"a": []}', "hidden_size|cannot be used"),
        ("config.json", ("adapter", "kernel_size"), "[[[]]]", r"adapter\.kernel_size is|kernel_size is"),
        ("config.json", ("speech_config",), "[" * 5000 + "]" * 5000, "is no JSON"),
        ("generation_config.json", ("eos_token_id",), '"end"', "generation_config.json: eos_token_id"),
        ("generation_config.json", ("top_k",), '"many"', "generation_config.json: top_k is 'many'"),
        ("processor_config.json", ("feature_extractor", "n_fft"), "2147483647", "n_fft is a number of 31 bits"),
        ("processor_config.json", ("feature_extractor", "hop_length"), '"x"', "what prepares text and audio"),
        ("tokenizer_config.json", ("model_max_length",), '"x"', "what prepares text and audio"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(folder, file, place, value, said):
    path = folder / file
    content = path.read_bytes()
    given = inner = json.loads(content)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "HERE"
    path.write_text(json.dumps(given).replace('"HERE"', value))
    try:
        with pytest.raises(RellmError, match=said):
            respond(folder)
    finally:
        path.write_bytes(content)


def test_settings_without_effect_do_not_stop_a_training_at_its_end(tmp_path):
    """transformers reads them from an LLM's folder and refuses to write them again."""
    llm, whisper = tiny_world.save_llm(tmp_path / "llm"), tiny_world.save_whisper(tmp_path / "whisper")
    path = llm / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "top_p": 0.8, "temperature": 0.3}))
    model = ReLlmForConditionalGeneration.from_components(llm, whisper, adapter=tiny_world.ADAPTER)
    model.save_pretrained(tmp_path / "saved")
    assert model.generation_config.top_p is None
    path.write_text(json.dumps({"top_p": "high"}))
    with pytest.raises(RellmError, match=r"generation_config\.json: top_p is 'high'"):
        ReLlmForConditionalGeneration.from_components(llm, whisper, adapter=tiny_world.ADAPTER)


def test_code_beside_a_model_is_never_run_nor_asked_about(tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to run it."""
    llm, whisper = tiny_world.save_llm(tmp_path / "llm"), tiny_world.save_whisper(tmp_path / "whisper")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    path = llm / "config.json"
    content = path.read_text()
    path.write_text(json.dumps({**json.loads(content), "auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"}))
    with pytest.raises(RellmError, match="cannot be used"):
        ReLlmForConditionalGeneration.from_components(llm, whisper, adapter=tiny_world.ADAPTER)
    path.write_text(content)
    path = llm / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    assert ReLlmProcessor.from_components(llm, whisper, adapter=tiny_world.ADAPTER).speech_token_id > 0
