"""Where a bi-encoder's two encoders start: a RoBERTa checkpoint, or a small one from nothing with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from re_llm.core.errors import RellmError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


@dataclass(frozen=True)
class ScratchOptions:
    """Sizes of an encoder from nothing: width, layers, heads, and entries of a tokenizer trained on the data."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 4000

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if getattr(self, name) <= 0:
                raise RellmError(f"{name} = {getattr(self, name)} must be above 0")
        if self.width % self.heads:
            raise RellmError(f"width = {self.width} is no multiple of heads = {self.heads}")
        if self.vocabulary < 256 + len(SPECIAL):
            raise RellmError(
                f"vocabulary = {self.vocabulary} is too small", allowed=f"{256 + len(SPECIAL)} (all bytes) or more"
            )


@dataclass(frozen=True)
class Start:
    """What both encoders begin with. `weights`: of a RobertaModel without pooler; None for random ones."""

    config: RobertaConfig
    tokenizer: Any
    weights: dict[str, Tensor] | None = None


def read_tokenizer(where: str) -> Any:
    """Tokenizer of a folder or hub id.

    Raises:
        RellmError: there is none, or it does not say which characters its tokens are of.
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


def scratch_start(texts: Sequence[str], window: int, options: ScratchOptions, tokenizer: str | None = None) -> Start:
    """A small RoBERTa with random weights.

    Args:
        texts: of the training data; the tokenizer is trained on them.
        window: longest text in tokens.
        tokenizer: folder or hub id of a finished one, in place of training it.

    Raises:
        RellmError: the named tokenizer cannot be read.
    """
    own = read_tokenizer(tokenizer) if tokenizer else train_tokenizer(texts, options.vocabulary)
    config = RobertaConfig(
        vocab_size=len(own), hidden_size=options.width, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, intermediate_size=4 * options.width, type_vocab_size=1,
        max_position_embeddings=window + own.pad_token_id + 1, layer_norm_eps=1e-5, pad_token_id=own.pad_token_id,
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    return Start(config, own)
