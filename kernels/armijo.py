"""kernels/armijo.py: the step along a direction for a quadratic plus an l1 term, per image, without the host (Triton).

  x, z, grad  [B, N]  real or complex     lam  [1 or B, 1 or N]  real     curvature, slack, gamma  [B]  float64
  sums  [B, 4]  float64: F(x + gamma z) - F(x), delta, Re <grad, z>, |z|^2     accepted  [B]  bool
The first kernel sums the rise of lam |x + gamma_j z| over the whole ladder gamma_j = eta^j in one pass, the second
decides. Sums are taken in float64, in an order that depends on N alone. NaN is never accepted.
Definition: fastrecon/ops/armijo.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrecon.kernels.launch import blocks, launch, parts, power_of_2, ready
from fastrecon.kernels.prox_gradient_step import strides
from fastrecon.kernels.sums import ordered_sum

BLOCK = 512


@triton.jit
def _modulus(re, im, PARTS: tl.constexpr):
    return tl.abs(re) if PARTS == 1 else tl.sqrt(re * re + im * im)


@triton.jit
def _rise_kernel(
    X, Z, Grad, Lam, Partial, N, lam_image, lam_entry,
    ETA: tl.constexpr, TRIALS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = (b * N + n) * PARTS
    lam = tl.load(Lam + b * lam_image + n * lam_entry, mask=mask, other=0.0).to(tl.float64)
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float64)
    z = tl.load(Z + at, mask=mask, other=0.0).to(tl.float64)
    g = tl.load(Grad + at, mask=mask, other=0.0).to(tl.float64)
    slope = g * z
    square = z * z
    x_im = x
    z_im = z
    if PARTS == 2:
        x_im = tl.load(X + at + 1, mask=mask, other=0.0).to(tl.float64)
        z_im = tl.load(Z + at + 1, mask=mask, other=0.0).to(tl.float64)
        slope += tl.load(Grad + at + 1, mask=mask, other=0.0).to(tl.float64) * z_im
        square += z_im * z_im
    start = _modulus(x, x_im, PARTS)
    out = Partial + tl.program_id(0).to(tl.int64) * (TRIALS + 2)
    gamma = tl.full((1,), 1.0, tl.float64)
    for j in range(TRIALS):
        rise = lam * (_modulus(x + gamma * z, x_im + gamma * z_im, PARTS) - start)
        tl.store(out + j, tl.sum(rise, axis=0))
        gamma *= ETA
    tl.store(out + TRIALS, tl.sum(slope, axis=0))
    tl.store(out + TRIALS + 1, tl.sum(square, axis=0))


@triton.jit
def _decide_kernel(
    Total, Curvature, Slack, Gamma, Sums, Accepted,
    BETA: tl.constexpr, ETA: tl.constexpr, TRIALS: tl.constexpr, BLOCK_J: tl.constexpr, COMPOSITE: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_J)
    mask = j < TRIALS
    own = Total + b * (TRIALS + 2)
    gamma = tl.full((BLOCK_J,), 1.0, tl.float64)
    for k in range(1, TRIALS):
        gamma = tl.where(j >= k, gamma * ETA, gamma)
    rise = tl.load(own + j, mask=mask, other=0.0)
    slope = tl.load(own + TRIALS)
    delta = slope + tl.load(own)
    data = gamma * slope + gamma * gamma / 2 * tl.load(Curvature + b)
    if COMPOSITE:
        good = data + rise <= BETA * gamma * delta + tl.load(Slack + b)
    else:
        good = data <= BETA * gamma * slope + tl.load(Slack + b)
    first = tl.min(tl.where(good & mask, j, TRIALS), axis=0)
    chosen = j == tl.minimum(first, TRIALS - 1)
    change = data + rise
    tl.store(Gamma + b, tl.sum(tl.where(chosen, gamma, 0.0), axis=0))
    tl.store(Sums + 4 * b, tl.sum(tl.where(chosen, change, 0.0), axis=0))
    tl.store(Sums + 4 * b + 1, delta)
    tl.store(Sums + 4 * b + 2, slope)
    tl.store(Sums + 4 * b + 3, tl.load(own + TRIALS + 1))
    tl.store(Accepted + b, (first < TRIALS).to(tl.uint8))


def armijo(
    x: Tensor, z: Tensor, grad: Tensor, lam: Tensor, curvature: Tensor, slack: Tensor, beta: float, eta: float,
    trials: int, composite: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns gamma float64 [B], sums float64 [B, 4], accepted bool [B]."""
    if x.numel() == 0:
        return NotImplemented
    lam, (B, N), count = ready(lam), x.shape, 2 if x.is_complex() else 1
    tiles = blocks(N, BLOCK)
    partial = torch.empty((B, tiles, trials + 2), dtype=torch.float64, device=x.device)
    arrays = (parts(x)[0], parts(z)[0], parts(grad)[0], lam, partial)
    # beta and eta are constants of the kernel: Triton passes Python floats as float32
    launch(_rise_kernel, B * tiles, *arrays, N, *strides(lam), ETA=eta, TRIALS=trials, PARTS=count, BLOCK=BLOCK)
    total = ordered_sum(partial, torch.float64)
    gamma, sums = torch.empty_like(total[:, 0]), torch.empty((B, 4), dtype=torch.float64, device=x.device)
    accepted = torch.empty(B, dtype=torch.bool, device=x.device)
    launch(
        _decide_kernel, B, total, ready(curvature), ready(slack), gamma, sums, accepted.view(torch.uint8),
        BETA=beta, ETA=eta, TRIALS=trials, BLOCK_J=power_of_2(trials), COMPOSITE=composite,
    )  # fmt: skip
    return gamma, sums, accepted
