"""Sixteen rows of text through transformers' continuous batching and through ours, with the shipped LLM.

Text alone: transformers takes token ids, and has no argument for the embeddings of speech. Both run in one process by
turns; processor time, so that the load of the machine matters little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from _common import head

ROWS, TOKENS, REPEATS = 16, 24, 3


def measured(work: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def main() -> None:
    import torch
    from transformers import ContinuousBatchingConfig

    from re_llm.inference import engine
    from re_llm.inference.batch import Row, RunningBatch
    from re_llm.inference.conversation import Turn, lay_out
    from re_llm.inference.decoding import Decoding

    head("Continuous batching: transformers and ours")
    torch.set_num_threads(1)
    loaded = engine.load(engine.SHIPPED_MODEL, device="cpu")
    texts = [f"I have seen {number} birds in the garden today, and then it rained." for number in range(ROWS)]
    decoding = Decoding(TOKENS)
    ids = [lay_out(loaded, [Turn("user", (text,))], "chat", None, decoding)[0] for text in texts]
    settings = ContinuousBatchingConfig(num_blocks=256, max_batch_tokens=1024)

    def theirs() -> list[list[int]]:
        with loaded.model.partial_lora.disabled(), torch.no_grad():  # its thread is in no inference mode
            found = loaded.model.language_model.generate_batch(
                ids, continuous_batching_config=settings, max_new_tokens=TOKENS, eos_token_id=loaded.stops
            )
        return [list(found[name].generated_tokens) for name in sorted(found, key=lambda n: int(n.split("_")[1]))]

    def ours() -> list[list[int]]:
        batch = RunningBatch(loaded, ROWS)
        rows = [Row(each, (), decoding, lambda text: None, lambda done: None) for each in ids]
        batch.join(*rows)
        while len(batch):
            batch.step()
        return [row.tokens for row in rows]

    times: dict[str, list[float]] = {"transformers": [], "ours": []}
    answers: dict[str, list[list[int]]] = {}
    for _ in range(REPEATS + 1):  # the first one is not counted
        for name, work in (("transformers", theirs), ("ours", ours)):
            seconds, answers[name] = measured(work)
            times[name].append(seconds)
    same = sum(a == b for a, b in zip(answers["transformers"], answers["ours"], strict=True))
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds[1:]):.2f} s of processor time, {ROWS} rows of {len(ids[0])} tokens")
    print(f"{same} of {ROWS} answers are the same")


if __name__ == "__main__":
    main()
