"""What a GGUF LLM loses when its dequantised weights are stored in 16 bits: bfloat16 beside float16.

    python benchmarks/half_precision.py SmolLM2-135M-Instruct.Q4_1.gguf

The LLM answers some turns greedily in float32; the same rows are read again with weights rounded to each type and
computed in float32. Printed: difference of the logits, KL from the unrounded distribution (nats, over all places of the
rows), and how often the most probable token stays the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _common import head
from transformers import AutoModelForCausalLM, AutoTokenizer

from re_llm.model.weights import quiet_loading

TURNS = (
    "I lost my keys and I'm angry.", "What is the capital of France?", "Explain gravity in one sentence.",
    "My daughter was born on 3 May 1999, I am so happy!", "Tell me a story about a dog.", "Nobody came to my party.",
    "How do I boil an egg?", "I can't believe he said that to me in front of everyone.",
)  # fmt: skip
NEW_TOKENS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="a GGUF file of a chat LLM")
    file = parser.parse_args().file
    if file is None:
        return print("needs a file: none given")
    with quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    rows = [answered(model, tokenizer, text) for text in TURNS]
    exact = [model(ids).logits for ids in rows]
    head("A GGUF LLM stored in 16 bits")
    show("stored as", "logits, largest", "mean", "KL mean", "KL largest", "same token")
    for dtype in (torch.bfloat16, torch.float16):
        model.load_state_dict({name: value.to(dtype).float() for name, value in weights.items()})
        show(str(dtype).removeprefix("torch."), *compared(exact, [model(ids).logits for ids in rows]))


def show(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def answered(model: torch.nn.Module, tokenizer: object, text: str) -> torch.Tensor:
    """Token ids of a turn and its greedy answer, [1, L]."""
    turn = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)


def compared(exact: list[torch.Tensor], rounded: list[torch.Tensor]) -> list[str]:
    """Figures over all places of all rows; lists of logits [1, L, V]."""
    a, b = (torch.cat([each[0] for each in both]) for both in (exact, rounded))
    kl = (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum(-1)
    same = (a.argmax(-1) == b.argmax(-1)).float().mean()
    difference = (a - b).abs()
    values = (difference.max(), difference.mean(), kl.mean(), kl.max())
    return [*(f"{float(value):.2g}" for value in values), f"{100 * float(same):.1f} %"]


if __name__ == "__main__":
    with torch.inference_mode():
        main()
