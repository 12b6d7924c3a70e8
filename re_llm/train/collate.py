"""Rows to padded batches. B batch, L tokens, T frames, S speech tokens, V vocabulary.

Padding stands on the right; positions count real tokens only. Logits are asked for at the positions that predict a
response token and nowhere else.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import NotRequired, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from re_llm.llm.rows import pad_rows
from re_llm.model.outputs import EncodedAudio
from re_llm.train.examples import Example
from re_llm.train.rows import Row

HIDDEN_FRAMES = (5, 15)  # shortest and longest stretch that is hidden, of 20 ms


class SpeechInputs(TypedDict, total=False):
    """Keyword inputs of the speech branch: encoder states, or raw features; see `encode_speech` of the model."""

    speech: EncodedAudio
    input_features: Tensor
    feature_lengths: Tensor
    emotion_values: Tensor
    emotion_lengths: Tensor
    token_lengths: Tensor


Encode: TypeAlias = Callable[[Sequence[Example], Sequence[Example], Sequence[int]], SpeechInputs]
"""Of examples, of those whose emotion they have, and of which copy of them is heard."""


class TextBatch(TypedDict):
    """The text pass of the rows that have a teacher. `of_target`: which of all target tokens are theirs.

    Places are numbers and not masks: a GPU would have to tell the host how many a mask holds. Those of a loss are given
    where there are any for another one.
    """

    input_ids: Tensor
    attention_mask: Tensor
    logits_at: Tensor  # [K] places in the flattened rows whose logits are computed
    of_target: Tensor
    keys: NotRequired[list[str]]  # of the rows, where what the teacher predicts is kept
    counts: NotRequired[list[int]]  # response tokens of each of them
    response_at: NotRequired[Tensor]  # those of the K that predict a response token
    kl_at: NotRequired[Tensor]  # those that response_kl compares, where it is not these
    input_at: NotRequired[Tensor]  # those that stand at the transcript


class Batch(TypedDict):
    """A training batch: B rows, and R recordings, which are more where earlier turns are speech."""

    speech: SpeechInputs
    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L], or [B, O + L] with openings
    openings: NotRequired[list[tuple[int, ...]]]  # what rows begin with, where `input_ids` lacks it; O the longest
    opening_of: NotRequired[Tensor]  # [B] which of them each row has
    logits_at: Tensor  # as in `TextBatch`
    response_at: NotRequired[Tensor]
    kl_at: NotRequired[Tensor]
    input_at: NotRequired[Tensor]  # those of the K that stand at the speech
    targets: Tensor  # [N] ids of the response tokens
    weights: NotRequired[Tensor]  # [N] of these in response_ce; none = all alike
    emotions: Tensor  # [R] index, or IGNORE_INDEX
    dimensions: Tensor  # [R, 3], NaN where unknown
    transcripts: Tensor  # [R, L] ids, padded
    transcript_lengths: Tensor  # [R]
    units: NotRequired[Tensor]  # [R, W] the transcripts as intermediate_ctc spells them, padded
    unit_lengths: NotRequired[Tensor]  # [R]
    teacher: NotRequired[TextBatch | None]


def predicting(before: Sequence[int], response: Sequence[int], width: int) -> torch.Tensor:
    """[B, L] true where the logits predict a response token: one position earlier than the token itself."""
    return spans([start - 1 for start in before], response, width)


def spans(starts: Sequence[int], lengths: Sequence[int], width: int) -> torch.Tensor:
    """[B, L] true at `lengths` positions from `starts` on."""
    at = torch.zeros((len(starts), width), dtype=torch.bool)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        at[i, start : start + length] = True
    return at


def hide_stretches(speech: EncodedAudio, seeds: Sequence[int | None], fraction: float) -> None:
    """Sets stretches of the states [B, T, Ds] to zero, in place: `fraction` of each utterance or a little less.

    Args:
        seeds: one an utterance, which says where; None hides nothing.
        fraction: of the utterance, in (0, 1).
    """
    for states, length, seed in zip(speech.speech_states, speech.speech_lengths.tolist(), seeds, strict=True):
        if seed is None:
            continue
        draw = random.Random(seed)
        left = round(fraction * length)
        while left >= HIDDEN_FRAMES[0]:
            stretch = draw.randint(HIDDEN_FRAMES[0], min(left, HIDDEN_FRAMES[1]))
            first = draw.randint(0, length - stretch)
            states[first : first + stretch] = 0
            left -= stretch


class Collator:
    """Makes a training batch.

    Args:
        examples: what the rows' `index` points into.
        encode: examples of a batch, those whose emotion they have, and which copies of them are heard -> keyword inputs
            of the speech branch: encoder states as `speech`, or raw features.
        token_counts: those inputs -> number of speech tokens of each row; None = as many as its transcript has, which
            the model is then given (CFormer).
        teacher: whether a loss needs the text pass.
        compare_input: whether a loss compares the two passes at the transcript too (input_kl).
        kl_at_tokens: whether response_kl compares the logits at each response token, not those that predict it.
        keep_teacher: whether what the teacher predicts is kept, by a key of what it reads.
        apart: whether what the rows begin with is given apart, for `Openings`.
        time_mask: fraction of the encoder states that rows with `hidden` do not hear.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encode: Encode,
        token_counts: Callable[[SpeechInputs], list[int]] | None,
        *,
        speech_token: int,
        pad_token: int,
        teacher: bool,
        compare_input: bool = False,
        kl_at_tokens: bool = False,
        keep_teacher: bool = False,
        apart: bool = False,
        time_mask: float = 0.0,
    ):
        assert not compare_input or (teacher and token_counts is None), "input_kl needs a teacher and paired tokens"
        self.examples, self.encode, self.token_counts = examples, encode, token_counts
        self.speech_token, self.pad_token, self.teacher = speech_token, pad_token, teacher
        self.compare_input, self.kl_at_tokens, self.keep_teacher = compare_input, kl_at_tokens, keep_teacher
        self.apart, self.time_mask = apart, time_mask

    def __call__(self, rows: Sequence[Row]) -> Batch:
        chosen = [self.examples[index] for row in rows for index in row.recordings()]
        felt = [self.examples[index] for row in rows for index in row.felt()]
        transcripts = [said for row in rows for said in row.heard()]
        speech = self.encode(chosen, felt, [row.copy for row in rows for _ in row.recordings()])
        if self.time_mask:
            hide_stretches(speech["speech"], [row.hidden for row in rows for _ in row.recordings()], self.time_mask)
        if self.token_counts is None:
            counts = list(map(len, transcripts))
            speech = {**speech, "token_lengths": torch.tensor(counts)}
        else:
            counts = self.token_counts(speech)
        apart = self.apart and all(row.prefix and row.suffix and not row.earlier for row in rows)
        student, spoken = self._student(rows, counts, whole=not apart)
        before = [len(ids) - len(r.response) for ids, r in zip(student, rows, strict=True)]
        input_ids, mask = pad_rows(student, self.pad_token)
        batch: Batch = {
            "speech": speech,
            "input_ids": input_ids,
            "attention_mask": mask,
            "logits_at": predicting(before, [len(r.response) for r in rows], input_ids.shape[1]),
            "targets": torch.tensor([i for r in rows for i in r.response]),
            "emotions": torch.tensor([e.emotion for e in chosen]),
            "dimensions": torch.tensor([e.dimensions or (float("nan"),) * 3 for e in felt]),
            "transcripts": pad_rows(transcripts, self.pad_token)[0],
            "transcript_lengths": torch.tensor(list(map(len, transcripts))),
        }
        if units := [said for row in rows for said in row.units]:
            batch["units"] = pad_rows(units, 0)[0]
            batch["unit_lengths"] = torch.tensor(list(map(len, units)))
        if any(row.weight != 1.0 for row in rows):
            batch["weights"] = torch.tensor([row.weight for row in rows for _ in row.response])
        if apart:
            openings = list(dict.fromkeys(row.prefix for row in rows))
            read = pad_rows([row.prefix for row in rows], self.pad_token, side="left")[1]
            batch["openings"], batch["attention_mask"] = openings, torch.cat([read, mask], dim=1)
            batch["opening_of"] = torch.tensor([openings.index(row.prefix) for row in rows])
        if self.teacher:
            batch["teacher"] = self._teacher(rows)
        inputs = [start - len(r.suffix) - n for start, r, n in zip(before, rows, spoken, strict=True)]
        compared = [n if r.has_teacher else 0 for r, n in zip(rows, spoken, strict=True)]
        self._also_at(batch, before, [len(r.response) for r in rows], inputs, compared)
        return batch

    def _student(
        self, rows: Sequence[Row], counts: Sequence[int], *, whole: bool
    ) -> tuple[list[tuple[int, ...]], list[int]]:
        """Ids of the rows with placeholders for their recordings, and the speech tokens of each last one.

        Args:
            counts: speech tokens of all recordings, row by row.
            whole: with what they begin with.
        """
        left = iter(counts)
        student, last = [], []
        for row in rows:
            ids: list[int] = []
            for before, _ in row.earlier:
                ids += (*before, *([self.speech_token] * next(left)))
            last.append(next(left))
            ids += row.prefix if whole else ()
            student.append((*ids, *([self.speech_token] * last[-1]), *row.suffix, *row.response))
        return student, last

    def _teacher(self, rows: Sequence[Row]) -> TextBatch | None:
        """The text pass of the rows that have a teacher; `of_target` [N] marks their response tokens among all."""
        taught = [r for r in rows if r.has_teacher]
        if not taught:
            return None
        text = [(*r.teacher_prefix, *r.transcript, *r.teacher_suffix, *r.response) for r in taught]
        input_ids, mask = pad_rows(text, self.pad_token)
        before = [len(t) - len(r.response) for t, r in zip(text, taught, strict=True)]
        found: TextBatch = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "logits_at": predicting(before, [len(r.response) for r in taught], input_ids.shape[1]),
            "of_target": torch.tensor([r.has_teacher for r in rows for _ in r.response]).nonzero().flatten(),
        }
        if self.keep_teacher:
            found["keys"] = [_key(ids, len(r.response)) for ids, r in zip(text, taught, strict=True)]
            found["counts"] = [len(r.response) for r in taught]
        read = [len(r.transcript) for r in taught]
        self._also_at(found, before, [len(r.response) for r in taught], [len(r.teacher_prefix) for r in taught], read)
        return found

    def _also_at(
        self,
        batch: Batch | TextBatch,
        before: Sequence[int],
        response: Sequence[int],
        inputs: Sequence[int],
        input_lengths: Sequence[int],
    ) -> None:
        """Turns the mask of positions that predict a response token into places, with those of the other losses.

        Args:
            before: where the responses begin. response: their lengths. inputs: where the speech or transcript begins.
        """
        mask, width = batch["logits_at"], batch["logits_at"].shape[1]
        masks = {"response_at": mask}
        if self.teacher and self.kl_at_tokens:
            masks["kl_at"] = spans(before, response, width)
        if self.compare_input:
            masks["input_at"] = spans(inputs, input_lengths, width)
        computed = torch.stack(list(masks.values())).any(0)
        batch["logits_at"] = computed.flatten().nonzero().flatten()
        places = {name: each[computed].nonzero().flatten() for name, each in masks.items()}
        if len(masks) > 1:
            batch["response_at"] = places["response_at"]
        if "kl_at" in masks:
            batch["kl_at"] = places["kl_at"]
        if "input_at" in masks:
            batch["input_at"] = places["input_at"]


def _key(ids: Sequence[int], response: int) -> str:
    """32 hexadecimal digits of a row of the teacher whose last `response` tokens are the answer."""
    return hashlib.sha256(np.array([response, *ids], dtype=np.int64).tobytes()).hexdigest()[:32]
