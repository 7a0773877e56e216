"""Error-controlled iterations over several blocks: the objective of all falls whatever the modules of each do."""

import pytest
import torch
from utils import numbers
from zoo import scene

from fastrecon.operators import Blur, Identity, Wavelet, gaussian_kernel
from fastrecon.solvers import Block, ErrorControlled, ErrorControlledBlocks
from fastrecon.terms import L1, TV, Lp

WAVELET = Wavelet("haar", 2)
BLUR = Blur(gaussian_kernel(0.7, 5, torch.float64))
MODULES = {
    "none": None,
    "noise": [lambda x, k=k: x + numbers(*x.shape, seed=k) for k in range(40)],
    "NaN": lambda x: x * float("nan"),
    "sign-flipped": lambda x: -x,
    "huge": lambda x: 1e200 * x,
    "useful": lambda x: TV(0.01).prox(x, 1.0),
}


def layers():
    """y of two images: a scene and sparse dots on it."""
    dots = (numbers(2, 1, 16, 16, seed=5) > 2).double()
    return scene(16, 2) + dots + 0.01 * numbers(2, 1, 16, 16)


def objective(parts, operators, y):
    """F anew."""
    residual = sum(a(x) for a, x in zip(operators, parts, strict=True)) - y
    c = WAVELET(parts[0]).abs()
    first = 0.02 * torch.where(c == 0, 0, c**0.8).flatten(1).sum(1)
    return residual.square().flatten(1).sum(1) / 2 + first + 0.05 * parts[1].abs().flatten(1).sum(1)


@pytest.mark.parametrize("rule", ["descent", "monotone"])
@pytest.mark.parametrize("second", ["NaN", "useful", "noise"])
@pytest.mark.parametrize("first", MODULES)
def test_the_objective_falls_whatever_modules_say(first, second, rule):
    y, operators = layers(), (BLUR, Identity())
    blocks = [
        Block(BLUR, Lp(0.02, 0.8, WAVELET), MODULES[first], rho=0.1), Block(Identity(), L1(0.05), MODULES[second])
    ]  # fmt: skip
    start, seen = (y, torch.zeros_like(y)), []
    x, report = ErrorControlledBlocks(blocks, rule=rule)(
        y, start, iterations=25, tol=0, history=True, callback=lambda k, s: seen.append(s.x)
    )
    values = torch.stack([objective(p, operators, y) for p in (start, *seen)])
    assert (values.diff(dim=0) <= 1e-13 * values[:-1]).all()
    torch.testing.assert_close(report.objective, values[-1])
    torch.testing.assert_close(report.history["objective"], values)
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], x, strict=True))
    assert torch.equal(report.accepted_by_block.sum(0), report.accepted)
    assert torch.equal(report.accepted + report.rejected, 2 * report.iterations)
    assert (report.relative_step < 3e-2).all()
    if second == "NaN":
        assert report.to_dict(0)["failed_by_block"] == [25 if first == "NaN" else 0, 25]
    assert report.history["accepted_2"][-1].tolist() == report.accepted_by_block[1].tolist()


def test_one_block_is_the_plain_iteration():
    y = layers()
    prior, module = Lp(0.02, 0.8, WAVELET), MODULES["useful"]
    x, report = ErrorControlled(BLUR, prior, module, rho=0.3)(y, y, iterations=7, tol=0)
    (own,), blocks = ErrorControlledBlocks([Block(BLUR, prior, module, rho=0.3)])(y, [y], iterations=7, tol=0)
    assert torch.equal(x, own)
    assert torch.equal(report.accepted, blocks.accepted)


def test_blocks_reach_the_minimiser_of_a_convex_objective():
    """Two l1 terms in one image are the smaller of both: B + R with lam_B > lam_R leaves B = 0."""
    y = layers()
    blocks = [Block(Identity(), L1(0.1)), Block(Identity(), L1(0.05))]
    (b, r), report = ErrorControlledBlocks(blocks)(y, (y, 0 * y), iterations=400, tol=1e-9)
    torch.testing.assert_close(b + r, L1(0.05).prox(y, 1.0), atol=1e-6, rtol=1e-6)
    assert report.converged.all()
    assert b.abs().max() < 1e-6


def test_image_has_the_bits_it_has_alone():
    y = torch.cat((layers()[:1], 30 * layers()[1:]))
    solver = ErrorControlledBlocks(
        [Block(BLUR, Lp(0.02, 0.8, WAVELET), MODULES["useful"]), Block(Identity(), L1(0.05), MODULES["sign-flipped"])]
    )
    x, report = solver(y, (y, 0 * y), iterations=30, tol=1e-3)
    for i in range(2):
        one = y[i : i + 1].clone()
        own, alone = solver(one, (one, 0 * one), iterations=30, tol=1e-3)
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(own, x, strict=True))
        assert alone.to_dict(0) == report.to_dict(i)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: ErrorControlledBlocks([]), "ErrorControlledBlocks: blocks: expected a list of Block"),
        (lambda y: ErrorControlledBlocks([Block(3, L1(1.0))]), "blocks: expected operators that are LinearOperators"),
        (lambda y: ErrorControlledBlocks([Block(BLUR, 3)]), "prior: expected a term with a proximal map"),
        (lambda y: ErrorControlledBlocks([Block(BLUR, L1(1.0))])(y, y), "x0: expected 1 batches of images"),
        (lambda y: ErrorControlledBlocks([Block(BLUR, L1(1.0))])(y, [y[0]]), "x0: expected a batch of 2 images"),
    ],
)
def test_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make(layers())
