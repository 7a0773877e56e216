"""Where k-space has its zero frequency, and its image the origin: conventions differ, files rarely say."""

from dataclasses import dataclass

import numpy as np

WINDOW = 16  # low frequencies are a 16th of the size around the zero frequency
SURE_KSPACE, SURE_IMAGE = 0.5, 0.1
CLEAR = 0.25  # by so much more must a mask sample the frequencies around a place for them to be the low ones


@dataclass(frozen=True)
class Centring:
    """Evidence of two conventions, each a number from -1 (for the corner) to 1 (for the middle), 0 for none.

    Less than 0.5 of k-space, or 0.1 of the image, is not enough: objects that fill their image tell nothing of it.

    Attributes:
        kspace: where the energy of k-space lies, that is the zero frequency: at (0, 0), or at (H // 2, W // 2).
        image: where the transform has its origin, if the object lies in the middle of its image, as it does in most:
            at (0, 0), so that neighbouring samples of k-space change sign like a checkerboard; or in the middle
            (fastMRI, SigPy, BART, ISMRMRD), so that they are alike.
    """

    kspace: float
    image: float

    @property
    def kspace_centred(self) -> bool | None:
        """Whether the zero frequency is in the middle, None where the data do not tell."""
        return self.kspace > 0 if abs(self.kspace) >= SURE_KSPACE else None

    @property
    def image_centred(self) -> bool | None:
        """Whether the origin of the image is in its middle, None where the data do not tell."""
        return self.image > 0 if abs(self.image) >= SURE_IMAGE else None

    def __str__(self) -> str:
        def place(centred: bool | None, evidence: float) -> str:
            where = "unknown" if centred is None else f"in the {'middle' if centred else 'corner'}"
            return f"{where} (evidence {evidence:+.2f})"

        low, origin = place(self.kspace_centred, self.kspace), place(self.image_centred, self.image)
        return f"zero frequency {low}, origin of the image {origin}"


def looks_centred(kspace: np.ndarray, mask: np.ndarray | None = None) -> Centring:
    """Evidence of conventions from k-space [coils, H, W] or [H, W] and, if known, where it was sampled [H, W].

    The zero frequency is where the energy lies. The origin of the image shows in products of neighbours:
    sum_k conj(y_k) y_{k+1} is the circular mean of the object's place, sum_n |x_n|^2 exp(-2 pi i n / N): positive
    where the object lies around the origin, negative where it lies half the image away (a linear phase of pi).
    """
    y = np.asarray(kspace, np.complex128).reshape(-1, *kspace.shape[-2:])
    power = np.square(np.abs(y)).sum(0)
    sampled = power > 0 if mask is None else np.asarray(mask, bool)
    middle, corner = _low(power, sampled), _low(np.fft.fftshift(power), np.fft.fftshift(sampled))
    total = middle + corner
    return Centring(float((middle - corner) / total) if total > 0 else 0.0, _neighbours(y, sampled))


def low_frequencies(mask: np.ndarray, centred: bool) -> tuple[np.ndarray, bool]:
    """A mask [H, W] with its zero frequency in the middle or the corner, and whether it was turned for that.

    It is turned by half its size where that alone makes it sample the low frequencies.
    """
    turned = np.fft.fftshift(mask)
    middle, corner = _around(mask), _around(turned)
    here, other = (middle, corner) if centred else (corner, middle)
    return (mask, False) if other - here < CLEAR else (turned, True)


def _around(mask: np.ndarray) -> float:
    """Share of samples around the middle."""
    return float(mask[_middle(mask.shape)].mean())


def _middle(size: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(n // 2 - n // WINDOW // 2, n // 2 + n // WINDOW // 2 + 1) for n in size)


def _low(power: np.ndarray, sampled: np.ndarray) -> float:
    """Mean power of the samples around the middle."""
    near = _middle(power.shape)
    return float(power[near].sum() / max(sampled[near].sum(), 1))


def _neighbours(y: np.ndarray, sampled: np.ndarray) -> float:
    """Mean over both axes of the correlation of neighbouring samples, of those axes that have such."""
    found = []
    for axis in (-2, -1):  # round the edge too: frequencies go round
        both = sampled & np.roll(sampled, -1, axis)
        a, b = y * both, np.roll(y, -1, axis) * both
        size = np.linalg.norm(a) * np.linalg.norm(b)
        if size > 0:
            found.append(float(np.vdot(a, b).real / size))
    return float(np.mean(found)) if found else 0.0
