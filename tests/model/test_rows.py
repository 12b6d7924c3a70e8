"""How recordings and rows belong together."""

import pytest
import torch

from re_llm.core.errors import RellmError
from re_llm.model.outputs import EncodedAudio, SpeechTokens
from re_llm.model.rows import pack_rows, positions, row_bounds


def test_positions_count_real_tokens_on_either_side():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])
    found = positions(mask)
    assert [row[m.bool()].tolist() for row, m in zip(found, mask, strict=True)] == [
        [0, 1, 2], [0, 1, 2], [0, 1, 2, 3, 4], [0, 1],
    ]  # fmt: skip
    assert found.min() == 0
    with pytest.raises(RellmError, match="row 1 has padding between"):
        positions(torch.tensor([[1, 1, 1], [1, 0, 1]]))


def test_rows_hold_whole_recordings_in_order():
    assert row_bounds([3, 4], [3, 4]) == [1, 2]
    assert row_bounds([7, 0, 2], [3, 4, 2]) == [2, 2, 3]
    for held, given, message in [
        ([3, 4], [4, 3], "row 0 holds 3 speech placeholders, its audio gives 4"),
        ([3, 5], [3, 4], "row 1 holds 5 speech placeholders, its audio gives 4"),
        ([5, 2], [3, 2, 2, 1], r"the rows hold \[5, 2\] speech placeholders, the recordings give \[3, 2, 2, 1\]"),
        ([4, 3], [3, 2, 2], r"the rows hold \[4, 3\]"),
    ]:
        with pytest.raises(RellmError, match=message):
            row_bounds(held, given)


def test_packing_puts_a_rows_recordings_one_after_the_other():
    lengths = torch.tensor([2, 1, 3])
    embeddings = torch.arange(9.0).view(3, 3, 1)
    packed = pack_rows(SpeechTokens(embeddings, lengths, embeddings[:, 0]), [3, 0, 3])
    assert packed.lengths.tolist() == [3, 0, 3] and packed.pooled is None
    rows = packed.embeddings[..., 0].tolist()
    assert rows[0][:3] == [0.0, 1.0, 3.0] and rows[2] == [6.0, 7.0, 8.0]
    assert packed.repeat(2).lengths.tolist() == [3, 3, 0, 0, 3, 3]


@pytest.mark.parametrize("emotion", [None, torch.randn(2, 3)])
def test_encodings_change_their_dtype_and_keep_their_lengths(emotion):
    half = EncodedAudio(torch.randn(2, 5, 4), torch.tensor([5, 2]), emotion).to(torch.float16)
    assert half.speech_states.dtype == torch.float16 and half.speech_lengths.dtype == torch.long
    assert emotion is None or half.emotion_states.dtype == torch.float16
