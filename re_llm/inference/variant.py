"""Variants of a system's replies: exchanged emotion information, length control, asking when unsure. Plain values."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.core.files import existing
from re_llm.core.records import Utterance
from re_llm.llm.length import Length


@dataclass(frozen=True)
class Unsure:
    """When a head is unsure.

    Attributes:
        threshold: an emotion is possible with at least this probability; unsure is who has not exactly one that is.
        temperature: that the logarithms of the probabilities are divided by first.
    """

    threshold: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.threshold < 1 and self.temperature > 0):
            raise RellmError(
                f"unsure at a probability of {self.threshold:g}, temperature {self.temperature:g}",
                allowed="a probability between 0 and 1, a temperature above 0",
            )

    @classmethod
    def parse(cls, text: str, system: str) -> Unsure:
        """A probability, or the `results.json` that `re-llm calibrate` wrote (or its folder): its temperature and sets.

        Raises:
            RellmError: it is neither, or calibrates another system.
        """
        try:
            return cls(float(text))
        except ValueError:
            path = Path(text) / "results.json" if Path(text).is_dir() else existing(Path(text))
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            found = {(row["threshold"], row["temperature"]) for row in rows if row["system"] == system}
            known = sorted({row["system"] for row in rows})
        except (ValueError, KeyError, TypeError, OSError):
            raise RellmError(
                f"{path} is no result of `re-llm calibrate`", allowed="a probability, or the folder that it wrote"
            ) from None
        if len(found) != 1:
            raise RellmError(f"{path} does not calibrate the system {system!r}", allowed=", ".join(known))
        return cls(*found.pop())

    def of(self, probabilities: Mapping[str, float]) -> bool:
        """Whether a head with these probabilities is unsure."""
        logs = np.log(np.maximum(np.array(list(probabilities.values()), np.float64), 1e-6)) / self.temperature
        tempered = np.exp(logs - logs.max())
        return int((tempered / tempered.sum() >= self.threshold).sum()) != 1


@dataclass(frozen=True)
class Variant:
    """How replies differ from what a system says by itself.

    Attributes:
        corrupt_emotion: fraction of the utterances whose emotion information is that of another utterance.
        corrupt_seed: draws these utterances, and the other ones.
        max_words, end_with_question: length control, see `re_llm.llm.length`.
        unsure: when the reply asks how the person feels.
        donors: by key, the utterance whose emotion information is taken (`exchange`); no setting.
    """

    corrupt_emotion: float = 0.0
    corrupt_seed: int = 0
    max_words: int | None = None
    end_with_question: bool = False
    unsure: Unsure | None = None
    donors: Mapping[str, Utterance] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.corrupt_emotion <= 1:
            raise RellmError(f"corrupt_emotion is {self.corrupt_emotion:g}", allowed="0 to 1")
        Length(self.max_words)

    def __bool__(self) -> bool:
        return bool(self.settings())

    def settings(self) -> dict[str, Any]:
        """What differs, as plain values."""
        found: dict[str, Any] = {}
        if self.corrupt_emotion:
            found |= {"corrupt_emotion": self.corrupt_emotion, "corrupt_seed": self.corrupt_seed}
        if self.max_words is not None:
            found["max_words"] = self.max_words
        if self.end_with_question:
            found["end_with_question"] = True
        if self.unsure:
            found["ask_when_unsure"] = {"threshold": self.unsure.threshold, "temperature": self.unsure.temperature}
        return found

    def named(self, system: str) -> str:
        """Name of the changed system."""
        parts = [
            f"{100 * self.corrupt_emotion:g} % corrupted" if self.corrupt_emotion else "",
            "" if self.max_words is None else f"{self.max_words} words",
            "question" if self.end_with_question else "",
            "asks when unsure" if self.unsure else "",
        ]
        return ", ".join([system, *(part for part in parts if part)])

    def fields(self, system: str, key: str) -> dict[str, Any]:
        """Fields of the record of a reply."""
        if not self:
            return {"system": system}
        donor = self.donors.get(key)
        about = {"variant_of": system, "variant": self.settings(), "exchanged_with": donor.key if donor else None}
        return {"system": self.named(system), **about}

    def exchange(self, rows: Sequence[Utterance]) -> Variant:
        """The variant with its donors for these rows.

        The rows are ordered by a hash of their keys and the first ones are corrupted, so that those of a smaller
        fraction are among those of a larger one. A donor is a row of the same corpus with another emotion.

        Raises:
            RellmError: a row has no emotion, or its corpus no other one.
        """
        ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{self.corrupt_seed}:{row.key}".encode()).digest())
        others: dict[tuple[str, str | None], list[Utterance]] = {}
        for place in {(row.corpus, row.emotion) for row in rows}:
            others[place] = [row for row in rows if row.corpus == place[0] and row.emotion not in (None, place[1])]
        donors = {}
        for row in ranked[: round(self.corrupt_emotion * len(ranked))]:
            if row.emotion is None or not others[row.corpus, row.emotion]:
                raise RellmError(
                    f"the emotion information of {row.key!r} cannot be exchanged: "
                    + (
                        "it has no reference emotion"
                        if row.emotion is None
                        else f"all of {row.corpus} is {row.emotion}"
                    ),
                    todo="Answer a manifest whose utterances have emotions, different ones",
                )
            draw = random.Random(f"{self.corrupt_seed}:{row.key}")
            donors[row.key] = draw.choice(others[row.corpus, row.emotion])
        return replace(self, donors=donors)


PLAIN = Variant()
