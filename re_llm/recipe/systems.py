"""Options of what a recipe evaluates: corpora, classifiers, servers and systems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from re_llm.core.errors import RellmError
from re_llm.llm.server_options import ServerOptions, key_from
from re_llm.recipe.emotion import AugmentOptions, EmotionRecipe, FitOptions, SeparateOptions, SharedOptions
from re_llm.recipe.options import Options, PromptId, without_label
from re_llm.recipe.stages import ModelChanges, StageChanges

HEARING = ("speech", "server")  # kinds of systems that take the recording into their LLM
DIALOGUES = "dialogues"  # reader whose root is another corpus of the recipe


class CorpusOptions(Options):
    """Where a corpus lies and which protocol splits it.

    reader: of `re-llm prepare --list`; or `dialogues`, the dialogues in another corpus (re_llm.data.dialogues).
    root: a folder, or `mini`: the miniature world renders it; of `dialogues`, the name of the other corpus.
    pseudo_vad: estimate missing V/A/D with the emotion encoder, or take the `norms` of the emotion words.
    scale: of a rendered corpus; 1 = 29 hours for all of them.
    test_splits: what the systems answer, together: MerBench has test1 and test2. evaluate: false = nothing of it.
    ask: what the systems are asked: the `emotion`, for a `reply`, or `both`.
    """

    reader: str
    root: str
    scale: float = Field(default=1.0, gt=0.0, le=1.0)
    protocol: str | None = None
    options: dict[str, str | int | float | bool] = Field(default={})
    pseudo_vad: bool | Literal["norms"] = False
    evaluate: bool = True
    test_splits: tuple[str, ...] = Field(default=("test",), min_length=1)
    ask: Literal["both", "emotion", "reply"] = "both"


class ServerChoice(Options):
    """A model behind an OpenAI-compatible server.

    url: up to and with `/v1`. model: its name there. key_env: environment variable that holds the key.
    concurrency: requests at once; rate: requests a minute, at most; timeout: seconds of one; tries: of one row.
    """

    url: str
    model: str
    key_env: str | None = None
    concurrency: int = Field(default=8, ge=1)
    rate: float | None = Field(default=None, gt=0.0)
    timeout: float = Field(default=120.0, gt=0.0)
    tries: int = Field(default=8, ge=1)

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            ServerOptions(value, "model")
        except RellmError as error:
            raise ValueError(error.what) from None
        return value

    def options(self) -> ServerOptions:
        """Address and limits, with the key.

        Raises:
            RellmError: the variable of the key is not set.
        """
        return ServerOptions(
            self.url, self.model, self.concurrency, self.rate, self.timeout, self.tries, key=key_from(self.key_env)
        )


class ClassifierOptions(Options):
    """An emotion classifier that the run trains on its corpora (`re-llm train` of an emotion encoder).

    data: names of the corpora; their test splits are left out. The other options: `re_llm.recipe.emotion`.
    """

    emotion_encoder: Annotated[SharedOptions | SeparateOptions, Field(discriminator="kind")]
    data: tuple[str, ...] = Field(min_length=1)
    augment: AugmentOptions = AugmentOptions()
    fit: FitOptions = FitOptions()

    def recipe(self, name: str, emotions: tuple[str, ...]) -> EmotionRecipe:
        """The recipe of its training."""
        return EmotionRecipe(
            kind="emotion", name=name, title=name, emotion_encoder=self.emotion_encoder, emotions=emotions,
            augment=self.augment, fit=self.fit,
        )  # fmt: skip


class SystemOptions(Options):
    """One system. A speech system names the stage that makes its checkpoint.

    kind: `text` and `text-label` answer transcripts, `cascade` what Whisper wrote, `speech` is a checkpoint, `server` a
        speech LLM behind a server, `classifier` tells the emotion alone, `file` has answered already.
    per_corpus: train one checkpoint per evaluated corpus (fine-tuning), or one for all.
    classifier: of a text system, or alone: one of the recipe's `classifiers`, or an emotion encoder (folder or hub id;
        `re-llm train emotion` writes one), whose label a prompt with an emotion names, instead of the reference.
    dialogue_prompt: what is answered in dialogues; None = `prompt`.
    history: how earlier turns of the user's stand in a dialogue: as `text`, or as `speech` that is heard again.
    server: of the kind `server`. file: of the kind `file`, replies.jsonl; `{corpus}` stands for the corpus' name.
    corpora: what it answers; None = all that are evaluated.
    model, stage_options: with per_corpus, changes to the recipe's `model` and to the stage, e.g. `{losses: {...}}`.
    """

    kind: Literal["text", "cascade", "text-label", "speech", "server", "classifier", "file"]
    stage: str | None = None
    per_corpus: bool = False
    prompt: PromptId = "chat-empathetic"
    dialogue_prompt: PromptId | None = None
    history: Literal["text", "speech"] = "text"
    classifier: str | None = None
    server: ServerChoice | None = None
    file: str | None = None
    corpora: tuple[str, ...] | None = None
    model: ModelChanges = ModelChanges()
    stage_options: StageChanges = StageChanges()

    @property
    def needs_audio(self) -> bool:
        return self.kind in ("cascade", "classifier", *HEARING) or self.classifier is not None

    @model_validator(mode="after")
    def _consistent(self) -> SystemOptions:
        for name in ("server", "file"):
            if (self.kind == name) != (getattr(self, name) is not None):
                raise ValueError(f"a system of kind `{name}` has a `{name}`; the others have none")
        if (self.kind == "speech") != (self.stage is not None):
            raise ValueError("a system of kind `speech` names its `stage`; the others have none")
        if self.kind == "classifier" and self.classifier is None:
            raise ValueError("a system of kind `classifier` names its `classifier`")
        if self.kind in HEARING:
            without_label(self.prompt)
            without_label(self.dialogue_prompt or self.prompt)
            if self.classifier is not None:
                raise ValueError(
                    f"a system of kind `{self.kind}` has no `classifier`: it recognises the emotion itself"
                )
        elif self.history == "speech":
            raise ValueError("earlier turns are heard again by systems of kind `speech` or `server` alone")
        changed = [name for name in ("model", "stage_options") if getattr(self, name).model_fields_set]
        if changed and not self.per_corpus:
            raise ValueError(f"{changed[0]} changes a training of this system's own, which per_corpus: true gives it")
        return self
