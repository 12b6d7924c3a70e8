"""What `teacher_top_k` costs: the divergence from a teacher whose k likeliest tokens are kept, beside the whole one.

The miniature hears its own recordings, and its LLM reads their transcripts with the emotion that they were spoken with.
Printed for each k: the divergence by that of the whole vocabulary, the length of what they differ in by that of the
gradient with respect to the student's logits, its cosine, and bytes of a response token on disk.

    python benchmarks/teacher_top_k.py
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
from _common import head
from torch import Tensor
from torch.nn.functional import cosine_similarity

from re_llm.audio import waveform
from re_llm.inference.engine import Engine, load, shipped_recordings
from re_llm.llm.prompts import get_prompt, split_chat
from re_llm.model import losses
from re_llm.model.predictions import Predictions, TopTokens

TEMPERATURE = 2.0
KEPT = (1, 8, 32, 128)


def logits(engine: Engine, recording: str, sentence: str, emotion: str) -> tuple[Tensor, Tensor]:
    """Of student and teacher where they predict the answer, [N, V] each."""
    path = shipped_recordings() / recording
    tokenizer, processor, model = engine.tokenizer, engine.processor, engine.model
    answer = tokenizer(engine.respond(path).response, add_special_tokens=False)["input_ids"]
    found = []
    for prompt, heard in (("continue-speech", True), ("continue-emotion", False)):
        before, after = split_chat(tokenizer, get_prompt(prompt).with_emotion(emotion))
        wave = waveform.load(path)
        content = processor.speech_token_count(len(wave)) if heard else sentence
        ids = torch.tensor([processor.row([before, content, after]) + answer])
        inputs = processor.audio_inputs([wave]) if heard else {}
        said = model(ids, torch.ones_like(ids), **inputs).logits if heard else model.text_forward(ids).logits
        found.append(said[0, -len(answer) - 1 : -1].detach())
    return found[0], found[1]


def gradient(loss: partial[Tensor], student: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient, [N V]."""
    values = student.clone().requires_grad_()
    found = loss(values)
    return float(found.detach()), torch.autograd.grad(found, values)[0].flatten()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    engine = load("mini:re-llm", device="cpu")
    listing = json.loads((shipped_recordings() / "recordings.json").read_text(encoding="utf-8"))
    both = [logits(engine, each["recording"], each["sentence"], each["reference"]) for each in listing]
    student, teacher = (torch.cat(part).float() for part in zip(*both, strict=True))
    head("The teacher's likeliest tokens in place of all")
    places, vocabulary = student.shape
    print(f"{len(both)} recordings, {places} response tokens, vocabulary {vocabulary}, temperature {TEMPERATURE:g}\n")
    whole, wanted = gradient(partial(losses.response_kl, teacher=teacher, temperature=TEMPERATURE), student)
    print("| k | divergence | error of it | error of its gradient | cosine | bytes a token |")
    print("|---|---|---|---|---|---|")
    for k in (*KEPT, vocabulary):
        top = TopTokens.of(Predictions(teacher), k, TEMPERATURE)
        loss = partial(losses.top_k_kl, ids=top.ids, log_teacher=top.log_p, temperature=TEMPERATURE)
        value, found = gradient(loss, student)
        error, cosine = (found - wanted).norm() / wanted.norm(), cosine_similarity(found, wanted, dim=0)
        print(f"| {k} | {value:.5f} | {1 - value / whole:.2%} | {error:.2%} | {cosine:.5f} | {8 * k} |")


if __name__ == "__main__":
    main()
