"""Units with a guide: the guide stays, folding, sizes, what does not fit."""

import pytest
import torch
from utils import numbers

from fastrecon.networks import GuidedUnit
from fastrecon.networks.guided_unit import FACTOR


def unit(**options):
    torch.manual_seed(0)
    return GuidedUnit(4, 6, **options).double()


@pytest.mark.parametrize("size", [(16, 12), (17, 14), (3, 1)], ids=str)
def test_the_guide_stays_as_it_is(size):
    v = numbers(2, 4, *size)
    with torch.no_grad():
        g = unit().eval()(v)
    assert g.shape == v.shape
    assert not g[:, 1:].any()
    assert g[:, :1].any()


def test_details_are_taken_off_whole():
    net = unit().eval()
    with torch.no_grad():
        for p in net.network.parameters():
            p.zero_()
        smooth = torch.full((1, 4, 16, 16), 0.3, dtype=torch.float64)
        assert net(smooth).abs().max() < 1e-15
        detail = torch.zeros_like(smooth)
        detail[:, :1, ::2] = 0.1
        detail[:, :1, 1::2] = -0.1  # its means over the squares are 0
        torch.testing.assert_close(net(smooth + detail)[:, :1], detail[:, :1])
        assert torch.equal(net(numbers(1, 4, 16, 16))[:, 1:], torch.zeros(1, 3, 16, 16).double())


def test_folded_is_the_same_and_learns_nothing_of_the_guide():
    net, v = unit().train(), numbers(4, 4, 16, 20)
    net(v).square().sum().backward()
    last = net.network.convolutions[-1]
    assert last.weight.grad[: FACTOR**2].any()
    assert not last.weight.grad[FACTOR**2 :].any()
    assert not last.weight[FACTOR**2 :].any()
    folded = net.eval().folded()
    torch.testing.assert_close(folded(v), net(v), rtol=1e-6, atol=1e-9)
    again = GuidedUnit(**folded.settings).double()
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(v), folded(v))


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"GuidedUnit: v: expected a map and its guide \[B, 4, H, W\]"):
        unit()(numbers(1, 1, 8, 8))
    with pytest.raises(ValueError, match="GuidedUnit: in_channels: expected an integer >= 2"):
        GuidedUnit(in_channels=1)
