"""Blur: convolution with a known kernel, through the Fourier transform."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.checks import expect, finite_number, integer
from fastrecon.operators._given import Cache, snapshot, state_of, tensor_of
from fastrecon.operators._mask import each
from fastrecon.operators.base import Convolved, Diagonal, LinearOperator
from fastrecon.operators.fourier import COMPLEX
from fastrecon.ops import image_operator
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import DTYPES, real_dtype
from fastrecon.ops.transforms import frequencies, planes

BOUNDARIES = ("circular", "zero")


def gaussian_kernel(sigma: float, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Gaussian of standard deviation `sigma` pixels on `side` x `side` pixels, `side` odd, with sum 1."""
    expect(finite_number(sigma) and sigma > 0, "gaussian_kernel", "sigma", "a number > 0", sigma)
    expect(finite_number(side) and side > 0 and side % 2 == 1, "gaussian_kernel", "side", "an odd number >= 1", side)
    real = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    expect(real, "gaussian_kernel", "dtype", "a real dtype", dtype)
    t = torch.arange(int(side), dtype=torch.float64) - side // 2
    profile = torch.exp(-t.square() / (2 * sigma**2))
    kernel = torch.outer(profile, profile)
    return (kernel / kernel.sum()).to(dtype)


def motion_kernel(side: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The blur of a shaken camera on `side` x `side` pixels, `side` odd and >= 3, with sum 1 and its centre of mass in
    the middle, up to a pixel: the path of a random walk of the velocity, as long as fits, drawn from `seed`."""
    op = "motion_kernel"
    side = integer(side, op, "side", least=3)
    expect(side % 2 == 1, op, "side", "an odd number", side)
    seed = integer(seed, op, "seed", least=0)
    expect(isinstance(dtype, torch.dtype) and dtype.is_floating_point, op, "dtype", "a real dtype", dtype)
    generator, points = torch.Generator().manual_seed(seed), 32 * side
    velocity = torch.randn(points, 2, generator=generator, dtype=torch.float64).cumsum(0)
    path = (velocity - velocity.mean(0) / 2).cumsum(0)
    path = path - path.mean(0)
    path = path * ((side / 2 - 1) / path.abs().amax()) + (side - 1) / 2
    corner, kernel = path.floor(), torch.zeros(side * side, dtype=torch.float64)
    share = path - corner
    for i in (0, 1):
        for j in (0, 1):
            place = ((corner[:, 0] + i) * side + corner[:, 1] + j).long()
            kernel.index_add_(0, place, (share[:, 0] - 1 + i).abs() * (share[:, 1] - 1 + j).abs())
    return (kernel / kernel.sum()).view(side, side).to(dtype)


class Blur(LinearOperator):
    """y = kernel * x, of the size of x: [B, C, H, W] -> [B, C, H, W], real or complex, kernel centred.

    Norm: the sum of a kernel >= 0 on a circular boundary; else by `norm(shape)`. On the CPU an image has the bits it
    has alone; on a GPU transforms of a batch agree with those to rounding.

    The kernel's transform is kept for the last sizes of images. A kernel that changes is noticed, on a GPU unless it is
    written through `kernel.data`.

    Args:
        kernel: [h, w] with odd h and w, or one for each image [B, 1, h, w]; an nn.Parameter is learned, of anything
            else a copy is kept.
        boundary: "circular", or "zero": the image is zero beyond its edges, and what blurs out of it is lost.

    Raises:
        ValueError: the kernel has an even side or another shape, is larger than the image, or does not fit the batch;
            or an image is neither float32, float64, complex64 nor complex128.
    """

    kernel: Tensor
    per_image = ("kernel",)

    def __init__(self, kernel: Any, boundary: str = "circular"):
        super().__init__()
        expected = "a real kernel [h, w], or [B, 1, h, w], with odd h and w"
        k = tensor_of(kernel, "Blur", "kernel", expected)
        odd = (k.ndim == 2 or (k.ndim == 4 and k.shape[1] == 1)) and k.shape[-1] % 2 == 1 and k.shape[-2] % 2 == 1
        expect(odd and k.is_floating_point(), "Blur", "kernel", expected, k)
        expect(bool(torch.isfinite(k).all()), "Blur", "kernel", "finite numbers", "NaN or Inf")
        known = isinstance(boundary, str) and boundary in BOUNDARIES
        expect(known, "Blur", "boundary", " or ".join(BOUNDARIES), repr(boundary))
        self.boundary = boundary
        self.hold("kernel", kernel, each(k))
        self._transfer = Cache()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts the kernel: what was computed from it stays behind."""
        self._transfer = Cache()
        return super()._apply(fn, recurse)

    def _with(self, tensors: dict[str, Tensor]) -> LinearOperator:
        new = super()._with(tensors)
        assert isinstance(new, Blur)
        new._transfer = Cache()
        return new

    def transfer(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The kernel's Fourier transform [1 or B, 1, H, W // 2 + 1] for images of this size; kept for the next time."""
        k = self.kernel
        h, w = k.shape[-2:]
        fits = h <= size[0] and w <= size[1]
        expect(fits, "Blur", "x", f"an image at least as large as the {h}x{w} kernel", f"{size[0]}x{size[1]}")
        state = state_of(k)
        if state is None:
            return spectrum_of(each(k), size, dtype)
        key = (*size, dtype, k.device)
        captured = k.is_cuda and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        kept = self._transfer.get(key, forever=captured)
        if kept is None or not state(kept[0]):
            with torch.no_grad(), torch.inference_mode(False):  # the next who asks may be training
                kept = snapshot(k), spectrum_of(each(k.detach()), size, dtype)
            self._transfer.put(key, kept)
        return kept[1]

    def _check(self, x: Tensor, argument: str) -> None:
        op = "Blur"
        expect(x.ndim == 4, op, argument, "a batch [B, C, H, W]", x)
        expect(x.dtype in DTYPES, op, argument, "float32, float64, complex64 or complex128", x)
        b = len(each(self.kernel))
        expect(b in (1, x.shape[0]), op, argument, f"a batch of {b}, one for each kernel", x)
        expect(x.device == self.kernel.device, op, argument, f"a tensor on {self.kernel.device}", x)

    def _padded(self, h: int, w: int) -> tuple[int, int]:
        """(h, w), where the boundary is zero with enough zeros for what wraps around to fall on them."""
        if self.boundary == "circular":
            return h, w
        return h + self.kernel.shape[-2] // 2, w + self.kernel.shape[-1] // 2

    def _convolve(self, x: Tensor, argument: str, conjugate: bool) -> Tensor:
        self._check(x, argument)
        h, w = x.shape[-2:]
        size = self._padded(h, w)
        transfer = self.transfer(size, real_dtype(x))
        if x.shape[0] == 0 or x.shape[1] == 0:  # transforms take no empty batch
            return x.clone()
        a = image_operator.Parts(image_operator.BLUR, transfer, None, size)
        planes = torch.cat((x.real, x.imag)) if x.is_complex() else x
        if not (x.is_complex() and len(transfer) > 1) and image_operator.alone(planes, a):
            found = image_operator.applied(planes, a, adjoint=conjugate)
            return torch.complex(*found.chunk(2)) if x.is_complex() else found
        transfer = transfer.conj() if conjugate else transfer

        def one(x: Tensor, transfer: Tensor) -> Tensor:
            if x.is_complex():
                return torch.complex(one(x.real, transfer), one(x.imag, transfer))
            return torch.fft.irfft2(torch.fft.rfft2(x, s=size) * transfer, s=size)[..., :h, :w]

        return each_image(one, x, transfer)

    def shape_of(self, x: Tensor) -> Sequence[int]:
        """That of x; a subclass may do something else."""
        if type(self) is not Blur:
            return super().shape_of(x)
        self._check(x, "x")
        self.transfer(self._padded(x.shape[-2], x.shape[-1]), real_dtype(x))  # says what is too small for the kernel
        return x.shape

    def forward(self, x: Tensor) -> Tensor:
        """kernel * x."""
        return self._convolve(x, "x", False)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The correlation of y with the kernel."""
        result = self._convolve(y, "y", True)
        self._same_size(size, y)
        return result

    def stages(self) -> tuple[Convolved] | None:
        """The convolution; None of a subclass, which may do something else."""
        return (Convolved(self._padded, self.transfer),) if type(self) is Blur else None

    def diagonal(self, like: Tensor) -> Diagonal | None:
        """The kernel's transform, for real images or real and imaginary part; None where the boundary is zero."""
        if self.boundary != "circular":
            return None
        self._check(like, "x")
        size = like.shape[-2:]

        def to_frequencies(x: Tensor) -> Tensor:
            x = torch.cat((x.real, x.imag), 1) if x.is_complex() else x
            return each_image(frequencies, x)

        def back(k: Tensor) -> Tensor:
            x = each_image(lambda t: planes(t, size), k)
            return torch.complex(*x.chunk(2, 1)) if like.is_complex() else x

        return Diagonal(to_frequencies, back, self.transfer(size, real_dtype(like)), to_frequencies)

    def spectrum(self, like: Tensor) -> Tensor | None:
        """The power of the kernel's transform; None where the boundary is zero."""
        if self.boundary != "circular":
            return None
        self._check(like, "x")
        h, w = like.shape[-2:]
        half = self.transfer((h, w), real_dtype(like)).abs().square()
        if not like.is_complex():
            return half
        rest = half[..., 1 : (w + 1) // 2]  # frequency (-i, -j) has the power of (i, j)
        return torch.cat((half, rest.flip(-1, -2).roll(1, -2)), -1)

    def _norm(self) -> float | None:
        k = each(self.kernel.detach())
        if len(k) == 0:
            return 0.0
        known = self.boundary == "circular" and bool((k >= 0).all())
        return k.double().sum((-2, -1)).max().item() if known else None

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        known = self._norm()
        if known is None and self.boundary == "circular" and len(shape) > 1:  # the largest transfer
            return self.transfer(shape[-2:], torch.float64).abs().max().item()
        return known

    def bound(self, shape: Sequence[int]) -> float | Tensor:
        """The largest transfer of each kernel; where the boundary is zero, on the image with zeros around it."""
        if (known := self._norm()) is not None:
            return known
        size = self._padded(shape[-2], shape[-1])
        return self.transfer(size, torch.float64).abs().flatten(1).amax(1)


def spectrum_of(kernel: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The Fourier transform of a kernel [B, 1, h, w], its middle at (0, 0) of `size`."""
    h, w = kernel.shape[-2:]
    whole = pad(kernel.to(dtype), (0, size[1] - w, 0, size[0] - h)).roll((-(h // 2), -(w // 2)), (-2, -1))
    return torch.fft.rfft2(whole) if len(whole) else whole.to(COMPLEX[dtype])[..., : size[1] // 2 + 1]
