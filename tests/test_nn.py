"""Modules of ops, and networks as terms: numbers of PyTorch's own, gradients, and layers that do not fit by name."""

import pytest
import torch
from torch import nn
from utils import numbers

import fastrecon as fr


def test_soft_threshold_is_learned():
    x = numbers(2, 3, 4, 5)
    layer = fr.nn.SoftThreshold(0.3, channels=3).double()
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.softshrink(x, 0.3))
    y.sum().backward()
    assert layer.tau.grad.shape == (3,)
    torch.testing.assert_close(fr.nn.SoftThreshold(0.3).double()(x), y)
    assert fr.nn.SoftThreshold()(x.to(torch.complex64)).is_complex()


@pytest.mark.parametrize("mode", ["periodization", "zero"])
def test_wavelets_there_and_back(mode):
    x = numbers(1, 2, 16, 24)
    there = fr.nn.DWT2("db2", 2, mode)
    back = fr.nn.DWT2("db2", 2, mode, inverse=True, size=(16, 24))
    torch.testing.assert_close(there(x), fr.ops.dwt2(x, "db2", 2, mode))
    torch.testing.assert_close(back(there(x)), x)


def test_radon_and_its_adjoint():
    x, there = numbers(1, 1, 12, 14), fr.nn.Radon((12, 14), 6)
    y = there(x)
    z = fr.nn.Radon((12, 14), 6, adjoint=True)(y)
    torch.testing.assert_close((x * z).sum(), y.square().sum())
    assert not list(there.parameters())


def net(*, last=False, delta=0.01):
    relu = fr.nn.SmoothedReLU(delta)
    layers = [
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        relu,
        nn.Identity(),
        nn.Conv2d(8, 8, 3, padding="same", bias=False),
    ]
    return nn.Sequential(*layers, *([fr.nn.SmoothedReLU(delta)] if last else [])).double()


@pytest.mark.parametrize("last", [False, True])
def test_a_network_is_a_term(last):
    g, x = net(last=last), numbers(2, 2, 9, 10).requires_grad_()
    term = fr.from_sequential(g, eps=0.1)
    features = g(x)
    value = fr.ops.smoothed_l21(features, 0.1)[0]
    torch.testing.assert_close(term.value(x), value)
    torch.testing.assert_close(term.grad(x.detach()), torch.autograd.grad(value.sum(), x)[0])
    assert [p is q for p, q in zip(term.weights, g.parameters(), strict=True)] == [True, True]


def test_a_relu_is_smoothed_where_that_is_said():
    g = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1, bias=False))
    term = fr.from_sequential(g, eps=1e-3, delta=1e-9)
    x = numbers(1, 1, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(term.value(x), fr.ops.smoothed_l21(g(x).detach(), 1e-3)[0])
    with pytest.raises(ValueError, match=r"from_sequential: net\[1\]: expected a SmoothedReLU, or delta"):
        fr.from_sequential(g)


CONV = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False}


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.Conv2d(**(CONV | {"bias": True})),
        nn.Conv2d(**(CONV | {"kernel_size": 5, "padding": 2})),
        nn.Conv2d(**(CONV | {"padding": 0})),
        nn.Conv2d(**(CONV | {"stride": 2})),
        nn.Conv2d(**(CONV | {"padding_mode": "circular"})),
        nn.Conv2d(**(CONV | {"in_channels": 3})),
        nn.Conv2d(**(CONV | {"groups": 4})),
        fr.nn.SmoothedReLU(),
        nn.Tanh(),
    ],
    ids=repr,
)
def test_the_layer_that_does_not_fit_is_named(layer):
    g = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), fr.nn.SmoothedReLU(), layer)
    with pytest.raises(ValueError, match=r"from_sequential: net\[2\]: expected"):
        fr.from_sequential(g)


def test_other_things_are_refused():
    with pytest.raises(ValueError, match=r"net: expected an nn\.Sequential, got Conv2d"):
        fr.from_sequential(nn.Conv2d(**CONV))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from_sequential: net: expected at least"):
        fr.from_sequential(nn.Sequential())
    two = nn.Sequential(nn.Conv2d(**CONV), nn.Conv2d(**CONV))
    with pytest.raises(ValueError, match=r"from_sequential: net\[1\]: expected an activation"):
        fr.from_sequential(two)
