"""Options of a system's replies, and the replies: plain values, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from re_llm.core.assets import component_hash, resolve_component
from re_llm.core.dialogues import Role
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of
from re_llm.core.product import Product
from re_llm.core.records import Utterance
from re_llm.inference.decoding import Decoding, DecodingOptions
from re_llm.inference.estimate import Estimate
from re_llm.inference.variant import PLAIN, Variant
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt, get_prompt

if TYPE_CHECKING:
    import numpy as np

DEFAULT_PROMPT = "chat-empathetic"
RECOGNITION_PROMPT = "recognize"
RECOGNITION_TOKENS = 128  # as in the released code; an answer ends by itself long before

STAGE = "respond 2"  # the number rises when the same recordings begin to get other replies
_LATER = ("history", "corpus")  # options that decide something only where they are given
# What a message calls a setting.
_NAMES = {
    **{name: f"--{name}" for name in ("model", "system", "prompt", "recognize", "dtype")},
    "wording": "the wording of a prompt",
    "max_new_tokens": "--max-new-tokens",
    "recognize_tokens": "the length of the answer to --recognize",
    "repetition_penalty": "the repetition penalty",
    "quantized": "--quantize",
    "seed": "the seed",
    "history": "--history",
    **{
        f"variant.{name}": f"--{name.replace('_', '-')}"
        for name in ("corrupt_emotion", "max_words", "end_with_question")
    },
}


class RespondOptions(DecodingOptions, total=False):
    """Keyword arguments of `Engine.respond`."""

    prompt: str | Prompt
    history: list[dict[str, str]] | None


@dataclass(frozen=True)
class ReplyOptions:
    """Prompts and limits of the replies to a manifest.

    Attributes:
        system: name of the system in the records and in the report.
        prompt: id of the prompt to answer; None to recognise the emotion only.
        recognize: id of the recognition prompt; None to leave it out.
        recognize_tokens: most tokens of the answer to it.
        repetition_penalty: see `Decoding`.
        history: how earlier turns of the user's stand in a dialogue: `text`, or `speech` that is heard again.
        seed: of the training, for the report.
        corpus: name of the corpus in the records, where it is not that of the rows.
        variant: how the replies differ from what the system says by itself.
    """

    system: str = "re-llm"
    prompt: str | None = DEFAULT_PROMPT
    recognize: str | None = None
    batch_size: int = 16
    max_new_tokens: int = Decoding.max_new_tokens
    recognize_tokens: int = RECOGNITION_TOKENS
    repetition_penalty: float | None = None
    seed: int | None = None
    history: Literal["text", "speech"] = "text"
    corpus: str | None = None
    variant: Variant = PLAIN

    def __post_init__(self) -> None:
        if self.variant and self.prompt is None:
            raise RellmError("a variant changes replies, and none are asked for")

    def decoding(self) -> DecodingOptions:
        """How a response is decoded."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "max_words": self.variant.max_words,
            "end_with_question": self.variant.end_with_question,
        }

    def product(self, out: Path, system: Models) -> Product:
        """The file of replies, and all that decides them but the rows, a hash of which each reply holds itself."""
        prompts = [get_prompt(name) for name in (self.prompt, self.recognize) if name]
        named = [name for name in system.names if not Path(resolve_component(name)).is_dir()]
        return Product(
            out,
            STAGE,
            inputs={
                **{f"model {number}": component_hash(name) for number, name in enumerate(system.names, 1)},
                "wording": hash_of(text for each in prompts for text in (each.system, each.before, each.after)),
            },
            settings={
                # A folder is known by its content: it may be moved.
                "model": named or None,
                "dtype": str(system.dtype).removeprefix("torch."),
                "quantized": system.quantized,
                **{
                    name: value
                    for name, value in asdict(self).items()
                    if name not in ("batch_size", "variant", *_LATER)
                },
                **{name: getattr(self, name) for name in _LATER if getattr(self, name) != getattr(ReplyOptions, name)},
                **({"variant": self.variant.settings()} if self.variant else {}),
            },
            names={**_NAMES, **{f"model {n}": f"the model {name}" for n, name in enumerate(system.names, 1)}},
            beside=(out.with_suffix(".dropped.jsonl"),),
            grows=True,
        )

    @property
    def prompts(self) -> tuple[tuple[str | None, int], ...]:
        """Its prompts, each with the tokens that the answer may have: arguments of `System.max_seconds`."""
        return (self.prompt, Decoding(**self.decoding()).most_tokens), (self.recognize, self.recognize_tokens)


@dataclass(frozen=True, kw_only=True)
class Reply(Estimate):
    """An estimate of the emotion, and the response to the utterance.

    Attributes:
        finish_reason: "stop", or "length" when the response ended at the token limit.
        refused: why a server gave none, and what it wrote about that; None for a reply.
        transcript: words that a cascade recognised and answered; None for the other systems.
        asked: whether it asks how the person feels, because the head is unsure; None where that was not wanted.
        estimates: of every recording of the turn in a conversation; the reply's own is that of the last. Empty
            outside of conversations, and for a turn of text.
        recordings: 16 kHz samples [T] that were heard, for the player of a notebook; none where many are answered.
    """

    response: str = ""
    tokens: int = 0
    finish_reason: str = "stop"
    refused: str | None = None
    transcript: str | None = None
    asked: bool | None = None
    estimates: tuple[Estimate, ...] = ()
    recordings: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)

    def _repr_html_(self) -> str:
        from re_llm.inference.html import reply_html

        alone = (self,) if self.probabilities or self.answer is not None else ()
        return reply_html(self.response, self.estimates or alone, self.recordings)

    @classmethod
    def of(cls, estimate: Estimate, completion: Completion, transcript: str | None = None) -> Reply:
        """A reply of its two parts."""
        return cls(
            **vars(estimate),
            response=completion.text,
            tokens=completion.tokens,
            finish_reason=completion.finish_reason,
            refused=completion.refused and ": ".join(filter(None, (completion.refused, completion.detail))),
            transcript=transcript,
        )


# Turns before a recording: who, and what as text or as samples [N].
History: TypeAlias = "tuple[tuple[Role, str | np.ndarray], ...]"
OnBatch = Callable[[list[int], list[Reply]], None]  # indices and replies of a finished batch


class Models(Protocol):
    """The models of a system, as far as they decide its replies.

    Attributes:
        names: folders or hub ids.
        quantized: quantisation of the LLM, or None.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def dtype(self) -> object: ...

    @property
    def quantized(self) -> str | None: ...


@dataclass(frozen=True)
class NamedModels:
    """The models of a system that is not loaded."""

    names: tuple[str, ...]
    dtype: object
    quantized: str | None = None


class System(Models, Protocol):
    """What answers the utterances of a manifest: an `Engine` (speech) or a `TextSystem` (words).

    Attributes:
        needs_audio: whether it takes the recordings or the rows alone.
    """

    @property
    def needs_audio(self) -> bool: ...

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """Seconds of speech that a row of its LLM has room for; infinite without a limit.

        Args:
            prompts: prompts around the speech, each with the tokens of its answer; None stands for no prompt.
        """
        ...

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Replies to manifest rows, in their order.

        Args:
            samples: recordings of the rows (16 kHz mono); None for a system that does not need them.
            histories: what was said before each of them; None outside of dialogues.
            on_batch: called with the indices and replies of every finished batch.
        """
        ...


class SpeechSystem(System, Protocol):
    """A system that takes recordings: an `Engine`, or an emotion encoder alone (`EmotionRecognizer`)."""

    def samples(self, item: str, *prompts: tuple[str | Prompt | None, int]) -> np.ndarray:
        """16 kHz mono samples of a recording; see `Engine.samples`."""
        ...

    def prepared(self, wave: np.ndarray, name: str, *prompts: tuple[str | Prompt | None, int]) -> np.ndarray:
        """As `samples`, of samples at 16 kHz; see `Engine.prepared`."""
        ...
