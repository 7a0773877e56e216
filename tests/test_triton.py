"""The Triton kernels against the definitions in float64, on shapes with ones and primes, and on hostile values.

They run in Triton's interpreter on the CPU, and on a GPU where there is one (unless TRITON_INTERPRET=1 is set).
"""

import pytest
import torch
from interpreter import DEVICE, aligned, flatten, numbers
from utils import double, relative_error

from fastrecon import registry
from fastrecon.kernels import feature_gradient
from fastrecon.kernels.sums import ordered_sum
from fastrecon.ops.feature_gradient import PRECISIONS

pytestmark = [
    pytest.mark.usefixtures("unwritten_is_nan"),  # what a kernel does not write is seen
    pytest.mark.skipif(
        not registry.interpreting() and not torch.cuda.is_available(),
        reason="TRITON_INTERPRET is off and there is no CUDA device",
    ),
    *([pytest.mark.gpu] if DEVICE == "cuda" else []),
]

REAL = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
COMPLEX = [torch.complex128, torch.complex64]
SLACK = {  # a few units in the last place, since the definition may be exact by luck
    torch.float64: 2e-14, torch.complex128: 2e-14, torch.float32: 3e-7, torch.complex64: 3e-7,
    torch.float16: 1e-3, torch.bfloat16: 8e-3,  # the interpreter truncates to bfloat16 instead of rounding
}  # fmt: skip
# NumPy, which interprets, remarks on numbers that the kernel then leaves out
remarks = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def real(dtype):
    return dtype.to_real() if dtype.is_complex else dtype


def kernel(name):
    found = registry.implementation(name, "triton")
    assert found is not None
    return found


def definition(name):
    return registry.OPS[name].implementations["reference"]


def apply(function, value):
    """`function` of every tensor in nested lists of arguments; a flat list."""
    if isinstance(value, list | tuple):
        return [apply(function, v) for v in value]
    return function(value) if isinstance(value, torch.Tensor) else value


def check(name, *arguments):
    """The kernel's error is at most twice the definition's in the same dtype, both against float64."""
    got = kernel(name)(*arguments)
    if got is NotImplemented:
        assert arguments[0].numel() == 0, f"{name}: no kernel"
        return
    got = flatten(got)
    eager = flatten(definition(name)(*arguments))
    exact = flatten(definition(name)(*apply(double, arguments)))
    slack = max(SLACK[t.dtype] for t in arguments if isinstance(t, torch.Tensor) and t.dtype in SLACK)
    for i, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        assert (g.shape, g.dtype, g.device) == (e.shape, e.dtype, e.device), f"{name}: output {i}"
        assert g.is_contiguous()
        if g.dtype == torch.bool:
            assert torch.equal(g, e), f"{name}: output {i}"
        elif g.numel():
            ours, theirs = relative_error(g, x), relative_error(e, x)
            assert ours <= 2 * theirs + slack, f"{name}: output {i}: error {ours:.1e}, eager {theirs:.1e}"


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 35), (1, 48, 67), (3, 2, 300), (0, 3, 4), (2, 3, 0)], ids=str)
def test_smoothed_l21(shape, dtype):
    g = numbers(*shape, dtype=dtype)
    eps = numbers(shape[0]).abs().add(0.5).to(dtype)  # both branches are taken
    g[..., :1] = 0
    check("smoothed_l21_fwd", g, eps)
    value, dual, norm = definition("smoothed_l21_fwd")(g, eps)
    check("smoothed_l21_bwd", numbers(*value.shape, dtype=value.dtype), numbers(*shape, dtype=dtype), eps, dual, norm)


def test_smoothed_l21_neither_overflows_nor_vanishes():
    g = torch.tensor([[[3e-30, 3e30, 0.0], [4e-30, 4e30, 0.0]]], device=DEVICE)
    value, dual, norm = kernel("smoothed_l21_fwd")(g[..., :1], torch.tensor([1e-35], device=DEVICE))
    torch.testing.assert_close(value.cpu(), torch.tensor([5e-30]), rtol=1e-5, atol=0)
    torch.testing.assert_close(dual.cpu(), torch.tensor([[[0.6], [0.8]]]))
    value, dual, norm = kernel("smoothed_l21_fwd")(g[..., 1:], torch.tensor([1e-35], device=DEVICE))
    torch.testing.assert_close(norm.cpu(), torch.tensor([[5e30, 0.0]]))
    torch.testing.assert_close(dual.cpu(), torch.tensor([[[0.6, 0.0], [0.8, 0.0]]]))


SHRINKAGE_SHAPES = [
    (1, 1, 1),
    (1, 1, 700),
    (3, 5, 1),
    (2, 300, 1),
    (5, 3, 7),
    (1, 2, 530),
    (0, 1, 4),
    (2, 0, 3),
    (2, 3, 0),
]


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", SHRINKAGE_SHAPES, ids=str)
def test_soft_threshold(shape, dtype):
    x, tau = numbers(*shape, dtype=dtype), numbers(shape[1]).abs().mul(0.7).to(real(dtype))
    check("soft_threshold_fwd", x, tau)
    check("soft_threshold_bwd", aligned(x), x, tau)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *COMPLEX], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 11), (1, 1, 700), (2, 3, 0)], ids=str)
def test_prox_lp(shape, p, dtype):
    x, lam = numbers(*shape, dtype=dtype), numbers(shape[1]).abs().mul(0.5).to(real(dtype))
    check("prox_lp_fwd", x, lam, p)
    check("prox_lp_bwd", aligned(x), x, lam, p)


@remarks
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_shrinkage_at_the_threshold_and_beyond(p):
    x = torch.tensor([[[0.0, 1e-42, -2.0, 2.0, float("inf"), float("nan")]]], device=DEVICE)
    lam = torch.tensor([0.0], device=DEVICE)
    y = kernel("prox_lp_fwd")(x, lam, p)
    torch.testing.assert_close(y[..., [0, 2, 3]], x[..., [0, 2, 3]], rtol=0, atol=0)  # lam = 0 changes nothing
    assert y[..., 5].isnan().all()
    tau = torch.sqrt(torch.tensor([2.0])) if p == 0 else torch.tensor([1.0 if p == 1 else 1.5])
    at = torch.stack((tau, -tau), -1)[None].to(DEVICE)
    y = kernel("prox_lp_fwd")(at, torch.tensor([1.0], device=DEVICE), p)
    assert torch.equal(y, torch.zeros_like(y)) or p == 0  # sqrt(2) is between two numbers


@remarks
@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
def test_complex_modulus_neither_overflows_nor_vanishes(dtype):
    tiny, huge = (1e-160, 1e160) if dtype == torch.complex128 else (1e-25, 1e25)
    for scale in (tiny, huge):
        x = torch.tensor([[[3 + 4j, -3 + 4j]]], dtype=torch.complex128).mul(scale).to(DEVICE, dtype)
        y = kernel("soft_threshold_fwd")(x, torch.tensor([scale], dtype=real(dtype), device=DEVICE))
        torch.testing.assert_close(double(y), double(x) * 0.8, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 35), (1, 40, 67), (0, 3, 4), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("one", [True, False], ids=["one", "each"])
def test_group_soft_threshold(shape, one, dtype):
    g = numbers(*shape, dtype=dtype)
    g[..., :1] = 0
    tau = numbers(shape[0], 1 if one else shape[2]).abs().mul(1.2).to(real(dtype))
    check("group_soft_threshold_fwd", g, tau)
    check("group_soft_threshold_bwd", aligned(g), g, tau)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1031), (0, 4), (2, 0)], ids=str)
def test_decisions(shape, dtype):
    u, v = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    phi_u, phi_v = numbers(shape[0]), numbers(shape[0], seed=1).float()
    check("select_descent", u, v, phi_u, phi_v)
    check("select_descent_bwd", u, phi_u > 0)
    norm = torch.linalg.vector_norm(double(u + v), dim=1)
    eps = (norm / 900 * torch.linspace(0.6, 1.7, shape[0], device=DEVICE).to(norm)).to(real(dtype))
    check("shrink_eps", u, v, eps, 1e3, 0.9)


def test_ties_and_nan_in_the_selection():
    u, v = torch.ones(5, 3, device=DEVICE), torch.zeros(5, 3, device=DEVICE)
    nan = float("nan")
    phi_u = torch.tensor([1.0, 1.0, nan, 1.0, nan], device=DEVICE)
    phi_v = torch.tensor([1.0, 0.5, 1.0, nan, nan], device=DEVICE)
    x, took_u = kernel("select_descent")(u, v, phi_u, phi_v)
    assert took_u.tolist() == [True, False, False, True, False]
    assert torch.equal(x[:, 0], took_u.float())


def chain(shape, width, layers, dtype, final_activation):
    """Arguments of feature_gradient with pixels on both sides of eps and features all over the activation."""
    channels = shape[1]
    weights = [numbers(width, width if k else channels, 3, 3, seed=k) for k in range(layers)]
    weights = [w / (9 * w.shape[1]) ** 0.5 for w in weights]
    x = numbers(*shape)
    norm = definition("feature_gradient_fwd")(x, weights, torch.ones(shape[0]).to(x), 0.3, final_activation)[0]
    eps = 0.9 * norm / (shape[2] * shape[3])
    return x.to(dtype), [w.to(dtype) for w in weights], eps.to(dtype), 0.3, final_activation


CHAINS = [  # image, width, layers, final_activation, dtype: several tiles and channels beside powers of two
    ((2, 1, 5, 7), 40, 2, False, torch.float32),
    ((1, 1, 5, 7), 20, 2, True, torch.float64),
    ((1, 1, 3, 2), 8, 4, False, torch.float32),
    ((1, 2, 1, 1), 3, 2, True, torch.float64),
    ((2, 4, 1, 5), 5, 1, False, torch.float32),
    ((1, 3, 4, 3), 16, 1, True, torch.float64),
]


@pytest.mark.parametrize("case", CHAINS, ids=str)
def test_feature_gradient(case):
    shape, width, layers, final_activation, dtype = case
    arguments = chain(shape, width, layers, dtype, final_activation)
    check("feature_gradient_value", *arguments, "float32")
    check("feature_gradient_fwd", *arguments, "float32")
    d_value, d_grad = numbers(shape[0], dtype=dtype, seed=1), numbers(*shape, dtype=dtype, seed=1)
    check("feature_gradient_vjp", d_value, d_grad, *arguments)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_public_precisions(precision):
    arguments = chain((1, 1, 4, 3), 5, 2, torch.float32, False)
    value, grad = kernel("feature_gradient_fwd")(*arguments, precision)
    # the interpreter multiplies exactly where TF32 is asked for
    rounded = precision == "tf32" and DEVICE == "cuda"
    tolerance = 3e-2 if precision == "bfloat16" else 4e-3 if rounded else 1e-5
    for got, expected in zip((value, grad), definition("feature_gradient_fwd")(*arguments), strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(kernel("feature_gradient_value")(*arguments, precision), value)
    cotangents = (torch.ones_like(value), torch.ones_like(grad))
    d_x = kernel("feature_gradient_vjp")(*cotangents, *arguments, precision)[0]
    options = {"rtol": tolerance, "atol": tolerance} if rounded else {}  # derivatives never multiply in bfloat16
    torch.testing.assert_close(d_x, definition("feature_gradient_vjp")(*cotangents, *arguments)[0], **options)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bfloat16_halves_the_features(precision):
    x, weights, eps, *rest = chain((2, 1, 4, 3), 5, 3, torch.float32, False)
    made = feature_gradient._Chain(x, feature_gradient._pack(weights), *rest, precision, pair=False)
    layers, value = made.forward(x, eps, eps)
    stored = torch.bfloat16 if precision == "bfloat16" else torch.float32
    assert {t.dtype for outputs in layers for t in outputs} == {stored}
    assert value.dtype == torch.float32


def test_an_image_has_the_same_bits_in_any_batch():
    x, weights, eps, *rest = chain((2, 1, 5, 7), 40, 2, torch.float32, False)
    d_value, d_grad = numbers(2, dtype=torch.float32), numbers(2, 1, 5, 7, dtype=torch.float32, seed=1)

    def run(some):
        value, grad = kernel("feature_gradient_fwd")(x[some], weights, eps[some], *rest)
        d_x, _, d_eps = kernel("feature_gradient_vjp")(d_value[some], d_grad[some], x[some], weights, eps[some], *rest)
        smoothed = kernel("smoothed_l21_fwd")(x[some].flatten(2), eps[some])
        return (
            value,
            grad,
            d_x,
            d_eps,
            *smoothed,
            kernel("shrink_eps")(x[some, 0, 0], x[some, 0, 1], eps[some], 9.0, 0.9)[1],
        )

    for alone, together in zip(run(slice(1, 2)), run(slice(None)), strict=True):
        assert torch.equal(alone, together[1:])


def test_nan_is_not_hidden():
    x, weights, eps, delta, final_activation = chain((2, 1, 9, 8), 4, 2, torch.float32, True)
    x[0, 0, 4, 4] = float("nan")
    value, grad = kernel("feature_gradient_fwd")(x, weights, eps, delta, final_activation)
    assert value.isnan().tolist() == [True, False]
    assert grad[0, 0, 4, 4].isnan()
    assert not grad[1].isnan().any()


@pytest.mark.parametrize(
    "view", [lambda t: t[..., ::2], lambda t: t[..., 1:], lambda t: t.mT], ids=["strided", "odd", "mT"]
)
def test_any_strides(view):
    x = view(numbers(2, 3, 9, 8, dtype=torch.float32))
    weights = [view(numbers(4, 3, 8, 8, dtype=torch.float32))[..., :3, :3]]
    eps = numbers(4, dtype=torch.float32).abs()[::2]
    check("feature_gradient_fwd", x, weights, eps, 0.3, True)
    check("smoothed_l21_fwd", x.flatten(2)[:, :, ::3], eps)
    z = view(numbers(2, 3, 9, 8, dtype=torch.complex64)).conj()
    tau = numbers(6, dtype=torch.float32).abs()[::2]
    check("soft_threshold_fwd", z.flatten(2), tau)
    check("soft_threshold_bwd", z.flatten(2), z.conj().flatten(2), tau)
    check("soft_threshold_fwd", z.flatten(2).imag, tau)


@pytest.mark.parametrize(
    "change",
    [{"dtype": torch.bfloat16}, {"kernel": 5}, {"widths": (4, 6)}, {"channels": 5}, {"width": 129}, {"height": 0}],
    ids=lambda c: next(iter(c)),
)
def test_chains_without_a_kernel_are_left_to_the_definition(change):
    case = {"dtype": torch.float32, "kernel": 3, "width": 4, "channels": 1, "height": 6} | change
    first, second = case.get("widths", (case["width"],) * 2)
    k, dtype = case["kernel"], case["dtype"]
    weights = [numbers(first, case["channels"], k, k, dtype=dtype), numbers(second, first, k, k, dtype=dtype)]
    x, eps = numbers(2, case["channels"], case["height"], 6, dtype=dtype), numbers(2, dtype=dtype).abs()
    assert kernel("feature_gradient_fwd")(x, weights, eps, 0.1, False) is NotImplemented
    assert kernel("feature_gradient_vjp")(eps, x, x, weights, eps, 0.1, False) is NotImplemented


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 0, 2), (1, 1300, 1), (1, 17, 100)], ids=str)
def test_ordered_sum(shape):
    partial = numbers(*shape)
    torch.testing.assert_close(ordered_sum(partial, torch.float64), partial.sum(1))
