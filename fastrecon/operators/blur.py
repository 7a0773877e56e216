"""Blur: convolution with a known kernel, through the Fourier transform."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.checks import expect
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype

BOUNDARIES = ("circular", "zero")


def gaussian_kernel(sigma: float, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Gaussian of standard deviation `sigma` pixels on `side` x `side` pixels, `side` odd, with sum 1."""
    expect(sigma > 0, "gaussian_kernel", "sigma", "a number > 0", sigma)
    expect(side >= 1 and side % 2 == 1, "gaussian_kernel", "side", "an odd number >= 1", side)
    t = torch.arange(side, dtype=torch.float64) - side // 2
    profile = torch.exp(-t.square() / (2 * sigma**2))
    kernel = torch.outer(profile, profile)
    return (kernel / kernel.sum()).to(dtype)


class Blur(LinearOperator):
    """y = kernel * x, of the size of x: [B, C, H, W] -> [B, C, H, W], real or complex, kernel centred.

    Norm: the sum of a kernel >= 0 on a circular boundary; else by `norm(shape)`.

    Args:
        kernel: [h, w] with odd h and w, or one for each image [B, 1, h, w].
        boundary: "circular", or "zero": the image is zero beyond its edges, and what blurs out of it is lost.

    Raises:
        ValueError: the kernel has an even side or another shape, is larger than the image, or does not fit the batch.
    """

    kernel: Tensor

    def __init__(self, kernel: Any, boundary: str = "circular"):
        super().__init__()
        k = torch.as_tensor(kernel)
        odd = (k.ndim == 2 or (k.ndim == 4 and k.shape[1] == 1)) and k.shape[-1] % 2 == 1 and k.shape[-2] % 2 == 1
        expected = "a real kernel [h, w], or [B, 1, h, w], with odd h and w"
        expect(odd and k.is_floating_point(), "Blur", "kernel", expected, k)
        expect(bool(torch.isfinite(k).all()), "Blur", "kernel", "finite numbers", "NaN or Inf")
        expect(boundary in BOUNDARIES, "Blur", "boundary", " or ".join(BOUNDARIES), repr(boundary))
        self.boundary = boundary
        self.register_buffer("kernel", k[None, None] if k.ndim == 2 else k)
        self._transfer: dict[tuple[Any, ...], tuple[Tensor, int, Tensor]] = {}

    def transfer(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The kernel's Fourier transform [1 or B, 1, H, W // 2 + 1] for images of this size; kept for the next time."""
        h, w = self.kernel.shape[-2:]
        fits = h <= size[0] and w <= size[1]
        expect(fits, "Blur", "x", f"an image at least as large as the {h}x{w} kernel", f"{size[0]}x{size[1]}")
        k = self.kernel
        key = (*size, dtype, k.device)
        source, version, transfer = self._transfer.get(key, (None, 0, k))
        if source is not k or version != k._version:
            whole = pad(k.to(dtype), (0, size[1] - w, 0, size[0] - h)).roll((-(h // 2), -(w // 2)), (-2, -1))
            transfer = torch.fft.rfft2(whole)
            self._transfer[key] = k, k._version, transfer  # every size stays: CUDA graphs read them where they lie
        return transfer

    def _apply_kernel(self, x: Tensor, argument: str, conjugate: bool) -> Tensor:
        op = "Blur"
        expect(x.ndim == 4, op, argument, "a batch [B, C, H, W]", x)
        b = len(self.kernel)
        expect(b in (1, len(x)), op, argument, f"a batch of {b}, one for each kernel", x)
        expect(x.device == self.kernel.device, op, argument, f"a tensor on {self.kernel.device}", x)
        if x.is_complex():
            parts = (self._apply_kernel(t, argument, conjugate) for t in (x.real, x.imag))
            return torch.complex(*parts)
        h, w = x.shape[-2:]
        more = (0, 0) if self.boundary == "circular" else (self.kernel.shape[-2] // 2, self.kernel.shape[-1] // 2)
        size = (h + more[0], w + more[1])  # enough zeros for what wraps around to fall on them
        transfer = self.transfer(size, real_dtype(x))
        k = torch.fft.rfft2(x, s=size) * (transfer.conj() if conjugate else transfer)
        return torch.fft.irfft2(k, s=size)[..., :h, :w]

    def _forward(self, x: Tensor) -> Tensor:
        return self._apply_kernel(x, "x", False)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        return self._apply_kernel(y, "y", True)

    def _norm(self) -> float | None:
        known = self.boundary == "circular" and bool((self.kernel >= 0).all())
        return self.kernel.double().sum((-2, -1)).max().item() if known else None

    @torch.no_grad()
    def norm(self, shape: Sequence[int] | None = None, tol: float = 1e-6, max_iterations: int = 1000) -> float:
        """The largest singular value; exact for circular boundaries, where it is the largest transfer."""
        if self._norm() is None and self.boundary == "circular" and shape is not None:
            return self.transfer(shape[-2:], torch.float64).abs().max().item()
        return super().norm(shape, tol, max_iterations)
