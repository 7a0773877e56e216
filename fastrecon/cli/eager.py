"""What people run today: the same methods in plain PyTorch, gradients by autograd. The baseline of the benchmarks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, relu

from fastrecon.models import BlockSensingModel
from fastrecon.solvers import LDA


def regulariser(x: Tensor, weights: Sequence[Tensor], eps: Tensor, delta: float = 0.01) -> Tensor:
    """r_eps(x) [B], differentiable; arguments as for ops.feature_gradient."""
    h = x
    for w in weights[:-1]:
        t = conv2d(h, w, padding=1)
        h = torch.where(t.abs() < delta, t * t / (4 * delta) + t / 2 + delta / 4, relu(t))
    norm = torch.linalg.vector_norm(conv2d(h, weights[-1], padding=1), dim=1).flatten(1)
    e = eps[:, None]
    return torch.where(norm <= e, norm * norm / (2 * e), norm - e / 2).sum(1)


def feature_gradient(
    x: Tensor, weights: Sequence[Tensor], eps: Tensor, delta: float = 0.01, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """r_eps(x) [B] and its gradient like x, by autograd."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = regulariser(x, weights, eps, delta)
        (grad,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph)
    return value if create_graph else value.detach(), grad


@torch.no_grad()
def lda(model: BlockSensingModel, y: Tensor, size: tuple[int, int]) -> Tensor:
    """The trained phases of `model` for measurements y [B, rows, cols, m]: images [B, 1, H, W]."""
    operator, solver = model.operator, model.solver
    assert isinstance(solver, LDA)
    weights, delta = list(solver.regulariser.weights), solver.regulariser.delta
    x = model.start(y, size)
    eps = solver.eps0.expand(len(y))

    def grad_f(x: Tensor) -> Tensor:
        return operator.adjoint(operator(x) - y, size)

    def phi(x: Tensor) -> Tensor:
        return (operator(x) - y).square().flatten(1).sum(1) / 2 + regulariser(x, weights, eps, delta)

    for alpha, tau in zip(solver.alpha, solver.tau, strict=True):
        z = x - alpha * grad_f(x)
        u = z - tau * feature_gradient(z, weights, eps, delta)[1]
        v = z - alpha * feature_gradient(x, weights, eps, delta)[1]
        x = torch.where((phi(u) <= phi(v))[:, None, None, None], u, v)
        norm = (grad_f(x) + feature_gradient(x, weights, eps, delta)[1]).flatten(1).norm(dim=1)
        eps = torch.where(norm < solver.sigma * solver.gamma * eps, solver.gamma * eps, eps)
    return x
