"""Proximal maps: against dense solves and the conditions that a minimiser fulfils, per image, with derivatives."""

import math

import pytest
import torch
from torch import Tensor
from utils import compiles, numbers

import fastrecon as fr
from fastrecon.operators import (
    BlockSensing,
    Blur,
    Dictionary,
    Fourier,
    Inpainting,
    LinearOperator,
    Radon,
    Wavelet,
    gaussian_kernel,
    random_phi,
)
from fastrecon.terms import L1, FeatureNorm, GroupL21, LeastSquares, Lp, Term, conjugate_gradients

C = torch.complex128
B = 3
MASKS = (numbers(B, 1, 8, 8, seed=9) > 0).double()
MASK = MASKS[0, 0]
KERNELS = numbers(B, 1, 3, 5, seed=8).abs() / 8
MAPS = numbers(2, 8, 8, dtype=C, seed=7)
WEIGHTS = torch.tensor([0.3, 2.0, 70.0], dtype=torch.float64)
SAME = torch.full((B,), 0.7, dtype=torch.float64)
WAVELET = Wavelet("db2", 2)

CLOSED = {
    "inpainting": (Inpainting(MASK), torch.float64),
    "a mask per image, complex": (Inpainting(1.5 * MASKS), C),
    "Fourier": (Fourier(MASK), C),
    "Fourier, centred, a mask per image": (Fourier(MASKS, centred=True), C),
    "Fourier, image centred": (Fourier(MASK, centred="both"), C),
    "blur": (Blur(KERNELS[0, 0]), torch.float64),
    "blur, a kernel per image, complex": (Blur(KERNELS), C),
    "inpainting of wavelets": (Inpainting(MASK) @ WAVELET.T, torch.float64),
    "Fourier of wavelets": (Fourier(MASK) @ WAVELET.T, C),
    "wavelets of a blur": (WAVELET @ Blur(KERNELS[0, 0]), torch.float64),
    "filled wavelets of a blur": (Wavelet("sym4", 3) @ Blur(KERNELS[0, 0]), torch.float64),
    "wavelets": (WAVELET.T, torch.float64),
    "blocks with orthonormal rows": (BlockSensing(2 * random_phi(5, 16, 1), 4), torch.float64),
    "blocks of wavelets": (BlockSensing(random_phi(5, 16, 1), 4) @ WAVELET.T, torch.float64),
}
ITERATED = {
    "blur, zero boundary": (Blur(KERNELS, "zero"), torch.float64),
    "coils": (Fourier(MASKS, sensitivities=MAPS), C),
    "views": (Radon((8, 8), 5), torch.float64),
    "blocks with any rows": (BlockSensing(numbers(5, 16, seed=3), 4), torch.float64),
    "blocks beyond the image": (BlockSensing(random_phi(5, 9, 1), 3), torch.float64),
    "inpainting of filled wavelets": (Inpainting(MASK[:7, :6]) @ Wavelet("haar", 3).T, torch.float64),
}


def measured(a: LinearOperator, dtype: torch.dtype, count: int = B) -> tuple[Tensor, Tensor]:
    """Some v and y for an operator."""
    v = numbers(count, 1, 8, 8, dtype=dtype)
    return v, a(numbers(count, 1, 8, 8, dtype=dtype, seed=1)) + 0.1 * numbers(*a(v).shape, dtype=a(v).dtype, seed=2)


def dense(a: LinearOperator, v: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The solution of (1 + w A* A) x = v + w A* y by matrices, an image after the other."""
    found = []
    for i, w in enumerate(weights):
        one = a.take(torch.tensor([i]))
        units = torch.eye(v[0].numel(), dtype=v.dtype)
        rows = torch.stack([one(e.view(1, *v.shape[1:])).flatten() for e in units], 1)
        matrix = torch.eye(len(units), dtype=v.dtype) + w * rows.conj().T @ rows
        found.append(torch.linalg.solve(matrix, v[i].flatten() + w * rows.conj().T @ y[i].flatten()))
    return torch.stack(found).view(v.shape)


@pytest.mark.parametrize("name", [*CLOSED, *ITERATED])
def test_prox_of_least_squares_is_the_dense_solution(name, monkeypatch):
    a, dtype = (CLOSED | ITERATED)[name]
    v, y = measured(a, dtype)
    if name in CLOSED:
        monkeypatch.setattr("fastrecon.terms.least_squares.conjugate_gradients", None)
    f = LeastSquares(a, y, tol=1e-13)
    x = f.prox(v, WEIGHTS)
    torch.testing.assert_close(x, dense(a, v, y, WEIGHTS), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x + WEIGHTS.view(-1, 1, 1, 1) * f.grad(x), v, rtol=1e-9, atol=1e-9)  # optimality
    assert torch.equal(LeastSquares(a, tol=1e-13).prox(v, 0.7, y), f.prox(v, SAME))


@pytest.mark.parametrize("name", [*CLOSED, *ITERATED])
def test_prox_of_least_squares_has_the_bits_of_each_image_alone(name):
    a, dtype = (CLOSED | ITERATED)[name]
    v, y = measured(a, dtype)
    whole = LeastSquares(a, y).prox(v, WEIGHTS)
    for which in (torch.tensor([1]), torch.tensor([2, 0]), torch.tensor([False, True, True])):
        part = LeastSquares(a, y).take(which)
        assert torch.equal(part.prox(v[which], WEIGHTS[which]), whole[which])
        assert torch.equal(part.value(v[which]), LeastSquares(a, y).value(v)[which])


@pytest.mark.parametrize("name", [*CLOSED, *ITERATED])
def test_prox_of_least_squares_is_differentiable(name):
    a, dtype = (CLOSED | ITERATED)[name]
    v, y = measured(a, dtype)
    f = LeastSquares(a, tol=1e-14)
    inputs = v.requires_grad_(), WEIGHTS.clone().requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(f.prox, inputs, fast_mode=True)


def test_prox_is_differentiable_in_what_the_operator_learns():
    v, y = numbers(B, 1, 8, 8), numbers(B, 2, 2, 5, seed=1)

    def solved(phi: Tensor) -> Tensor:
        a = BlockSensing(torch.nn.Parameter(random_phi(5, 16, 1)), 4)
        return torch.func.functional_call(Prox(a), {"f.operator.phi": phi}, (v, y))

    class Prox(torch.nn.Module):
        def __init__(self, a):
            super().__init__()
            self.f = LeastSquares(a, tol=1e-14)

        def forward(self, v, y):
            return self.f.prox(v, 2.0, y)

    assert torch.autograd.gradcheck(solved, random_phi(5, 16, 1).requires_grad_(), fast_mode=True)


def test_a_first_derivative_of_the_iterated_prox_is_all_there_is():
    a, dtype = ITERATED["views"]
    v, y = measured(a, dtype)
    (d,) = torch.autograd.grad(LeastSquares(a, y).prox(v.requires_grad_(), 1.0).square().sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.sum().backward()


def test_prox_in_single_precision_is_as_good_as_its_numbers():
    for a, dtype in CLOSED.values():
        v, y = measured(a, dtype)
        single = torch.complex64 if dtype == C else torch.float32
        exact = LeastSquares(a, y).prox(v, WEIGHTS)
        found = LeastSquares(a.to(torch.float32), y.to(single)).prox(v.to(single), WEIGHTS)
        a.to(torch.float64)
        torch.testing.assert_close(found.to(dtype), exact, rtol=0, atol=1e-5 * exact.abs().max().item())


def test_prox_refuses_what_does_not_fit():
    a = Inpainting(MASK)
    v, y = measured(a, torch.float64)
    for wrong, message in (
        (lambda: LeastSquares(a).prox(v, 1.0), "LeastSquares: y: expected measurements"),
        (lambda: LeastSquares(a, y).prox(v, -1.0), "LeastSquares: weight: expected a number >= 0, got -1.0"),
        (lambda: LeastSquares(a, y).prox(v, WEIGHTS[:2]), r"LeastSquares: weight: expected a number or shape \(3,\)"),
        (lambda: LeastSquares(a, y[:1]).prox(v, 1.0), "LeastSquares: y: expected measurements as"),
        (lambda: LeastSquares(Blur(KERNELS), y).prox(v[:2], 1.0), "Blur: x: expected a batch of 3"),
        (lambda: LeastSquares(a, y, iterations=0), "LeastSquares: iterations: expected an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert LeastSquares(a).prox(v[:0], 1.0, y[:0]).shape == v[:0].shape


def test_measurements_stay_complex_when_converted():
    f = LeastSquares(Fourier(MASK), numbers(1, 1, 8, 8, dtype=C))
    assert f.to(torch.float32).y.dtype == torch.complex64
    assert "y" not in f.state_dict()


def test_conjugate_gradients_stop_image_by_image():
    scale = torch.tensor([1.0, 1.0, 30.0], dtype=torch.float64).view(-1, 1)
    diagonal = 1 + scale * torch.linspace(0, 1, 20, dtype=torch.float64)
    b = numbers(3, 20)
    b[1] = 0
    found = conjugate_gradients(lambda x: diagonal * x, b, 1e-10)
    torch.testing.assert_close(found.x, b / diagonal, rtol=1e-9, atol=1e-9)
    assert found.iterations[1] == 0 < found.iterations[0] < found.iterations[2] <= 20
    assert found.converged.all()
    assert (found.residual <= 1e-10).all()
    alone = conjugate_gradients(lambda x: diagonal[:1] * x, b[:1], 1e-10)
    assert torch.equal(alone.x, found.x[:1])
    short = conjugate_gradients(lambda x: diagonal * x, b, 1e-10, iterations=2)
    assert short.converged.tolist() == [False, True, False]
    bad = conjugate_gradients(lambda x: diagonal * x, b * torch.tensor([[math.nan], [1], [1]]), 1e-10)
    assert bad.converged.tolist() == [False, True, True]


PENALTIES = {  # term, v
    "L1": (L1(0.4), numbers(B, 2, 4, 8)),
    "L1, complex, a weight per image": (L1(WEIGHTS / 10), numbers(B, 1, 8, 4, dtype=C)),
    "L1, a weight per number": (L1(numbers(8, 4).abs()), numbers(B, 1, 8, 4)),
    "L1 of wavelets": (L1(0.4, WAVELET), numbers(B, 1, 8, 12)),
    "L1 of wavelets, weighted": (L1(numbers(8, 8).abs(), Wavelet("haar", 3)), numbers(B, 1, 8, 8, dtype=C)),
    "Lp": (Lp(0.4, 0.5), numbers(B, 1, 4, 8)),
    "Lp, p = 1": (Lp(WEIGHTS / 10, 1), numbers(B, 1, 4, 8)),
    "Lp, p = 0": (Lp(0.3, 0), numbers(B, 1, 4, 8, dtype=C)),
    "GroupL21": (GroupL21(0.8), numbers(B, 2, 4, 8)),
    "GroupL21, a weight per image": (GroupL21(WEIGHTS / 10), numbers(B, 3, 4, 5, dtype=C)),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_prox_of_a_penalty_is_a_minimiser(name):
    term, v = PENALTIES[name]
    scale = WEIGHTS.clamp_max(2)

    def objective(x: Tensor) -> Tensor:
        return scale * term.value(x) + (x - v).abs().square().flatten(1).sum(1) / 2

    x = term.prox(v, scale)
    best = objective(x)
    assert best.dtype == torch.float64
    for seed in range(40):
        d = numbers(*v.shape, dtype=v.dtype, seed=seed + 50)
        for length in (1.0, 0.1, 1e-3):
            assert (objective(x + length * d) >= best - 1e-12).all()
    assert (objective(torch.zeros_like(v)) >= best - 1e-12).all()
    assert torch.equal(term.prox(v, 0.7), term.prox(v, SAME))


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_have_the_bits_of_each_image_alone(name):
    term, v = PENALTIES[name]
    for which in (torch.tensor([1]), torch.tensor([2, 0]), torch.tensor([False, True, True])):
        part = term.take(which)
        assert torch.equal(part.prox(v[which], WEIGHTS[which]), term.prox(v, WEIGHTS)[which])
        assert torch.equal(part.value(v[which]), term.value(v)[which])
    assert term.take(torch.tensor([], dtype=torch.int64)).value(v[:0]).shape == (0,)


def test_values_are_those_of_the_formulas():
    x = torch.tensor([3.0, -4.0, 0.0, 1.0]).view(1, 2, 2, 1)
    assert L1(2.0).value(x).item() == 16
    assert L1(torch.tensor([1.0, 10.0]).view(2, 1, 1)).value(x).item() == 17
    assert Lp(2.0, 0.5).value(x).item() == pytest.approx(2 * (3**0.5 + 2 + 1))
    assert Lp(2.0, 0).value(x).item() == 6
    assert GroupL21(2.0).value(x).item() == pytest.approx(2 * (3 + 17**0.5))


def test_a_learned_weight_has_a_derivative():
    weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    term, v = L1(weight, WAVELET), numbers(B, 1, 8, 8)
    assert dict(term.named_parameters()) == {"weight": weight}
    term.prox(v, WEIGHTS).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: L1(-1.0), "L1: weight: expected a number >= 0, got -1.0"),
        (lambda: L1(1.0, Inpainting(MASK)), "L1: transform: expected a unitary operator or None, got Inpainting"),
        (
            lambda: L1(1.0, WAVELET).prox(numbers(1, 1, 7, 8), 1.0),
            "L1: x: expected images of a size that the transform",
        ),
        (lambda: Lp(1.0, 1.5), r"Lp: p: expected a number in \[0, 1\], got 1.5"),
        (lambda: GroupL21("a"), "GroupL21: weight: expected a number >= 0, got str"),
        (lambda: L1(torch.ones(2, dtype=torch.int64)), "L1: weight: expected a number or a real tensor"),
    ],
)
def test_wrong_terms_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_terms_say_what_they_lack():
    assert LeastSquares(Inpainting(MASK)).smooth
    assert not L1(1.0).smooth
    with pytest.raises(NotImplementedError, match=r"L1\.grad: this term has none"):
        L1(1.0).grad(numbers(1, 4))
    with pytest.raises(NotImplementedError, match=r"FeatureNorm\.prox: this term has none"):
        FeatureNorm(4, 2).prox(numbers(1, 1, 4, 4), 1.0)
    assert all(issubclass(t, Term) for t in (fr.terms.L1, fr.terms.Lp, fr.terms.GroupL21, fr.terms.LeastSquares))


def test_feature_norm_takes_complex_images_as_two_channels():
    torch.manual_seed(0)
    r = FeatureNorm(6, 3, in_channels=2, eps=0.2).double()
    x = numbers(B, 1, 7, 9, dtype=C)
    parts = torch.cat((x.real, x.imag), 1)
    assert torch.equal(r.value(x), r.value(parts))
    assert torch.equal(torch.view_as_real(r.grad(x)[:, 0]).movedim(-1, 1), r.grad(parts))
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(r.value(x).sum(), x)[0], r.grad(x))
    eps = torch.full((B,), 0.2, dtype=torch.float64)
    assert torch.equal(r.evaluate(x, eps).grad, r.grad(x, eps))
    assert r.feature_norms(x).shape == (B, 7, 9)
    assert r.smooth
    torch.testing.assert_close(FeatureNorm.value(r, x), r.value(x, 0.2))


def test_feature_norm_without_a_radius_has_no_gradient():
    r, x = FeatureNorm(6, 2).double(), numbers(B, 1, 7, 9)
    assert not r.smooth
    torch.testing.assert_close(r.value(x), r.nonsmooth_value(x))
    with pytest.raises(ValueError, match="FeatureNorm: eps: expected a radius > 0: r itself has no gradient, got None"):
        r.grad(x)


@pytest.mark.parametrize("transform", [None, WAVELET], ids=["plain", "wavelet"])
def test_terms_compile(transform):
    term, v = L1(0.3, transform), numbers(2, 1, 8, 8)
    compiled = torch.compile(lambda v: term.prox(v, 0.5), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(v), term.prox(v, 0.5))


@compiles
@pytest.mark.parametrize(
    "name", ["a mask per image, complex", "Fourier, image centred", "blur", "inpainting of wavelets"]
)
def test_proximal_maps_in_closed_form_compile_and_export(name):
    a, dtype = CLOSED[name]
    v, y = measured(a, dtype)

    class Prox(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = LeastSquares(a)

        def forward(self, v, y):
            return self.f.prox(v, WEIGHTS, y)

    expected = LeastSquares(a, y).prox(v, WEIGHTS)
    torch.testing.assert_close(torch.compile(Prox(), fullgraph=True, backend="aot_eager")(v, y), expected)
    torch.testing.assert_close(torch.export.export(Prox(), (v, y)).module()(v, y), expected)


def test_gaussian_blur_at_great_weights_is_undone():
    a, x = Blur(gaussian_kernel(0.6, 5, torch.float64)), numbers(1, 1, 8, 8)
    torch.testing.assert_close(LeastSquares(a, a(x)).prox(torch.zeros_like(x), 1e12), x, rtol=1e-6, atol=1e-6)


def test_codes_of_a_dictionary():
    a, v = Dictionary(numbers(5, 9)), numbers(B, 9, seed=1)
    f = LeastSquares(a, numbers(B, 5, seed=2), tol=1e-13)
    x = f.prox(v, WEIGHTS)
    torch.testing.assert_close(x + WEIGHTS[:, None] * f.grad(x), v, rtol=1e-9, atol=1e-9)
