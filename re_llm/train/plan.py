"""What one training run is to do, and the model and the Trainer's arguments that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.parts import PREFIX
from re_llm.core.product import Made
from re_llm.llm.device import DTYPES
from re_llm.model.hub import locate
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.shared_emotion_config import is_shared
from re_llm.recipe.config import Components
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions, unfit


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of one run.

    Attributes:
        components: where the frozen parts come from.
        model: how they are joined.
        stage: what is trained, on what, how.
        start: checkpoint folder to continue from; None = a fresh adapter on the components.
        data: continuation files.

    Raises:
        RellmError: the stage's options do not fit the model.
    """

    components: Components
    model: ModelOptions
    stage: StageOptions
    emotions: tuple[str, ...]
    data: tuple[Path, ...]
    start: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = unfit(self.stage, self.model)
        if wrong:
            raise RellmError(f"this stage cannot train this model: {wrong}")
        if "lora" in self.stage.train and self.model.lora is None:
            raise RellmError(
                "the stage trains `lora`, but model.lora is null", todo="Give model.lora, or do not train it"
            )

    def parts(self) -> dict[str, str | None]:
        """Folders or hub ids of the models that it is made from; the emotion encoder only where it is used.

        A fetched part keeps its name, by which the checkpoint finds it on any machine.
        """
        emotion = None if self.model.fusion == "none" else self.components.emotion_encoder
        names = {
            "llm": self.components.llm,
            "speech_encoder": self.components.speech_encoder,
            "emotion_encoder": emotion,
            "start": self.start,
        }
        return {role: None if name is None else _component(name) for role, name in names.items()}


def _component(name: str) -> str:
    folder = resolve_component(name)
    return name if name.startswith(PREFIX) else folder


@dataclass
class TrainReport(Made):
    """What a run did.

    Attributes:
        final: the last logged value of every loss term.
        shortened: rows whose oldest earlier turns were left out, see `TaskOptions.history_tokens`.
        held_out: rows that were not trained on, see `ValidationOptions`.
        best: step and loss of the weights that were kept, when rows were held out.
        warmup_cut: what the warm-up has become in a run that is too short for it.
        start: what it took over from the checkpoint it continues; `start.json` names every tensor.
    """

    out: Path
    steps: int
    examples: int
    held_out: int = 0
    shortened: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    utterances_per_second: float = 0.0
    final: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    warmup_cut: str | None = None
    start: str = ""


def build_model(
    plan: Plan, *, attention: str | None = None, device: torch.device | None = None
) -> tuple[ReLlmForConditionalGeneration, ReLlmProcessor]:
    """Model and processor to train: fresh from the components, or continued from `plan.start`.

    A checkpoint with another fusion (stage 2 to RE-LLM) hands over its adapter as `init_adapter` says.

    Args:
        attention: attention implementation of the LLM, in transformers' names; None = its default.
        device: where an LLM is quantised; everything else is made on the CPU.
    """
    options, parts = plan.model, plan.parts()
    llm, speech, emotion = parts["llm"], parts["speech_encoder"], parts["emotion_encoder"]
    assert llm is not None and speech is not None
    wanted = plan.components.emotion_kind
    if (
        emotion is not None
        and wanted is not None
        and (wanted == "shared") != is_shared(locate(resolve_component(emotion)))
    ):
        raise RellmError(f"the emotion encoder {emotion} is not of the kind {wanted!r}", todo="Correct the recipe")
    if options.speech_level is not None and emotion is not None and is_shared(locate(resolve_component(emotion))):
        raise RellmError(
            "speech_level is set, but a shared emotion encoder was trained on recordings as they are",
            todo="Leave speech_level out, or take an emotion encoder of its own",
        )
    model = ReLlmForConditionalGeneration.from_components(
        llm,
        speech,
        emotion,
        emotions=plan.emotions,
        fusion=options.fusion,
        speech_window=options.speech_window,
        adapter=options.adapter,
        lora=options.lora,
        dtype=DTYPES.get(options.frozen_dtype, "auto"),
        attn_implementation=attention,
        quantize=options.quantize,
        device=device,
    )
    if parts["start"] is not None:
        model.continue_from(parts["start"], adapter=options.init_adapter)
    if any("adapter_ctc" in (weights or {}) for weights in (plan.stage.losses, plan.stage.warm_losses)):
        model.add_ctc_blank()
    model.set_trainable(plan.stage.train, dtype=torch.float32)
    return model, ReLlmProcessor.from_components(
        llm,
        speech,
        emotion,
        speech_window=options.speech_window,
        speech_level=options.speech_level,
        adapter=model.config.adapter,
    )
