"""A step of decoding with a cache that grows, with one of fixed size, and with that one under torch.compile.

One thread, seconds of the processor, by turns; compiling takes a C++ compiler and is counted apart.

    python benchmarks/static_cache.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import laptop
import torch
from _common import head
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel, StaticCache

from re_llm.core.assets import resolve_component

PROMPT = 85

Step = Callable[[Tensor, Tensor, Cache], Tensor]


def models(*, tiny: bool) -> dict[str, PreTrainedModel]:
    """The miniature's LLM, and that of the laptop sizes with random weights."""
    small = AutoModelForCausalLM.from_pretrained(resolve_component("mini:llm"))
    config = laptop.sizes(tiny=tiny).text
    wide = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return {"miniature, float32": small, "512 x 8, bfloat16": wide}


def plain(model: PreTrainedModel) -> Step:
    def step(ids: Tensor, position: Tensor, cache: Cache) -> Tensor:
        logits: Tensor = model(ids, past_key_values=cache, position_ids=position[None].expand(len(ids), -1)).logits
        return logits[:, -1:].argmax(-1)

    return step


def decoding(model: PreTrainedModel, step: Step, cache: Cache, rows: int, new: int) -> tuple[float, Tensor]:
    """Seconds of a step, and the tokens."""
    ids = torch.arange(rows * PROMPT).view(rows, PROMPT) % model.config.vocab_size
    token = plain(model)(ids, torch.arange(PROMPT), cache)
    found = [token]
    step(token, torch.tensor([PROMPT]), cache)  # whatever is compiled
    begun = time.process_time()
    for place in range(PROMPT + 1, PROMPT + 1 + new):
        token = step(token, torch.tensor([place]), cache)
        found.append(token)
    return (time.process_time() - begun) / new, torch.cat(found, 1)


@torch.inference_mode()
def compare(name: str, model: PreTrainedModel, rows: int, new: int, repeats: int) -> None:
    model.requires_grad_(False).eval()
    begun = time.process_time()
    compiled = torch.compile(plain(model))

    def fixed() -> StaticCache:
        return StaticCache(config=model.config, max_cache_len=PROMPT + new + 2)

    def growing() -> DynamicCache:
        return DynamicCache(config=model.config)

    decoding(model, compiled, fixed(), rows, 1)
    print(f"{name}, batch {rows}: compiling took {time.process_time() - begun:.1f} s")
    kinds: dict[str, tuple[Step, Callable[[], Cache]]] = {
        "growing cache": (plain(model), growing),
        "fixed cache": (plain(model), fixed),
        "fixed cache, compiled": (compiled, fixed),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (step, cache) in kinds.items():
            seconds[kind].append(decoding(model, step, cache(), rows, new)[0])
    first = statistics.median(seconds["growing cache"])
    for kind, each in seconds.items():
        middle = statistics.median(each)
        print(f"    {kind:24} {1e3 * middle:8.2f} ms a step ({1e3 * min(each):.2f} to {1e3 * max(each):.2f})", end="")
        print(f"  {first / middle:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new", type=int, default=32, help="tokens")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the code; its figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head("Decoding with a cache of fixed size, and compiled")
    for name, model in models(tiny=given.tiny).items():
        for rows in (1, 4):
            compare(name, model, rows, given.new, given.repeats)


if __name__ == "__main__":
    main()
