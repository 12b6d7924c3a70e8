"""Recipes that train an emotion encoder (`re-llm train recipes/emotion.yaml`): every option of such a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_validator

from re_llm.audio.disturb import Disturbance
from re_llm.core.emotions import CANONICAL
from re_llm.recipe.options import Options

# Speakers of EmoBox's test folds (Ma et al. 2024, data/ravdess/fold_1 ... fold_6). Folds of other corpora come with
# EmoBox's own files: re-llm prepare emobox --protocol fold.
EMOBOX_FOLDS = {
    "ravdess": (
        ("01", "11", "20", "21"), ("04", "10", "12", "14"), ("08", "09", "19", "23"),
        ("03", "05", "07", "24"), ("02", "15", "16", "18"), ("06", "13", "17", "22"),
    ),
}  # fmt: skip


class SharedOptions(Options):
    """An encoder that reads the layers of a Whisper encoder (re_llm.model.shared_emotion).

    speech_encoder: the Whisper, which stays frozen: component name, folder or hub id.
    speech_window: `trimmed` encodes the real frames, `full` pads to 30 s as Whisper was trained.
    layers: whose states are read; 0 stands in front of the first layer.
    pool: states (20 ms) in a window, whose mean and deviation are kept.
    hidden_size: width of the utterance embedding.
    """

    kind: Literal["shared"]
    speech_encoder: str = "small:whisper"
    speech_window: Literal["trimmed", "full"] = "trimmed"
    layers: tuple[int, ...] = (2, 3, 4)
    pool: int = Field(default=20, ge=1)
    attention_size: int = Field(default=16, ge=1)
    hidden_size: int = Field(default=256, ge=1)


class SeparateOptions(Options):
    """An encoder of its own: wav2vec2, HuBERT, WavLM or any other that classifies audio in transformers.

    name: what it starts from, folder or hub id.
    train: the whole encoder, or the new head alone.
    """

    kind: Literal["separate"]
    name: str
    train: Literal["all", "head"] = "all"


class AugmentOptions(Options):
    """How a disturbed copy of a training recording differs from it.

    copies: of every recording, beside the recording itself; they are encoded once.
    speed: range of the factor; pitch and formants move with it, as with another speaker.
    silence: seconds in front and behind, at most; trim: how often the silence that is there is cut off instead.
    """

    copies: int = Field(default=4, ge=0)
    speed: tuple[float, float] = (0.86, 1.16)
    speed_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    silence: float = Field(default=2.0, ge=0.0)
    silence_fraction: float = Field(default=0.45, ge=0.0, le=1.0)
    trim_fraction: float = Field(default=0.35, ge=0.0, le=1.0)
    disturbance: Disturbance = Disturbance()

    @field_serializer("disturbance", mode="wrap")
    def _as_before(self, value: Disturbance, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What decides a stored product is told as before there was Opus, where there is none."""
        told = dict(handler(value))
        if not value.opus:
            told.pop("opus", None)
        return told

    @field_validator("speed")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is no range of factors above 0")
        return value


class FitOptions(Options):
    """The training.

    epochs: at most; utterances: drawn per epoch, corpora and classes balanced by the root of their number.
    mixup: parameter of the beta distribution of the shares; 0 = none. spec_augment: how often a stretch of windows is
        left out. clean: how often an undisturbed recording is drawn. dimension_weight: of the V/A/D loss.
    average: decay of the running mean of the weights, which is what is kept; 0 = none.
    consistency: weight of how differently a recording and its disturbed copy are heard; twice the time of a training.
    background: fraction of a batch that is no speech (re_llm.train.emotion.background) and shall have no emotion.
    validation: fraction of every corpus' speakers held out; patience: epochs without a better UA on them before the
        training ends. refit: train again on all speakers, for as many epochs as were best.
    """

    epochs: int = Field(default=30, ge=1)
    utterances: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=5e-4, gt=0.0)
    weight_decay: float = Field(default=0.3, ge=0.0)
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    mixup: float = Field(default=0.4, ge=0.0)
    spec_augment: float = Field(default=0.5, ge=0.0, le=1.0)
    clean: float = Field(default=0.3, ge=0.0, le=1.0)
    average: float = Field(default=0.0, ge=0.0, lt=1.0)
    dimension_weight: float = Field(default=1.0, ge=0.0)
    consistency: float = Field(default=0.0, ge=0.0)
    background: float = Field(default=0.1, ge=0.0, lt=1.0)
    validation: float = Field(default=0.2, gt=0.0, lt=1.0)
    patience: int = Field(default=10, ge=1)
    refit: bool = True


class FoldOptions(Options):
    """A measurement on speakers that were left out of the training (`--stage folds`).

    corpus: whose recordings are the test.
    emotions: classes that are told apart; null = all that the corpus has of the recipe's.
    folds: lists of speakers, each list left out in turn; `emobox` for the published ones; `corpus` leaves the whole
        corpus out; `split` takes the manifest's own test split.
    conditions: hear the recordings quieter, louder, with silence, noise and codecs too, and count what keeps its label.
    """

    corpus: str
    emotions: tuple[str, ...] | None = None
    folds: Literal["emobox", "corpus", "split"] | tuple[tuple[str, ...], ...]
    conditions: bool = False

    @model_validator(mode="after")
    def _known(self) -> FoldOptions:
        if self.folds == "emobox" and self.corpus not in EMOBOX_FOLDS:
            raise ValueError(f"EmoBox's folds of {self.corpus!r} are not known here: read its own files, folds: split")
        return self


class EmotionRecipe(Options):
    """A whole run: the encoder, its training, and the tests of `--stage folds`.

    held_out: corpus -> speakers on whom the encoder is not trained but measured; folds are not changed by it.
    """

    kind: Literal["emotion"]
    name: str
    title: str
    emotion_encoder: Annotated[SharedOptions | SeparateOptions, Field(discriminator="kind")]
    emotions: tuple[str, ...]
    augment: AugmentOptions = AugmentOptions()
    fit: FitOptions = FitOptions()
    held_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    tests: dict[str, FoldOptions] = Field(default_factory=dict)

    @field_validator("emotions")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in CANONICAL]
        if unknown:
            raise ValueError(f"unknown emotion {unknown[0]!r}; allowed: {', '.join(CANONICAL)}")
        if len(set(value)) != len(value) or len(value) < 2:
            raise ValueError("emotions must be at least two different names")
        return value

    @model_validator(mode="after")
    def _references(self) -> EmotionRecipe:
        for name, test in self.tests.items():
            unknown = [emotion for emotion in test.emotions or () if emotion not in self.emotions]
            if unknown:
                raise ValueError(f"test {name!r} tells {unknown[0]!r} apart, which is not under `emotions`")
        return self
