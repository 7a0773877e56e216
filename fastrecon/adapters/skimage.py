"""scikit-image's functions by the kernels, with its arguments: `from fastrecon.adapters.skimage import radon`.

Images are NumPy arrays, or tensors, whose kind and type the results have, as scikit-image's do. `radon` and
`denoise_tv_chambolle` compute the same quantity more exactly, so their numbers differ a little; see each.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon import ops
from fastrecon.adapters._peer import peer
from fastrecon.checks import behind, choice, expect, in_kind, integer, number
from fastrecon.operators import Radon
from fastrecon.operators._filters import FILTERS
from fastrecon.ops import wavelet_modes as modes

library: Any = peer("skimage", "0.22", "1", "scikit-image")
prox_tv, soft_threshold = behind(ops.prox_tv), behind(ops.soft_threshold)

__all__ = ["denoise_tv_chambolle", "denoise_wavelet", "iradon", "radon", "richardson_lucy", "unsupervised_wiener"]


def radon(image: Any, theta: Any = None, circle: bool = True, *, preserve_range: bool = False) -> Any:
    """The sinogram [detectors, views] of an image [H, W], as skimage.transform.radon.

    By line integrals along rays where scikit-image turns the image: about half a percent from its numbers.

    Raises:
        ValueError: an argument does not fit.
    """
    del preserve_range  # floats stay as they are, integers too: scikit-image scales integers by their type's range

    def run(x: Tensor) -> Tensor:
        expect(x.ndim == 2, "radon", "image", "an image [H, W]", x)
        a = Radon.like_skimage((x.shape[0], x.shape[1]), theta, circle)
        return a.forward(_real(x)[None, None])[0, 0].mT.contiguous()

    return in_kind(image, run, "radon", "image")


def iradon(
    radon_image: Any, theta: Any = None, output_size: int | None = None, filter_name: str | None = "ramp",
    interpolation: str = "linear", circle: bool = True, preserve_range: bool = True,
) -> Any:  # fmt: skip
    """The image [N, N] of a sinogram [detectors, views] by filtered back-projection, as skimage.transform.iradon.

    Args:
        radon_image, theta, output_size, circle, preserve_range: as there.
        filter_name: ramp, shepp-logan, cosine, hamming, hann, or None: no filter.
        interpolation: "linear".

    Raises:
        ValueError: an argument does not fit.
    """
    op = "iradon"
    choice(interpolation, ("linear",), op, "interpolation")
    if filter_name is not None:
        choice(filter_name, FILTERS, op, "filter_name")
    del preserve_range

    def run(y: Tensor) -> Tensor:
        expect(y.ndim == 2, op, "radon_image", "a sinogram [detectors, views]", y)
        detectors, views = y.shape
        degrees = torch.arange(views, dtype=torch.float64) * (180 / views) if theta is None else torch.as_tensor(theta)
        expect(degrees.shape == (views,), op, "theta", f"{views} angles, as many as views", tuple(degrees.shape))
        side = detectors if circle else math.floor(math.sqrt(detectors**2 / 2))
        side = side if output_size is None else integer(output_size, op, "output_size", least=1)
        middle = (detectors - 1) / 2 - detectors // 2
        a = Radon((side, side), degrees.deg2rad(), detectors, 1.0, centre=(side // 2, side // 2), offset=middle)
        sinogram = _real(y).mT.contiguous()[None, None]
        if filter_name is None:
            x = a.apply_adjoint(sinogram)[0, 0] * (math.pi / (2 * views))
        else:
            x = a.fbp(sinogram, filter_name)[0, 0]
        if circle:
            t = torch.arange(side, dtype=torch.float64, device=y.device) - side // 2
            x = torch.where(t[:, None].square() + t.square() > (side // 2) ** 2, 0, x)
        return x

    return in_kind(radon_image, run, op, "radon_image")


def denoise_tv_chambolle(
    image: Any, weight: float = 0.1, eps: float = 2e-4, max_num_iter: int = 200, *, channel_axis: int | None = None
) -> Any:  # fmt: skip
    """The image with total variation taken away, as skimage.restoration.denoise_tv_chambolle.

    argmin_x |x - image|^2 / 2 + weight TV(x): scikit-image's objective, to a duality gap of eps times the objective
    where scikit-image stops once the objective changes by less than eps, which leaves it further from the minimum.

    Args:
        image: [H, W], or with channels along `channel_axis`, each denoised on its own.
        weight: > 0.
        eps: relative duality gap.
        max_num_iter: at most so many iterations.

    Raises:
        ValueError: an argument does not fit.
    """
    op = "denoise_tv_chambolle"
    number(weight, op, "weight", above=0)

    def run(x: Tensor) -> Tensor:
        planes, back = _planes(op, _real(x), channel_axis)
        return back(prox_tv(planes, float(weight), tol=eps, iterations=max_num_iter).x)

    return in_kind(_as_float(image), run, op, "image")


def denoise_wavelet(
    image: Any, sigma: Any = None, wavelet: str = "db1", mode: str = "soft", wavelet_levels: int | None = None,
    convert2ycbcr: bool = False, method: str = "BayesShrink", rescale_sigma: bool = True, *,
    channel_axis: int | None = None,
) -> Any:  # fmt: skip
    """The image with its wavelet coefficients shrunk, as skimage.restoration.denoise_wavelet: the same numbers.

    Images of floating point, [H, W] or with channels along `channel_axis`; others, hard thresholds and convert2ycbcr
    are handed on to scikit-image.

    Raises:
        ValueError: an argument does not fit.
    """
    op = "denoise_wavelet"
    tensor = isinstance(image, Tensor)
    kind = image.is_floating_point() if tensor else getattr(getattr(image, "dtype", None), "kind", "") == "f"
    choice(method, ("BayesShrink", "VisuShrink"), op, "method")
    if not kind or convert2ycbcr or mode != "soft":
        given = image.numpy() if tensor else image
        found = library.restoration.denoise_wavelet(
            given, sigma, wavelet, mode, wavelet_levels, convert2ycbcr, method, rescale_sigma, channel_axis=channel_axis
        )
        return torch.from_numpy(found) if tensor else found

    def run(x: Tensor) -> Tensor:
        planes, back = _planes(op, x, channel_axis)
        sigmas = list(sigma) if isinstance(sigma, Sequence) else [sigma] * planes.shape[1]
        expect(len(sigmas) == planes.shape[1], op, "sigma", f"a number, or one for each of {planes.shape[1]}", sigma)
        each = [_shrunk(planes[0, c], sigmas[c], wavelet, wavelet_levels, method) for c in range(len(sigmas))]
        return back(torch.stack(each)[None])

    return in_kind(image, run, op, "image")


def _shrunk(x: Tensor, sigma: Any, wavelet: str, levels: int | None, method: str) -> Tensor:
    """One plane with soft thresholds."""
    pywt: Any = peer("pywt", "1.4", "2", "PyWavelets")
    depth = max(pywt.dwtn_max_level(tuple(x.shape), wavelet) - 3, 1) if levels is None else levels
    approximation, *details = modes.decompose(x, wavelet, depth, "symmetric")
    if sigma is None:
        finest = details[-1][2]
        finest = finest[finest.abs() > 1e-12 * x.abs().max()]  # zeros of the boundary, up to rounding
        # the median of what is not 0, over that of a normal variable (Donoho & Johnstone 1994)
        middle = torch.quantile(finest.abs().double().flatten()[: 1 << 24], 0.5) if finest.numel() else x.new_zeros(())
        sigma = float(middle) / 0.6744897501960817
    if method == "VisuShrink":
        t = float(sigma) * math.sqrt(2 * math.log(x.numel()))
        shrunk = [tuple(soft_threshold(c.contiguous(), t) for c in level) for level in details]
    else:
        shrunk = [
            tuple(soft_threshold(c.contiguous(), _bayes(c, float(sigma) ** 2)) for c in level) for level in details
        ]
    found = modes.recompose([approximation, *shrunk], wavelet, "symmetric")
    return found[: x.shape[0], : x.shape[1]]


def _bayes(c: Tensor, variance: float) -> Tensor:
    """The threshold of Chang, Yu & Vetterli, IEEE Trans. Image Process. 9 (2000)."""
    signal = (c.square().mean() - variance).clamp_min(torch.finfo(c.dtype).eps)
    return variance / signal.sqrt()


def richardson_lucy(
    image: Any, psf: Any, num_iter: int = 50, clip: bool = True, filter_epsilon: float | None = None
) -> Any:  # fmt: skip
    """The image deconvolved by Richardson and Lucy's iteration, as skimage.restoration.richardson_lucy.

    Convolutions by one pair of Fourier transforms each, of a size that is computed once.

    Raises:
        ValueError: an argument does not fit.
    """
    op = "richardson_lucy"
    num_iter = integer(num_iter, op, "num_iter", least=0)

    def run(x: Tensor) -> Tensor:
        x = _real(x)
        kernel = torch.as_tensor(psf).to(x)
        expect(x.ndim == 2 and kernel.ndim == 2, op, "psf", "a kernel [h, w] of an image [H, W]", kernel)
        size = [_smooth(n + k - 1) for n, k in zip(x.shape, kernel.shape, strict=True)]
        transfer = torch.fft.rfft2(kernel, s=size)
        mirrored = torch.fft.rfft2(kernel.flip(0, 1), s=size)
        top, left = ((k - 1) // 2 for k in kernel.shape)

        def same(t: Tensor, h: Tensor) -> Tensor:
            whole = torch.fft.irfft2(torch.fft.rfft2(t, s=size) * h, s=size)
            return whole[top : top + x.shape[0], left : left + x.shape[1]]

        u = torch.full_like(x, 0.5)
        for _ in range(num_iter):
            seen = same(u, transfer) + 1e-12
            ratio = x / seen
            if filter_epsilon:
                ratio = torch.where(seen < filter_epsilon, 0, ratio)
            u = u * same(ratio, mirrored)
        return u.clamp(-1, 1) if clip else u

    return in_kind(image, run, op, "image")


def unsupervised_wiener(image: Any, psf: Any, *arguments: Any, **options: Any) -> Any:
    """As skimage.restoration.unsupervised_wiener, which computes it: a chain of random samples, one after the other.

    Here for an import to be swapped as a whole. Without a chain, and for batches, there is the method "wiener":
    `fastrecon.reconstruct(y, Blur(psf), method="wiener")`.
    """
    if isinstance(image, Tensor):
        found, chain = library.restoration.unsupervised_wiener(image.numpy(), psf, *arguments, **options)
        return torch.from_numpy(found), chain
    return library.restoration.unsupervised_wiener(image, psf, *arguments, **options)


def _real(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float64 if not x.is_floating_point() else
                                                                       torch.float32)  # fmt: skip


def _as_float(image: Any) -> Any:
    """Integers scaled as scikit-image does."""
    if isinstance(image, Tensor) or getattr(getattr(image, "dtype", None), "kind", "f") == "f":
        return image
    return library.util.img_as_float(image)


def _planes(op: str, x: Tensor, channel_axis: int | None) -> tuple[Tensor, Any]:
    """An image as [1, C, H, W], and back."""
    if channel_axis is None:
        expect(x.ndim == 2, op, "image", "an image [H, W], or channel_axis", x)
        return x[None, None].contiguous(), lambda t: t[0, 0]
    expect(x.ndim == 3 and -3 <= channel_axis < 3, op, "channel_axis", "an axis of an image with channels", x)
    return x.movedim(channel_axis, 0)[None].contiguous(), lambda t: t[0].movedim(0, channel_axis).contiguous()


def _smooth(n: int) -> int:
    """The next length of which Fourier transforms are quick: with factors 2, 3 and 5."""
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1
