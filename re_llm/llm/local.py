"""A plain chat LLM that answers text in batches: the teacher of `continue`, and the text systems of Table I."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion
from re_llm.llm.device import pick_device, pick_dtype
from re_llm.llm.length import FREE, QUESTION_TOKENS, Length, Question, shaped
from re_llm.llm.output_layer import read_contiguous
from re_llm.llm.packed import pack
from re_llm.llm.prompts import Prompt, split_chat, tokenize_row
from re_llm.llm.rows import batches_by_length, pad_rows, read_completions, stop_ids
from re_llm.llm.vocabulary import require_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ChatLlm:
    """Any `AutoModelForCausalLM` with a chat template, decoding greedily in batches.

    Args:
        name: folder or hub id.
        tokens: `pieces` tokenises the text around the content and the content each on its own, as training does;
            `joined` tokenises the whole turn at once, as chat servers and the released code do. They differ where a
            token may reach across the seam (`style: ` and `I` against `style:` and ` I`).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, tokens: str = "pieces"):
        if tokens not in ("pieces", "joined"):
            raise RellmError(f"unknown tokenisation {tokens!r}", allowed="pieces, joined")
        self.model, self.tokenizer, self.name, self.tokens = model, tokenizer, name, tokens
        read_contiguous(model.get_output_embeddings())
        self.stops = stop_ids(tokenizer, model)
        self.pad: int = self.stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto", tokens: str = "pieces") -> ChatLlm:
        """Loads safetensors weights only; `mini:NAME` is a component that ships with the package.

        Args:
            device, dtype: see `re_llm.llm.device`.

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
        model = model.to(where).eval()
        pack(model)
        return cls(model, tokenizer, name, tokens)

    @property
    def decoding(self) -> Mapping[str, str | None]:
        """What of this LLM decides an answer, besides its name."""
        return {"backend": "local", "dtype": str(self.model.dtype).removeprefix("torch."), "tokens": self.tokens}

    def _ids(self, prompt: Prompt, content: str) -> list[int]:
        if self.tokens == "pieces":
            return tokenize_row(self.tokenizer, prompt, content)
        before, after = split_chat(self.tokenizer, prompt)
        return list(self.tokenizer(before + content + after, add_special_tokens=False)["input_ids"])

    def generate(
        self,
        rows: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        repetition_penalty: float | None = None,
        length: Length = FREE,
    ) -> list[Completion]:
        """Answers to one batch of token rows, padded on the left; see `answer`."""

        def ask(which: Sequence[int], texts: Sequence[str]) -> list[Completion]:
            longer = [
                [*rows[i], *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
                for i, text in zip(which, texts, strict=True)
            ]
            question = Question(self.tokenizer, max(map(len, longer)), self.stops, begun=False)
            return self._decode(longer, QUESTION_TOKENS + 1, repetition_penalty, [question])

        answers = self._decode(rows, max_new_tokens, repetition_penalty)
        return shaped(answers, length, ask) if length else answers

    @torch.inference_mode()
    def _decode(
        self,
        rows: Sequence[Sequence[int]],
        max_new_tokens: int,
        repetition_penalty: float | None,
        processors: Sequence[Question] = (),
    ) -> list[Completion]:
        ids, mask = pad_rows(rows, self.pad, "left")
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.pad,
            logits_processor=LogitsProcessorList(processors),
            **({} if repetition_penalty is None else {"repetition_penalty": repetition_penalty}),
        )
        return read_completions(self.tokenizer, out[:, ids.shape[1] :], self.stops)

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
        repetition_penalty: float | None = None,
        length: Length = FREE,
    ) -> list[Completion]:
        """Answers to (prompt, content) rows, in their order; batched by length.

        Args:
            repetition_penalty: over prompt and answer, as transformers counts; None = that of the LLM's
                generation_config.json.
            on_batch: called with the number of rows of every finished batch.
        """
        tokens = [self._ids(prompt, content) for prompt, content in rows]
        answers: dict[int, Completion] = {}
        for batch in batches_by_length([len(ids) for ids in tokens], batch_size):
            completions = self.generate(
                [tokens[i] for i in batch],
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                length=length,
            )
            answers.update(zip(batch, completions, strict=True))
            if on_batch:
                on_batch(len(batch))
        return [answers[i] for i in range(len(rows))]
