"""How well the miniature chat LLM answers unseen sentences, clean and disturbed.

Shapes: B rows, L tokens, D width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.llm.prompts import get_prompt
from re_llm.mini.grammar import Sentence, emotion_of, respond_to, right_topic, world
from re_llm.mini.training.llm_rows import CLEAN, TAUGHT, Disturbance, Row, RowSource, embed_rows

CONDITIONS = {
    "noise": replace(CLEAN, noise=0.5),
    "doubling": replace(CLEAN, double=1.0),
    "noise+doubling": replace(CLEAN, noise=0.5, double=1.0),
}
"""What the gate is measured under."""
GATED = ("continue", "continue-emotion", "chat-empathetic")
COUNT = 200  # of development sentences
BATCH = 100
NEW_TOKENS = 64


Item = tuple[Sentence, str]  # an unseen sentence, and the emotion that a prompt names where it names one


@torch.inference_mode()
def answer_rows(model: Any, source: RowSource, rows: Sequence[Row], how: Disturbance = CLEAN) -> list[str]:
    """Greedy answers to rows, the content of each disturbed with the strengths of `how`."""
    rng = random.Random(0)
    answers: list[str] = []
    for first in range(0, len(rows), BATCH):
        pieces = [(row.prefix, row.content, row.suffix) for row in rows[first : first + BATCH]]
        embeds, lengths = embed_rows(
            model.get_input_embeddings(), pieces, [how] * len(pieces), source.fillers, rng, pad_left=True
        )
        longest = embeds.shape[1]
        mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths]).long()
        out = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
        answers += source.tokenizer.batch_decode(out, skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def _items(world_size: int, seed: int) -> list[Item]:
    rng = random.Random(f"llm dev {seed}")
    unseen = [s for s in world(seed, world_size) if s.split == "dev"]
    return [(s, rng.choice(PROMPT_EMOTIONS)) for s in rng.sample(unseen, min(COUNT, len(unseen)))]


def _rate(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4) if hits else float("nan")


def _score_prompt(model: Any, source: RowSource, prompt_id: str, items: list[Item], how: Disturbance) -> dict:
    prompt = get_prompt(prompt_id)
    answers = answer_rows(model, source, [source.row(prompt, s, emotion, s.text) for s, emotion in items], how)
    exact = [a == respond_to(prompt_id, *item) for item, a in zip(items, answers, strict=True)]
    fits = [
        emotion_of(a) == (emotion if prompt.needs_emotion else s.words_emotion)
        for (s, emotion), a in zip(items, answers, strict=True)
    ]
    loud = [fit for (s, _), fit in zip(items, fits, strict=True) if s.words_emotion != "neutral"]
    scores = {"exact": _rate(exact), "emotion": _rate(fits), "emotion_when_told_by_words": _rate(loud)}
    if not prompt_id.startswith("recognize"):
        scores["topic"] = _rate([right_topic(a, s) for (s, _), a in zip(items, answers, strict=True)])
    return scores


def evaluate_llm(folder: str | Path, *, seed: int = 0, world_size: int = 24000) -> dict[str, Any]:
    """Scores of a saved LLM on unseen sentences.

    Returns:
        `prompts`: per prompt id the rates `exact`, `topic`, `emotion`, `emotion_when_told_by_words`;
        `disturbed`: per condition the same for three prompts; `gate`: the smallest topic rate under a condition.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    source = RowSource(tokenizer, [s for s in world(seed, world_size) if s.split == "train"], seed=seed)
    items = _items(world_size, seed)
    prompts = {name: _score_prompt(model, source, name, items, CLEAN) for name in TAUGHT}
    disturbed = {
        condition: {name: _score_prompt(model, source, name, items, how) for name in GATED}
        for condition, how in CONDITIONS.items()
    }
    gate = min(scores["topic"] for by_prompt in disturbed.values() for scores in by_prompt.values())
    return {"items": len(items), "prompts": prompts, "disturbed": disturbed, "gate": gate}
