"""The LLM is given the speech tokens in which something is said."""

from dataclasses import replace

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.inference.careful import read_out
from re_llm.inference.engine import Engine
from re_llm.model import ReLlmForConditionalGeneration
from re_llm.model.configuration import SPEECH_TOKEN
from re_llm.model.outputs import SpeechTokens
from re_llm.model.reading import only_spoken
from re_llm.model.rows import without_tokens
from re_llm.recipe.options import AdapterOptions

SPOKEN = {**tiny_world.ADAPTER, "spoken_only": True}


def test_the_tokens_with_words_stay_in_their_order():
    embeddings = torch.arange(1.0, 9).view(2, 4, 1) * torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])[..., None]
    given = SpeechTokens(embeddings, torch.tensor([4, 2]), torch.zeros(2, 1))
    found = only_spoken(given, torch.tensor([False, True, False, True, True, False]))
    assert found.embeddings[..., 0].tolist() == [[2, 4], [5, 0]] and found.lengths.tolist() == [2, 1]
    assert found.all is given and found.kept.tolist() == [[False, True, False, True], [True, False, False, False]]
    assert given.all is given
    silent = only_spoken(given, torch.zeros(6, dtype=torch.bool))
    assert silent.embeddings[..., 0].tolist() == [[1], [5]]  # a row needs one


def test_rows_close_up_and_places_move_with_them():
    ids = torch.tensor([[9, 9, 9, 5, 6, 7], [9, 9, 8, 4, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]])  # one opening in front
    kept = torch.tensor([False, True, False, False, True])
    found, whole, at = without_tokens(ids, mask, ids == 9, kept, torch.tensor([3, 5, 8, 10]))
    assert found.tolist() == [[9, 5, 6, 7], [9, 8, 4, 3]]
    assert whole.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert found.flatten()[at].tolist() == [5, 7, 8, 3]


@pytest.fixture
def spoken(world):
    model = world.model(adapter=SPOKEN)
    model.add_ctc_blank()
    with torch.no_grad():  # the blank is the likeliest in about half of the tokens
        tokens = Engine(model, world.processor(adapter=SPOKEN)).encode([tiny_world.wave(3.0, 2)])[0].heard
        scores = (tokens @ model.get_input_embeddings().weight.T).amax(-1)
        model.ctc_blank.copy_(tokens.mean(0) * float(scores.median() / tokens.mean(0).square().sum()))
    return model


@torch.inference_mode()
def test_the_llm_is_given_what_is_said_and_rules_read_all(spoken, world):
    waves = [tiny_world.wave(3.0, 2), tiny_world.wave(1.5, 1)]
    engine = Engine(spoken, world.processor(adapter=SPOKEN))
    for encoded in engine.encode(waves):
        ids = spoken.read_tokens(encoded.heard).ids
        assert 0 < len(encoded.embeddings) < len(encoded.heard)
        torch.testing.assert_close(encoded.embeddings, encoded.heard[ids >= 0])
        assert read_out(spoken, encoded.heard).ids == [i for i in ids.unique_consecutive().tolist() if i >= 0]
    long = engine.encode([tiny_world.wave(40.0, 2)])[0]
    assert len(long.embeddings) < len(long.heard) and long.estimate.trajectory


def test_generate_and_engine_agree(spoken, world):
    wave, processor = tiny_world.wave(3.0, 2), world.processor(adapter=SPOKEN)
    inputs = processor(text=f"a {SPEECH_TOKEN} b", audio=wave, return_tensors="pt")
    assert (inputs["input_ids"] == spoken.config.speech_token_id).sum() == 1  # counted once it has been read
    found = spoken.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    engine = Engine(spoken, processor)
    (encoded,) = engine.encode([wave])
    before, after = inputs["input_ids"][0].tolist(), []
    at = before.index(spoken.config.speech_token_id)
    before, after = before[:at], before[at + 1 :]
    ids = [*before, *[spoken.config.speech_token_id] * len(encoded.embeddings), *after]
    speech = SpeechTokens(encoded.embeddings[None], torch.tensor([len(encoded.embeddings)]))
    logits = spoken(torch.tensor([ids]), speech=speech).logits[0, -1]
    assert int(logits.argmax()) == int(found[0])


def test_it_starts_from_a_checkpoint_that_gave_all_and_is_saved(spoken, world, tmp_path):
    before = world.model()
    before.add_ctc_blank()
    before.save_pretrained(tmp_path / "all")
    model = world.model(adapter=SPOKEN, start=tmp_path / "all")
    for name, tensor in before.adapter.state_dict().items():
        torch.testing.assert_close(model.adapter.state_dict()[name], tensor)
    spoken.save_pretrained(tmp_path / "spoken")
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "spoken")
    assert again.config.adapter.spoken_only
    wave = [tiny_world.wave(2.0, 2)]
    given = [Engine(m, world.processor(adapter=SPOKEN)).encode(wave)[0].embeddings for m in (spoken, again)]
    torch.testing.assert_close(*given)


def test_without_a_blank_it_cannot_be_told(world):
    engine = Engine(world.model(adapter=SPOKEN), world.processor(adapter=SPOKEN))
    with pytest.raises(RellmError, match="no CTC blank"):
        engine.encode([tiny_world.wave(2.0, 2)])
    with pytest.raises(ValueError, match="spoken_only is no option of an adapter of the kind 'cformer'"):
        AdapterOptions(kind="cformer", spoken_only=True)
    assert replace(SpeechTokens(torch.zeros(1, 1, 1), torch.ones(1)), heard=None).heard is None
