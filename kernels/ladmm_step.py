"""kernels/ladmm_step.py: what follows the matrix products of linearised ADMM, and its derivative (Triton).

  z, p = arg w [N, D]   q = z a^T, x, e, dual, arg [N, M]   beta, w, tau, beta_next [M] (tau [D] for z)
  z_next = soft(z - p, tau)
  e_next = soft(e - w (dual + beta (q + e - x)), tau) | soft(x - q - w dual, tau) | e      UPDATE = 0 | 1 | 2
  r = q + e_next - x,  dual_next = dual + beta r,  arg = dual_next + beta_next r
  derivatives of the parameters are sums over the samples, in a fixed order, in float64
Definition: fastrecon/ops/ladmm_step.py.  Maths: Xie, Wu, Zhong, Liu & Lin, arXiv:1905.06179.
The products stay with the vendor: a pass reads and writes 7 matrices [N, M], a product computes 2 D per entry.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import TILE, blocks, launch, power_of_2, ready
from fastrecon.kernels.scalar_math import widen
from fastrecon.kernels.sums import ordered_sum

GENERAL, RESIDUAL, GIVEN = range(3)
ROUNDS = 16  # tiles of rows that one program of the derivative adds up


@triton.jit
def _soft(v, tau):
    """Soft thresholding; NaN goes through."""
    return tl.where(v > tau, v - tau, tl.where(v >= -tau, 0.0, v + tau))


@triton.jit
def _read(X, offset, mask):
    return widen(tl.load(X + offset, mask=mask, other=0.0))


@triton.jit
def _write(X, offset, value, mask):
    tl.store(X + offset, value.to(X.dtype.element_ty), mask=mask)


@triton.jit
def _shrink_kernel(Z, P, Tau, Out, size, D, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    _write(Out, i, _soft(_read(Z, i, mask) - _read(P, i, mask), _read(Tau, i % D, mask)), mask)


@triton.jit
def _step_kernel(
    Q, X, E, Dual, Beta, W, Tau, BetaNext, ENext, DualNext, Arg, size, M, UPDATE: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    m = i % M
    beta = _read(Beta, m, mask)
    dual = _read(Dual, i, mask)
    apart = _read(Q, i, mask) - _read(X, i, mask)
    if UPDATE == 1:
        after = _soft(-apart - _read(W, m, mask) * dual, _read(Tau, m, mask))
    else:
        after = _read(E, i, mask)
        if UPDATE == 0:
            after = _soft(after - _read(W, m, mask) * (dual + beta * (apart + after)), _read(Tau, m, mask))
    r = apart + after
    dual += beta * r
    if UPDATE != 2:
        _write(ENext, i, after, mask)
    _write(DualNext, i, dual, mask)
    _write(Arg, i, dual + _read(BetaNext, m, mask) * r, mask)


@triton.jit
def _shrink_bwd_kernel(
    DNext, ZNext, DZ, Partial, N, D, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROUNDS: tl.constexpr
):
    columns = tl.cdiv(D, BLOCK_M)
    chunk = (tl.program_id(0) // columns).to(tl.int64)
    m = tl.program_id(0) % columns * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float64)
    for k in range(ROUNDS):
        n = (chunk * ROUNDS + k) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
        i = n * D + m
        mask = (n < N) & (m < D)
        z = _read(ZNext, i, mask)
        d_z = tl.where(z == 0, 0.0, _read(DNext, i, mask))
        _write(DZ, i, d_z, mask)
        total -= tl.where(mask, tl.where(z < 0, -d_z, d_z), 0.0).to(tl.float64)
    tl.store(Partial + chunk * D + m, tl.sum(total, axis=0)[None, :], mask=m < D)


@triton.jit
def _step_bwd_kernel(
    DE, DDual, DArg, Q, X, E, Dual, ENext, Beta, W, Tau, BetaNext, DQ, DEIn, DDualIn, Partial, N, M,
    UPDATE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(M, BLOCK_M)
    chunk = (tl.program_id(0) // columns).to(tl.int64)
    m = tl.program_id(0) % columns * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    beta = _read(Beta, m, m < M)
    w = _read(W, m, m < M)
    tau = _read(Tau, m, m < M)
    beta_next = _read(BetaNext, m, m < M)
    d_beta = tl.zeros((BLOCK_N, BLOCK_M), tl.float64)
    d_w = tl.zeros((BLOCK_N, BLOCK_M), tl.float64)
    d_tau = tl.zeros((BLOCK_N, BLOCK_M), tl.float64)
    d_next = tl.zeros((BLOCK_N, BLOCK_M), tl.float64)
    for k in range(ROUNDS):
        n = (chunk * ROUNDS + k) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
        i = n * M + m
        mask = (n < N) & (m < M)  # what is masked is read as 0 and adds 0
        apart = _read(Q, i, mask) - _read(X, i, mask)
        dual = _read(Dual, i, mask)
        after = tl.where(mask, _soft(-apart - w * dual, tau), 0.0) if UPDATE == 1 else _read(ENext, i, mask)
        r = apart + after
        d_arg = _read(DArg, i, mask)
        total = _read(DDual, i, mask) + d_arg
        d_r = beta * total + beta_next * d_arg
        d_next += (r * d_arg).to(tl.float64)
        d_b = r * total
        if UPDATE == 2:
            _write(DQ, i, d_r, mask)
            _write(DEIn, i, _read(DE, i, mask) + d_r, mask)
            _write(DDualIn, i, total, mask)
        else:
            d_v = tl.where(after == 0, 0.0, _read(DE, i, mask) + d_r)
            slope = dual
            if UPDATE == 0:
                h = apart + _read(E, i, mask)
                slope += beta * h
                d_b -= w * h * d_v
                d_h = -w * beta * d_v
                _write(DQ, i, d_r + d_h, mask)
                _write(DEIn, i, d_v + d_h, mask)
            else:
                _write(DQ, i, d_r - d_v, mask)
            _write(DDualIn, i, total - w * d_v, mask)
            d_w -= (slope * d_v).to(tl.float64)
            d_tau -= tl.where(after < 0, -d_v, d_v).to(tl.float64)
        d_beta += d_b.to(tl.float64)
    row = Partial + chunk * 4 * M + m
    tl.store(row, tl.sum(d_beta, axis=0)[None, :], mask=m < M)
    tl.store(row + M, tl.sum(d_w, axis=0)[None, :], mask=m < M)
    tl.store(row + 2 * M, tl.sum(d_tau, axis=0)[None, :], mask=m < M)
    tl.store(row + 3 * M, tl.sum(d_next, axis=0)[None, :], mask=m < M)


def _writable(*tensors: Tensor) -> bool:
    """Whether kernels can write into these tensors themselves."""
    return all(ready(t) is t for t in tensors)


def _shrink(z: Tensor, arg: Tensor, w: Tensor, tau: Tensor, out: Tensor) -> Tensor:
    p = ready(torch.mm(arg, w))
    launch(_shrink_kernel, blocks(z.numel(), TILE), ready(z), p, ready(tau), out, z.numel(), z.shape[1], BLOCK=TILE)
    return out


def ladmm_shrink_fwd(z: Tensor, arg: Tensor, w: Tensor, tau: Tensor) -> Tensor:
    """Returns z_next like z."""
    return _shrink(z, arg, w, tau, torch.empty_like(z, memory_format=torch.contiguous_format))


def _step(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], update: int) -> None:
    q = inputs[0]
    arrays = [ready(t) for t in inputs]
    launch(
        _step_kernel, blocks(q.numel(), TILE), *arrays, *outputs, q.numel(), q.shape[1], UPDATE=update, BLOCK=TILE
    )  # fmt: skip


def ladmm_step_fwd(
    z: Tensor, a: Tensor, x: Tensor, e: Tensor, dual: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor,
    update: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns q, e_next (empty where given), dual_next, arg like x."""
    q = ready(torch.mm(z, a.T))
    dual_next, arg = torch.empty_like(q), torch.empty_like(q)
    e_next = q.new_empty(0) if update == GIVEN else torch.empty_like(q)
    outputs = (arg if update == GIVEN else e_next, dual_next, arg)
    _step((q, x, e, dual, beta, w, tau, beta_next), outputs, update)
    return q, e_next, dual_next, arg


def ladmm_iterations_(
    x: Tensor, a: Tensor, z: Tensor, e: Tensor, dual: Tensor, q: Tensor, arg: Tensor, w1: list[Tensor], l1: float,
    tau1: Tensor, beta: Tensor, w2: Tensor, tau2: Tensor, iterations: int, update: int,
) -> None:  # fmt: skip
    """Overwrites z, e, dual, q and arg."""
    if not _writable(z, e, dual, q, arg):
        return NotImplemented
    scaled = w1 if l1 == 1 else [w / l1 for w in w1]
    for k in range(iterations):
        own = [p[min(k, len(p) - 1)] for p in (scaled, tau1, beta, w2, tau2)]
        _shrink(z, arg, *own[:2], z)
        torch.mm(z, a.T, out=q)
        _step((q, x, e, dual, *own[2:], beta[min(k + 1, len(beta) - 1)]), (e, dual, arg), update)
    return None


def _tile(N: int, M: int) -> tuple[dict[str, int], int, int]:
    """Tile of the derivatives, programs, and partial sums of each column."""
    block_m = power_of_2(M, 1, 32)
    block_n = 256 // block_m
    chunks = blocks(N, block_n * ROUNDS)
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "ROUNDS": ROUNDS}, blocks(M, block_m) * chunks, chunks


def ladmm_shrink_bwd(d_next: Tensor, z_next: Tensor, arg: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns d_z like z_next, d_arg like arg, d_w like w, d_tau [D]."""
    N, D = z_next.shape
    tile, programs, chunks = _tile(N, D)
    d_z = torch.empty_like(z_next, memory_format=torch.contiguous_format)
    partial = torch.empty((1, chunks, D), dtype=torch.float64, device=d_z.device)
    launch(_shrink_bwd_kernel, programs, ready(d_next), ready(z_next), d_z, partial, N, D, **tile)
    return d_z, -(d_z @ w.T), -(arg.T @ d_z), ordered_sum(partial, d_z.dtype)[0]


def ladmm_step_bwd(
    d_q: Tensor, d_e: Tensor, d_dual: Tensor, d_arg: Tensor, z: Tensor, a: Tensor, q: Tensor, x: Tensor, e: Tensor,
    dual: Tensor, e_next: Tensor, beta: Tensor, w: Tensor, tau: Tensor, beta_next: Tensor, update: int,
    a_learned: bool, x_learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns d_z, d_a, d_x (empty unless learned), d_e (empty for the residual update), d_dual, and of the parameters
    [4, M].
    """
    N, M = q.shape
    d_e = d_e if d_e.numel() else torch.zeros_like(q)
    tile, programs, chunks = _tile(N, M)
    slope, d_dual_in = (torch.empty_like(q, memory_format=torch.contiguous_format) for _ in range(2))
    d_e_in = q.new_empty(0) if update == RESIDUAL else torch.empty_like(slope)
    partial = torch.empty((1, chunks, 4 * M), dtype=torch.float64, device=q.device)
    before, after = {GENERAL: (e, e_next), RESIDUAL: (x, x), GIVEN: (e, e)}[update]  # x: an address that is not read
    inputs = [ready(t) for t in (d_e, d_dual, d_arg, q, x, before, dual, after, beta, w, tau, beta_next)]
    outputs = (slope, slope if update == RESIDUAL else d_e_in, d_dual_in, partial)
    launch(_step_bwd_kernel, programs, *inputs, *outputs, N, M, UPDATE=update, **tile)
    d_q = slope + d_q if d_q.numel() else slope
    d_a = d_q.T @ z if a_learned else a.new_empty(0)
    d_x = -slope if x_learned else x.new_empty(0)
    return d_q @ a, d_a, d_x, d_e_in, d_dual_in, ordered_sum(partial, q.dtype).view(4, M)
