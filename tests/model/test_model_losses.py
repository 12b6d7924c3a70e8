"""The losses, checked against their definitions."""

import math

import pytest
import torch

from re_llm.model import losses

LABELS = torch.tensor([[-100, -100, 3, 1, -100], [-100, 2, 4, 0, 1]])
LOGITS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
TEACHER = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


def test_positions_that_predict_and_positions_of_the_response():
    predicting, own = losses.response_positions(LABELS), losses.response_positions(LABELS, shifted=False)
    assert predicting.int().tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert own.int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]


def test_response_ce_is_the_mean_over_all_tokens_of_the_batch():
    log_p = LOGITS.log_softmax(-1)
    by_hand = [log_p[0, 1, 3], log_p[0, 2, 1], log_p[1, 0, 2], log_p[1, 1, 4], log_p[1, 2, 0], log_p[1, 3, 1]]
    expected = -sum(by_hand) / 6
    targets = losses.next_labels(LABELS)
    torch.testing.assert_close(losses.response_ce(LOGITS, targets), expected)
    where = losses.response_positions(LABELS)
    torch.testing.assert_close(losses.response_ce(LOGITS[where], targets[where]), expected)


def test_a_weight_of_two_counts_a_token_twice():
    targets = losses.next_labels(LABELS)
    where = (targets != losses.IGNORE_INDEX).nonzero()
    weights = torch.ones(targets.shape)
    weights[tuple(where[1])] = 2.0
    weights[targets == losses.IGNORE_INDEX] = 9.0  # counts nowhere
    twice = torch.cat([where, where[1:2]]).unbind(1)
    wanted = losses.response_ce(LOGITS[twice], targets[twice])
    torch.testing.assert_close(losses.response_ce(LOGITS, targets, weights), wanted)
    torch.testing.assert_close(losses.response_ce(LOGITS, targets, 0.001 * weights), wanted)


def test_response_kl_by_hand_and_without_gradient_to_the_teacher():
    where = losses.response_positions(LABELS)
    student, teacher = LOGITS[where].requires_grad_(), TEACHER[where].requires_grad_()
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = (p * (p / q).log()).sum() / int(where.sum())
    found = losses.response_kl(student, teacher)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad is not None and teacher.grad is None
    assert losses.response_kl(student, student).abs() < 1e-7
    assert (losses.response_kl(student, teacher, temperature=1.0) - expected).abs() > 1e-2


def test_input_er_passes_over_utterances_without_a_label():
    logits = LOGITS[:, 0, :5]
    both = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 4]))
    torch.testing.assert_close(losses.input_er(logits, torch.tensor([1, 4])), both)
    one = torch.nn.functional.cross_entropy(logits[1:], torch.tensor([4]))
    torch.testing.assert_close(losses.input_er(logits, torch.tensor([-100, 4])), one)
    none = losses.input_er(logits.requires_grad_(), torch.tensor([-100, -100]))
    assert none == 0.0 and none.requires_grad


def test_dimensions_are_matched_by_name_and_unknown_values_left_out():
    estimate = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])  # valence, arousal, dominance
    named = {
        "dominance": torch.tensor([0.3, 0.6]),
        "valence": torch.tensor([0.1, 0.9]),
        "arousal": torch.tensor([math.nan, 0.5]),
    }
    torch.testing.assert_close(losses.input_er_avd(estimate, named), torch.tensor(0.25 / 5))
    full = torch.rand(2, 3)
    torch.testing.assert_close(losses.input_er_avd(estimate, full), torch.nn.functional.mse_loss(estimate, full))
    assert losses.input_er_avd(estimate, torch.full((2, 3), math.nan)) == 0.0


def test_cif_is_the_relative_error_of_the_count():
    assert losses.cif(torch.tensor([3.0, 12.0]), torch.tensor([4, 10])).item() == pytest.approx((0.25 + 0.2) / 2)


def test_adapter_ctc_falls_when_the_speech_spells_the_transcript():
    vocabulary, blank = torch.eye(6, 8), torch.eye(8)[7]
    targets, counts = torch.tensor([[1, 2, 0], [3, 3, 4]]), torch.tensor([2, 3])
    spelled = 9 * torch.stack([vocabulary[[1, 1, 2, 2]], torch.stack([*vocabulary[[3]], blank, *vocabulary[[3, 4]]])])
    good = losses.adapter_ctc(spelled, torch.tensor([4, 4]), vocabulary, blank, targets, counts)
    bad = losses.adapter_ctc(spelled.flip(1), torch.tensor([4, 4]), vocabulary, blank, targets, counts)
    assert good < 0.01 < 1.0 < bad
    short = losses.adapter_ctc(spelled, torch.tensor([1, 1]), vocabulary, blank, targets, counts)
    assert short == 0.0  # no alignment exists


def test_intermediate_ctc_is_minus_the_logarithm_of_all_alignments():
    """Two states and the target `1`: it is said in the first, in the second, or in both."""
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(2))
    p = logits.softmax(-1)[0]
    expected = -(p[0, 1] * p[1, 3] + p[0, 3] * p[1, 1] + p[0, 1] * p[1, 1]).log()
    lengths, one = torch.tensor([2]), torch.tensor([1])  # the third state is padding
    torch.testing.assert_close(losses.intermediate_ctc(logits, lengths, torch.tensor([[1]]), one), expected)
    silent = losses.intermediate_ctc(logits, lengths, torch.zeros(1, 0, dtype=torch.long), torch.tensor([0]))
    torch.testing.assert_close(silent, -(p[0, 3] * p[1, 3]).log())
    long = losses.intermediate_ctc(logits, lengths, torch.tensor([[1, 1, 2]]), torch.tensor([3]))
    assert long == 0.0  # no alignment exists


def plain_ctc(speech, lengths, vocabulary, blank, targets, counts):
    """The formula over the whole vocabulary at once."""
    scores = speech @ torch.cat([vocabulary, blank[None]]).T
    logs = scores.log_softmax(-1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(logs, targets, lengths, counts, blank=len(vocabulary), zero_infinity=True)


@pytest.mark.parametrize("piece", [1, 2**23])
@pytest.mark.parametrize("counts", [(3, 5, 1), (5, 0, 2), (4, 5, 5), (0, 0, 0)])
def test_adapter_ctc_is_that_of_the_whole_vocabulary(monkeypatch, piece, counts):
    """Tokens twice, padding of any id, an utterance without words, and one whose speech is too short for its words."""
    monkeypatch.setattr("re_llm.model.others.PIECE", piece)
    torch.manual_seed(0)
    vocabulary = 0.5 * torch.randn(40, 16)
    targets = torch.tensor([[4, 4, 9, 7, 1], [3, 8, 3, 0, 39], [7, 7, 7, 7, 7]])[:, : max(counts)]
    given = (torch.tensor([9, 12, 3]), vocabulary)
    found = []
    for loss in (losses.adapter_ctc, plain_ctc):
        torch.manual_seed(1)
        speech, blank = torch.randn(3, 12, 16, requires_grad=True), torch.randn(16, requires_grad=True)
        value = loss(speech, *given, blank, targets, torch.tensor(counts))
        found.append((value, *torch.autograd.grad(value, (speech, blank))))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=3e-5)


def test_adapter_ctc_of_a_sample_is_an_estimate_of_the_whole():
    """Over many draws value and gradient are near the exact ones; a sample of all that is left is exact."""
    torch.manual_seed(0)
    vocabulary, blank = 0.5 * torch.randn(400, 16), torch.randn(16)
    targets, counts = torch.tensor([[4, 4, 9], [3, 8, 390]]), torch.tensor([3, 2])
    speech = torch.randn(2, 12, 16, requires_grad=True)
    given = (speech, torch.tensor([12, 9]), vocabulary, blank, targets, counts)

    def both(**options):
        value = losses.adapter_ctc(*given, **options)
        return value.detach(), *torch.autograd.grad(value, speech)

    exact = both()
    for enough in (397, 4000):  # with the tokens of the transcripts these are all
        for ours, whole in zip(both(sample=enough), exact, strict=True):
            torch.testing.assert_close(ours, whole)
    drawn = [both(sample=200) for _ in range(300)]
    values, gradients = (torch.stack(each) for each in zip(*drawn, strict=True))
    assert values.std() > 1e-3  # drawn anew
    torch.testing.assert_close(values.mean(), exact[0], rtol=0.02, atol=0)
    assert (gradients.mean(0) - exact[1]).norm() < 0.05 * exact[1].norm()


def test_adapter_ctc_in_bfloat16_is_near():
    torch.manual_seed(0)
    vocabulary, blank = torch.randn(300, 32), torch.randn(32)
    speech, targets = torch.randn(2, 9, 32, requires_grad=True), torch.tensor([[4, 9, 7], [3, 8, 3]])
    counts = (torch.tensor([9, 8]), vocabulary, blank, targets, torch.tensor([3, 3]))
    half = losses.adapter_ctc(speech, counts[0], vocabulary.bfloat16(), *counts[2:])
    full = losses.adapter_ctc(speech, counts[0], vocabulary.bfloat16().float(), *counts[2:])
    torch.testing.assert_close(half, full, rtol=0.01, atol=0)
