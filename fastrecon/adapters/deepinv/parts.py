"""What an iteration of deepinv asks of its parts: kernels where a part is known, deepinv's own code elsewhere."""

from typing import Any

import torch
from torch import Tensor

from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.denoisers import TVDenoiser
from fastrecon.adapters.deepinv.operators import PhysicsOperator, recognised
from fastrecon.adapters.deepinv.physics import weight_of
from fastrecon.adapters.deepinv.priors import FeaturePrior, L12Prior, TVPrior, WaveletPrior
from fastrecon.operators import Blur, Inpainting
from fastrecon.operators.base import LinearOperator
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.function import differentiated
from fastrecon.ops.image_operator import BLUR, MASK
from fastrecon.ops.wavelet_shrinkage import Affine, usable
from fastrecon.terms.base import column

OURS = (FeaturePrior, L12Prior, TVPrior, WaveletPrior)
KERNELS: dict[type, int] = {Inpainting: MASK, Blur: BLUR}  # of wavelet_shrinkage, where A is diagonal


def twin(prior: Any) -> tuple[Any, str]:
    """The same prior on kernels, or the prior itself; and what it is, in words."""
    kind = type(prior)
    if kind in OURS:
        return prior, f"{kind.__name__} of fastrecon"
    if kind is dinv.optim.WaveletPrior:
        if prior.wvdim != 2:
            return prior, "deepinv's: wavelets in three dimensions"
        if prior.mode not in modes.MODES:
            return prior, f"deepinv's: no boundary {prior.mode!r} here"
        ours = WaveletPrior(
            prior.level, prior.wv, prior.p, prior.device, 2, prior.is_complex, prior.mode, prior.clamp_min,
            prior.clamp_max,
        )  # fmt: skip
        return ours, f"WaveletPrior of fastrecon, the same transform (boundary {prior.mode!r})"
    if kind is dinv.optim.TVPrior:
        ours = TVPrior(prior.TVModel.crit, prior.TVModel.n_it_max)
        return (
            ours,
            "TVPrior of fastrecon, the same minimiser to a duality gap; where gradients are asked for, deepinv's",
        )
    if kind is dinv.optim.L12Prior:
        return L12Prior(l2_axis=prior.l2_axis), "L12Prior of fastrecon, the same map"
    return prior, f"deepinv's: {kind.__name__} is not one that is known here"


class Fidelity:
    """norm |A x - y|^2 / 2 of one batch of measurements: gradient and proximal map.

    A* y is computed once, and A* A x fused where A is diagonal between a transform and its inverse.

    Attributes:
        why: what computes it, in words.
    """

    def __init__(self, fidelity: Any, y: Tensor, physics: Any, first: Tensor):
        self.fidelity, self.y, self.physics = fidelity, y, physics
        self.linear = type(fidelity) is dinv.optim.L2 and isinstance(physics, dinv.physics.LinearPhysics)
        known = recognised(physics) if self.linear else None
        self.operator: LinearOperator | None = None
        if known is not None and first.ndim == 4 and _same_shape(known, y, first):
            self.operator = known
        elif self.linear and isinstance(y, Tensor):
            self.operator = PhysicsOperator(physics)
        self.known = known is not None and self.operator is known
        self.basis = self.operator.diagonal(first) if self.operator is not None and self.known else None
        # eigenvalues of A* A, where they are known
        self.power = first.new_zeros(()) if self.basis is None else _power(self.basis.factors)
        self.size = first.shape[-2:]
        self._aty: Tensor | None = None
        self._seen: Tensor | None = None
        self._last: tuple[Any, torch.dtype, Tensor, Tensor] | None = None  # of `_affine`

    @property
    def why(self) -> str:
        """Which code computes A."""
        if self.operator is None:
            return f"deepinv's: {type(self.fidelity).__name__} of {type(self.physics).__name__}"
        if not self.known:
            return f"deepinv's: {type(self.physics).__name__} is no map that is known here; its adjoint at y once"
        fused = ", diagonal between a transform and its inverse" if self.basis is not None else ""
        return f"{type(self.operator).__name__} of fastrecon, the same map{fused}"

    def grad(self, x: Tensor) -> Tensor:
        """The gradient at x."""
        a = self.operator
        if a is None:
            return self.fidelity.grad(x, self.y, self.physics)
        if self.basis is not None:
            normal = self.basis.inverse(self.power * self.basis.transform(x))
        elif self.known:
            normal = a.apply_adjoint(a.forward(x), x.shape[-2:])
        else:
            normal = self.physics.A_adjoint_A(x)
        difference = normal - self._adjoint_at_y(a, x)
        return difference if self.fidelity.norm == 1 else self.fidelity.norm * difference

    def _adjoint_at_y(self, a: LinearOperator, x: Tensor) -> Tensor:
        if (aty := self._aty) is None:
            self._aty = aty = a.apply_adjoint(self.y, x.shape[-2:]) if self.known else self.physics.A_adjoint(self.y)
        return aty

    def descent(self, x: Tensor, step: Any) -> Tensor:
        """x - step grad f(x): where A is diagonal between T and T*, T* (1 - s |factors|^2) T x + s A* y."""
        if self.basis is None or self.operator is None:
            return x - step * self.grad(x)
        k = self.basis.transform(x)
        factors, shift = self._affine(step, x, k.dtype)
        return self.basis.inverse(factors * k) + shift

    def affine(self, x: Tensor, step: Any) -> Affine | None:
        """The same as one of the kernel's of wavelet_shrinkage, of real images like x; None where it is none."""
        kind = None if self.basis is None or x.is_complex() else KERNELS.get(type(self.operator))
        if kind is None or not usable(x, kind) or differentiated(x, step, self.power, self.y):
            return None
        factors, shift = self._affine(step, x, self.power.dtype)
        fits = factors.ndim == 4 and factors.shape[1] == 1 and shift.shape == x.shape and shift.dtype == x.dtype
        return Affine(kind, factors, shift) if fits else None

    def _affine(self, step: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """1 - s |factors|^2 in `dtype` and s A* y, kept for the last step that was a number."""
        known = self._last
        if known is not None and not isinstance(step, Tensor) and (step, dtype) == known[:2]:
            return known[2], known[3]
        assert self.operator is not None
        s = step * self.fidelity.norm
        new = (1 - s * self.power).to(dtype), s * self._adjoint_at_y(self.operator, x)
        self._last = None if isinstance(step, Tensor) else (step, dtype, *new)
        return new

    def prox(self, v: Tensor, gamma: Any) -> Tensor:
        """argmin_x gamma f(x) + |x - v|^2 / 2: in closed form, or as deepinv solves it."""
        if self.basis is None or v.shape[-2:] != self.size:  # of a primal-dual method v may be like y
            return self.fidelity.prox(v, self.y, self.physics, gamma=gamma)
        basis, s, w = self.basis, self.basis.factors, weight_of(self.fidelity.norm * gamma)
        k = basis.transform(v)
        if self._seen is None:
            self._seen = s.conj() * basis.measured(self.y)
        w = column(w, k) if isinstance(w, Tensor) and w.ndim == 1 else w
        return basis.inverse((k + w * self._seen) / (1 + w * self.power))

    def prox_conjugate(self, v: Tensor, gamma: Any) -> Tensor:
        """Of the conjugate of f, by Moreau's identity."""
        if self.basis is None or v.shape[-2:] != self.size:
            return self.fidelity.prox_conjugate(v, self.y, self.physics, gamma=gamma)
        return v - gamma * self.prox(v / gamma, 1 / gamma)


def _power(t: Tensor) -> Tensor:
    """|t|^2, without the roots that |t| takes."""
    return t.real.square() + t.imag.square() if t.is_complex() else t.square()


def _same_shape(a: LinearOperator, y: Any, x: Tensor) -> bool:
    """Whether the operator takes what the physics takes: what it refuses stays with deepinv."""
    if not isinstance(y, Tensor) or not isinstance(x, Tensor):
        return False
    own = a.input_size((x.shape[-2], x.shape[-1]))
    return own is None or tuple(own) == tuple(x.shape[-2:])


def forget(prior: Any) -> None:
    """Lets a prior start afresh: no warm start from the images of another call."""
    if isinstance(model := getattr(prior, "TVModel", None), TVDenoiser):
        model.dual = None
