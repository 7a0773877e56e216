"""The law of a modulus with noise, u = |x + n|, n complex with standard deviation sigma in both parts (Rice).

l(u, x) = (u - |x|)^2 / 2 - sigma^2 log(exp(-t) I0(t)), t = u |x| / sigma^2, is -sigma^2 log p(u | x) of u in the plane,
but for a constant. It is no term: it couples two images, and is not convex; but log I0 is, so in either of them it lies
below a square that touches it: l(u, x) <= |x - u I1(t) / I0(t)|^2 / 2 + a constant, t at the point of touch.

Source: Gudbjartsson & Patz, The Rician Distribution of Noisy MRI Data, Magn. Reson. Med. 34 (1995).
"""

import math

import torch
from torch import Tensor

from fastrecon.ops.reductions import sum_of

HALVINGS = 30


def misfit(u: Tensor, x: Tensor, sigma: float) -> Tensor:
    """l(u, x) [B] in float64, of real images."""
    u, x = u.double(), x.double()
    t = (u * x).abs() / sigma**2
    return sum_of((u.abs() - x.abs()).square() / 2 - sigma**2 * torch.special.i0e(t).log())


def touching(u: Tensor, x: Tensor, sigma: float) -> Tensor:
    """u I1(t) / I0(t), t = u x / sigma^2: where the square that touches l(u, .) at x has its minimum."""
    t = (u.double() * x.double()).abs() / sigma**2
    share = torch.special.i1e(t) / torch.special.i0e(t)
    return (u * x.sign() * share.to(u)).to(u)


def mean(x: Tensor, sigma: float) -> Tensor:
    """The mean of u given x >= 0."""
    a = (x.double() / sigma).square() / 2
    even, odd = torch.special.i0e(a / 2), torch.special.i1e(a / 2)
    return (sigma * math.sqrt(math.pi / 2) * ((1 + a) * even + a * odd)).to(x)


def from_mean(m: Tensor, sigma: float) -> Tensor:
    """x >= 0 whose u has the mean m; 0 where it is below that of x = 0."""
    low, high = torch.zeros_like(m), m.clamp_min(0)
    for _ in range(HALVINGS):
        x = (low + high) / 2
        above = mean(x, sigma) > m
        low, high = torch.where(above, low, x), torch.where(above, x, high)
    return torch.where(m > sigma * math.sqrt(math.pi / 2), (low + high) / 2, 0)
