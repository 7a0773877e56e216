"""How strongly a prior that learned from noise weighs where the operator blurs, or leaves frequencies out.

For noise of standard deviation sigma alone the weight is lam(sigma), learned for just that. lam(s) / s^2 falls as s
grows: the features of images are rarer than those of noise, the more so the finer they are. Where frequencies are
damped or missing, an image found from the rest is wrong by more than its noise, and it is at the size of that error
that the prior decides what is a feature:

    w = sigma^2 lam(s) / s^2,  s = sigma + SPREAD (e^2 - e_0^2),

with e the root mean square error of Wiener's estimate of images whose spectrum is that of photographs, POWER / |f|^2,
and e_0 that for the same noise alone; what A does to frequencies is known, or asked of it once with noise. Of samples,
of pixels or frequencies, s is larger by BETWEEN times the share that is missing. SPREAD was fitted on training pictures
blurred by shaken cameras; see docs/pictures.md for how near the best weight it comes there, for other blurs, for masks
of pixels and of frequencies, and in computed tomography.
"""

import torch
from torch import Tensor

from fastrecon.operators.base import LinearOperator
from fastrecon.operators.blur import Blur
from fastrecon.operators.fourier import Fourier
from fastrecon.operators.inpainting import Inpainting
from fastrecon.ops.reductions import sum_of
from fastrecon.solvers.base import column
from fastrecon.terms.normal_equations import near_spectrum

POWER = 1.4e-3  # power of a pixel's variance 0.04 at frequency f in cycles per pixel, times |f|^2
SPREAD = 18.0  # of the mean squared error, images on [0, 1]
BETWEEN = 0.03  # how wrong images are for what lies between samples, without any noise, times the share of that
TINY = 1e-30


def spread(operator: LinearOperator, like: Tensor, sigma: Tensor, norm: float = 1.0) -> Tensor:
    """s [B] in float64 for images `like` these [B, C, H, W] and noise of standard deviation sigma [B] > 0, both for a
    norm of A of 1.

    Args:
        operator: A.
        like: images; their values do not matter.
        sigma: standard deviation of each real number of y / norm.
        norm: |A|.
    """
    gains = _gains(operator, like).double() / norm**2
    h, w = like.shape[-2:]
    noise, half = column(sigma.double().square(), like), gains.shape[-1] not in (1, w)
    power = _photographs(h, w, half).to(gains)
    lost = noise * power / (noise + gains * power) - noise * power / (noise + power)
    if half:  # frequencies that rfft2 leaves out mirror those within
        lost = lost * lost.new_tensor([1 if k in (0, w / 2) else 2 for k in range(w // 2 + 1)])
    found = sigma.double() + SPREAD * (sum_of(lost) / (h * w)).clamp_min(0)
    if isinstance(operator, (Fourier, Inpainting)):
        found = found + BETWEEN * (1 - sum_of(gains) / gains[0].numel()).clamp_min(0)
    return found


def _gains(a: LinearOperator, like: Tensor) -> Tensor:
    """What A* A makes of each frequency, [1 or B, 1, H, W'], near enough. Of samples of frequencies that is how dense
    they are: what is missing between others the prior has from those.
    """
    if isinstance(a, Fourier):
        return _probed(a, like)
    known = near_spectrum(Blur(a.kernel) if isinstance(a, Blur) else a, like)
    return _probed(a, like) if known is None else known


def _probed(a: LinearOperator, like: Tensor) -> Tensor:
    """What A* A makes of noise at each frequency, averaged over frequencies of about the same length: [B, 1, H, W]."""
    h, w = like.shape[-2:]
    v = (
        torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        .to(like)
        .expand(like.shape)
    )
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (h, w))
    ring = (max(h, w) * rows[:, None].hypot(columns)).round().long().flatten().to(like.device)

    def of_rings(each: Tensor) -> Tensor:
        found = torch.zeros(len(each), int(ring.max()) + 1, dtype=torch.float64, device=each.device)
        return found.index_add(1, ring, each.double().sum(1).flatten(1))

    sent, seen = (torch.fft.fft2(t) for t in (v, a.apply_adjoint(a.forward(v), (h, w)).to(like)))
    gains = of_rings((sent.conj() * seen).real) / of_rings(sent.abs().square()).clamp_min(TINY)
    return gains.clamp_min(0)[:, ring].view(-1, 1, h, w)


def _photographs(h: int, w: int, half: bool) -> Tensor:
    """Their power spectrum [1, 1, H, W'], at frequency 0 that of half the lowest."""
    rows = torch.fft.fftfreq(h, dtype=torch.float64)
    columns = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(w, dtype=torch.float64)
    squares = rows[:, None].square() + columns.square()
    return (POWER / squares.clamp_min((0.5 / max(h, w)) ** 2))[None, None]
