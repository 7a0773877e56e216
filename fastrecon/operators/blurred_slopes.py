"""What a blurred image says of slopes, once the image itself is left out."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastrecon.checks import expect, number
from fastrecon.operators.base import Diagonal, LinearOperator
from fastrecon.operators.blur import Blur
from fastrecon.operators.gradient import Gradient
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype


class BlurredSlopes(LinearOperator):
    """A with |A g - measured(y)|^2 / 2 = min_x |K x - y|^2 / 2 + beta |D x - g|^2 / 2 but for a constant.

    From slopes g [B, 2, H, W] to such, symmetric and >= 0; D is `Gradient`, K a blur with a circular boundary. In
    closed form by one transform, as is (1 + w A* A)^-1. Norm: sqrt(beta).

    Args:
        blur: K.
        beta: > 0.

    Raises:
        ValueError: the blur has another boundary, a number is out of range, or an input is no batch of slopes.

    Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018, eq. 15.
    """

    def __init__(self, blur: Blur, beta: float):
        super().__init__()
        circular = isinstance(blur, Blur) and blur.boundary == "circular"
        expect(circular, "BlurredSlopes", "blur", "a Blur with a circular boundary", type(blur).__name__)
        self.blur, self.beta = blur, float(number(beta, "BlurredSlopes", "beta", above=0))

    def image(self, g: Tensor, y: Tensor) -> Tensor:
        """The image x [B, 1, H, W] of slopes g and measurements y, the minimiser above."""
        size = (y.shape[-2], y.shape[-1])
        d, square = _slopes(size, real_dtype(y), y.device)[:2]

        def one(g: Tensor, y: Tensor, k: Tensor) -> Tensor:
            along = (d.conj() * torch.fft.rfft2(g)).sum(1, keepdim=True)
            q = _power(k) + self.beta * square
            return torch.fft.irfft2((k.conj() * torch.fft.rfft2(y) + self.beta * along) / _safe(q), s=size)

        return each_image(one, g, y, self._kernels(y))

    def measured(self, y: Tensor) -> Tensor:
        """Measurements of slopes [B, 2, H, W] that stand for those of images, y [B, 1, H, W]."""
        size = (y.shape[-2], y.shape[-1])
        d, square = _slopes(size, real_dtype(y), y.device)[:2]

        def one(y: Tensor, k: Tensor) -> Tensor:
            power = _power(k)
            q = _safe(power * (power + self.beta * square)).sqrt()
            return torch.fft.irfft2(self.beta**0.5 * d * (k.conj() * torch.fft.rfft2(y) / q), s=size)

        return each_image(one, y, self._kernels(y))

    def forward(self, x: Tensor) -> Tensor:
        """A g."""
        expect(x.ndim == 4 and x.shape[1] == 2 and not x.is_complex(), "BlurredSlopes", "x", "slopes [B, 2, H, W]", x)
        if len(x) == 0:  # transforms take no empty batch
            return x.clone()
        size = (x.shape[-2], x.shape[-1])
        _, square, e, across = _slopes(size, real_dtype(x), x.device)

        def one(g: Tensor, k: Tensor) -> Tensor:
            z = torch.fft.rfft2(g)
            along, beside = ((u.conj() * z).sum(1, keepdim=True) for u in (e, across))
            return torch.fft.irfft2(self.beta**0.5 * (self._share(k, square) * along * e + beside * across), s=size)

        return each_image(one, x, self._kernels(x))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """A again."""
        self._same_size(size, y)
        return self.forward(y)

    def diagonal(self, like: Tensor) -> Diagonal:
        """By frequency, along d and across it."""
        size = (like.shape[-2], like.shape[-1])
        _, square, e, across = _slopes(size, real_dtype(like), like.device)
        along = self._share(self.blur.transfer(size, real_dtype(like)), square)

        def transform(g: Tensor) -> Tensor:
            def one(g: Tensor) -> Tensor:
                z = torch.fft.rfft2(g, norm="ortho")
                return torch.cat([(u.conj() * z).sum(1, keepdim=True) for u in (e, across)], 1)

            return each_image(one, g)

        def back(z: Tensor) -> Tensor:
            return each_image(lambda t: torch.fft.irfft2(e * t[:, :1] + across * t[:, 1:], s=size, norm="ortho"), z)

        return Diagonal(transform, back, self.beta**0.5 * torch.cat((along, torch.ones_like(along)), 1), transform)

    def _kernels(self, like: Tensor) -> Tensor:
        """The transform of the kernel of each image."""
        self.blur._check(like, "x")
        k = self.blur.transfer(like.shape[-2:], real_dtype(like))
        return k.expand(len(like), *k.shape[1:])

    def _share(self, k: Tensor, square: Tensor) -> Tensor:
        """What A does along d, over sqrt(beta): |k| / sqrt(|k|^2 + beta |d|^2)."""
        power = _power(k)
        return torch.where(square > 0, (power / _safe(power + self.beta * square)).sqrt(), 1)  # a mean of slopes is 0

    def take(self, which: Tensor) -> "LinearOperator":
        """With the blur of these images."""
        blur = self.blur.take(which)
        assert isinstance(blur, Blur)
        return self if blur is self.blur else BlurredSlopes(blur, self.beta)

    def _norm(self) -> float:
        return self.beta**0.5


@lru_cache(maxsize=8)
def _slopes(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every frequency the factors d [1, 2, H, W'] of slopes, |d|^2, d / |d| and what is at right angles to it."""
    with torch.inference_mode(False):
        one = torch.zeros(1, 1, *size, dtype=dtype)
        one[..., 0, 0] = 1
        d = torch.fft.rfft2(Gradient().forward(one)).to(device)
        square = _power(d).sum(1, keepdim=True)
        square[..., 0, 0] = 0
        e = torch.where(square > 0, d / _safe(square).sqrt(), d.new_tensor([1, 0]).view(1, 2, 1, 1))
        return d, square, e, torch.cat((-e[:, 1:].conj(), e[:, :1].conj()), 1)


def _power(k: Tensor) -> Tensor:
    """|k|^2; what torch makes of |k| of complex numbers depends on their place in memory."""
    return k.real.square() + k.imag.square()


def _safe(q: Tensor) -> Tensor:
    """q, 1 where that is 0: neither the blur nor the slopes see such a frequency."""
    return torch.where(q > 0, q, 1)
