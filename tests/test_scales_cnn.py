"""Residual networks over several scales: sizes, homogeneity, the bits of an image in any batch, what does not fit."""

import pytest
import torch
from utils import numbers

from fastrecon.networks import ScalesCNN, described, made


def network(**options):
    """A small one whose answers are not small."""
    torch.manual_seed(0)
    net = ScalesCNN((4, 6, 8), 1, **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    return net.eval()


@pytest.mark.parametrize("size", [(8, 16), (7, 9), (1, 1), (13, 24)], ids=str)
def test_any_size(size):
    net = network(in_channels=2)
    v = numbers(2, 2, *size)
    g = net(v)
    assert g.shape == v.shape
    # what lies beyond the edges is the last pixel again, to the next multiple of eight
    h, w = size
    down, right = torch.arange(h + -h % 8).clamp_max(h - 1), torch.arange(w + -w % 8).clamp_max(w - 1)
    torch.testing.assert_close(net(v[:, :, down][..., right])[..., :h, :w], g)


def test_the_size_of_image_and_level_is_that_of_the_answer():
    net, v = network(levels=True), numbers(2, 1, 16, 24)
    level = torch.tensor([0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(net(3 * v, 3 * level), 3 * net(v, level))
    assert not torch.allclose(net(v, 2 * level), net(v, level))
    assert net(0 * v, 0.0).abs().max() == 0


def test_it_sees_far():
    """One pixel moves answers many pixels away, through the coarsest scale."""
    net, v = network(), numbers(1, 1, 64, 64)
    moved = v.clone()
    moved[..., 32, 32] += 1
    reached = (net(moved) - net(v))[0, 0].abs() > 0
    rows = reached.any(1).nonzero()
    assert rows.min() <= 8
    assert rows.max() >= 56


def test_an_image_has_the_same_bits_in_any_batch():
    net, v = network(levels=True).float(), numbers(3, 1, 17, 33).float()
    level = torch.tensor([0.1, 0.2, 0.3])
    with torch.no_grad():
        g = net(v, level)
        assert torch.equal(net(v[1:2], level[1:2]), g[1:2])
        assert torch.equal(net(v[2:], 0.3), g[2:])


def test_it_is_made_of_what_it_is_described_by():
    net, v = network(levels=True), numbers(1, 1, 16, 16)
    again = made(described(net)).double()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(v, 0.1), net(v, 0.1))
    folded = net.folded()
    assert not any(p.requires_grad for p in folded.parameters())
    assert torch.equal(folded(v, 0.1), net(v, 0.1))


def test_gradients():
    net, v = network(levels=True), numbers(1, 1, 9, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: net(v, 0.1), v)
    net(v, 0.1).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScalesCNN(()), "ScalesCNN: channels: expected a number for each scale, got none"),
        (lambda: ScalesCNN((4, 0)), "ScalesCNN: channels: expected an integer >= 1, got 0"),
        (lambda: ScalesCNN((4,), 0), "ScalesCNN: blocks: expected an integer >= 1, got 0"),
        (lambda: ScalesCNN((4,))(torch.zeros(1, 2, 8, 8)), r"ScalesCNN: v: expected real images \[B, 1, H, W\], got"),
        (lambda: ScalesCNN((4,))(torch.zeros(1, 1, 8, 8), 0.1), "ScalesCNN: level: expected None, got 0.1"),
        (lambda: ScalesCNN((4,), levels=True)(torch.zeros(1, 1, 8, 8)), r"level: expected a number or \[B\], got None"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
