"""One tiny model per test module, over components that lie on disk."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor

torch.set_num_threads(1)


@dataclass
class World:
    """Folders of the components; makes models and processors over them."""

    llm: Path
    whisper: Path
    emotion: Path

    def model(
        self, *, emotion: bool = True, lora_strength: float = 0.3, start: Path | None = None, **options
    ) -> ReLlmForConditionalGeneration:
        """A model in eval mode. LoRA starts as identity; a strength above 0 makes it do something.

        start: a checkpoint that it takes over.
        """
        torch.manual_seed(3)
        options = {"adapter": tiny_world.ADAPTER, "lora": {"r": 4, "dropout": 0.0}, **options}
        encoder = self.emotion if emotion else None
        made = ReLlmForConditionalGeneration.from_components(self.llm, self.whisper, encoder, **options)
        for name, parameter in made.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(0, lora_strength)
        if start is not None:
            made.continue_from(start)
        return made

    def processor(self, *, emotion: bool = True, **options) -> ReLlmProcessor:
        options = {"adapter": tiny_world.ADAPTER, **options}
        return ReLlmProcessor.from_components(self.llm, self.whisper, self.emotion if emotion else None, **options)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("components")
    return World(
        tiny_world.save_llm(root / "llm"),
        tiny_world.save_whisper(root / "whisper"),
        tiny_world.save_emotion(root / "emotion"),
    )
