"""An adapter that knows its number of tokens only after hearing, in everything that users do with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import golden_world as golden
import pytest
import soundfile
import tiny_world
import torch
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.convert.run import convert
from re_llm.model.outputs import SpeechTokens
from re_llm.model.rows import expand_rows

CFORMER = {"adapter": {"kind": "cformer", "pre_layers": 1, "post_layers": 1}}
WAVES = [tiny_world.wave(0.7, 1), tiny_world.wave(2.3, 2), tiny_world.wave(1.2, 3)]
PAD = 0  # of the tiny tokenizer: <|endoftext|>
CONVERSATION = [{"role": "user", "content": [{"type": "text", "text": "Hm? "}, {"type": "audio", "audio": WAVES[0]}]}]


@pytest.fixture(scope="module", params=[True, False], ids=["with an emotion encoder", "without"])
def checkpoint(request, world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cformer")
    model = world.model(emotion=request.param, **CFORMER)
    model.adapter.pre_cif_layers[0].fc2.bias.data[-1] = -0.5  # a few states a token
    model.save_pretrained(folder)
    world.processor(emotion=request.param, **CFORMER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint) -> engine.Engine:
    return engine.load(checkpoint, device="cpu")


def test_what_is_saved_is_what_is_loaded(loaded, tmp_path):
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = engine.load(tmp_path, device="cpu")
    assert again.model.config.adapter.kind == "cformer"
    first, second = (each.encode(WAVES[:1])[0].embeddings for each in (loaded, again))
    assert torch.equal(first, second)
    assert loaded.respond(WAVES[0], max_new_tokens=8) == again.respond(WAVES[0], max_new_tokens=8)


def test_many_equal_one_by_one(loaded):
    heard = loaded.encode(WAVES)
    counts = [len(each.embeddings) for each in heard]
    assert len(set(counts)) > 1 and min(counts) >= 1
    for wave, reply in zip(WAVES, loaded.respond_many(WAVES, batch_size=3, max_new_tokens=8), strict=True):
        alone = loaded.respond(wave, max_new_tokens=8)
        assert (reply.response, reply.tokens) == (alone.response, alone.tokens)
        assert reply.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert "".join(loaded.stream(WAVES[1], max_new_tokens=8)) == loaded.respond(WAVES[1], max_new_tokens=8).response
    assert loaded.recognize(WAVES[2]).answer is not None


def test_the_cache_changes_nothing(loaded):
    """Cached keys and values against computing every row anew, and cached encoder states against recordings."""
    inputs = loaded.processor.apply_chat_template(CONVERSATION, tokenize=True, add_generation_prompt=True)
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": loaded.stops, "pad_token_id": PAD}
    with_cache, without = (loaded.model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert with_cache.tolist() == without.tolist()
    audio = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoded = loaded.model.encode_audio(**audio)
    assert loaded.model.generate(**rows, speech=encoded, **options).tolist() == with_cache.tolist()


def test_generate_expands_one_placeholder_per_recording(loaded):
    """The processor leaves one; the returned rows begin with what was given, so that slicing works as ever."""
    model, processor = loaded.model, loaded.processor
    texts = ["hear <|speech|> now", "<|speech|>", "a longer question about <|speech|> please"]
    inputs = processor(text=texts, audio=WAVES)
    assert (inputs["input_ids"] == model.config.speech_token_id).sum(1).tolist() == [1, 1, 1]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": loaded.stops, "pad_token_id": PAD}
    found = model.generate(**inputs, **options)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(found[:, :width], inputs["input_ids"])
    for i, text in enumerate(texts):
        one = processor(text=text, audio=WAVES[i])
        alone = model.generate(**one, **options)[0, one["input_ids"].shape[1] :].tolist()
        assert found[i, width:].tolist()[: len(alone)] == alone
    as_object = model.generate(**inputs, **options, return_dict_in_generate=True, num_return_sequences=1)
    assert torch.equal(as_object.sequences, found)
    beams = model.generate(**inputs, **options, num_beams=2, num_return_sequences=2)
    assert beams.shape[0] == 6 and torch.equal(beams[1, :width], inputs["input_ids"][0])


def test_rows_that_do_not_fit_the_recordings_are_refused(loaded):
    model, processor = loaded.model, loaded.processor
    inputs = processor(text="hear <|speech|>", audio=WAVES[0])
    twice = torch.cat([inputs["input_ids"], inputs["input_ids"]], dim=1)
    count = len(loaded.encode(WAVES[:1])[0].embeddings)
    assert count not in (1, 2)
    audio = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    with pytest.raises(RellmError, match="2 speech placeholders, and there are 1 recordings"):
        model.generate(input_ids=twice, attention_mask=torch.ones_like(twice), **audio)
    with pytest.raises(RellmError, match=f"1 speech placeholders, its audio gives {count} speech tokens"):
        model(**inputs)  # a single pass returns logits by position: its rows are laid out beforehand


def test_expanded_rows_are_padded_on_the_left():
    rows, mask = torch.tensor([[7, 1, 9, 2], [0, 3, 9, 4]]), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    ids, keep = expand_rows(rows, mask, 9, [3, 1])
    assert ids.tolist() == [[7, 1, 9, 9, 9, 2], [0, 0, 0, 3, 9, 4]]
    assert keep.tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_a_conversation_holds_its_recordings(loaded):
    """Two recordings in one row, each with its own number of tokens."""
    text = "first <|speech|> then <|speech|>."
    inputs = loaded.processor(text=text, audio=WAVES[:2])
    found = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=PAD)
    heard = loaded.encode(WAVES[:2])
    pieces = text.split("<|speech|>")
    row = loaded.processor.row([pieces[0], len(heard[0].embeddings), pieces[1], len(heard[1].embeddings), pieces[2]])
    by_hand = loaded.model.generate(
        input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)).long(),
        speech=SpeechTokens(
            torch.cat([each.embeddings for each in heard])[None], torch.tensor([sum(len(h.embeddings) for h in heard)])
        ),
        max_new_tokens=4, do_sample=False, pad_token_id=PAD,
    )  # fmt: skip
    assert found[0, inputs["input_ids"].shape[1] :].tolist() == by_hand[0, len(row) :].tolist()


def test_golden_cformer_answers_on_the_command_line(tmp_path):
    """A released checkpoint with a CFormer, converted with a tokenizer, through `re-llm respond`."""
    tokenizer = tiny_world.tokenizer()
    if len(tokenizer) >= golden.speech_id("blsp_c_cformer"):
        return  # a set whose vocabulary has no room for the letters of the prompts
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    convert(golden.FOLDER / "blsp_c_cformer", tmp_path / "model", tokenizer=tmp_path / "tokenizer", progress=False)
    assert ReLlmProcessor.from_pretrained(tmp_path / "model").adapter["kind"] == "cformer"
    for i, wave in enumerate(golden.waves()):
        soundfile.write(tmp_path / f"{i}.wav", wave, 16_000, subtype="FLOAT")
    recordings = [str(tmp_path / f"{i}.wav") for i in range(len(golden.waves()))]
    out = tmp_path / "replies.jsonl"
    arguments = ["respond", *recordings, "--model", str(tmp_path / "model"), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "6"])
    assert result.exit_code == 0, result.output
    replies = {Path(row["audio"]).name: row for row in map(json.loads, out.read_text().splitlines())}
    model = engine.load(tmp_path / "model", device="cpu")
    assert isinstance(model.model, ReLlmForConditionalGeneration)
    for name, row in replies.items():
        assert row["response"] == model.respond(tmp_path / name, max_new_tokens=6).response
    assert len(replies) == len(recordings)
