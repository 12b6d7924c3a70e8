"""The subsampler, and how a fused one starts from one that knew the speech channels alone."""

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.model import AdapterOptions
from re_llm.model.adapter import StridedConv, Subsampler, copy_widened, set_dropout
from re_llm.model.cformer import make_adapter

LENGTHS = torch.tensor([40, 33, 1])


def made(width: int, seed: int = 0, **settings) -> Subsampler:
    torch.manual_seed(seed)
    return Subsampler(width, 24, AdapterOptions(bottleneck=16, **settings), tiny_world.whisper_config()).eval()


def states(width: int, length: int = 40) -> torch.Tensor:
    return torch.randn(3, length, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{}, {"hidden_layers": 1}, {"hidden_layers": 2, "units": 12}, {"conv_layers": 2, "kernel_size": 3, "stride": 3}],
)
def test_batch_equals_single_whatever_stands_in_the_padding(settings):
    adapter, inputs = made(8, **settings), states(8)
    batch = adapter(inputs, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = adapter(inputs[i : i + 1, :length], LENGTHS[i : i + 1])
        tokens = adapter.options.token_count(length)
        assert batch.lengths[i] == alone.lengths[0] == tokens == alone.embeddings.shape[1]
        torch.testing.assert_close(batch.embeddings[i, :tokens], alone.embeddings[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.pooled[i], alone.embeddings[0].mean(0), atol=1e-5, rtol=1e-4)
        if "units" in settings:
            torch.testing.assert_close(batch.units[i, :tokens], alone.units[0], atol=1e-5, rtol=1e-4)
        else:
            assert batch.units is None
        assert not batch.embeddings[i, tokens:].any()


@torch.no_grad()
def test_the_original_convention_lets_padding_in():
    adapter, inputs = made(8), states(8)
    kept, zeroed = adapter(inputs, LENGTHS, keep_padding=True), adapter(inputs, LENGTHS)
    torch.testing.assert_close(kept.embeddings[0], zeroed.embeddings[0])
    assert (kept.embeddings[1, :5] - zeroed.embeddings[1, :5]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("length", range(1, 30))
def test_token_count_is_the_length_of_the_convolutions(length):
    adapter = made(8)
    tokens = adapter(states(8, length), torch.full((3,), length))
    assert tokens.embeddings.shape[1] == adapter.options.token_count(length)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"hidden_layers": 1}])
def test_widened_adapter_equals_the_old_one_at_zero_emotion(settings):
    old, new = made(8, **settings), made(8 + 6, seed=5, **settings)
    for name, parameter in old.named_parameters():  # biases and norms that are not at their initial values
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    copy_widened(old, new)
    inputs = states(8)
    silent = torch.cat([inputs, torch.zeros(3, 40, 6)], dim=-1)
    torch.testing.assert_close(new(silent, LENGTHS).embeddings, old(inputs, LENGTHS).embeddings, atol=1e-5, rtol=1e-4)
    felt = new(torch.cat([inputs, states(6)], dim=-1), LENGTHS).embeddings
    assert (felt - old(inputs, LENGTHS).embeddings).abs().max() > 1e-3


@torch.no_grad()
def test_widened_with_scale_zero_starts_deaf_to_emotion():
    old, new = made(8), made(14, seed=5)
    copy_widened(old, new, scale=0.0)
    felt = new(torch.cat([states(8), states(6)], dim=-1), LENGTHS)
    torch.testing.assert_close(felt.embeddings, old(states(8), LENGTHS).embeddings, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("width", [8, 14])
@pytest.mark.parametrize("more", [{"hidden_layers": 3}, {"units": 12}, {"hidden_layers": 4, "units": 12}])
def test_more_layers_and_units_start_without_an_effect(width, more):
    old, new = made(8, hidden_layers=2), made(width, seed=5, **{"hidden_layers": 2, **more})
    copy_widened(old, new)
    silent = torch.cat([states(8), torch.zeros(3, 40, width - 8)], dim=-1)
    found, expected = new(silent, LENGTHS), old(states(8), LENGTHS)
    torch.testing.assert_close(found.embeddings, expected.embeddings, atol=1e-5, rtol=1e-4)
    again = made(width, seed=6, **{"hidden_layers": 2, **more})
    copy_widened(new, again)  # what was learnt goes on
    assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), again.state_dict().values(), strict=True))


def test_new_layers_and_units_learn():
    """First the layers that lead out of them; with these, all others."""
    new = made(8, seed=5, hidden_layers=3, units=12)
    copy_widened(made(8, hidden_layers=2), new)
    optimiser = torch.optim.SGD(new.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        tokens = new(states(8), LENGTHS)
        (tokens.embeddings.square() * torch.arange(24)).sum().backward()
        optimiser.step()
    added = [*new.hidden_layers[2].parameters(), *new.units.parameters()]
    assert all(parameter.grad.any() for parameter in added)


def test_later_layers_read_the_predicted_units():
    adapter = made(8, hidden_layers=2, units=12)
    before = adapter(states(8), LENGTHS).embeddings
    with torch.no_grad():
        adapter.units.score.bias[3] += 50.0
    said = adapter(states(8), LENGTHS)
    assert (said.units.argmax(-1) == 3).all()
    assert (said.embeddings - before).abs().max() > 1e-3


def test_units_stand_between_layers():
    with pytest.raises(ValueError, match="set hidden_layers, 1, to 2"):
        AdapterOptions(hidden_layers=1, units=8)
    with pytest.raises(ValueError, match="units is no option of an adapter of the kind 'cformer'"):
        AdapterOptions(kind="cformer", units=8)


def test_every_new_weight_of_a_widened_adapter_can_learn():
    old, new = made(8), made(14, seed=5)
    copy_widened(old, new)
    new(torch.cat([states(8), states(6)], dim=-1), LENGTHS).embeddings.square().sum().backward()
    for conv in new.convs:
        assert (conv.weight.grad != 0).float().mean() > 0.99


def test_adapters_that_do_not_fit_are_refused():
    with pytest.raises(RellmError, match="cannot start an adapter"):
        copy_widened(made(8, conv_layers=2), made(14))
    for old, new in (({"hidden_layers": 2}, {"hidden_layers": 1}), ({}, {"hidden_layers": 1})):
        with pytest.raises(RellmError, match="cannot start an adapter"):
            copy_widened(made(8, **old), made(14, **new))
    for units in (0, 8):
        with pytest.raises(RellmError, match="cannot start an adapter"):
            copy_widened(made(8, hidden_layers=2, units=12), made(8, hidden_layers=2, units=units))
    with pytest.raises(RellmError, match="14 input channels cannot start one with 8"):
        copy_widened(made(14), made(8))
    with pytest.raises(RellmError, match="multiples of 8"):
        Subsampler(8, 24, AdapterOptions(bottleneck=12, hidden_layers=1), tiny_world.whisper_config())


@pytest.mark.parametrize("length", [1, 2, 7, 40])
@pytest.mark.parametrize(("kernel", "out"), [(5, 12), (3, 300), (3, 12)])
def test_a_convolution_trained_in_bfloat16_is_the_convolution(length: int, kernel: int, out: int) -> None:
    torch.manual_seed(0)
    conv = StridedConv(8, out, kernel, 2, kernel // 2)
    inputs = torch.randn(3, 8, length)

    def trained(forward) -> tuple[torch.Tensor, ...]:
        given = inputs.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = forward(given)
        made = torch.autograd.grad(found.float().square().sum(), (given, conv.weight, conv.bias))
        return (found, *made)

    plain = trained(lambda given: torch.nn.Conv1d.forward(conv, given))
    assert plain[0].dtype == torch.bfloat16
    for found, wanted in zip(trained(conv), plain, strict=True):
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        torch.testing.assert_close(
            found.float(), wanted.float(), atol=0.05 * float(wanted.detach().abs().max()), rtol=0.05
        )


def test_which_convolutions_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(
        "re_llm.model.adapter.linear", lambda *args: called.append(1) or torch.nn.functional.linear(*args)
    )
    wide, short = StridedConv(8, 12, 5, 2, 2), StridedConv(8, 12, 3, 2, 1)
    hidden = torch.randn(3, 8, 40)
    for conv in (wide, short):
        conv(hidden)  # float32
    with torch.autocast("cpu", torch.bfloat16):
        short(hidden)
        with torch.no_grad():
            wide(hidden)
        assert not called
        wide(hidden)
    assert called == [1]


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"hidden_layers": 1}, {"kind": "cformer", "pre_layers": 1, "post_layers": 1}])
def test_dropout_acts_in_training_alone_and_leaves_no_trace_in_a_checkpoint(settings):
    torch.manual_seed(0)
    adapter = make_adapter(8, 24, AdapterOptions(**settings), tiny_world.whisper_config())
    inputs, saved, counts = states(8), list(adapter.state_dict()), {}
    if settings.get("kind") == "cformer":  # else another number of tokens fires
        counts = {"token_lengths": torch.tensor([5, 4, 1])}

    def heard(training: bool) -> torch.Tensor:
        return adapter.train(training)(inputs, LENGTHS, **counts).embeddings

    plain = heard(False)
    assert torch.equal(heard(True), plain), "none unless it is asked for"
    set_dropout(adapter, 0.3)
    assert torch.equal(heard(False), plain)
    assert not torch.equal(heard(True), plain) and not torch.equal(heard(True), heard(True))
    assert list(adapter.state_dict()) == saved
    set_dropout(adapter, 0.0)
    assert torch.equal(heard(True), plain)
