"""Trained phases of LDA in inference: K = 15 on one 256x256 image, K = 9 on 64 blocks of 33x33, sensing at 25%.

eager: the network as people write it today, Algorithm 1 with the gradient of the regulariser by torch.autograd.grad.
torch.compile: the same with the gradient written out by hand and one compiled function per phase. On a GPU both
precisions are timed: float32 with exact products, and tf32, where every convolution of eager PyTorch and of
torch.compile is rounded, and of fastrecon those of the steps. fastrecon bfloat16: precision="bfloat16".
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from utils import DEVICES, GRAPHS, finished

from fastrecon.operators import BlockSensing, random_phi
from fastrecon.solvers import LDA

HALF_PASSES = 8  # of four convolutions in a phase: values at u and v, gradients at z, x and the new x
FLOPS_PER_PIXEL = HALF_PASSES * 2 * 9 * (32 + 3 * 32 * 32)
DTYPES = ["float32", *(["tf32"] if torch.cuda.is_available() else [])]


@cache
def problem(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str, precision: str = "float32"
) -> tuple[LDA, Tensor, Tensor]:
    """Network, measurements and start for a smooth image; shape is (phases, B, H, W)."""
    phases, *size = shape
    torch.manual_seed(0)
    net = LDA(BlockSensing(random_phi(272, 33 * 33, seed=0), 33), phases, tau=0.01).to(device, dtype)
    net.regulariser.precision = precision
    x = torch.randn(size[0], 1, *size[1:], dtype=torch.float64).cumsum(2).cumsum(3)
    x = (x / x.abs().amax((1, 2, 3), keepdim=True)).to(device, dtype)
    with torch.no_grad():
        y = net.fidelity.operator(x)
        return net, y, net.fidelity.operator.adjoint(y, x.shape[-2:])


def smoothed_relu(t: Tensor, delta: float) -> Tensor:
    return torch.where(t.abs() < delta, t * t / (4 * delta) + t / 2 + delta / 4, torch.relu(t))


def regulariser(x: Tensor, weights: list[Tensor], eps: Tensor, delta: float) -> Tensor:
    """r_eps(x) [B]."""
    for w in weights[:-1]:
        x = smoothed_relu(conv2d(x, w, padding=1), delta)
    square = conv2d(x, weights[-1], padding=1).square().sum(1)
    e = eps[:, None, None]
    small = square <= e * e
    n = torch.where(small, e * e, square).sqrt()
    return torch.where(small, square / (2 * e), n - e / 2).sum((1, 2))


def eager(net: LDA, y: Tensor, x: Tensor) -> Tensor:
    a, weights, delta = net.fidelity.operator, list(net.regulariser.weights), net.regulariser.delta

    def grad_r(x: Tensor, eps: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(regulariser(x, weights, eps, delta).sum(), x)[0]

    def phi(x: Tensor, eps: Tensor) -> Tensor:
        return (a(x) - y).square().sum((1, 2, 3)) / 2 + regulariser(x, weights, eps, delta)

    eps = net.eps0.expand(len(x))
    for alpha, tau in zip(net.alpha, net.tau, strict=True):
        z = x - alpha * a.adjoint(a(x) - y, x.shape[-2:])
        u = z - tau * grad_r(z, eps)
        v = z - alpha * grad_r(x, eps)
        x = torch.where((phi(u, eps) <= phi(v, eps))[:, None, None, None], u, v)
        gradient = a.adjoint(a(x) - y, x.shape[-2:]) + grad_r(x, eps)
        eps = torch.where(gradient.flatten(1).norm(dim=1) < net.sigma * net.gamma * eps, net.gamma * eps, eps)
    return x


def value_and_gradient(x: Tensor, weights: list[Tensor], eps: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    outputs, h = [], x
    for w in weights[:-1]:
        h = smoothed_relu(conv2d(h, w, padding=1), delta)
        outputs.append(h)
    g = conv2d(h, weights[-1], padding=1)
    square, e = g.square().sum(1, keepdim=True), eps[:, None, None, None]
    small = square <= e * e
    n = torch.where(small, e * e, square).sqrt()
    value = torch.where(small, square / (2 * e), n - e / 2).sum((1, 2, 3))
    t = conv_transpose2d(g / n, weights[-1], padding=1)
    for w, h in zip(reversed(weights[:-1]), reversed(outputs), strict=True):
        t = conv_transpose2d(t * (h / delta).clamp(0, 1).sqrt(), w, padding=1)
    return value, t


@cache
def compiled_phase() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    def phase(x, y, grad_f, grad_r, eps, alpha, tau, a, weights, delta, threshold, gamma):
        z = x - alpha * grad_f
        u = z - tau * value_and_gradient(z, weights, eps, delta)[1]
        v = z - alpha * grad_r
        (r_u, grad_u), (r_v, grad_v) = (value_and_gradient(t, weights, eps, delta) for t in (u, v))
        residual_u, residual_v = a(u) - y, a(v) - y
        f_u, f_v = (t.square().sum((1, 2, 3)) / 2 for t in (residual_u, residual_v))
        keep = (f_u + r_u <= f_v + r_v)[:, None, None, None]
        x = torch.where(keep, u, v)
        grad_f = a.adjoint(torch.where(keep, residual_u, residual_v), x.shape[-2:])
        norm = (grad_f + torch.where(keep, grad_u, grad_v)).flatten(1).norm(dim=1)
        eps = torch.where(norm < threshold * eps, gamma * eps, eps)
        return x, grad_f, value_and_gradient(x, weights, eps, delta)[1], eps

    return torch.compile(phase, dynamic=False)


def compiled(net: LDA, y: Tensor, x: Tensor) -> Tensor:
    a, weights, delta = net.fidelity.operator, list(net.regulariser.weights), net.regulariser.delta
    eps = net.eps0.expand(len(x)).clone()
    grad_f, grad_r = net.fidelity.grad(x, y), value_and_gradient(x, weights, eps, delta)[1]
    for alpha, tau in zip(net.alpha, net.tau, strict=True):
        x, grad_f, grad_r, eps = compiled_phase()(
            x, y, grad_f, grad_r, eps, alpha, tau, a, weights, delta, net.sigma * net.gamma, net.gamma
        )
    return x


def ours(net: LDA, y: Tensor, x: Tensor) -> Tensor:
    return net(y, x)[0]


IMPLEMENTATIONS: dict[str, Callable[[LDA, Tensor, Tensor], Tensor]] = {
    "eager": eager,
    "torch.compile": compiled,
    "fastrecon": ours,
    "fastrecon bfloat16": ours,
} | dict(zip(GRAPHS, (eager, ours), strict=False))


@contextlib.contextmanager
def products(dtype: str) -> Iterator[None]:
    """Convolutions of PyTorch in TF32, if `dtype` says so."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, dtype == "tf32"
    yield
    torch.backends.cudnn.allow_tf32 = before


@cache
def expected(shape: tuple[int, int, int, int], device: str, dtype: str) -> tuple[Tensor, float]:
    """The answer in float64, and the error of eager PyTorch."""
    exact = eager(*problem(shape, torch.float64, device))
    return exact, ((eager(*problem(shape, torch.float32, device)) - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(15, 1, 256, 256), (9, 64, 33, 33)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def bench_reconstruction(benchmark, implementation, shape, device, dtype):
    if device == "cpu" and dtype == "tf32":
        pytest.skip("TF32 is a format of GPUs")
    half = "bfloat16" in implementation
    if half and dtype == "tf32":
        pytest.skip("one precision at a time")
    precision = "bfloat16" if half else dtype
    work = partial(IMPLEMENTATIONS[implementation], *problem(shape, torch.float32, device, precision))
    with products(dtype):
        run = finished(work, implementation, device)
        exact, eager_error = expected(shape, device, dtype)
        allowed = 3e-3 if half else 2 * eager_error
        assert (run() - exact).norm() / exact.norm() <= allowed  # no timing of wrong answers
        benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    benchmark.extra_info.update(
        op="lda", dtype=dtype, products=precision, flops=FLOPS_PER_PIXEL * shape[0] * exact.numel(),
        bytes=8 * shape[0] * exact.numel(),
    )  # fmt: skip
