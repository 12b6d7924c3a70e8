"""Qwen's tiktoken vocabulary as a fast tokenizer, and back.

`qwen.tiktoken` lists byte strings by rank. tiktoken merges, again and again, the two neighbours whose union has the
lowest rank. A fast tokenizer wants the pairs themselves: the last two parts of a token when its own bytes are merged
with all lower ranks. One pair per token is enough, because merging inside a token's bytes does not depend on what
stands around them; a token that no pair leads to is found only as a whole word, which `ignore_merges` does as well.
"""

from __future__ import annotations

import base64
import binascii
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from re_llm.core.errors import RellmError
from re_llm.model.inputs import load_tokenizer

TIKTOKEN = "qwen.tiktoken"
MAX_BYTES, MAX_TOKEN_BYTES = 64 * 2**20, 4096
# How Qwen cuts a text into words: contractions, letters, single digits, punctuation, line ends, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (END_OF_TEXT, IM_START, IM_END)
EXTRAS = tuple(f"<|extra_{i}|>" for i in range(205))
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Byte string -> rank.

    Raises:
        RellmError: a line that is not base64 and a number, a rank that is missing or given twice, an oversized file.
    """
    if path.stat().st_size > MAX_BYTES:
        raise RellmError(f"{path} has {path.stat().st_size} bytes", allowed=f"at most {MAX_BYTES}")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            coded, rank = line.split()
            token, index = base64.b64decode(coded, validate=True), int(rank)
        except (ValueError, binascii.Error) as error:
            what = f"{path}, line {number}: {error}"
            raise RellmError(what, allowed="a token as base64, a space, its rank") from error
        if token in ranks or index != len(ranks) or not 0 < len(token) <= MAX_TOKEN_BYTES:
            raise RellmError(
                f"{path}, line {number}: rank {index} of {token[:20]!r}",
                allowed="every token once, its rank its line number from 0",
            )
        ranks[token] = index
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise RellmError(f"{path} has no token for the byte {missing}", todo="Copy or download it again")
    return ranks


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token is merged from, by rank; tokens that no pair leads to are left out."""
    found = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _merge(token, ranks, rank)
            if len(parts) == 2:
                found.append((parts[0], parts[1]))
    return found


def _merge(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """A token's bytes, merged by all ranks below `limit`."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        candidates = ((ranks.get(a + b, limit), i) for i, (a, b) in enumerate(pairwise(parts)))
        best, at = min(candidates)
        if best >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def fast_tokenizer(ranks: dict[bytes, int]) -> PreTrainedTokenizerFast:
    """A fast tokenizer with Qwen's vocabulary, special tokens and chat template.

    Ids equal Qwen's: ranks first, then end of text, the two marks of ChatML, and 205 spare ones.
    """
    letters = bytes_to_unicode()  # byte -> the printable letter that stands for it (GPT-2)

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    pairs = [(spelled(a), spelled(b)) for a, b in merges(ranks)]
    backend = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    # Qwen normalises the whole text before it looks for special tokens.
    backend.add_special_tokens([AddedToken(name, special=True, normalized=True) for name in (*CHATML, *EXTRAS)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def checked(tokenizer: PreTrainedTokenizerBase, where: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer that knows ChatML and fits the LLM.

    Raises:
        RellmError: a token of ChatML is missing, or the LLM has no embedding for one.
    """
    known = tokenizer.get_vocab()
    missing = next((token for token in CHATML if token not in known), None)
    if missing:
        raise RellmError(
            f"the tokenizer in {where} has no token {missing}", allowed=f"a tokenizer with {', '.join(CHATML)}"
        )
    high = max(known[token] for token in CHATML)
    if high >= vocab_size:
        raise RellmError(
            f"the tokenizer in {where} gives ChatML the ids up to {high}, and the LLM has {vocab_size} embeddings",
            todo="Take the tokenizer that belongs to this LLM",
        )
    return tokenizer


def write_ranks(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """The tiktoken file of a tokenizer that `fast_tokenizer` made.

    Raises:
        RellmError: it is no byte-level tokenizer with the layout of ids that Qwen has.
    """
    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    special = set(tokenizer.get_added_vocab())
    ranked = sorted((rank, token) for token, rank in tokenizer.get_vocab().items() if token not in special)
    known = tokenizer.get_vocab()
    ids = [known.get(token) for token in CHATML]
    if ids != list(range(len(ranked), len(ranked) + 3)) or any(set(t) - bytes_of.keys() for _, t in ranked):
        raise RellmError("this tokenizer cannot be written as a tiktoken file", allowed="a converted Qwen tokenizer")
    lines = []
    for rank, token in ranked:
        coded = base64.b64encode(bytes(bytes_of[letter] for letter in token)).decode()
        lines.append(f"{coded} {rank}\n")
    path.write_text("".join(lines), encoding="ascii")


def find_tokenizer(
    source: Path, named: Path | None, vocab_size: int
) -> tuple[PreTrainedTokenizerBase | None, list[str]]:
    """The tokenizer of a folder, and the note to the user when there is none.

    Raises:
        RellmError: it lacks ChatML's tokens, or does not fit the LLM.
    """
    folder = named or source
    if (folder / TIKTOKEN).is_file():
        path = folder / TIKTOKEN
        return checked(fast_tokenizer(read_ranks(path)), path, vocab_size), []
    if (folder / "tokenizer.json").is_file():
        return checked(load_tokenizer(folder), folder, vocab_size), []
    if named is not None:
        raise RellmError(f"there is no tokenizer in {named}", allowed=f"{TIKTOKEN}, tokenizer.json")
    missing = f"no tokenizer in {source}: the result has no processor; give one with --tokenizer FOLDER"
    return None, [missing]
