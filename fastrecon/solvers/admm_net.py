"""ADMM-Net: stages of ADMM whose filters, penalties and shrinkage functions are learned.

With c_l = D_l x, and circular filters H_l for the data step:
x = (A* A + sum_l rho_l H_l^T H_l)^-1 (A* y + sum_l rho_l H_l^T (z_l - beta_l)),
z_l = S_l(c_l + beta_l), S_l piecewise linear between 101 points, beta_l += eta_l (c_l - z_l).

Source: Yang, Sun, Li & Xu, Deep ADMM-Net for Compressive Sensing MRI, NIPS 2016.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from fastrecon.checks import expect, integer
from fastrecon.networks.rbf_unit import cosines
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.by_image import each_image
from fastrecon.solvers.unrolled import State, Unrolled, planes

POINTS = 101  # of a shrinkage function, even on [-1, 1], beyond which it is a straight line
TINY = 1e-6  # keeps the data step defined where every filter vanishes
FIRST = (0.1, 0.02, 1.0)  # rho, threshold and eta at the start


class ADMMNet(Unrolled):
    """ADMM-Net for operators whose A* A is a circular convolution: one coil, any mask of Fourier coefficients.

    Images end with a data step of its own, the last of `phases` + 1.

    Args:
        operator: A.
        phases: stages.
        filters: 3x3, of every stage.
    """

    def __init__(self, operator: LinearOperator, phases: int = 15, filters: int = 8):
        super().__init__(operator)
        name = type(self).__name__
        self.phases = integer(phases, name, "phases", least=1)
        self.filters = integer(filters, name, "filters", least=1)
        rho, threshold, eta = FIRST
        kernels = cosines(self.filters, 1, 3)
        self.data = nn.Parameter(kernels.repeat(self.phases + 1, 1, 1, 1, 1))  # H [K + 1, L, 1, 3, 3]
        self.rho = nn.Parameter(torch.full((self.phases + 1, self.filters), rho))
        self.seen = nn.Parameter(kernels.repeat(self.phases, 1, 1, 1, 1))  # D
        grid = torch.linspace(-1, 1, POINTS)
        soft = grid.sign() * (grid.abs() - threshold).clamp_min(0)
        self.values = nn.Parameter(soft.repeat(self.phases, self.filters, 1))  # S at its points
        self.eta = nn.Parameter(torch.full((self.phases, self.filters), eta))

    def hyperparameters(self) -> dict[str, Any]:
        """What it is made with."""
        return {"phases": self.phases, "filters": self.filters}

    def begin(self, y: Tensor, x: Tensor) -> State:
        """The first image, and z = beta = 0."""
        none = torch.zeros(x.shape[0], 2 * self.filters, *x.shape[-2:], dtype=x.real.dtype, device=x.device)
        return self._data_step(0, none, y, x), none, none

    def phase(self, k: int, s: State, y: Tensor) -> State:
        """Shrinkage, multiplier, and the data step of the next stage."""
        x, _, beta = s
        c = each_image(lambda t: _circular(t, self.seen[k]), planes(x))
        z = _shrunk(c + beta, self.values[k].repeat(2, 1))
        beta = beta + self.eta[k].repeat(2)[:, None, None] * (c - z)
        return self._data_step(k + 1, z - beta, y, x), z, beta

    def _data_step(self, k: int, v: Tensor, y: Tensor, like: Tensor) -> Tensor:
        """x of v = z - beta [B, 2 L, H, W], responses to real and to imaginary parts."""
        operator = self.fidelity.operator
        spectrum = operator.spectrum(like)
        expect(
            spectrum is not None, "ADMMNet", "operator", "one coil and a mask of frequencies", type(operator).__name__
        )
        assert spectrum is not None
        v = torch.complex(*v.chunk(2, 1))  # [B, L, H, W]
        h = _transfer(self.data[k], like.shape[-2], like.shape[-1])
        rho = self.rho[k].abs()[:, None, None]

        def solved(back: Tensor, v: Tensor, spectrum: Tensor) -> Tensor:
            top = torch.fft.fft2(back) + (rho * h.conj() * torch.fft.fft2(v)).sum(1, keepdim=True)
            return torch.fft.ifft2(top / (spectrum + (rho * h.abs().square()).sum(0) + TINY))

        back = operator.apply_adjoint(y, like.shape[-2:])
        return each_image(solved, back, v, spectrum)


def _circular(t: Tensor, kernels: Tensor) -> Tensor:
    """Responses [B, 2 L, H, W] of both planes [B, 2, H, W] to kernels [L, 1, 3, 3]."""
    t = pad(t, (1, 1, 1, 1), mode="circular")
    return torch.cat([conv2d(plane, kernels) for plane in t.split(1, 1)], 1)


def _transfer(kernels: Tensor, height: int, width: int) -> Tensor:
    """Transforms [L, H, W] of the same circular filters."""
    whole = kernels.new_zeros(len(kernels), height, width)
    # correlation: the tap (i, j) looks at the pixel (i - 1, j - 1) further on, at least 3 pixels a side
    rows, columns = ((1 - torch.arange(3)) % n for n in (height, width))
    whole = whole.index_put(
        (torch.arange(len(kernels))[:, None, None], rows[None, :, None], columns[None, None, :]), kernels[:, 0]
    )
    return torch.fft.fft2(whole)


def _shrunk(t: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear functions of maps t [B, M, H, W], with values [M, 101] at even points of [-1, 1]."""
    last = values.shape[1] - 1
    place = (t + 1) * (last / 2)
    left = place.detach().floor().clamp(0, last - 1)
    share = place - left
    index = left.long().transpose(0, 1).flatten(1)
    low, high = (values.gather(1, index + k).view(t.shape[1], t.shape[0], *t.shape[2:]).transpose(0, 1) for k in (0, 1))
    return low + share * (high - low)
