"""Total variation: every implementation against closed forms, float64, and scikit-image."""

import numpy as np
import pytest
import torch
from torch.library import opcheck
from utils import COMPLEX, REAL, assert_compiles, awkward_views, compiles, interpreted, numbers

from fastrecon.ops import prox_tv
from fastrecon.ops.prox_tv import LOOK, adjoint, differences, lengths, prox_tv_ref

SHAPES = [(1, 1, 5, 7), (2, 1, 17, 33), (2, 3, 9, 16), (3, 1, 1, 19), (1, 2, 23, 1)]
KINDS = [(isotropic, joint) for isotropic in (True, False) for joint in (True, False)]


def scene(*shape, dtype=torch.float64, device="cpu", noise=0.1):
    """Two plateaus and a ramp, with noise."""
    h, w = shape[-2:]
    r, c = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    plain = ((r > 0.4) ^ (c > 0.6)) * 0.6 + 0.3 * r
    return (plain + noise * numbers(*shape, dtype=torch.float64)).to(device, dtype)


def objective(x, y, lam, isotropic=True, joint=False):
    """|x - y|^2 / 2 + lam TV(x) [B] in float64."""
    x, y = (torch.view_as_real(t).movedim(-1, 2) if t.is_complex() else t[:, :, None] for t in (x, y))
    x, y = x.double(), y.double()
    x, y = (t.flatten(1, 2) if joint else t.flatten(0, 1) for t in (x, y))
    size = lengths(differences(x), isotropic).flatten(1).sum(1)
    return ((x - y).square().flatten(1).sum(1) / 2 + lam * size).view(-1, 1 if joint else x.shape[0] // 1).sum(1)


def exact(y, lam, isotropic=True, joint=False):
    """To a gap of 1e-12 of the objective, in float64."""
    wide = torch.complex128 if y.is_complex() else torch.float64
    return prox_tv(y.to("cpu", wide), lam, isotropic, joint=joint, tol=1e-11, iterations=20000)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("isotropic", "joint"), KINDS)
def test_iterations_are_those_of_the_definition(isotropic, joint, shape, dtype, device, backend):
    """After so many iterations, before any decision could differ, and from a start outside of the ball."""
    y, lam = scene(*shape, dtype=dtype, device=device), torch.linspace(0.05, 0.2, shape[0], device=device, dtype=dtype)
    start = 2 * numbers(*shape[:2], 2, *shape[2:], dtype=dtype, device=device)
    for dual in (None, start):
        mine = prox_tv(y, lam, isotropic, dual, joint=joint, tol=0.0, iterations=11)
        rows, group = (shape[0], shape[1]) if joint else (shape[0] * shape[1], 1)
        each = lam if joint else lam.repeat_interleave(shape[1])
        p = (0 * start if dual is None else dual).double().view(rows, group, 2, *shape[2:])
        x, p, sums, count = prox_tv_ref(y.double().view(rows, group, *shape[2:]), each.double(), p, 0.0, 11, isotropic)
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(mine.x.double(), x.view(y.shape), rtol=0, atol=50 * unit)
        torch.testing.assert_close(mine.dual.double(), p.view(mine.dual.shape), rtol=0, atol=2000 * unit)
        sums = sums.view(shape[0], -1, 2).sum(1)
        torch.testing.assert_close(mine.gap, sums[:, 0], rtol=1e-3, atol=float(sums[:, 1].max()) * 20 * unit)
        torch.testing.assert_close(mine.objective, sums[:, 1], rtol=200 * unit, atol=0)
        assert mine.iterations.tolist() == count.view(shape[0], -1).amax(1).tolist()


@interpreted
@pytest.mark.parametrize(("isotropic", "joint"), KINDS)
def test_triton_kernel(isotropic, joint, device, backend):
    y = scene(2, 2, 5, 7, device=device)
    start = numbers(2, 2, 2, 5, 7, device=device)
    mine = prox_tv(y, 0.1, isotropic, start, joint=joint, tol=0.05, iterations=9)
    rows, group = (2, 2) if joint else (4, 1)
    x, p, sums, count = prox_tv_ref(
        y.view(rows, group, 5, 7), y.new_full((rows,), 0.1), start.view(rows, group, 2, 5, 7), 0.05, 9, isotropic
    )
    torch.testing.assert_close(mine.x, x.view(y.shape), rtol=0, atol=1e-12)
    torch.testing.assert_close(mine.dual, p.view(mine.dual.shape), rtol=0, atol=1e-12)
    torch.testing.assert_close(mine.gap, sums.view(2, -1, 2)[..., 0].sum(1))
    torch.testing.assert_close(mine.objective, sums.view(2, -1, 2)[..., 1].sum(1))
    assert torch.equal(mine.iterations, count.view(2, -1).amax(1))


@pytest.mark.parametrize("isotropic", [True, False])
def test_constant_images_stay(isotropic, device, backend):
    y = torch.tensor([0.0, 1.0, -3.5], device=device).view(3, 1, 1, 1).expand(3, 1, 9, 12)
    found = prox_tv(y, 0.3, isotropic)
    assert torch.equal(found.x, y)
    assert (found.gap == 0).all()
    assert (found.iterations == 0).all()


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 3.0])
def test_two_pixels(lam, shape, device, backend):
    """They approach each other by lam each, and meet in the middle."""
    y = torch.tensor([0.3, 1.3], dtype=torch.float64, device=device).view(1, 1, *shape)
    expected = torch.tensor([0.3 + min(lam, 0.5), 1.3 - min(lam, 0.5)], dtype=torch.float64, device=device)
    found = prox_tv(y, lam, tol=1e-12)
    torch.testing.assert_close(found.x.flatten(), expected, rtol=0, atol=1e-6)


def test_one_pixel_and_no_weight(device, backend):
    y = numbers(3, 1, 1, 1, device=device)
    assert torch.equal(prox_tv(y, 5.0).x, y)
    y = scene(2, 2, 8, 9, device=device, dtype=torch.float32)
    found = prox_tv(y, 0.0)
    assert torch.equal(found.x, y)
    assert (found.gap == 0).all()
    assert (found.dual == 0).all()


@pytest.mark.parametrize("isotropic", [True, False])
def test_a_large_weight_leaves_the_mean(isotropic, device, backend):
    y = scene(2, 1, 12, 10, device=device)
    found = prox_tv(y, 100.0, isotropic, tol=1e-10, iterations=20000)
    torch.testing.assert_close(found.x, y.mean((2, 3), keepdim=True).expand_as(y), rtol=0, atol=1e-5)


def taut_string(y, lam):
    """The exact solution in one dimension: the derivative of the shortest path through a tube of radius lam around the
    cumulative sums (Davies & Kovac 2001), by dynamic programming on its convex hulls, one knot after the other."""
    s, n = np.concatenate(([0], np.cumsum(y))), len(y)
    low, high = s - lam, s + lam
    low[0] = high[0] = 0
    low[n] = high[n] = s[n]
    x, at, value = np.empty(n), 0, 0.0
    while at < n:
        lower, upper, left, right = -np.inf, np.inf, at, at
        for k in range(at + 1, n + 1):
            up, down = (high[k] - value) / (k - at), (low[k] - value) / (k - at)
            if up < lower:  # the string turns at the lower bound
                end, slope = left, lower
                break
            if down > upper:
                end, slope = right, upper
                break
            if down >= lower:
                lower, left = down, k
            if up <= upper:
                upper, right = up, k
        else:
            end, slope = n, (s[n] - value) / (n - at)
        x[at:end] = slope
        value, at = value + slope * (end - at), end
    return x


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("lam", [0.05, 0.3, 1.5])
def test_one_dimension_is_the_taut_string(lam, across, device, backend):
    y = scene(1, 1, 1, 40).flatten()
    expected = torch.from_numpy(taut_string(y.numpy(), lam))
    line = y.view((1, 1, 1, -1) if across else (1, 1, -1, 1)).to(device)
    found = prox_tv(line, lam, tol=1e-11, iterations=4000)
    assert (found.x.flatten().cpu() - expected).square().sum() <= 2 * found.gap.cpu() + 1e-20
    torch.testing.assert_close(found.x.flatten().cpu(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
@pytest.mark.parametrize(("isotropic", "joint"), KINDS)
def test_gap_is_a_certificate(isotropic, joint, dtype, device, backend):
    """Recomputed in float64 at x: it bounds the distance to the minimum, and to the minimiser."""
    y = scene(2, 3, 14, 11, device=device)
    y = (y + 1j * y.flip(-1) if dtype.is_complex else y).to(dtype)
    found, best = prox_tv(y, 0.1, isotropic, joint=joint, tol=1e-3), exact(y, 0.1, isotropic, joint)
    assert (found.gap <= 1e-3 * found.objective * (1 + 1e-6)).all()
    excess = found.objective.cpu() - best.objective
    assert (excess >= -1e-6 * best.objective).all()
    assert (excess <= found.gap.cpu() + 1e-6 * best.objective).all()
    distance = (found.x.cpu() - best.x).abs().square().flatten(1).sum(1)
    assert (distance <= 2 * found.gap.cpu() + 1e-10).all()
    rebuilt = torch.stack([y[:, k] - 0.1 * adjoint(found.dual[:, k]) for k in range(3)], 1)
    torch.testing.assert_close(found.x, rebuilt, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_complex_numbers_are_two_channels_with_one_length(device, backend):
    y = scene(2, 1, 9, 8, device=device)
    z = torch.complex(y, y.flip(-1))
    pair = torch.cat((y, y.flip(-1)), 1)
    whole, parts = prox_tv(z, 0.1), prox_tv(pair, 0.1, joint=True)
    assert torch.equal(torch.view_as_real(whole.x)[:, 0].movedim(-1, 1), parts.x)
    assert torch.equal(whole.gap, parts.gap)
    assert whole.dual.dtype == z.dtype


def test_same_objective_as_scikit_image(device, backend):
    restoration = pytest.importorskip("skimage.restoration")
    y = scene(1, 1, 24, 20)
    theirs = restoration.denoise_tv_chambolle(y[0, 0].numpy(), weight=0.15, eps=1e-12, max_num_iter=3000)
    mine = prox_tv(y.to(device), 0.15, tol=1e-6)
    assert objective(torch.from_numpy(theirs)[None, None], y, 0.15) >= mine.objective.cpu() - mine.gap.cpu()
    torch.testing.assert_close(mine.x.cpu()[0, 0], torch.from_numpy(theirs), rtol=0, atol=3e-3)


def test_stops_at_the_tolerance_each_image_on_its_own(device, backend):
    y = torch.cat(
        [scene(1, 1, 16, 16, device=device, noise=n) for n in (0.01, 0.5)]
        + [torch.ones(1, 1, 16, 16).to(device).double()]
    )
    lam = torch.tensor([0.01, 1.0, 1.0], dtype=torch.float64, device=device)
    found = prox_tv(y, lam, tol=1e-4)
    assert (found.gap <= 1e-4 * found.objective).all()
    assert len(set(found.iterations.tolist())) == 3
    assert (found.iterations % LOOK == 0).all()
    for i in range(3):
        own = prox_tv(y[i : i + 1], lam[i : i + 1], tol=1e-4)
        assert torch.equal(own.x[0], found.x[i])
        assert torch.equal(own.gap[0], found.gap[i])
        assert own.iterations == found.iterations[i]


def test_a_warm_start_is_there_at_once(device, backend):
    y = scene(2, 1, 16, 16, device=device)
    first = prox_tv(y, 0.1, tol=1e-6)
    again = prox_tv(y, 0.1, dual=first.dual, tol=1.1e-6)
    assert (again.iterations == 0).all()
    near = prox_tv(y + 0.001, 0.1, dual=first.dual, tol=1e-5)
    assert (near.iterations < prox_tv(y + 0.001, 0.1, tol=1e-5).iterations).all()


def test_momentum_is_restarted_where_the_gap_rises(device, backend):
    """Without restarts such a tolerance takes three times as many iterations."""
    y = scene(1, 1, 32, 32, device=device, noise=0.02)
    assert prox_tv(y, 0.02, tol=1e-9, iterations=20000).iterations < 4000


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("power", [-90, 60])
def test_any_scale(power, dtype, device, backend):
    """prox(s y; s lam) = s prox(y; lam)."""
    y, s = scene(1, 1, 12, 13, dtype=dtype, device=device), 2.0**power
    near, far = prox_tv(y, 0.125), prox_tv(s * y, s * 0.125)
    torch.testing.assert_close(far.x / s, near.x, rtol=0, atol=2e-3)
    assert (far.gap <= 1e-4 * far.objective).all()
    assert (far.objective > 0).all()


def test_what_is_not_finite(device, backend):
    y = scene(4, 1, 8, 9, device=device)
    y[1, 0, 2, 3], y[2, 0, 0, 0] = float("nan"), float("inf")
    lam = torch.tensor([0.125, 0.1, 0.1, -1.0], device=device)
    found = prox_tv(y, lam)
    assert torch.equal(found.x[:1], prox_tv(y[:1], 0.125).x)
    assert found.gap.isnan().tolist() == [False, True, True, True]
    assert found.x.isnan().flatten(1).any(1).tolist() == [False, True, True, True]
    assert (found.iterations[1:] == 0).all()
    assert prox_tv(y[:2], torch.tensor([float("nan"), 0.1], device=device)).x[0].isnan().all()


@pytest.mark.parametrize("shape", [(0, 1, 4, 5), (2, 0, 4, 5), (2, 1, 0, 5), (2, 1, 4, 0)], ids=str)
def test_empty(shape, device, backend):
    found = prox_tv(torch.zeros(shape, device=device), 0.1)
    assert found.x.shape == shape
    assert found.dual.shape == (*shape[:2], 2, *shape[2:])
    assert found.gap.shape == found.objective.shape == found.iterations.shape == shape[:1]
    assert (found.gap == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_memory_layout(dtype, device, backend):
    y = scene(2, 2, 9, 7, device=device).to(dtype)
    expected = prox_tv(y, 0.1)
    for name, view in awkward_views(y).items():
        assert torch.equal(prox_tv(view, 0.1).x, expected.x), name
    for name, view in awkward_views(expected.dual).items():
        assert torch.equal(prox_tv(y, 0.1, dual=view, tol=1.0).x, prox_tv(y, 0.1, dual=expected.dual, tol=1.0).x), name


def test_half_precision_is_computed_in_float32(device):
    y = scene(1, 1, 8, 8, device=device)
    found = prox_tv(y.to(torch.bfloat16), 0.1)
    assert found.x.dtype == torch.bfloat16
    torch.testing.assert_close(found.x.double(), exact(y, 0.1).x.to(device), rtol=0, atol=0.02)


def test_arrays_in_arrays_out():
    found = prox_tv(scene(1, 1, 6, 7).numpy(), 0.1)
    assert isinstance(found.x, np.ndarray)
    assert isinstance(found.gap, np.ndarray)


Y = torch.zeros(2, 1, 4, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": Y[0]}, r"y: expected real or complex images \[B, C, H, W\], got \(1, 4, 5\)"),
        ({"y": Y.bool()}, "y: expected real or complex images"),
        ({"lam": -1.0}, "lam: expected a number >= 0, got -1.0"),
        ({"lam": torch.ones(3)}, r"lam: expected a number or shape \(2,\), got \(3,\)"),
        ({"isotropic": 1}, "isotropic: expected True or False, got 1"),
        ({"joint": None}, "joint: expected True or False"),
        ({"dual": Y}, r"dual: expected \(2, 1, 2, 4, 5\) torch.float32 on cpu, got \(2, 1, 4, 5\)"),
        ({"tol": -1e-3}, "tol: expected a number >= 0"),
        ({"iterations": -1}, "iterations: expected an integer in"),
        ({"y": Y.clone().requires_grad_()}, "y, lam, dual: expected no gradients asked for: detach them"),
        ({"lam": torch.ones(2, requires_grad=True)}, "y, lam, dual: expected no gradients asked for"),
    ],
    ids=str,
)
def test_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=f"prox_tv: {message}"):
        prox_tv(**({"y": Y, "lam": 0.1} | change))


@compiles
def test_registration_and_compilation(device):
    y = scene(2, 1, 5, 6, device=device)
    arguments = (y, y.new_full((2,), 0.1), y.new_zeros(2, 1, 2, 5, 6), 1e-4, 10, True)
    opcheck(torch.ops.fastrecon.prox_tv, arguments)
    assert_compiles(lambda y: tuple(prox_tv(y, 0.1, iterations=10)), y)
