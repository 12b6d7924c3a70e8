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
from re_llm.mini.dialogues import QUESTION_KINDS, Exchange, other_emotion, question, statement
from re_llm.mini.grammar import Sentence, emotion_of, gold_levels, respond_to, right_topic, topics_of, world
from re_llm.mini.training.llm_batches import CLEAN, Disturbance, embed_rows
from re_llm.mini.training.llm_rows import TAUGHT, Row, RowSource

CONDITIONS = {
    "noise": replace(CLEAN, noise=0.5),
    "doubling": replace(CLEAN, double=1.0),
    "noise+doubling": replace(CLEAN, noise=0.5, double=1.0),
}
"""What the gate is measured under."""
HARDEST = "noise+doubling"
DIALOGUE_PROMPT = "chat-empathetic"
GATED = ("continue", "continue-emotion", "chat-empathetic")
COUNT = 200  # of development sentences
BATCH = 100
NEW_TOKENS = 64


Item = tuple[Sentence, str]  # an unseen sentence, and the emotion that a prompt names where it names one


@torch.inference_mode()
def answer_rows(model: Any, source: RowSource, rows: Sequence[Row], how: Disturbance = CLEAN) -> list[str]:
    """Greedy answers to rows (to the last turn of each), the content of each disturbed with the strengths of `how`."""
    rng = random.Random(0)
    answers: list[str] = []
    for first in range(0, len(rows), BATCH):
        asked = [row[:-1] for row in rows[first : first + BATCH]]
        embedded = embed_rows(model.get_input_embeddings(), asked, lambda: how, source.fillers, rng, pad_left=True)
        longest = embedded.embeds.shape[1]
        mask = torch.stack([torch.arange(longest) >= longest - length for length in embedded.lengths]).long()
        out = model.generate(
            inputs_embeds=embedded.embeds, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False
        )
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


def _talks(source: RowSource, unseen: list[Sentence], prompt_id: str, earlier: int, seed: int) -> list[list[Exchange]]:
    """Conversations about unseen sentences; every earlier reply fits an emotion that its words do not have."""
    rng = random.Random(f"llm dialogues {seed} {earlier}")
    talks = []
    for _ in range(min(COUNT, len(unseen))):
        said = rng.sample(unseen, min(earlier + 1, len(unseen)))
        heard = [statement(prompt_id, s, other_emotion(s.words_emotion, rng), told=False) for s in said[:-1]]
        talks.append([*heard, statement(prompt_id, said[-1], said[-1].words_emotion, told=True)])
    return talks


def _score_dialogues(model: Any, source: RowSource, unseen: list[Sentence], how: Disturbance, seed: int) -> dict:
    """Rates over conversations under the prompt of chat and server.

    `turn N`: the Nth reply is the right one, names its topic, fits its words, is a whole reply of the world. `asked
    after N`: the answers to the questions about what was said before, after N turns.
    """
    prompt = get_prompt(DIALOGUE_PROMPT)
    scores: dict[str, dict[str, float]] = {}
    for earlier in (0, 1, source.most_earlier):
        talks = _talks(source, unseen, prompt.id, earlier, seed)
        answers = answer_rows(model, source, [source.dialogue(prompt, talk) for talk in talks], how)
        pairs = list(zip(answers, (talk[-1] for talk in talks), strict=True))
        scores[f"turn {earlier + 1}"] = {
            "exact": _rate([answer == last.answer for answer, last in pairs]),
            "topic": _rate([topics_of(answer) == {last.topic} for answer, last in pairs]),
            "emotion": _rate([emotion_of(answer) == last.emotion for answer, last in pairs]),
            "whole": _rate([gold_levels(answer) is not None for answer, _ in pairs]),
        }
        if earlier:
            scores[f"asked after {earlier}"] = {}
        for kind in QUESTION_KINDS if earlier else ():
            asked = [[*talk[:-1], question(kind, talk[:-1])] for talk in talks]
            answers = answer_rows(model, source, [source.dialogue(prompt, talk) for talk in asked], how)
            exact = [answer == talk[-1].answer for answer, talk in zip(answers, asked, strict=True)]
            scores[f"asked after {earlier}"][kind] = _rate(exact)
    return scores


def evaluate_llm(folder: str | Path, *, seed: int = 0, world_size: int = 24000) -> dict[str, Any]:
    """Scores of a saved LLM on unseen sentences.

    Returns:
        `prompts`: per prompt id the rates `exact`, `topic`, `emotion`, `emotion_when_told_by_words`;
        `disturbed`: per condition the same for three prompts; `dialogues`: rates over conversations, clean and
        disturbed; `gate`: the smallest topic rate under a condition.
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
    unseen = [s for s in world(seed, world_size) if s.split == "dev"]
    dialogues = {
        name: _score_dialogues(model, source, unseen, how, seed)
        for name, how in {"clean": CLEAN, HARDEST: CONDITIONS[HARDEST]}.items()
    }
    gate = min(scores["topic"] for by_prompt in disturbed.values() for scores in by_prompt.values())
    return {"items": len(items), "prompts": prompts, "disturbed": disturbed, "dialogues": dialogues, "gate": gate}
