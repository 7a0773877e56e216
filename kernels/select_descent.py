"""kernels/select_descent.py: the two decisions of an LDA iteration, per problem and without the host (Triton).

  u, v, x  [B, N]  candidates and the kept one      phi_u, phi_v  [B]  their objectives     took_u  [B]  phi_u <= phi_v
  grad_f, grad_r, grad  [B, N]  grad = grad_f + grad_r     norm  [B]  |grad|, float64     eps, eps_next  [B]  radii, > 0
  shrunk  [B]  norm < sigma gamma eps, and then eps_next = gamma eps, else eps
Sums that decide are taken in float64, in an order that depends on N alone. NaN counts as higher than any number.
Definition: fastrecon/ops/select_descent.py.  Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, Algorithm 1, lines 5-9.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import TILE, blocks, launch, parts, ready
from fastrecon.kernels.scalar_math import widen
from fastrecon.kernels.sums import ordered_sum


@triton.jit
def _row(N, BLOCK: tl.constexpr):
    """This program's problem, its entries [BLOCK], whether they exist, whether it is the problem's first program."""
    tiles = tl.cdiv(N, BLOCK)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return b, b * N + n, n < N, tl.program_id(0) % tiles == 0


@triton.jit
def _select_kernel(U, V, PhiU, PhiV, X, TookU, N, BLOCK: tl.constexpr):
    b, n, mask, first = _row(N, BLOCK)
    phi_u = tl.load(PhiU + b).to(tl.float64)
    phi_v = tl.load(PhiV + b).to(tl.float64)
    took_u = (phi_u <= phi_v) | ((phi_v != phi_v) & (phi_u == phi_u))
    x = tl.load(U + n, mask=mask) if took_u else tl.load(V + n, mask=mask)  # only the kept candidate is read
    tl.store(X + n, x, mask=mask)
    tl.store(TookU + b, took_u.to(tl.uint8), mask=first)


@triton.jit
def _select_bwd_kernel(DX, TookU, DU, DV, N, BLOCK: tl.constexpr):
    b, n, mask, _ = _row(N, BLOCK)
    took_u = tl.load(TookU + b) != 0
    d_x = tl.load(DX + n, mask=mask)
    zero = tl.zeros_like(d_x)
    tl.store(DU + n, tl.where(took_u, d_x, zero), mask=mask)
    tl.store(DV + n, tl.where(took_u, zero, d_x), mask=mask)


@triton.jit
def _gradient_kernel(GradF, GradR, Grad, Partial, N, BLOCK: tl.constexpr):
    _, n, mask, _ = _row(N, BLOCK)
    grad = widen(tl.load(GradF + n, mask=mask, other=0.0)) + widen(tl.load(GradR + n, mask=mask, other=0.0))
    grad = grad.to(Grad.dtype.element_ty)
    tl.store(Grad + n, grad, mask=mask)
    wide = widen(grad).to(tl.float64)
    tl.store(Partial + tl.program_id(0), tl.sum(wide * wide, axis=0))


@triton.jit
def _shrink_kernel(
    Square, Eps, Norm, EpsNext, Shrunk, B, SIGMA: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr
):
    b = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    norm = tl.sqrt(tl.load(Square + b, mask=b < B, other=0.0))
    eps = widen(tl.load(Eps + b, mask=b < B, other=0.0))
    shrunk = norm < SIGMA * GAMMA * eps.to(tl.float64)
    tl.store(Norm + b, norm, mask=b < B)
    tl.store(EpsNext + b, tl.where(shrunk, GAMMA * eps, eps).to(EpsNext.dtype.element_ty), mask=b < B)
    tl.store(Shrunk + b, shrunk.to(tl.uint8), mask=b < B)


def select_descent(u: Tensor, v: Tensor, phi_u: Tensor, phi_v: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x like u, took_u bool [B]."""
    if u.numel() == 0:
        return NotImplemented  # no program would write took_u
    x, took_u = torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(u.shape[0], dtype=torch.bool)
    arrays = [parts(t)[0] for t in (u, v)] + [ready(phi_u), ready(phi_v), parts(x)[0], took_u.view(torch.uint8)]
    N = arrays[0][:1].numel()
    launch(_select_kernel, u.shape[0] * blocks(N, TILE), *arrays, N, BLOCK=TILE)
    return x, took_u


def select_descent_bwd(d_x: Tensor, took_u: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d_u and d_v like d_x."""
    d_u, d_v = (torch.empty_like(d_x, memory_format=torch.contiguous_format) for _ in range(2))
    arrays = [parts(d_x)[0], ready(took_u).view(torch.uint8), parts(d_u)[0], parts(d_v)[0]]
    N = arrays[0][:1].numel()
    launch(_select_bwd_kernel, d_x.shape[0] * blocks(N, TILE), *arrays, N, BLOCK=TILE)
    return d_u, d_v


def shrink_eps(
    grad_f: Tensor, grad_r: Tensor, eps: Tensor, sigma: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns grad like grad_f, norm float64 [B], eps_next like eps, shrunk bool [B]."""
    grad, eps = torch.empty_like(grad_f, memory_format=torch.contiguous_format), ready(eps)
    arrays = [parts(t)[0] for t in (grad_f, grad_r, grad)]
    B, N = grad.shape[0], arrays[0][:1].numel()
    tiles = blocks(N, TILE)
    partial = torch.empty((B, tiles, 1), dtype=torch.float64, device=eps.device)
    launch(_gradient_kernel, B * tiles, *arrays, partial, N, BLOCK=TILE)
    square = ordered_sum(partial, torch.float64)
    norm, eps_next, shrunk = torch.empty_like(square[:, 0]), torch.empty_like(eps), eps.new_empty(B, dtype=torch.bool)
    launch(
        _shrink_kernel, blocks(B, 128), square, eps, norm, eps_next, shrunk.view(torch.uint8), B,
        SIGMA=sigma, GAMMA=gamma, BLOCK=128,
    )  # fmt: skip
    return grad, norm, eps_next, shrunk
