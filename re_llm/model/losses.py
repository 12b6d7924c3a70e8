"""Losses as pure functions; each returns one scalar.

Shapes: R rows, L row length, K chosen positions, V vocabulary, B utterances, E emotions, S speech tokens, D LLM
width, U transcript tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from re_llm.model.configuration import DIMENSIONS
from re_llm.model.others import others
from re_llm.model.outputs import time_mask

IGNORE_INDEX = -100  # label of a position, or of an utterance, that a loss passes over
TEMPERATURE = 2.0
_NEVER = -1e9  # score of a class that does not count; the gradient of torch's CTC is NaN at minus infinity


def next_labels(labels: Tensor) -> Tensor:
    """The label that each position predicts, [R, L]: the labels moved one position to the left."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def response_positions(labels: Tensor, *, shifted: bool = True) -> Tensor:
    """Positions [R, L] whose logits the response losses read.

    Args:
        labels: [R, L], IGNORE_INDEX outside of the response.
        shifted: True takes the positions that predict the response tokens. False takes the response tokens' own
            positions, as the released code does for its KL: the first prediction is left out, one behind the last
            is taken in.
    """
    return (next_labels(labels) if shifted else labels) != IGNORE_INDEX


def response_ce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the response, mean over its tokens (RE-LLM section II-B, loss of the released code).

    Args:
        logits: [K, V] or [R, L, V].
        targets: [K] or [R, L], the label each position predicts (`next_labels`); IGNORE_INDEX is passed over.
        weights: of the targets in the mean, in their shape, positive; None = all alike, as the released code.
    """
    logits, targets = logits.flatten(0, -2), targets.flatten()
    if weights is None:
        return _mean_cross_entropy(logits, targets)
    weights = counted(targets, weights.flatten())
    each = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="none")
    return (each * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def counted(targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """How much each target [K] counts in a mean, [K]: its weight (None = 1), or 0 where nothing is learned."""
    real = targets != IGNORE_INDEX
    return real.float() if weights is None else real * weights


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (targets != IGNORE_INDEX).sum().clamp(min=1)  # a batch without any label contributes zero, not NaN


def response_kl(student: Tensor, teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """KL(teacher || student), summed over the vocabulary, mean over positions (RE-LLM eq. 5, BLSP).

    No temperature squared in front, as in the released code.

    Args:
        student, teacher: [K, V] logits at the same response tokens of the speech pass and of the text pass.
    """
    assert student.shape == teacher.shape, f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    return F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.detach().float() / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def top_k_kl(student: Tensor, ids: Tensor, log_teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """`response_kl` over the teacher's likeliest tokens and all others as one outcome.

    It is never more than the whole divergence, and that divergence itself when k is the vocabulary.

    Args:
        student: [K, V] logits.
        ids: [K, k] tokens.
        log_teacher: [K, k] the teacher's log-probabilities of these at the same temperature.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1).gather(-1, ids)
    found = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    if ids.shape[-1] < student.shape[-1]:
        rest, least = 1.0 - log_teacher.exp().sum(-1), torch.finfo(torch.float32).eps
        log_rest = (1.0 - log_student.exp().sum(-1)).clamp(min=least).log()
        found = found + rest.clamp(min=0.0) * (rest.clamp(min=least).log() - log_rest)
    return found.mean()


def input_kl(student: Tensor, teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The same at the transcript tokens; needs an adapter that emits one vector per transcript token (BLSP-Emo code).

    Args:
        student, teacher: [K, V] logits at the speech tokens and at the transcript tokens.
    """
    return response_kl(student, teacher, temperature=temperature)


def input_er(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the categorical head (RE-LLM eq. 7).

    Args:
        logits: [B, E].
        labels: [B] class indices; IGNORE_INDEX for an utterance without a label.
    """
    return _mean_cross_entropy(logits, labels)


def input_er_avd(estimate: Tensor, targets: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Mean squared error of the dimensional head (RE-LLM eq. 9), over all known values.

    Args:
        estimate: [B, 3] in the order of DIMENSIONS.
        targets: the same shape and order, or name -> [B]; 0..1, NaN where a value is not known.
    """
    if isinstance(targets, Mapping):
        targets = torch.stack([targets[name] for name in DIMENSIONS], dim=-1)
    known = ~targets.isnan()
    error = (estimate.float() - targets.nan_to_num().float()).square() * known
    return error.sum() / known.sum().clamp(min=1)


def cif(weights: Tensor, lengths: Tensor) -> Tensor:
    """How far the predicted number of tokens is from the real one, relative, mean over utterances (BLSP-Emo code).

    Args:
        weights: [B], sum of the unscaled firing weights of each utterance.
        lengths: [B], number of transcript tokens.
    """
    return (weights.float() / lengths - 1.0).abs().mean()


def intermediate_ctc(units: Tensor, speech_lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC of the transcript in units on what an adapter predicts between its layers (Higuchi et al. 2022).

    Args:
        units: [B, S, U + 1] logits, the blank last; `speech_lengths` [B] of them real.
        targets: [B, W] units of the transcript, `target_lengths` [B] of them real; one with more units than its speech
            gives contributes zero.
    """
    if not targets.shape[1]:
        targets = targets.new_zeros(len(targets), 1)
    return F.ctc_loss(
        units.float().log_softmax(-1).transpose(0, 1),
        targets,
        speech_lengths,
        target_lengths,
        blank=units.shape[-1] - 1,
        zero_infinity=True,
    )


def adapter_ctc(
    speech: Tensor,
    speech_lengths: Tensor,
    vocabulary: Tensor,
    blank: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    *,
    sample: int | None = None,
) -> Tensor:
    """CTC of the transcript on the adapter's output, scored against the LLM's own embeddings.

    The LLM's vocabulary is summed up in pieces (`re_llm.model.others`): CTC sees the transcript's own tokens, the
    blank, and all other tokens as one. An utterance whose transcript has more tokens than its speech gives contributes
    zero.

    Args:
        speech: [B, S, D] speech tokens, `speech_lengths` [B] of them real.
        vocabulary: [V, D], the LLM's input embeddings.
        blank: [D], the learned embedding of the blank (`model.ctc_blank`).
        targets: [B, U] transcript tokens, `target_lengths` [B] of them real.
        sample: an estimate with so many of the tokens that no transcript has, drawn anew in every call; None = all.
    """
    hidden, table = speech.float(), vocabulary.detach()
    if not targets.shape[1]:
        targets = targets.new_zeros(len(targets), 1)
    # A token that stands in a transcript twice is one class, that of its first place.
    real = time_mask(target_lengths, targets.shape[1])
    same = (targets[:, :, None] == targets[:, None, :]) & real[:, None]
    classes = same.int().argmax(2)
    unused = (classes != torch.arange(targets.shape[1], device=targets.device)) | ~real
    unused[:, 0] = False  # without a transcript the padding's token is a class like any other
    ids = targets.where(real, targets[:, :1])
    own = (hidden @ table[ids].float().transpose(1, 2)).masked_fill(unused[:, None], _NEVER)
    scored = ids[:, None].expand(-1, speech.shape[1], -1)
    frames = time_mask(speech_lengths, speech.shape[1])
    if hidden.device.type == "cpu":
        found = others(hidden[frames], table, scored[frames], sample)
        rest = hidden.new_zeros(frames.shape).masked_scatter(frames, found)
    else:  # a GPU is not asked how many frames are real
        rest = others(hidden.flatten(0, 1), table, scored.flatten(0, 1), sample).view_as(frames)
    scores = torch.cat([own, rest[..., None], (hidden @ blank.float())[..., None]], dim=-1)
    return F.ctc_loss(
        scores.log_softmax(-1).transpose(0, 1),
        classes,
        speech_lengths,
        target_lengths,
        blank=scores.shape[-1] - 1,
        zero_infinity=True,
    )
