"""The words that stand in speech tokens, and the tokens that hold none (CTC-based compression, Gaido et al. 2021).

Shapes: N tokens, B utterances, S and S' speech tokens, D width of the LLM, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from re_llm.model.outputs import SpeechTokens

AT_ONCE = 64  # speech tokens that are read at once: five seconds; twelve MB of a vocabulary of 49,152
NEAREST = 8  # embeddings of which one is nearest, whatever is lost in half precision


class Likeliest(NamedTuple):
    """What stands in each token: the id of one of the LLM's, or -1 for the blank, and its probability. Each [N]."""

    ids: Tensor
    probability: Tensor


def likeliest(tokens: Tensor, vocabulary: nn.Parameter, output: nn.Module, blank: Tensor) -> Likeliest:
    """The nearest of the LLM's embeddings [V, D], or the blank [D], to tokens [N, D] of a model with `adapter_ctc`.

    An output layer that shares its weight with the embeddings finds the few nearest, in the LLM's own dtype; those are
    compared in float32.
    """
    shared = dict(output.named_parameters(recurse=False)).get("weight") is vocabulary  # `.weight` would unpack it
    plain = None if shared else vocabulary.float().T
    best, probability = [tokens.new_zeros(0, dtype=torch.long)], [tokens.new_zeros(0, dtype=torch.float32)]
    for part in tokens.split(AT_ONCE):  # minutes of speech are gigabytes
        given = part.float()
        scores = output(part.to(vocabulary.dtype)).float() if plain is None else given @ plain
        near = scores.topk(min(NEAREST, len(vocabulary)), dim=-1).indices
        exact = (vocabulary[near].float() @ given[:, :, None])[..., 0]
        silent = given @ blank.float()[:, None]
        total = scores.scatter_(1, near, exact).logsumexp(-1).logaddexp(silent[:, 0])
        ids = torch.cat([near, torch.full_like(near[:, :1], -1)], dim=1)
        highest, place = torch.cat([exact, silent], dim=1).max(-1, keepdim=True)
        best.append(ids.gather(1, place)[:, 0])
        probability.append((highest[:, 0] - total).exp())
    return Likeliest(torch.cat(best), torch.cat(probability))


def only_spoken(tokens: SpeechTokens, spoken: Tensor) -> SpeechTokens:
    """The tokens of each utterance in which something is said; the first one where nothing is.

    Args:
        spoken: of the real tokens, one utterance after the other, whether there is a word in it: bool [N].
    """
    real = tokens.mask()
    kept = real.clone()
    kept[real] = spoken
    kept[:, 0] |= ~kept.any(1) & real[:, 0]
    lengths = kept.sum(1)
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
    chosen = tokens.embeddings.gather(1, order[..., None].expand(-1, -1, tokens.embeddings.shape[2]))
    embeddings = chosen * kept.gather(1, order)[..., None]
    return SpeechTokens(embeddings, lengths, tokens.pooled, heard=tokens, kept=kept)
