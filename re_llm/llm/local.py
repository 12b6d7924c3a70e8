"""A plain chat LLM answering text rows in batches: the teacher of `continue`, and the text systems of Table I.

Knows no speech. B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion as Completion
from re_llm.llm.device import pick_device, pick_dtype
from re_llm.llm.prompts import Prompt, split_chat, tokenize_row, turn_end
from re_llm.llm.vocabulary import require_words


def stop_ids(tokenizer: Any, model: Any) -> list[int]:
    """Ids that end a turn: the generation config's, the tokenizer's, and the chat template's."""
    found: list[int] = []
    configured = model.generation_config.eos_token_id
    candidates = configured if isinstance(configured, list) else [configured]
    written = turn_end(tokenizer)[-1:] if tokenizer.chat_template else []
    for token in (*candidates, tokenizer.eos_token_id, *written):
        if token is not None and token not in found:
            found.append(int(token))
    return found


def read_completions(tokenizer: Any, generated: torch.Tensor, stops: Sequence[int]) -> list[Completion]:
    """Answers from new token ids [B, L]: cut at the first stop id, which is not part of the text."""
    answers = []
    ends = set(stops)
    for row in generated.tolist():
        cut = next((i for i, token in enumerate(row) if token in ends), None)
        ids = row if cut is None else row[:cut]
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        answers.append(Completion(text, len(ids), "length" if cut is None else "stop"))
    return answers


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first: least padding, and memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


class ChatLlm:
    """Any `AutoModelForCausalLM` with a chat template, decoding greedily in batches.

    Args:
        name: folder or hub id.
        device, dtype: see `re_llm.llm.device`.
        tokens: `pieces` tokenises the text around the content and the content each on its own, as training does;
            `joined` tokenises the whole turn at once, as chat servers and the released code do. They differ where a
            token may reach across the seam (`style: ` and `I` against `style:` and ` I`).
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, tokens: str = "pieces"):
        if tokens not in ("pieces", "joined"):
            raise RellmError(f"unknown way to cut a row into tokens: {tokens!r}", allowed="pieces, joined")
        self.model, self.tokenizer, self.name, self.tokens = model, tokenizer, name, tokens
        self.stops = stop_ids(tokenizer, model)
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stops[0]

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto", tokens: str = "pieces") -> ChatLlm:
        """Loads safetensors weights only; `mini:NAME` is a component that ships with the package.

        Raises:
            RellmError: not a folder or hub id that holds a chat LLM.
        """
        where, source = pick_device(device), resolve_component(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=pick_dtype(dtype, where), use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            todo = "Give the folder of a chat LLM in Hugging Face format, or a hub id this machine can reach"
            raise RellmError(f"cannot load the LLM {name!r}: {reason}", todo=todo) from None
        require_words(tokenizer, source)
        return cls(model.to(where).eval(), tokenizer, name, tokens)

    @property
    def decoding(self) -> dict[str, str]:
        """What of this LLM decides an answer, besides its name."""
        return {"asked": "local", "dtype": str(self.model.dtype).removeprefix("torch."), "tokens": self.tokens}

    def _ids(self, prompt: Prompt, content: str) -> list[int]:
        if self.tokens == "pieces":
            return tokenize_row(self.tokenizer, prompt, content)
        before, after = split_chat(self.tokenizer, prompt)
        ids: list[int] = self.tokenizer(before + content + after, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def generate(self, rows: list[list[int]], *, max_new_tokens: int) -> list[Completion]:
        """Answers to one batch of token rows, padded on the left."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.pad,
        )
        return read_completions(self.tokenizer, out[:, width:], self.stops)

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answers to (prompt, content) rows, in their order; batched by length.

        Args:
            on_batch: called with the number of rows of every finished batch.
        """
        tokens = [self._ids(prompt, content) for prompt, content in rows]
        answers: list[Completion | None] = [None] * len(rows)
        for batch in batches_by_length([len(t) for t in tokens], batch_size):
            said = self.generate([tokens[i] for i in batch], max_new_tokens=max_new_tokens)
            for i, answer in zip(batch, said, strict=True):
                answers[i] = answer
            if on_batch:
                on_batch(len(batch))
        assert all(a is not None for a in answers)
        return answers  # type: ignore[return-value]
