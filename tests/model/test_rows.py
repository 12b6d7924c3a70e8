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
    packed, counts = pack_rows(SpeechTokens(embeddings, lengths, embeddings[:, 0]), [3, 0, 3])
    assert counts.tolist() == [3, 0, 3]
    assert packed[0, :3, 0].tolist() == [0.0, 1.0, 3.0] and packed[2, :, 0].tolist() == [6.0, 7.0, 8.0]


@pytest.mark.parametrize("emotion", [None, 2, 3])
def test_encodings_are_split_and_joined_without_loss(emotion):
    states = torch.randn(3, 5, 4)
    lengths = torch.tensor([5, 2, 3])
    mask = (torch.arange(5) < lengths[:, None])[..., None]
    feeling = None if emotion is None else torch.randn(3, 2) if emotion == 2 else torch.randn(3, 5, 2) * mask
    whole = EncodedAudio(states * mask, lengths, feeling)
    again = EncodedAudio.join(whole.split())
    assert len(again) == 3 and torch.equal(again.speech_states, whole.speech_states)
    assert torch.equal(again.speech_lengths, lengths)
    assert feeling is None or torch.equal(again.emotion_states, feeling)
    half = whole.to(torch.float16)
    assert half.speech_states.dtype == torch.float16 and half.speech_lengths.dtype == torch.long
