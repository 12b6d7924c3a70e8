"""Qwen's tiktoken vocabulary as a fast tokenizer: no difference from merging by ranks, on strings that are hard."""

# ruff: noqa: RUF001

import base64
import random
import unicodedata
from pathlib import Path

import pytest
import regex
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from re_llm.core.errors import RellmError
from re_llm.model.convert.tokenizer import (
    CHATML,
    EXTRAS,
    PATTERN,
    TIKTOKEN,
    checked,
    fast_tokenizer,
    find_tokenizer,
    merges,
    read_ranks,
    write_ranks,
)

TEXT = """I'm so glad that you're here; we've waited since 10:45, and they'll come at 12:30. "Don't worry," she said.
Der Zug fährt um 18 Uhr ab, größere Städte später. Où est la bibliothèque ? ¿Dónde está? Ευχαριστώ πολύ για όλα.
我今天很高兴，因为我们赢了比赛。天气真好！你觉得怎么样？  def f(x):\n    return x ** 2 + 3.14159\n\n\n\t\tif x: pass
Thank you so much for telling me. That sounds hard, and I am sorry. What happened then? Happy happier happiest.
"""
HARD = [
    "", " ", "  ", "\n", "\r\n\r\n", " \n \n ", "\t\tx", "a  b   c", "trailing   ", "   leading",
    "\u00a0\u3000x \u2003y",
    "I'm I'M you'Re we'VE he'ſ 'S's''s", "don't 'tis 'llx 'dx", "0123456789 1,234,567.89 ٣٤٥ ⅷ² ½", "x1y22z333",
    "e\u0301te\u0301 A\u030angstro\u0308m", "한국어 한국", "ﬁ ﬀ Ⅳ ㎏", "\u0958 \u2126 \u212b",
    "🙂👩\u200d👩\u200d👧🏽 🇩🇪",
    "!!!???...\n\n", " -- ---\r\n x", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|><|extra_204|>x", "<|im_start",
    "<|extra_205|>", "a<|im_end|>\u0338b", "\x00\x01\x7f", "ħ\u0127\u0338", "aaaaaaaaaaaaaaaaaaaaaaaaa", "happinesssss",
    "你好，世界！今天123天气", "ß ẞ ﷺ \u1e9e", "\ufeffbom", "\u200bzero\u200bwidth", "π≈3.14159; e≈2.71828",
    "camelCaseWords and_snake_case", "mixed文字and数字42", "\U0001f9d1\u200d\U0001f680 𝒜𝓑", "\u0303alone",
]  # fmt: skip


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """A small vocabulary as Qwen's: bytes, then what merging a text gives, and tokens that no merge leads to."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT], trainer)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    learned = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(byte_of[letter] for letter in token) for token, _ in learned]
    single = [bytes([byte]) for byte in range(256)]
    random.Random(0).shuffle(single)  # Qwen's are not in order of their values
    longer = [token for token in tokens if len(token) > 1]
    return {token: rank for rank, token in enumerate([*single, *longer, b"qzqxjq", b" unreachable!"])}


def write(ranks: dict[bytes, int], path: Path) -> Path:
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    return path


def by_ranks(text: str, ranks: dict[bytes, int]) -> list[int]:
    """What Qwen's tokenizer does: NFC, special tokens, words by the pattern, then merges by lowest rank."""
    special = {name: len(ranks) + i for i, name in enumerate((*CHATML, *EXTRAS))}
    found: list[int] = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", unicodedata.normalize("NFC", text)):
        if part in special:
            found.append(special[part])
            continue
        for word in regex.findall(PATTERN, part):
            piece = word.encode()
            parts = [piece] if piece in ranks else [bytes([byte]) for byte in piece]
            while len(parts) > 1:
                pairs = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
                best, i = min(pairs)
                if best == len(ranks):
                    break
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            found += [ranks[each] for each in parts]
    return found


def random_strings(count: int) -> list[str]:
    draw = random.Random(1)
    letters = [*TEXT, *" \n\t'1é́̈한 🙂ſ\u3000\u00a0", "'s", "  ", "\r\n", "<|im_end|>", "qzqxjq"]
    return ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(count)]


def test_no_difference_from_merging_by_ranks(ranks, tmp_path):
    tokenizer = fast_tokenizer(read_ranks(write(ranks, tmp_path / TIKTOKEN)))
    tokenizer.save_pretrained(tmp_path / "saved")
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [*HARD, *TEXT.splitlines(keepends=True), *random_strings(1500)]
    differ = [t for t in texts if tokenizer(t)["input_ids"] != by_ranks(t, ranks)]
    assert differ == []
    assert [t for t in texts if saved(t)["input_ids"] != by_ranks(t, ranks)] == []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(
            regex.split("|".join(map(regex.escape, (*CHATML, *EXTRAS))), unicodedata.normalize("NFC", text))
        )


def test_beside_a_qwen2_transformers_builds_it_anew(ranks, tmp_path):
    """With a class of its own, which never gives a token that no merge leads to; all else is the same."""
    from transformers import AutoTokenizer, Qwen2Config

    fast_tokenizer(ranks).save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert type(saved).__name__ == "Qwen2Tokenizer"
    texts = [*HARD, *TEXT.splitlines(keepends=True), *random_strings(500)]
    assert [t for t in texts if "qzqxjq" not in t and saved(t)["input_ids"] != by_ranks(t, ranks)] == []
    assert saved.decode(saved("qzqxjq")["input_ids"]) == "qzqxjq"


def test_ids_special_tokens_and_chat_template_are_those_of_qwen(ranks):
    tokenizer = fast_tokenizer(ranks)
    count = len(ranks)
    assert tokenizer.convert_tokens_to_ids([*CHATML, EXTRAS[0], EXTRAS[-1]]) == [count + i for i in (0, 1, 2, 3, 207)]
    assert len(tokenizer) == count + 208
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_back_to_the_same_file(ranks, tmp_path):
    original = write(ranks, tmp_path / TIKTOKEN)
    write_ranks(fast_tokenizer(read_ranks(original)), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == original.read_bytes()


def test_a_token_that_no_merge_leads_to_has_no_pair(ranks):
    assert b"qzqxjq" not in {a + b for a, b in merges(ranks)}
    assert fast_tokenizer(ranks)("qzqxjq")["input_ids"] == [ranks[b"qzqxjq"]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("IQ==", "line 3"), ("I?== 2", "line 3"), ("IQ== x", "line 3"), ("IQ== 7", "rank 7 of b'!'"), ("2 2 2", "line 3")],
)
def test_a_broken_line_is_named(tmp_path, line, expected):
    path = tmp_path / TIKTOKEN
    path.write_text(f"AA== 0\nAQ== 1\n{line}\n")
    with pytest.raises(RellmError, match=expected):
        read_ranks(path)


def test_a_file_that_ends_early_is_refused(tmp_path):
    (tmp_path / TIKTOKEN).write_text("AA== 0\nAQ== 1\n")
    with pytest.raises(RellmError, match="no token for the byte 2"):
        read_ranks(tmp_path / TIKTOKEN)


def test_tokenizers_that_do_not_belong_to_the_llm_are_refused(ranks, tmp_path):
    import tiny_world

    write(ranks, tmp_path / TIKTOKEN)
    with pytest.raises(RellmError, match=f"ids up to {len(ranks) + 2}, and the LLM has 300 embeddings"):
        find_tokenizer(tmp_path, None, 300)
    other = tiny_world.tokenizer().backend_tokenizer.to_str().replace("<|im_start|>", "<|start|>")
    (tmp_path / "other").mkdir()
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(other)).save_pretrained(tmp_path / "other")
    with pytest.raises(RellmError, match=r"has no token <\|im_start\|>"):
        find_tokenizer(tmp_path / "other", None, 600)
    with pytest.raises(RellmError, match="there is no tokenizer in"):
        find_tokenizer(tmp_path, tmp_path / "nowhere", 600)
    assert checked(tiny_world.tokenizer(), tmp_path, 600).chat_template
    with pytest.raises(RellmError, match="cannot be written as a tiktoken file"):
        write_ranks(tiny_world.tokenizer(), tmp_path / "x")
