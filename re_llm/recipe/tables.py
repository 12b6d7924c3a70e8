"""Options of what a report shows beside Table I: tables, comparisons by pairs, cases; and the judge of the replies."""

from __future__ import annotations

from pydantic import Field, model_validator

from re_llm.recipe.options import Options
from re_llm.recipe.systems import ServerChoice


class ColumnOptions(Options):
    """A column: one metric on one corpus, of those in `metrics` the first that a system has."""

    corpus: str
    metrics: tuple[str, ...] = Field(min_length=1)
    title: str


class TableOptions(Options):
    """A table of systems by columns.

    published: figures of the paper by system, a value (or null) for each column; they stand beneath ours.
    """

    title: str
    note: str = ""
    systems: tuple[str, ...] = Field(min_length=1)
    columns: tuple[ColumnOptions, ...] = Field(min_length=1)
    published: dict[str, tuple[float | None, ...]] = Field(default={})

    @model_validator(mode="after")
    def _fits(self) -> TableOptions:
        for system, values in self.published.items():
            if system not in self.systems:
                raise ValueError(f"published figures of {system!r}, which is not in `systems`")
            if len(values) != len(self.columns):
                raise ValueError(f"{len(values)} published figures of {system!r} for {len(self.columns)} columns")
        return self


class WinOptions(Options):
    """Replies of one system compared with those of others to the same utterances: judged, else by their ER."""

    title: str
    system: str
    against: tuple[str, ...] = Field(min_length=1)
    corpus: str


class CaseOptions(Options):
    """Whole replies to some utterances, beside each other. keys: of the corpus' manifest; empty = chosen by rule."""

    title: str
    corpus: str
    systems: tuple[str, ...] = Field(min_length=1)
    keys: tuple[str, ...] = ()
    number: int = Field(default=2, ge=1)


class JudgeOptions(Options):
    """The LLM that judges replies with BLSP-Emo's prompts. corpora: whose replies get scores of quality and empathy."""

    server: ServerChoice
    corpora: tuple[str, ...] = ()


class ShownOptions(Options):
    """What a report shows beside Table I, in this order."""

    tables: tuple[TableOptions, ...] = ()
    wins: tuple[WinOptions, ...] = ()
    cases: tuple[CaseOptions, ...] = ()

    def names(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """(title, systems, corpora) of everything."""
        found = [(each.title, each.systems, tuple(c.corpus for c in each.columns)) for each in self.tables]
        found += [(each.title, (each.system, *each.against), (each.corpus,)) for each in self.wins]
        return found + [(each.title, each.systems, (each.corpus,)) for each in self.cases]
