"""What models for magnetic resonance imaging make of the sampling that they are given: conventions, and which fits."""

import math
import warnings

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.models.base import Model, shipped
from fastrecon.operators import Fourier
from fastrecon.operators.base import LinearOperator

AXES = (-2, -1)
MORE = 2.0  # times the energy of the samples that a turned mask must hold
FAR = 1.25  # factor between shares of frequencies from which on a model has learned another sampling


def aligned(operator: LinearOperator, y: Tensor, op: str) -> LinearOperator:
    """The operator, or one with the zero frequency where the measurements y [B, coils, H, W] have it, which is told.

    A mask lies half its size beside the samples, or k-space is in the other convention than the operator: models have
    learned images without the checkerboard of phases that this would make of them.
    """
    if not isinstance(operator, Fourier) or y.shape[-2:] != operator.mask.shape[-2:] or len(y) == 0:
        return operator
    mask, told = operator.mask.detach(), []
    turned = torch.fft.fftshift(mask, AXES)
    if _kept(y, turned) > MORE * _kept(y, mask):
        mask = turned
        told.append("the mask, whose zero frequency was half its size beside that of k-space, is turned")
    centred, found = operator.centred, io.looks_centred(y[0].cpu().numpy()).kspace_centred
    if found is not None and found != bool(centred):
        where = "middle" if found else "corner"
        told.append(f"k-space has its zero frequency in the {where}: taken as Fourier(mask, centred={found})")
        centred = found
    if not told:
        return operator
    warnings.warn(f"{op}: operator: {'; '.join(told)}", UserWarning, stacklevel=2)
    return Fourier(mask, centred, operator.sensitivities)  # type: ignore[arg-type]


def _kept(y: Tensor, mask: Tensor) -> float:
    return float((mask * y).abs().square().sum())


def share(operator: LinearOperator) -> float | None:
    """Share of the frequencies that an operator samples; None where it is no mask of those."""
    return float((operator.mask > 0).double().mean()) if isinstance(operator, Fourier) else None


def rate(model: Model) -> float | None:
    """The share that a model has learned, if its training tells."""
    found = (model.meta.get("training") or {}).get("settings", {}).get("rate")
    return float(found) if isinstance(found, int | float) else None


def tell_other_rate(model: Model, operator: LinearOperator) -> None:
    """Warns where a model has learned another share of frequencies."""
    here, known = share(operator), rate(model)
    if here and known and max(here / known, known / here) > FAR:
        line = f"{100 * here:.1f}% of the frequencies are sampled, {model.name} has learned {100 * known:g}%"
        warnings.warn(f"{model.method}: mask: {line}", UserWarning, stacklevel=2)


def nearest(method: str, operator: LinearOperator) -> str:
    """The shipped model of a method for mri whose share of frequencies is nearest to that of an operator; "": none."""
    rates = {n: h.training.get("settings", {}).get("rate") for n, h in shipped(method, "mri").items()}
    known = {n: float(r) for n, r in rates.items() if r}
    here = share(operator)
    return min(known, key=lambda n: abs(math.log(known[n] / here))) if known and here else ""
