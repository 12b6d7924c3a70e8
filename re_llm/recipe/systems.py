"""Options of what a recipe evaluates: corpora and systems."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from re_llm.recipe.options import Options, PromptId, without_label
from re_llm.recipe.stages import ModelChanges, StageChanges


class CorpusOptions(Options):
    """Where a corpus lies and which protocol splits it.

    root: a folder, or `mini`: the miniature world renders it.
    pseudo_vad: estimate missing V/A/D with the emotion encoder, or take the `norms` of the emotion words.
    scale: of a rendered corpus; 1 = 29 hours for all of them.
    test_splits: what the systems answer, together: MerBench has test1 and test2. evaluate: false = nothing of it.
    """

    reader: str
    root: str
    scale: float = Field(default=1.0, gt=0.0, le=1.0)
    protocol: str | None = None
    options: dict[str, str | int | float | bool] = Field(default={})
    pseudo_vad: bool | Literal["norms"] = False
    evaluate: bool = True
    test_splits: tuple[str, ...] = Field(default=("test",), min_length=1)


class SystemOptions(Options):
    """One column of Table I. A speech system names the stage that makes its checkpoint.

    per_corpus: train one checkpoint per evaluated corpus (fine-tuning), or one for all.
    classifier: of a text system: the emotion encoder (folder or hub id; `re-llm train emotion` writes one) whose label
        a prompt with an emotion names, instead of the reference.
    model, stage_options: changes to the recipe's `model` and to the stage, e.g. `{losses: {...}}` for an ablation.
    """

    kind: Literal["text", "cascade", "text-label", "speech"]
    stage: str | None = None
    per_corpus: bool = False
    prompt: PromptId = "chat-empathetic"
    classifier: str | None = None
    model: ModelChanges = ModelChanges()
    stage_options: StageChanges = StageChanges()

    @model_validator(mode="after")
    def _consistent(self) -> SystemOptions:
        if (self.kind == "speech") != (self.stage is not None):
            raise ValueError("a system of kind `speech` names its `stage`; the others have none")
        if self.kind == "speech":
            without_label(self.prompt)
            if self.classifier is not None:
                raise ValueError("a system of kind `speech` has no `classifier`: it recognises the emotion itself")
        return self
