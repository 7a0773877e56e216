"""Rician noise by error-controlled iterations: images that are the modulus of noisy complex ones, or k-space of such.

y = A u, u = |x + n|, n complex with standard deviation sigma in both parts; A the identity, or a mask after the Fourier
transform. Block after block brings down
F(u, x) = |A u - y|^2 / (2 kappa) + l(u, x) + lam |W x|_p^p, l as of terms/rice.py, kappa small.
u  the minimum of F with the square that touches l(., x) in the place of l; where A is the identity it is y
x  a few error-controlled iterations on |x - u I1 / I0|^2 / 2 + lam |W x|_p^p, the same with the square that touches
   l(u, .): a problem of Gaussian noise, whose module may be any denoiser
Both squares lie above l, so F never rises, whatever the module says.

Source: the alternation with a denoising sub-problem of Liu, Zhang, Cheng, Fan & Luo, A Theoretically Guaranteed Deep
Optimization Framework for Robust Compressive Sensing MRI, AAAI 2019, whose second block has a network alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import ControlledReport
from fastrecon.models.error_controlled import SETTINGS, Settings, posed, run
from fastrecon.operators import Identity, LinearOperator
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers import ErrorControlled
from fastrecon.solvers.base import where
from fastrecon.terms import conjugate_gradients, rice

SWEEPS, INNER = 6, 2
KAPPA = 0.05
BLOCK = replace(SETTINGS["denoise"], step=0.03)  # of the second block


@torch.no_grad()
def run_rician(
    module: Any, s: Settings, y: Tensor, operator: LinearOperator, x: Tensor, sigma: float, lam: float = 1.0,
    norm: float | None = None, callback: Callable[[int, Callable[[], Tensor]], object] | None = None,
) -> tuple[Tensor, ControlledReport]:  # fmt: skip
    """Images [B, C, H, W] of measurements y, about >= 0, and their certificates; F counts from the first answer on.

    Args:
        module, s, y, operator, x, lam, norm, callback: as of `error_controlled.run`, by which the first images are
            found, as if the noise were Gaussian.
        sigma: > 0.
    """
    whole = isinstance(operator, Identity)
    first, report = run(module, s, y, operator, x, sigma if whole else sigma / 2**0.5, lam, norm, False, callback)
    u = (first.real if first.is_complex() else first).clamp_min(0)
    q = posed(Identity(), u, rice.from_mean(u, sigma), lam * BLOCK.lam * sigma, replace(BLOCK, p=s.p))
    u, x = (y.clamp_min(0) if whole else u), q.x
    solver = ErrorControlled(
        q.fidelity, q.prior, module, strengths=[sigma], rho=None if module is None else 1 / BLOCK.pull, rule=s.rule,
        mu=BLOCK.mu, error=s.error, step=(BLOCK.step if module is not None else 0.99) / 1.001, norm=1.0,
    )  # fmt: skip

    def objective(u: Tensor, x: Tensor) -> Tensor:
        fit = 0 if whole else sum_of_squares(operator.forward(u) - y) / (2 * KAPPA)
        return fit + rice.misfit(u, q.cropped(x), sigma) + q.prior.value(x)

    values = [objective(u, x)]
    back = None if whole else operator.apply_adjoint(y, u.shape[-2:]).real / KAPPA

    def normal(v: Tensor) -> Tensor:
        return operator.apply_adjoint(operator.forward(v), v.shape[-2:]).real / KAPPA + v

    for k in range(SWEEPS):
        if back is not None:
            new = conjugate_gradients(normal, back + rice.touching(q.cropped(x), u, sigma), 1e-6, 20).x
            u = where(objective(new, x) <= values[-1], new, u)
        before = objective(u, x)
        found, one = solver(rice.touching(u, q.cropped(x), sigma), x, INNER, 0.0)
        value = objective(u, found)
        x = where(value <= before, found, x)  # rounding may leave no decrease
        values.append(torch.minimum(value, before))
        report = _joined(report, one)
        if callback is not None:
            callback(s.iterations + k + 1, lambda x=x: q.cropped(x))
    return q.cropped(x), replace(report, objective=values[-1], history={"objective": torch.stack(values)})


def _joined(report: ControlledReport, last: ControlledReport) -> ControlledReport:
    """The last certificate, its counts and words those of both."""
    counts = {
        n: getattr(report, n) + getattr(last, n) for n in ("accepted", "rejected", "failed", "units", "iterations")
    }
    return replace(last, **counts, reasons=tuple(dict.fromkeys((*report.reasons, *last.reasons))))
