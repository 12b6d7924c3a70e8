"""Option objects in general, and those of the model: what a recipe says of it, and the config.json of a checkpoint.

No torch and no transformers here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from re_llm.core.errors import RellmError
from re_llm.llm.prompts import PROMPTS


class Options(BaseModel):
    """Base of all option objects: frozen, unknown keys and NaN refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def read(cls, given: Self | Mapping[str, object] | None, where: str) -> Self:
        """Options from a mapping (an object of a config.json) or ready ones; None gives the defaults.

        Raises:
            RellmError: an unknown key, a wrong value or a contradiction; names `where` and the key.
        """
        if isinstance(given, cls):
            return given
        try:
            return cls.model_validate({} if given is None else given)
        except ValidationError as error:
            raise refusal(error, where, cls) from None


def first_error(error: ValidationError) -> ErrorDetails:
    """What pydantic found first; a wrong value counts before a missing one."""
    return min(error.errors(include_url=False), key=lambda each: each["type"] == "missing")


def refusal(error: ValidationError, where: str, options: type[Options]) -> RellmError:
    """The first error as a user's mistake in `where`; `options` is what was being read."""
    first = first_error(error)
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return RellmError(f"{where}: unknown key {key!r}", allowed=_keys_at(options, first["loc"]), todo="Correct it")
    what = first["msg"].removeprefix("Value error, ")
    if what.startswith("Input should be "):
        value = f"{first['input']!r:.80}"
        return RellmError(f"{where}: {key} is {value}", allowed=what.removeprefix("Input should be "))
    return RellmError(f"{where}: {key + ': ' if key else ''}{what}")


def _keys_at(options: type[Options], location: tuple[int | str, ...]) -> str:
    """Keys allowed beside an unknown key."""
    for part in location[:-1]:
        if part in options.model_fields:
            annotation = options.model_fields[str(part)].annotation
            kinds = [annotation, *getattr(annotation, "__args__", ())]
            options = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Options)), options)
    return ", ".join(options.model_fields)


def _prompt_id(name: str) -> str:
    if name not in PROMPTS:
        raise ValueError(f"unknown prompt {name!r}; allowed: {', '.join(PROMPTS)}")
    return name


def without_label(name: str) -> str:
    """The id of a prompt that does not name the emotion.

    Raises:
        ValueError: it does.
    """
    if PROMPTS[name].needs_emotion:
        raise ValueError(f"the prompt {name!r} names the emotion, which the model has to recognise")
    return name


PromptId = Annotated[str, AfterValidator(_prompt_id)]


class LoraOptions(Options):
    """Partial LoRA (BLSP-Emo section 3).

    targets: names of the linear layers; null = attention and MLP up/gate of the LLM.
    scope: positions that pass through the LoRA branch: `speech` tokens, `text` (all others), or `global`.
    """

    r: int = Field(default=16, ge=1, le=2**16)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    targets: tuple[str, ...] | None = None
    scope: Literal["speech", "text", "global"] = "speech"


class AdapterOptions(Options):
    """The adapter between the encoders and the LLM (RE-LLM section II-A; widths from the released code).

    kind: `subsampler`, strided convolutions with a residual bottleneck; or `cformer` (BLSP-Emo's code),
        integrate-and-fire between transformer layers: one speech token per transcript token.
    conv_layers, kernel_size, stride: of a subsampler; each convolution is followed by a GLU.
    bottleneck: of a subsampler, width of the residual bottleneck behind the convolutions.
    hidden_layers: of a subsampler, Whisper encoder layers inside the bottleneck, in place of its GELU.
    units: of a subsampler with two hidden layers or more, how many of the LLM's first tokens are predicted behind the
        first of them (`intermediate_ctc`); the others read the prediction (hierarchical conditional CTC, Higuchi et
        al. 2022). 0 = none.
    spoken_only: of a subsampler trained with adapter_ctc: the LLM is given only the speech tokens in which that loss
        reads something, and no blanks (CTC-based compression, Gaido et al. 2021): as dense as text.
    pre_layers, post_layers: of a cformer, Whisper encoder layers in front of integrate-and-fire and behind it.
    """

    kind: Literal["subsampler", "cformer"] = "subsampler"
    conv_layers: int = Field(default=3, ge=1, le=16)
    kernel_size: int = Field(default=5, ge=1, le=2**10)
    stride: int = Field(default=2, ge=1, le=2**10)
    bottleneck: int = Field(default=512, ge=1, le=2**20)
    hidden_layers: int = Field(default=0, ge=0, le=2**10)
    units: int = Field(default=0, ge=0, le=2**18)
    spoken_only: bool = False
    pre_layers: int = Field(default=4, ge=0, le=2**10)
    post_layers: int = Field(default=4, ge=0, le=2**10)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; allowed: odd numbers")
        cformer = {"pre_layers", "post_layers"}
        others = cformer if self.kind == "subsampler" else set(type(self).model_fields) - cformer - {"kind"}
        for name in sorted(others):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is no option of an adapter of the kind {self.kind!r}")
        if self.units and self.hidden_layers < 2:
            raise ValueError(
                f"units are predicted between hidden layers: set hidden_layers, {self.hidden_layers}, to 2"
            )
        return self

    @property
    def counts_beforehand(self) -> bool:
        """Whether the length of a recording alone tells how many speech tokens the LLM will be given."""
        return self.kind != "cformer" and not self.spoken_only

    def token_count(self, states: int) -> int:
        """Speech tokens made of `states` encoder states: floor((L - 1) / stride) + 1 per convolution.

        With `spoken_only` the LLM is given as many at most.

        Raises:
            RellmError: the adapter is a cformer, and the number depends on the recording.
        """
        if self.kind == "cformer":
            raise RellmError(
                "the number of speech tokens of a cformer adapter depends on the recording",
                todo="Call the model's encode_speech first, and lay out the rows by its lengths",
            )
        for _ in range(self.conv_layers):
            states = (states - 1) // self.stride + 1
        return states


class ModelOptions(Options):
    """How the parts are joined.

    fusion: `pooled` repeats the utterance's emotion embedding over time (RE-LLM eq. 3), `frames` aligns frame by
        frame, `none` leaves the emotion encoder out (BLSP-Emo; system 8).
    speech_window: `full` pads to 30 s as Whisper was trained, `trimmed` encodes only the real frames.
    speech_level: dB of full scale to which the speech of every recording is brought for the speech encoder, so that no
        gain changes an answer; None = as recorded, as the papers.
    init_adapter: `copy` starts a fused adapter from the adapter of the checkpoint it continues, `fresh` at random.
    frozen_dtype: of the parts that are not trained, in memory; `auto` = as each is stored, float16 as float32. What is
        trained is always float32.
    quantize: the frozen LLM in `8bit` or `4bit` in training (extra `quantize`); the checkpoint names the LLM as it is.
    """

    fusion: Literal["pooled", "frames", "none"] = "pooled"
    speech_window: Literal["full", "trimmed"] = "full"
    speech_level: float | None = Field(default=None, ge=-60, le=0)
    lora: LoraOptions | None = LoraOptions()
    adapter: AdapterOptions = AdapterOptions()
    init_adapter: Literal["copy", "fresh"] = "copy"
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantize: Literal["8bit", "4bit"] | None = None


class Changes(Options):
    """Some fields of an option object, in place of its own; those that were not given are no part of it."""

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


def changes_of(options: type[Options], name: str, module: str, *, without: Collection[str] = ()) -> type[Changes]:
    """The class of the changes to an option object: its fields with their checks, none of them needed.

    Args:
        name, module: where the class can be found, which workers do.
        without: fields that cannot be changed.
    """
    fields = {field: copy(info) for field, info in options.model_fields.items() if field not in without}
    for field in fields.values():
        field.default, field.default_factory = None, None
    given: dict[str, Any] = {each: (field.annotation, field) for each, field in fields.items()}
    return create_model(name, __base__=Changes, __module__=module, **given)


O = TypeVar("O", bound=Options)  # noqa: E741


def changed(options: O, changes: Changes) -> O:
    """The options with the changes in them.

    Raises:
        ValidationError: they contradict each other.
    """
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    return type(options).model_validate({**options.model_dump(exclude_unset=True), **given})
