"""One line each of scikit-image and SciPy, with the truth of nothing but the noise level, at settings of their manuals.

They are given what our methods are given: measurements, mask, kernel or angles, and the noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrecon.problems.base import Measurement

OneLiner = Callable[[Measurement, int], Any]  # (measurements, channel) -> image [H, W]
TV, NLM = 0.8, 0.7  # weights in units of the noise: the best fixed ones on natural images


def _plane(m: Measurement, k: int) -> np.ndarray:
    return m.y[k, 0].cpu().numpy()


def _noise(m: Measurement) -> float:
    return m.noise or 0.0


def _wavelet(m: Measurement, k: int) -> Any:
    from skimage.restoration import denoise_wavelet

    return denoise_wavelet(_plane(m, k), sigma=_noise(m), method="BayesShrink", wavelet="sym4")


def _tv(m: Measurement, k: int) -> Any:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(_plane(m, k), weight=TV * _noise(m))


def _nlm(m: Measurement, k: int) -> Any:
    from skimage.restoration import denoise_nl_means

    h, sigma = NLM * _noise(m), _noise(m)
    return denoise_nl_means(_plane(m, k), patch_size=5, patch_distance=6, h=h, sigma=sigma)


def _biharmonic(m: Measurement, k: int) -> Any:
    from skimage.restoration import inpaint_biharmonic

    return inpaint_biharmonic(_plane(m, k), m.tensor("mask")[0, 0].cpu().numpy() == 0)


def _biharmonic_tv(m: Measurement, k: int) -> Any:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(_biharmonic(m, k), weight=TV * _noise(m)) if _noise(m) else _biharmonic(m, k)


def _unsupervised(m: Measurement, k: int) -> Any:
    from skimage.restoration import unsupervised_wiener

    return unsupervised_wiener(_plane(m, k), m.tensor("kernel").cpu().numpy(), clip=False, rng=0)[0]


def _wiener(m: Measurement, k: int) -> Any:
    from skimage.restoration import wiener

    balance = 100 * _noise(m) ** 2 or 1e-10  # pictures vary by about 0.1 in what is squared there
    return wiener(_plane(m, k), m.tensor("kernel").cpu().numpy(), balance, clip=False)


def _least_squares(m: Measurement, k: int) -> Any:
    from scipy.ndimage import convolve, correlate
    from scipy.sparse.linalg import LinearOperator, lsqr

    y, kernel = _plane(m, k).astype(np.float64), m.tensor("kernel").cpu().numpy().astype(np.float64)
    blur = lambda x: convolve(x.reshape(y.shape), kernel, mode="wrap").ravel()  # noqa: E731
    back = lambda x: correlate(x.reshape(y.shape), kernel, mode="wrap").ravel()  # noqa: E731
    a: Any = LinearOperator((y.size, y.size), matvec=blur, rmatvec=back, dtype=y.dtype)  # type: ignore[call-arg]
    return lsqr(a, y.ravel(), iter_lim=100)[0].reshape(y.shape)


def _zero_filled(m: Measurement, k: int) -> Any:
    return np.fft.ifft2(_plane(m, k), norm="ortho").real


def _zero_filled_tv(m: Measurement, k: int) -> Any:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(_zero_filled(m, k), weight=max(TV * _noise(m), 0.02))


def _fbp(m: Measurement, k: int) -> Any:
    from skimage.transform import iradon

    angles = np.rad2deg(m.tensor("angles").cpu().numpy())
    sinogram = _plane(m, k).T / m.number("pixel")
    return iradon(sinogram, theta=angles, filter_name="hann", output_size=max(m.size), circle=False)[
        : m.size[0], : m.size[1]
    ]


ONE_LINERS: dict[str, dict[str, OneLiner]] = {
    "denoise": {"skimage BayesShrink": _wavelet, "skimage TV": _tv, "skimage NLM": _nlm},
    "inpaint": {"skimage biharmonic": _biharmonic, "skimage biharmonic + TV": _biharmonic_tv},
    "deblur": {"skimage unsupervised_wiener": _unsupervised, "skimage wiener": _wiener, "scipy lsqr": _least_squares},
    "mri": {"numpy zero-filled": _zero_filled, "zero-filled + skimage TV": _zero_filled_tv},
    "ct": {"skimage iradon": _fbp},
}
