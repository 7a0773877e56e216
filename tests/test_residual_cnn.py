"""Residual networks: folded statistics, the bits of an image in any batch, what does not fit."""

import pytest
import torch
from utils import numbers

from fastrecon.networks import UNITS, ResidualCNN


def trained(**options):
    """A small network with statistics other than the first."""
    torch.manual_seed(0)
    net = ResidualCNN(4, 6, **options).double()
    for norm in net.norms:
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_()
        with torch.no_grad():
            norm.weight.uniform_(-2, 2)
            norm.bias.normal_()
    return net.eval()


@pytest.mark.parametrize("options", [{}, {"levels": True}, {"in_channels": 3}, {"dilations": (1, 2, 3, 1)}], ids=str)
def test_folded_is_the_same(options):
    net = trained(**options)
    v = numbers(2, options.get("in_channels", 1), 12, 9)
    level = (0.1,) if options.get("levels") else ()
    folded = net.folded()
    assert len(folded.norms) == 0
    assert not any(p.requires_grad for p in folded.parameters())
    torch.testing.assert_close(folded(v, *level), net(v, *level), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(folded.folded()(v, *level), folded(v, *level))
    again = ResidualCNN(**folded.settings).double()
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(v, *level), folded(v, *level))


def test_an_image_has_the_same_bits_in_any_batch():
    net, v = trained(levels=True).float(), numbers(3, 1, 17, 33).float()
    level = torch.tensor([0.1, 0.2, 0.3])
    with torch.no_grad():
        g = net(v, level)
        assert torch.equal(net(v[1:2], level[1:2]), g[1:2])
        assert torch.equal(net(v[2:], 0.3), g[2:])


def test_it_learns():
    net = ResidualCNN(3, 4)
    net(numbers(2, 1, 8, 8).float()).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.norms[0].running_mean.abs().max() > 0


def test_kinds_are_made_of_their_settings():
    for kind in UNITS.values():
        assert kind(**kind().settings).settings == kind().settings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResidualCNN(1), "ResidualCNN: layers: expected an integer >= 2, got 1"),
        (lambda: ResidualCNN(3, dilations=(1, 2)), r"ResidualCNN: dilations: expected 3 numbers, got \(1, 2\)"),
        (lambda: ResidualCNN(3)(torch.zeros(1, 2, 8, 8)), r"ResidualCNN: v: expected real images \[B, 1, H, W\], got"),
        (lambda: ResidualCNN(3)(torch.zeros(1, 1, 8, 8), 0.1), "ResidualCNN: level: expected None, got 0.1"),
        (lambda: ResidualCNN(3, levels=True)(torch.zeros(1, 1, 8, 8)), r"level: expected a number or \[B\], got None"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
