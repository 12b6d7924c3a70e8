"""What a Whisper folder of transformers holds beside its weights: config, generation config, tokenizer, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import GenerationConfig, WhisperConfig, WhisperTokenizer

from re_llm.core.errors import RellmError
from re_llm.model.convert.tokenizer import MAX_BYTES

END, START, NO_TIMES = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
SUPPRESSED = ("suppress_ids", "suppress_ids_begin")
TASKS = ("transcribe", "translate")
SECONDS_PER_TIME = 0.02
# Whisper's vocabularies have this size or more when it knows other languages than English.
MULTILINGUAL = 51_865
LAST_FIRST_TIME = 50  # the first segment begins within the first second


class WhisperFiles:
    """Made, and checked against the model's sizes, before anything is written.

    Args:
        given: CTranslate2's config.json: tokens to suppress, heads that align words with times. All may be missing.
        named: folder of a `tokenizer.json`, when `source` has none.
        config: gets the ids of the special tokens.

    Raises:
        RellmError: no tokenizer, one that does not belong to this model, ids that it has not.
    """

    def __init__(self, source: Path, given: Mapping[str, Any], named: Path | None, config: WhisperConfig):
        self.source, self.config = source, config
        self.tokenizer = _tokenizer(source, named, config.vocab_size)
        self.generation = self._generation(given, f"{source / 'config.json'}")

    def _generation(self, given: Mapping[str, Any], where: str) -> GenerationConfig:
        config, known = self.config, self.tokenizer.get_vocab()
        end, start = known[END], known[START]
        marks = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
        config.update(marks)
        several = config.vocab_size >= MULTILINGUAL
        tasks = {task: known[f"<|{task}|>"] for task in TASKS if f"<|{task}|>" in known}
        # Languages stand between the start and the tasks.
        places = range(start + 1, min(tasks.values(), default=start))
        languages = {token: i for token, i in known.items() if i in places}
        options: dict[str, Any] = {"lang_to_id": languages, "task_to_id": tasks} if several else {}
        size = (config.decoder_layers, config.decoder_attention_heads)
        if heads := _listed(given, "alignment_heads", "a layer and a head each", size, where):
            options["alignment_heads"] = heads
        ids = [_listed(given, name, "token ids", [config.vocab_size], where) for name in SUPPRESSED]
        return GenerationConfig(
            **marks,
            no_timestamps_token_id=known[NO_TIMES],
            prev_sot_token_id=known.get("<|startofprev|>"),
            suppress_tokens=ids[0],
            begin_suppress_tokens=ids[1],
            is_multilingual=several,
            max_initial_timestamp_index=LAST_FIRST_TIME,
            max_length=config.max_target_positions,
            return_timestamps=False,
            **options,
        )

    def write(self, folder: Path) -> None:
        """All of them into a folder."""
        from re_llm.model.convert.checkpoint import feature_extractor

        feature_extractor(self.source, self.config).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.generation.save_pretrained(folder)
        self.config.save_pretrained(folder)


def _tokenizer(source: Path, named: Path | None, vocab_size: int) -> Any:
    """Whisper's tokenizer with all of its special tokens, those of times included."""
    path = (named or source) / "tokenizer.json"
    if not path.is_file():
        todo = "Give the folder of one with --tokenizer, for example that of openai/whisper-tiny"
        raise RellmError(f"there is no {path}", todo=todo)
    if path.stat().st_size > MAX_BYTES:
        raise RellmError(f"{path} has {path.stat().st_size} bytes", allowed=f"at most {MAX_BYTES}")
    try:
        made = WhisperTokenizer.from_pretrained(path.parent)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise RellmError(f"{path} cannot be read: {error}") from error
    known = made.get_vocab()
    missing = next((token for token in (END, START, NO_TIMES) if token not in known), None)
    if missing:
        raise RellmError(f"{path} has no token {missing}", allowed="the tokenizer of a Whisper")
    times = range(vocab_size - known[NO_TIMES] - 1)
    made.add_tokens([AddedToken(f"<|{SECONDS_PER_TIME * i:.2f}|>", normalized=False) for i in times])
    special = sorted((i, token) for token, i in made.get_vocab().items() if known[START] <= i <= known[NO_TIMES])
    others = [AddedToken(token, normalized=False, special=True) for _, token in special]
    made.add_special_tokens({"pad_token": END, "additional_special_tokens": others})
    if max(made.get_vocab().values()) >= vocab_size:
        raise RellmError(
            f"{path} has ids up to {max(made.get_vocab().values())}, and the model {vocab_size} embeddings",
            todo="Take the tokenizer that belongs to this Whisper",
        )
    return made


def _listed(given: Mapping[str, Any], name: str, what: str, below: Sequence[int], where: str) -> list[Any] | None:
    """An option that lists whole numbers, or pairs of them, each below its limit; None when it is not given."""
    values = given.get(name)

    def fits(value: object) -> bool:
        row = [value] if len(below) == 1 else value
        if not isinstance(row, list) or len(row) != len(below):
            return False
        return all(type(i) is int and 0 <= i < most for i, most in zip(row, below, strict=True))

    if values is not None and not (isinstance(values, list) and all(map(fits, values))):
        allowed = f"whole numbers below {' and '.join(map(str, below))}"
        raise RellmError(f"{where}: {name} is no list of {what}", allowed=allowed)
    return values
