"""What is asked about recordings, what decides the replies, and the record of one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from re_llm.core.assets import resolve_component
from re_llm.core.provenance import fingerprint
from re_llm.core.records import ReplyRecord, Utterance
from re_llm.llm.prompts import get_prompt

if TYPE_CHECKING:
    from re_llm.inference.engine import Reply

# What a setting is called where a file is refused that was begun with another one.
OPTIONS = {
    "model": "--model",
    "checkpoint": "with another training of the model",
    "system": "--system",
    "prompt": "--prompt",
    "recognize": "--recognize",
    "wording": "when its prompts had other words",
    "max_new_tokens": "--max-new-tokens",
    "dtype": "--dtype",
    "quantized": "--quantize",
}


@dataclass(frozen=True)
class Ask:
    """What is asked about every recording.

    Attributes:
        system: what the one who answers is called in the records and in the report.
        prompt: id of the prompt to answer; None to recognise only.
        recognize: id of a recognition prompt to ask as well; None to leave it out.
        seed: of the training, for the report.
    """

    system: str = "re-llm"
    prompt: str | None = "chat-empathetic"
    recognize: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 128
    seed: int | None = None

    def settings(self, responder: Any) -> dict[str, Any]:
        """Everything that decides the replies, as plain values."""
        names = getattr(responder, "names", (getattr(responder, "name", type(responder).__name__),))
        folders = [Path(resolve_component(name)) for name in names]
        wording = {each: get_prompt(each) for each in (self.prompt, self.recognize) if each}
        return {
            # A folder may be moved; what is in it tells whether it is still the same.
            "model": " and ".join(Path(name).resolve().name if Path(name).is_dir() else name for name in names),
            "checkpoint": [fingerprint(folder) if folder.is_dir() else None for folder in folders],
            "dtype": str(getattr(responder, "dtype", None)).removeprefix("torch."),
            "quantized": getattr(getattr(responder, "model", None), "quantized", None),
            "system": self.system,
            "prompt": self.prompt,
            "recognize": self.recognize,
            "wording": {name: [each.system, each.before, each.after] for name, each in wording.items()},
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def longest(self, responder: Any) -> float:
        """Seconds of speech that the LLM has room for; who only reads hears none."""
        if not hasattr(responder, "longest"):
            return math.inf
        from re_llm.inference.engine import NAME_TOKENS

        return responder.longest((self.prompt, self.max_new_tokens), (self.recognize, NAME_TOKENS))


def to_record(row: Utterance, reply: Reply, ask: Ask) -> ReplyRecord:
    """The record of one reply. `perceived` is the categorical head's choice, `recognized` what the LLM named."""
    probabilities = reply.probabilities or None
    return ReplyRecord(
        key=row.key,
        system=ask.system,
        response=reply.response,
        text=row.text,
        audio=row.audio,
        corpus=row.corpus,
        speaker=row.speaker,
        emotion=row.emotion,
        predicted_emotion=max(probabilities, key=probabilities.__getitem__) if probabilities else None,
        probabilities={name: round(value, 4) for name, value in probabilities.items()} if probabilities else None,
        answer=reply.answer,
        named_emotion=reply.emotion if reply.answer is not None else None,
        transcript=getattr(reply, "transcript", None),
        valence=_unit(reply.valence),
        arousal=_unit(reply.arousal),
        dominance=_unit(reply.dominance),
        prompt=ask.prompt,
        tokens=reply.tokens if ask.prompt else None,
        finish_reason=reply.finish_reason if ask.prompt else None,
        seed=ask.seed,
    )


def _unit(value: float | None) -> float | None:
    """The head is linear and may leave 0..1 by a little; the record's scale ends there."""
    return None if value is None else round(min(max(value, 0.0), 1.0), 4)
