"""Figures of a speech LLM, and what stands in its speech tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from re_llm.core.errors import RellmError
from re_llm.inference.careful import read_out
from re_llm.llm.packed import pack
from re_llm.model import reading
from re_llm.small.check_speech import Checked, check_speech, figures

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
REPLIES = {
    "neutral": "All right, let us talk about the dog.",
    "sad": "I'm so sorry about the dog.",
    "angry": "You have every right to be angry about the dog.",
    "happy": "How wonderful, the dog makes you smile!",
    "surprise": "Wow, what a surprise about the dog!",
}


def checked(emotion: str | None, **changes: object) -> Checked:
    given = {
        "key": str(emotion), "text": "The dog barked.", "read": "the dog barked", "repeat": "The dog barked.",
        "reply": REPLIES[emotion or "neutral"], "speaker": "a", "emotion": emotion,
        "predicted_emotion": emotion, "named_emotion": emotion,
    }  # fmt: skip
    return Checked(**{**given, **changes})


def test_a_model_that_does_everything_right() -> None:
    found = figures([checked(emotion) for emotion in EMOTIONS])
    assert (found.word_errors, found.repeated, found.topic) == (0.0, 1.0, 1.0)
    assert (found.ua_prompt, found.ua_head, found.tone, found.four_of_five) == (1.0, 1.0, 1.0, 1.0)


def test_each_figure_sees_its_fault() -> None:
    wrong = [checked("sad", named_emotion="happy"), checked("sad"), checked("happy", predicted_emotion="sad")]
    found = figures(wrong)
    assert (found.ua_prompt, found.ua_head) == (0.75, 0.5)
    assert found.four_of_five is None  # not all five emotions
    assert figures([checked("sad", read="a cat barked")]).word_errors == pytest.approx(2 / 3)
    assert figures([checked("sad", repeat="The cat barked.")]).repeated == 0.5
    assert figures([checked("sad", reply="I'm so sorry.")]).topic == 0.0


def test_four_of_five_is_counted_by_speaker_and_text() -> None:
    one_wrong = [checked(e, reply=REPLIES["sad"] if e == "happy" else REPLIES[e]) for e in EMOTIONS]
    two_wrong = [
        checked(e, speaker="b", reply=REPLIES["sad"] if e in ("happy", "angry") else REPLIES[e]) for e in EMOTIONS
    ]
    assert figures(one_wrong).four_of_five == 1.0
    assert figures([*one_wrong, *two_wrong]).four_of_five == 0.5


def test_without_labels_only_words_are_measured() -> None:
    found = figures([checked(None)])
    assert (found.ua_prompt, found.ua_head, found.tone, found.four_of_five) == (None, None, None, None)
    assert "ua_prompt" not in found.summary() and "word_errors 0.000" in found.summary()


@pytest.mark.parametrize("tokens_at_once", [64, 2, 1])
def test_words_are_read_out_of_the_tokens_as_ctc_writes_them(
    tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", tokens_at_once)  # minutes of speech have thousands
    blank, vocabulary = torch.eye(5)[4], torch.nn.Parameter(torch.eye(5)[:4])
    untied = torch.nn.Linear(5, 4, bias=False)
    model = SimpleNamespace(read_tokens=lambda tokens: reading.likeliest(tokens, vocabulary, untied, blank))
    tokens = torch.eye(5)[[4, 1, 1, 4, 1, 2, 2, 4]]
    found = read_out(model, 20 * tokens)
    assert found.ids == [1, 1, 2] and found.confidence == pytest.approx(1.0, abs=1e-6)
    assert 0.3 < read_out(model, tokens).confidence < 0.5 and read_out(model, tokens[:1]) == ([], 0.0)
    without = SimpleNamespace(model=SimpleNamespace(ctc_blank=None))
    with pytest.raises(RellmError, match="no CTC blank"):
        check_speech(without, [], [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tied_output_layer_finds_the_words_that_float32_finds(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embed, output = torch.nn.Embedding(300, 64), torch.nn.Linear(64, 300, bias=False)
    output.weight = embed.weight
    both = torch.nn.ModuleList([embed, output]).to(dtype)
    pack(both)
    blank = torch.randn(64)
    model = SimpleNamespace(read_tokens=lambda tokens: reading.likeliest(tokens, embed.weight, output, blank))
    tokens = 0.3 * (torch.cat([embed.weight.float(), blank[None]])[torch.randint(0, 301, (50,))] + torch.randn(50, 64))
    scores = tokens @ torch.cat([embed.weight.float(), blank[None]]).T
    best = scores.argmax(-1)
    found = read_out(model, tokens)
    assert found.ids == [token for token in best.unique_consecutive().tolist() if token != 300]
    wanted = scores.softmax(-1).amax(-1)[best != 300].mean()
    assert found.confidence == pytest.approx(float(wanted.detach()), abs=2e-3)
    assert "weight" in output._parameters  # nobody has unpacked it
