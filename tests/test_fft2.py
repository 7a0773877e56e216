"""Fourier transforms of our own (csrc/fft2.cpp) beside torch.fft in double, through fastrecon.ops.transforms."""

import pytest
import torch
from utils import numbers

from fastrecon import registry
from fastrecon.ops import image_operator, transforms
from fastrecon.ops.layout import DTYPES

pytestmark = pytest.mark.skipif(registry.extension() is None, reason="there is no C++ extension")

SHAPES = [
    (1, 1), (2, 3), (5, 7), (1, 64), (63, 1), (16, 30), (21, 24), (45, 128), (32, 9), (33 * 2 - 2, 20), (128, 105),
    (250, 98),
]  # fmt: skip


def planned(size, dtype):
    steps = [transforms.radices(n) for n in size]
    assert None not in steps
    return transforms.OwnPlan(size, steps, dtype)


def forward(x):
    """F x of planes [B, U, V]."""
    b, u, v = x.shape
    shape = (b, u, v if x.is_complex() else v // 2 + 1)
    y = torch.full(shape, torch.nan, dtype=x.dtype.to_complex())
    call(x, y, False, planned((u, v), x.dtype))
    return y


def backward(y, size, real=False):
    """F* y, of half a spectrum if `real`."""
    kind = y.dtype.to_real() if real else y.dtype
    x = torch.full((len(y), *size), torch.nan, dtype=kind)
    y = y.clone()
    call(*((x, y) if real else (y, x)), True, planned(size, kind))
    return x


def call(x, y, back, plan):
    kind = x.dtype if not x.is_complex() else y.dtype
    registry.compiled().fft2(DTYPES[kind], back, x.data_ptr(), y.data_ptr(), plan.table.data_ptr(), len(x))


def far(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_as_accurate_as_torch(size, dtype):
    """At most twice the error, and a few roundings where torch has next to none; of double beside exact sums."""
    rounding = torch.finfo(dtype).eps
    x, wide = numbers(2, *size, dtype=dtype.to_complex()), torch.complex128
    exact = dft(x.to(wide), size)
    assert far(forward(x).to(wide), exact) <= 2 * far(torch.fft.fft2(x, norm="ortho").to(wide), exact) + rounding
    assert far(backward(forward(x), size), x) <= 4 * rounding
    real = numbers(2, *size, dtype=dtype)
    exact = dft(real.to(wide), size)[..., : size[1] // 2 + 1] * (size[0] * size[1]) ** 0.5
    assert far(forward(real).to(wide), exact) <= 2 * far(torch.fft.rfft2(real).to(wide), exact) + rounding
    assert far(backward(forward(real), size, real=True), real) <= 4 * rounding


def dft(x, size):
    """The definition: products with both matrices, angles reduced to a turn before they are made."""
    for n, axis in zip(size, (-2, -1), strict=True):
        k = torch.arange(n)
        turns = (k[:, None] * k % n).double() / n
        matrix = torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)
        x = torch.tensordot(x, matrix, ([axis], [0])).movedim(-1, axis) / n**0.5
    return x


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_adjoint_norm_and_place(size):
    x, y = (numbers(1, *size, dtype=torch.complex128, seed=s) for s in (1, 2))
    left, right = torch.vdot(forward(x).flatten(), y.flatten()), torch.vdot(x.flatten(), backward(y, size).flatten())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forward(x).norm(), x.norm(), rtol=1e-13, atol=0)
    for back in (False, True):
        there, plan = x.clone(), planned(size, x.dtype)
        call(there, there, back, plan)
        assert torch.equal(there, backward(x, size) if back else forward(x))


@pytest.mark.parametrize("size", [(8, 12), (9, 15), (1, 2)], ids=str)
def test_half_spectra_that_no_real_image_has(size):
    """As torch: imaginary parts that must vanish are not looked at, once the columns are transformed."""
    y = numbers(2, size[0], size[1] // 2 + 1, dtype=torch.complex128)
    torch.testing.assert_close(backward(y, size, real=True), torch.fft.irfft2(y, s=size), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("real", [False, True])
def test_bits_of_an_image_are_its_own(real):
    kind = torch.float32 if real else torch.complex64
    x = numbers(3, 240, 200, dtype=kind)
    together, before = forward(x), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for i in range(3):
                alone = forward(x[i : i + 1].clone())
                assert torch.equal(alone[0], together[i])
                assert torch.equal(backward(alone, (240, 200), real)[0], backward(together, (240, 200), real)[i])
    finally:
        torch.set_num_threads(before)


def test_steps():
    for n in range(1, 700):
        steps = transforms.radices(n)
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        assert (steps is None) == (rest != 1)
        if steps is not None:
            assert torch.tensor(steps).prod().item() == n
            assert {*steps} <= {2, 3, 4, 5, 7, 8}


def test_steps_that_there_are_not():
    plan = transforms.OwnPlan((11, 4), [[11], [4]], torch.complex64)
    x = torch.zeros(1, 11, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="fft2: plan: expected radices 2, 3, 4, 5, 7 or 8"):
        call(x, x, False, plan)


@pytest.fixture
def chosen(monkeypatch):
    """Makes plans anew, of our own or of the library."""

    def choose(ours):
        monkeypatch.setattr(transforms, "ours_are_faster", lambda *_: ours)
        transforms.plan.cache_clear()

    yield choose
    transforms.plan.cache_clear()


@pytest.mark.parametrize("kind", ["coils", "centred", "blur"])
def test_operators_agree_with_both(chosen, kind):
    size, real = (48, 45), kind == "blur"
    x = numbers(2, 1, *size, dtype=torch.float64 if real else torch.complex128)
    mask = numbers(1, 1, *size, seed=1, dtype=torch.float64).abs()
    transfer = torch.fft.rfft2(numbers(1, 1, *size, seed=2, dtype=torch.float64))
    maps = numbers(1, 3, *size, seed=3, dtype=torch.complex128)
    a = {
        "coils": image_operator.Parts(image_operator.FOURIER, mask, maps),
        "centred": image_operator.Parts(image_operator.CENTRED, mask, maps, None, True),
        "blur": image_operator.Parts(image_operator.BLUR, transfer, None, size),
    }[kind]
    exact = image_operator.measured(x, a)
    for ours in (True, False) if transforms.library() else (True,):
        chosen(ours)
        assert image_operator.alone(x, a)
        y = image_operator.applied(x, a)
        torch.testing.assert_close(y, exact, rtol=1e-12, atol=1e-12)
        expected = image_operator.back(y, a)
        torch.testing.assert_close(image_operator.applied(y, a, adjoint=True), expected, rtol=1e-12, atol=1e-10)


def test_whose_plans(chosen):
    chosen(True)
    assert isinstance(transforms.plan((64, 60), torch.complex64), transforms.OwnPlan)
    other = transforms.plan((64, 61), torch.complex64)  # a prime
    assert isinstance(other, transforms.Plan) if transforms.library() else other is None
    chosen(False)
    assert not isinstance(transforms.plan((64, 60), torch.complex64), transforms.OwnPlan)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("size", [(40, 45), (22, 26)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_planes_and_their_frequencies(chosen, dtype, size, ours):
    """As torch.fft, with derivatives, views and batches of any shape."""
    chosen(ours)
    x = numbers(2, 3, size[1], size[0], dtype=dtype).mT
    name = "fft2" if dtype.is_complex else "rfft2"
    k = transforms.frequencies(x)
    torch.testing.assert_close(k, getattr(torch.fft, name)(x, norm="ortho"), rtol=1e-12, atol=1e-12)
    kept, real = k.clone(), None if dtype.is_complex else size
    torch.testing.assert_close(transforms.planes(k, real), x, rtol=1e-12, atol=1e-12)
    assert torch.equal(k, kept)
    small = numbers(1, 5, 6, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transforms.planes(transforms.frequencies(x) * 2, real and (5, 6)), small)
    found = torch.compile(lambda x: transforms.frequencies(x) * 2, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(found, k * 2)
