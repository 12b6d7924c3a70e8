"""Options of a bi-encoder's training, and what both encoders start from: a RoBERTa checkpoint, or random weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.biencoder import WINDOW
from re_llm.recipe.options import Options

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BYTES = 256
SCRATCH = {"width", "layers", "heads", "vocabulary"}
SCRATCH_LR = 5e-4  # an encoder with random weights learns nothing at the published 2e-5


class BiEncoderOptions(Options):
    """The published recipe. Losses: empathy_weight * level + rationale_weight * rationale.

    Attributes:
        window: tokens of each text, special tokens included.
        freeze_seeker: the seeker's encoder keeps the weights it starts with.
        patience: epochs without a better macro-F1 on the development pairs until training stops; 0 for all epochs.
        original: attend to the seeker's padding, as the authors' code does.
        test_fraction, dev_fraction: of the seeker posts; development pairs are held out for early stopping only.
        width, layers, heads, vocabulary: of encoders from scratch, and entries of a tokenizer trained on the data.
    """

    lr: float = Field(default=2e-5, gt=0)
    batch_size: int = Field(default=32, gt=0)
    epochs: int = Field(default=4, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = 12
    window: int = Field(default=WINDOW, ge=8)
    empathy_weight: float = Field(default=1.0, ge=0)
    rationale_weight: float = Field(default=0.5, ge=0)
    freeze_seeker: bool = True
    patience: int = Field(default=0, ge=0)
    original: bool = False
    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    dev_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    width: int = Field(default=128, gt=0)
    layers: int = Field(default=2, gt=0)
    heads: int = Field(default=4, gt=0)
    vocabulary: int = Field(default=4000, ge=BYTES + len(SPECIAL))

    @model_validator(mode="after")
    def _consistent(self) -> BiEncoderOptions:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is no multiple of heads = {self.heads}")
        return self

    @classmethod
    def checked(cls, given: dict[str, Any], *, scratch: bool) -> BiEncoderOptions:
        """Options from names and values; what is not given keeps its default.

        Raises:
            RellmError: an unknown name, a wrong value, or sizes of an encoder that is not trained from scratch.
        """
        if not scratch and (unused := sorted(SCRATCH & given.keys())):
            raise RellmError(f"{unused[0]} has no meaning with a trained encoder", todo="Add --from-scratch")
        return cls.read(({"lr": SCRATCH_LR} if scratch else {}) | given, "--set")


@dataclass(frozen=True)
class Start:
    """What both encoders start from. `weights`: of a RobertaModel without pooler; None for random ones."""

    config: RobertaConfig
    tokenizer: PreTrainedTokenizerFast
    weights: dict[str, Tensor] | None = None


def read_tokenizer(where: str) -> PreTrainedTokenizerFast:
    """Tokenizer of a folder or hub id.

    Raises:
        RellmError: there is none, or it gives no character offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=Path(where).is_dir())
    except (OSError, ValueError) as error:
        raise RellmError(f"{where} holds no tokenizer: {error}") from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise RellmError(f"the tokenizer of {where} has no character offsets or no padding token")
    return tokenizer


def read_start(encoder: str, tokenizer: str | None = None) -> Start:
    """A RoBERTa checkpoint: a local folder, or a hub id, which is downloaded.

    Raises:
        RellmError: the encoder or its tokenizer cannot be read, or it is no RoBERTa.
    """
    local = Path(encoder).is_dir()
    try:
        config = RobertaConfig.from_pretrained(encoder, local_files_only=local)
        weights = RobertaModel.from_pretrained(
            encoder, local_files_only=local, add_pooling_layer=False, use_safetensors=True, dtype=torch.float32
        ).state_dict()
    except (OSError, ValueError) as error:
        raise RellmError(
            f"{encoder} holds no RoBERTa model: {error}", allowed="a folder or hub id with safetensors"
        ) from error
    return Start(config, read_tokenizer(tokenizer or encoder), weights)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with RoBERTa's marks, from some texts; the same texts give the same tokenizer."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>",
    )  # fmt: skip


def scratch_start(texts: Sequence[str], options: BiEncoderOptions, tokenizer: str | None = None) -> Start:
    """A small RoBERTa with random weights.

    Args:
        texts: of the training data; the tokenizer is trained on them.
        tokenizer: folder or hub id of a finished one, in place of training it.

    Raises:
        RellmError: the named tokenizer cannot be read.
    """
    own = read_tokenizer(tokenizer) if tokenizer else train_tokenizer(texts, options.vocabulary)
    config = RobertaConfig(
        vocab_size=len(own), hidden_size=options.width, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, intermediate_size=4 * options.width, type_vocab_size=1,
        max_position_embeddings=options.window + own.pad_token_id + 1, layer_norm_eps=1e-5,
        pad_token_id=own.pad_token_id, bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    return Start(config, own)
