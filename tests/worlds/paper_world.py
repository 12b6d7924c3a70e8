"""What recipes/re_llm.yaml names, with random weights in the formats of its owners, written by none of our stages.

A Qwen of version 1 with `qwen.tiktoken`, a complete Whisper with 80 mel bins and its 30 s window, a wav2vec2 in
audeering's layout, a released BLSP-Emo over that Qwen and Whisper, EPITOME scorers of RoBERTa's architecture, and the
three corpora in their genuine layouts.
"""

from __future__ import annotations

from pathlib import Path

import epitome_world
import tiny_world
import torch
from safetensors.torch import save_file
from test_convert import small_qwen
from transformers import WhisperFeatureExtractor, WhisperProcessor
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.mini.layouts import write_world
from re_llm.mini.training.whisper_model import WhisperSize, build_model, train_tokenizer
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.convert.run import convert
from re_llm.recipe.config import Recipe

SCALE = 0.008  # of the three corpora: about 170 recordings
TEXTS = ["the dog is in the house", "a red house", "My brother told me about the parcel this morning."]


def write_whisper(folder: Path) -> Path:
    torch.manual_seed(1)
    size = WhisperSize(width=32, encoder_layers=1, decoder_layers=1, heads=2, vocabulary=300)
    processor = WhisperProcessor(WhisperFeatureExtractor(), train_tokenizer(TEXTS, size.vocabulary))
    build_model(processor.tokenizer, size).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_qwen(ranks: dict[bytes, int], folder: Path) -> Path:
    folder.parent.mkdir(parents=True)
    tensors, _ = small_qwen(ranks, folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def _share_fused_lora(model: ReLlmForConditionalGeneration) -> None:
    """Query, key and value get one A, as they have in Qwen 1, where they are one layer."""
    weights = dict(model.named_parameters())
    for name, value in weights.items():
        if ".q_proj.lora_A." in name:
            for other in ("k_proj", "v_proj"):
                weights[name.replace("q_proj", other)].data.copy_(value.data)


def write_blsp_emo(recipe: Recipe, qwen: Path, whisper: Path, work: Path, folder: Path) -> Path:
    """A released BLSP-Emo with the recipe's own adapter and LoRA, over the same LLM and speech encoder."""
    convert(qwen, work / "llm", progress=False)
    options = recipe.model
    assert options.lora is not None
    adapter = options.adapter
    model = ReLlmForConditionalGeneration.from_components(
        work / "llm", whisper, None, fusion="none", speech_window=options.speech_window, adapter=adapter,
        lora=options.lora.model_dump(), emotions=recipe.emotions,
    )  # fmt: skip
    _share_fused_lora(model)
    model.save_pretrained(work / "checkpoint", self_contained=True)
    processor = ReLlmProcessor.from_components(
        work / "llm", whisper, None, speech_window=options.speech_window, adapter=adapter
    )
    processor.save_pretrained(work / "checkpoint")
    convert(work / "checkpoint", folder, to="blsp-emo", progress=False)
    return folder


def write_scorer(root: Path, folder: Path) -> Path:
    """The paper's scorer: two RoBERTa encoders to a mechanism, trained for one epoch on invented pairs."""
    sizes = ("width=32", "layers=1", "heads=2", "vocabulary=300", "epochs=1")
    options = [part for size in sizes for part in ("--set", size)]
    pairs = epitome_world.write_corpus(root / "epitome")
    done = CliRunner().invoke(app, ["score", "train", str(pairs), "--out", str(folder), "--from-scratch", *options])
    assert done.exit_code == 0, done.output
    return folder


def write_all(recipe: Recipe, ranks: dict[bytes, int], root: Path) -> dict[str, str]:
    """Writes everything below `root`; returns the overrides of the recipe, which are paths alone."""
    qwen = write_qwen(ranks, root / "Qwen" / "Qwen-7B-Chat")
    whisper = write_whisper(root / "openai" / "whisper-large-v2")
    emotion = tiny_world.save_emotion(root / "audeering" / "wav2vec2-large-robust-12-ft-emotion-msp-dim")
    blsp_emo = write_blsp_emo(recipe, qwen, whisper, root / "work", root / "checkpoints" / "blsp-emo")
    corpora = ("iemocap", "esd", "msp_podcast")
    write_world(root / "data", scale=SCALE, corpora=corpora, workers=1, progress=False)
    return {
        "components.llm": str(qwen),
        "components.speech_encoder": str(whisper),
        "components.emotion_encoder": str(emotion),
        "stages.finetune.start": str(blsp_emo),
        "systems.blsp-emo.stage": str(blsp_emo),
        "scorer": str(write_scorer(root, root / "checkpoints" / "epitome")),
        **{f"corpora.{name}.root": str(root / "data" / name) for name in corpora},
    }
