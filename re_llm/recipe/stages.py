"""Options of the trainings of a recipe: stages, their tasks and losses, and changes to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from re_llm.recipe.emotion import AugmentOptions
from re_llm.recipe.options import Changes, ModelOptions, Options, PromptId, changes_of

Trained = Literal["adapter", "lora", "heads", "emotion_head", "dimension_head", "adapter_input", "speech_encoder"]
LOSSES = (
    "response_ce",
    "response_kl",
    "input_er",
    "input_er_avd",
    "input_kl",
    "cif",
    "adapter_ctc",
    "intermediate_ctc",
)


class DialogueOptions(Options):
    """How continuations get earlier turns where the corpus is none of dialogues, for training on conversations.

    The turns before an utterance are others of its speaker with what the LLM answered to each.

    prompt: the one whose continuations are asked for after earlier turns; a task's `continuation` names it.
    turns: turns of the user's at most, the utterance's own included.
    answers: the prompt that those answers were given to.
    """

    prompt: PromptId = "cascade-dialogue"
    turns: int = Field(default=4, ge=2, le=16)
    answers: PromptId = "cascade"

    @model_validator(mode="after")
    def _two_prompts(self) -> DialogueOptions:
        if self.prompt == self.answers:
            raise ValueError("dialogues: `prompt` and `answers` are the same, but one file cannot be both")
        return self


class TaskOptions(Options):
    """One kind of training row: the student answers `prompt` on speech.

    target: the LLM's answer to the transcript (`output`), the name of the emotion, or the transcript itself.
    fraction: of the rows, against the other tasks'.
    weight: of each of its response tokens in response_ce, a mean over the tokens of a batch: the name of an emotion is
        one token, and would hardly count among replies of forty.
    continuation: the prompt that answer was given to; None = the stage's.
    teacher_prompt: what the LLM reads around the transcript in the text pass of response_kl and input_kl; None = the
        prompt that the answer was given to, with the emotion label where that names it (RE-LLM section II-B).
    history: how the student gets the earlier turns of continuations that have them: as `speech` where the recording is
        one of the stage's, as `text`, or `mixed`, each turn drawn anew; `none` leaves them out.
    history_tokens: most tokens of the earlier turns; the oldest ones beyond are left out whole, and counted.
    """

    prompt: PromptId
    target: Literal["output", "emotion", "transcript"] = "output"
    fraction: float = Field(default=1.0, gt=0.0)
    weight: float = Field(default=1.0, gt=0.0)
    continuation: PromptId | None = None
    teacher_prompt: PromptId | None = None
    history: Literal["none", "speech", "text", "mixed"] = "none"
    history_tokens: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _history_of_an_output(self) -> TaskOptions:
        if self.history != "none" and self.target != "output":
            raise ValueError("history needs an answer that was given after it: set target to output")
        return self


if TYPE_CHECKING:
    ModelChanges: TypeAlias = Changes
    StageChanges: TypeAlias = Changes
else:
    ModelChanges = changes_of(ModelOptions, "ModelChanges", __name__)


class ValidationOptions(Options):
    """Rows that are held out of training; the weights with the smallest loss on them are kept.

    fraction: of the rows, by whole speakers (`by: speaker`) or drawn one by one (`by: row`).
    split: rows of this split of the corpora, in place of a fraction.
    every: optimiser steps between two evaluations.
    patience: evaluations without a smaller loss before training ends; null = it never ends early.
    """

    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    by: Literal["speaker", "row"] = "speaker"
    split: str | None = None
    every: int = Field(default=200, ge=1)
    patience: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> ValidationOptions:
        if (self.fraction is None) == (self.split is None):
            raise ValueError("validation holds out a `fraction` or a `split`: give one of the two")
        return self


class StageOptions(Options):
    """One training run (`re-llm train`). Paper values: table "Stages" of RE-LLM / BLSP-Emo.

    start: what it continues from: `components` (fresh adapter), another stage of the recipe, or a checkpoint folder.
    model: changes to the recipe's `model`, e.g. `{fusion: pooled}` where the emotion encoder joins.
    data: names of the corpora whose continuations it reads.
    continuation_llm: one of the recipe's `llms` that writes its targets; None = the LLM that is trained on.
    exchange: corpora whose recordings have no emotion of their own: each row takes the emotion embedding, and valence,
        arousal and dominance, of a recording with its label, drawn anew every epoch from the other corpora. So words
        without emotion and emotion in few words are learnt together.
    donors: corpora that serve that alone, and are no rows themselves; their manifests are enough.
    unanswered: corpora that the LLM has not answered, and how many rows of each are taken (those with the smallest
        hashes of their keys): manifests, trained by the tasks whose target is the transcript or the emotion alone. So
        more sentences are heard than there are answers. A row that has an answer in another file is left to that.
    losses: weight by name. warm_losses with warm_steps: used instead during the first optimiser steps.
    augment: disturbed copies of the recordings (microphones, rooms, codecs); every row hears one of them or the
        recording itself, drawn anew every epoch. Validation hears the recordings.
    time_mask: fraction of each recording's encoder states that a row hears as zeros, in stretches of 0.1 to 0.3 s drawn
        anew every epoch (SpecAugment over time, Park et al. 2019, on states as in wav2vec 2.0). Validation hears all.
    train: `heads` are `emotion_head` and `dimension_head`; one of them alone leaves the other as it was at the start.
        `adapter_input` is the adapter's first convolution alone, where the emotion embedding comes in.
    weight_decay_on: `all` parameters, or the `weights` without biases and norms.
    schedule: `warmup_decay` rises with the logarithm of the step and falls in a line to 0 (DeepSpeed's
        WarmupDecayLR); the others rise in a line.
    warmup: optimiser steps; at most half of the run; a cut is reported.
    teacher_top_k: response_kl compares the k tokens that the teacher finds likeliest, and all others as one. They are
        kept beside the encoder states, so a row's text pass is made once; null = all tokens, the pass in every step.
    ctc_sample: adapter_ctc weighs the tokens of the batch's transcripts against so many of the others, drawn anew in
        every step, in place of the LLM's whole vocabulary: several times cheaper; null = all. Validation takes all.
    ctc_text: the transcript that adapter_ctc and intermediate_ctc spell: as it is `written`, or as it would stand
        inside a `running` text, with a space in front and no capital that a sentence makes; see
        `re_llm.train.spelling`. The teacher reads it as it is written.
    kl_at: logits that response_kl compares: those of the `prediction` of each response token (BLSP-Emo eq. 1), or those
        at the `token` itself, which predict the next one (released code).
    epochs / max_steps: max_steps wins when given. seconds and tokens outside the limits are dropped and counted.
    text_filter: what may have max_text_tokens: the `transcript`, or the `row` of its text pass with prompt and answer.
    attention: of the LLM: `eager`, `sdpa`, `flash_attention_2` (a GPU and the package flash-attn); `auto` is eager on a
        CPU, else transformers' default. They differ by rounding alone.
    features: where the states of frozen encoders are kept: `disk` (computed once), or `none` (computed in every step).
    """

    start: str = "components"
    model: ModelChanges = ModelChanges()
    data: tuple[str, ...] = ()
    exchange: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    unanswered: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    augment: AugmentOptions | None = None
    time_mask: float = Field(default=0.0, ge=0.0, lt=1.0)
    adapter_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    continuation_llm: str | None = None
    continuation: PromptId = "continue"  # prompt with which the LLM wrote the targets
    tasks: tuple[TaskOptions, ...] = (TaskOptions(prompt="continue"),)
    losses: dict[str, float]
    warm_losses: dict[str, float] | None = None
    warm_steps: int = Field(default=0, ge=0)
    train: tuple[Trained, ...] = ("adapter", "lora", "heads")
    lr: float = Field(gt=0.0)
    weight_decay: float = Field(default=0.05, ge=0.0)
    weight_decay_on: Literal["all", "weights"] = "all"
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    warmup: int = Field(default=200, ge=0)
    schedule: Literal["warmup_decay", "cosine", "linear", "constant_with_warmup"] = "warmup_decay"
    epochs: float = Field(default=1.0, gt=0.0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    temperature: float = Field(default=2.0, gt=0.0)
    kl_at: Literal["prediction", "token"] = "prediction"
    ctc_text: Literal["written", "running"] = "written"
    teacher_top_k: int | None = Field(default=None, ge=1)
    ctc_sample: int | None = Field(default=None, ge=1)
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    max_text_tokens: int = 256
    text_filter: Literal["transcript", "row"] = "transcript"
    save_every: int = Field(default=200, ge=1)
    validation: ValidationOptions | None = None
    features: Literal["disk", "none"] = "disk"

    def reads_answers(self) -> bool:
        """Whether a loss reads what the LLM answered; where none does, manifests are all that the stage needs."""
        names = {*self.losses, *(self.warm_losses or {})}
        taught = bool({"response_kl", "input_kl"} & names)
        answered = "response_ce" in names and any(task.target == "output" for task in self.tasks)
        return taught or answered or any(task.history != "none" for task in self.tasks)

    def tasks_without_answers(self) -> tuple[TaskOptions, ...]:
        """Tasks that a row needs no answer of the LLM for."""
        return tuple(task for task in self.tasks if task.target != "output" and task.history == "none")

    def spelled_units(self, model: ModelOptions) -> int:
        """Units of the adapter that a loss of this stage spells transcripts with; 0 where none does."""
        return model.adapter.units if "intermediate_ctc" in {*self.losses, *(self.warm_losses or {})} else 0

    def continuations(self) -> tuple[str, ...]:
        """Ids of the prompts whose answers the stage trains, its own first."""
        others = (task.continuation for task in self.tasks if task.target == "output" and task.continuation)
        return tuple(dict.fromkeys((self.continuation, *others)))

    @field_validator("losses", "warm_losses")
    @classmethod
    def _known_losses(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        unknown = [name for name in value or {} if name not in LOSSES]
        if unknown:
            raise ValueError(f"unknown loss {unknown[0]!r}; allowed: {', '.join(LOSSES)}")
        return value

    def _has_heads(self, losses: set[str]) -> None:
        if "heads" in self.train:
            return
        for loss, head in (("input_er", "emotion_head"), ("input_er_avd", "dimension_head")):
            if loss in losses and not {"emotion_head", "dimension_head"} & set(self.train):
                raise ValueError("input_er and input_er_avd train the heads: add `heads` to `train`")
            if loss in losses and head not in self.train and self.start == "components":
                raise ValueError(f"{loss} reads {head}, which is new in this stage and not in `train`: add it")

    def _has_tasks_without_answers(self) -> None:
        if not self.unanswered:
            return
        donating = sorted(set(self.unanswered) & set(self.donors))
        if donating:
            raise ValueError(f"{donating[0]} is in unanswered and in donors, whose answers are not read anyway")
        if not self.reads_answers():
            raise ValueError("unanswered is for stages that train answers: this one reads none, so leave it out")
        if not self.tasks_without_answers():
            raise ValueError("unanswered needs a task whose target is the transcript or the emotion")

    @model_validator(mode="after")
    def _consistent(self) -> StageOptions:
        names = set(self.losses) | set(self.warm_losses or {})
        self._has_heads(names)
        if self.warm_steps and not self.warm_losses:
            raise ValueError("warm_steps is set, but warm_losses is not")
        taught = sorted({"response_kl", "input_kl"} & names)
        if taught and len(self.tasks) == 1 and self.tasks[0].target == "emotion":
            raise ValueError(f"{taught[0]} needs a teacher, but the only task answers with the label")
        if self.teacher_top_k and ("response_kl" not in names or "input_kl" in names):
            raise ValueError(
                "teacher_top_k is for response_kl, without input_kl, which compares every token of the input"
            )
        if self.ctc_sample and "adapter_ctc" not in names:
            raise ValueError("ctc_sample is for adapter_ctc, which is no loss of this stage")
        if self.ctc_text != "written" and not {"adapter_ctc", "intermediate_ctc"} & names:
            raise ValueError("ctc_text is for adapter_ctc and intermediate_ctc, which are no losses of this stage")
        if "response_ce" not in names and any(task.weight != 1.0 for task in self.tasks):
            raise ValueError("the weight of a task is for response_ce, which is no loss of this stage")
        both = sorted(set(self.exchange) & set(self.donors))
        if both or (self.donors and not self.exchange):
            what = f"{both[0]} is in exchange and in donors" if both else "donors are for exchange, which is not set"
            raise ValueError(what)
        self._has_tasks_without_answers()
        if self.time_mask and ("speech_encoder" in self.train or self.features == "none"):
            raise ValueError(
                "time_mask hides stored states of a frozen speech encoder: take it out of `train`, set features: disk"
            )
        if self.adapter_dropout and not {"adapter", "adapter_input"} & set(self.train):
            raise ValueError("adapter_dropout is for an adapter that is trained: put it into `train`")
        if self.exchange and ("speech_encoder" in self.train or self.features == "none"):
            raise ValueError(
                "exchange reads stored states of a frozen speech encoder: take it out of `train`, set features: disk"
            )
        if self.min_seconds >= self.max_seconds:
            raise ValueError("min_seconds must be below max_seconds")
        return self


if not TYPE_CHECKING:
    StageChanges = changes_of(StageOptions, "StageChanges", __name__, without=("start", "model"))


def unfit(stage: StageOptions, model: ModelOptions) -> str | None:
    """Why a stage cannot train a model that is joined like this; None when it can."""
    losses = {*stage.losses, *(stage.warm_losses or {})}
    if stage.exchange and model.fusion != "pooled":
        return f"exchange moves the embedding of an utterance: set model.fusion to pooled, it is {model.fusion}"
    paired = sorted({"input_kl", "cif"} & losses)
    if paired and model.adapter.kind != "cformer":
        return f"{paired[0]} needs one speech token per transcript token: set model.adapter.kind to cformer, or drop it"
    if "intermediate_ctc" in losses and not model.adapter.units:
        return "intermediate_ctc reads what the adapter predicts between its layers: set model.adapter.units"
    if model.adapter.spoken_only and stage.start == "components" and "adapter_ctc" not in losses:
        return "adapter.spoken_only leaves out what adapter_ctc reads nothing in: train that loss, or set `start`"
    if "adapter_ctc" in losses and model.adapter.kind == "cformer":
        return "adapter_ctc needs more speech tokens than transcript tokens, and a cformer gives as many: use cif"
    return None
