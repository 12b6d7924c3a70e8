"""Recipes: every option of a run. Unknown keys and contradictions fail here, before time is spent."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from re_llm.core.emotions import CANONICAL, PROMPT_EMOTIONS, parse_label_set
from re_llm.core.parts import PREFIX
from re_llm.recipe.options import ModelOptions, Options, PromptId, changed, without_label
from re_llm.recipe.stages import DialogueOptions, StageOptions, TaskOptions, unfit
from re_llm.recipe.systems import DIALOGUES, ClassifierOptions, CorpusOptions, ServerChoice, SystemOptions
from re_llm.recipe.tables import JudgeOptions, ShownOptions


class Components(Options):
    """The three ready-made models: hub ids, folders, or `mini:NAME` for a component shipped with the package.

    emotion_encoder: also `{kind: shared, name: FOLDER}` or `{kind: separate, ...}`, which checks whether it reads the
        speech encoder's layers.
    """

    llm: str
    speech_encoder: str
    emotion_encoder: str | None = None
    emotion_kind: Literal["shared", "separate"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _told_apart(cls, given: object) -> object:
        if not isinstance(given, dict) or not isinstance(given.get("emotion_encoder"), dict):
            return given
        encoder = given["emotion_encoder"]
        if set(encoder) != {"kind", "name"}:
            raise ValueError("emotion_encoder is a name, or {kind: shared or separate, name: FOLDER}")
        return {**given, "emotion_encoder": encoder["name"], "emotion_kind": encoder["kind"]}


class DecodingOptions(Options):
    """Greedy by default, as in the papers. `continuation_tokens`: length of the targets (released code).

    continuation_tokenization: `pieces` tokenises the text around the transcript and the transcript each on its own, as
        training does; `joined` tokenises the whole turn at once, as the released code does.
    recognize_tokens: most tokens of the answer to `recognize_prompt`.
    repetition_penalty: 1 is none; null = that of each checkpoint's generation_config.json.
    quantize: the speech systems' LLM in `8bit` or `4bit` while they answer (extra `quantize`); null = as it is.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    continuation_tokens: int = Field(default=48, ge=1)
    batch_size: int = Field(default=16, ge=1)
    continuation_tokenization: Literal["pieces", "joined"] = "pieces"
    recognize_prompt: Annotated[PromptId, AfterValidator(without_label)] = "recognize"
    recognize_tokens: int = Field(default=128, ge=1)
    repetition_penalty: float | None = Field(default=None, gt=0.0)
    quantize: Literal["8bit", "4bit"] | None = None


class Recipe(Options):
    """A whole run: parts, corpora, stages, systems. `re-llm reproduce RECIPE --out DIR` carries it out.

    llms: other LLMs that write targets, by name: a folder, a hub id or a server.
    classifiers: emotion classifiers that are trained, by name.
    judge: the LLM that judges replies; null = none does. shown: what the report shows beside Table I.
    """

    name: str
    title: str
    emotions: tuple[str, ...] = PROMPT_EMOTIONS
    seeds: tuple[int, ...] = (0,)
    components: Components
    model: ModelOptions = ModelOptions()
    corpora: dict[str, CorpusOptions] = Field(default={})
    llms: dict[str, ServerChoice | str] = Field(default={})
    classifiers: dict[str, ClassifierOptions] = Field(default={})
    dialogues: DialogueOptions | None = None
    stages: dict[str, StageOptions]
    systems: dict[str, SystemOptions] = Field(default={})
    baseline: str | None = None
    judge: JudgeOptions | None = None
    shown: ShownOptions = ShownOptions()
    decoding: DecodingOptions = DecodingOptions()
    scorer: str = "small"
    device: str = "auto"
    workers: int = Field(default=2, ge=1)

    @field_validator("emotions")
    @classmethod
    def _different_emotions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or len(value) < 2:
            raise ValueError("emotions must be at least two different names")
        return value

    @model_validator(mode="after")
    def _known_emotions(self) -> Recipe:
        sets = [str(text) for corpus in self.corpora.values() if (text := corpus.options.get("label_set"))]
        known = [*CANONICAL, *(label for text in sets for label in parse_label_set(text)[1])]
        unknown = [name for name in self.emotions if name not in known]
        if unknown:
            raise ValueError(f"emotions: unknown emotion {unknown[0]!r}; allowed: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _corpora(self) -> Recipe:
        for name, corpus in self.corpora.items():
            if corpus.reader == DIALOGUES and self.corpora.get(corpus.root, corpus).reader == DIALOGUES:
                raise ValueError(f"corpus {name!r} is of dialogues in {corpus.root!r}, which is no other corpus here")
        asked = [(f"classifier {name!r}", each.data) for name, each in self.classifiers.items()]
        asked += [(f"system {name!r}", each.corpora or ()) for name, each in self.systems.items()]
        asked += [(f"shown: {title!r}", corpora) for title, _, corpora in self.shown.names()]
        asked += [("judge", self.judge.corpora)] if self.judge else []
        for who, names in asked:
            unknown = [name for name in names if name not in self.corpora]
            if unknown:
                raise ValueError(f"{who} names {unknown[0]!r}, which is not under `corpora`")
        for title, systems, _ in self.shown.names():
            unknown = [name for name in systems if name not in self.systems]
            if unknown:
                raise ValueError(f"shown: {title!r} names {unknown[0]!r}, which is not under `systems`")
        return self

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        for name, stage in self.stages.items():
            wrong = unfit(stage, self.model_of(stage))
            if wrong:
                raise ValueError(f"stage {name!r}: {wrong}")
            if stage.continuation_llm is not None and stage.continuation_llm not in self.llms:
                raise ValueError(f"stage {name!r} names {stage.continuation_llm!r}, which is not under `llms`")
            if task := next((task for task in stage.tasks if not self._has_turns(stage, task)), None):
                raise ValueError(
                    f"stage {name!r}: the task {task.prompt!r} has history: set `dialogues`, and the task's "
                    "`continuation` to its prompt"
                )
            for corpus in stage.data:
                if corpus not in self.corpora:
                    raise ValueError(f"stage {name!r} reads {corpus!r}, which is not under `corpora`")
            for corpus in (*stage.exchange, *stage.donors, *stage.unanswered):
                if corpus not in stage.data:
                    raise ValueError(f"stage {name!r} names {corpus!r}, which is not in its `data`")
        for name, system in self.systems.items():
            model = self.model_for(system)
            if system.stage in self.stages:
                wrong = unfit(self.stage_for(system), model)
                if wrong:
                    raise ValueError(f"system {name!r}: {wrong}")
            elif system.stage and (system.per_corpus or not _is_checkpoint(system.stage)):
                raise ValueError(f"system {name!r} names stage {system.stage!r}, which is not under `stages`")
        if self.systems and self.baseline not in (None, *self.systems):
            raise ValueError(f"baseline is {self.baseline!r}; allowed: {', '.join(self.systems)}")
        if self.model.fusion != "none" and self.components.emotion_encoder is None:
            raise ValueError("model.fusion needs components.emotion_encoder (or set fusion: none)")
        return self

    def _has_turns(self, stage: StageOptions, task: TaskOptions) -> bool:
        """Whether a task that reads earlier turns answers continuations that have them."""
        given = None if self.dialogues is None else self.dialogues.prompt
        return task.history == "none" or (task.continuation or stage.continuation) == given

    def model_of(self, stage: StageOptions) -> ModelOptions:
        """Model options of one stage: the recipe's with the stage's changes."""
        return changed(self.model, stage.model)

    def model_for(self, system: SystemOptions) -> ModelOptions:
        """Model options of one system: the recipe's with the system's changes."""
        return changed(self.model, system.model)

    def stage_for(self, system: SystemOptions) -> StageOptions:
        """Stage options of one speech system: the stage's with the system's changes."""
        assert system.stage in self.stages, f"{system.stage} is a checkpoint, not a stage"
        return changed(self.stages[system.stage], system.stage_options)


def _is_checkpoint(name: str) -> bool:
    return name.startswith(("mini:", PREFIX)) or "/" in name or os.path.sep in name
