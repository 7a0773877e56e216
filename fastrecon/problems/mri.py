"""Magnetic resonance imaging: images from some of the frequencies, measured by one coil or by several.

Inside, the zero frequency of k-space and mask lies at (0, 0) and the image has its origin in the corner: y = m F(s x)
with F = fft2. Data of other conventions are brought into this one when they are read, by shifts and phases alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastrecon import io, masks, noise
from fastrecon.checks import expect
from fastrecon.io import KSpace, Picture
from fastrecon.operators import Fourier, LinearOperator
from fastrecon.options import check, option
from fastrecon.problems import coils
from fastrecon.problems.base import (
    Condition,
    Measurement,
    Problem,
    add_noise,
    add_rician,
    channels,
    problem,
    unit_scale,
)  # fmt: skip
from fastrecon.problems.inpaint import COMPARED, RATES, paper_tables
from fastrecon.problems.wavelet_l1 import LAM
from fastrecon.solvers.automatic import RICIAN, Chosen, automatic
from fastrecon.solvers.methods import Inverse
from fastrecon.solvers.wavelet_methods import PAPER_LAM

AXES = (-2, -1)
CENTRES = {  # what lies in the middle: of k-space the zero frequency, of the image the origin
    "none": (False, False), "kspace": (True, False), "image": (False, True), "both": (True, True),
}  # fmt: skip
FEW = 0.01  # of the samples: so many may disagree with a mask
ENOUGH, SHARE = 100, 0.02  # samples that tell the noise: at least so many, or such a share of all
OUTER = 0.9  # of the Nyquist frequency: none nearer tells it
EDGES = 0.02  # cycles a pixel from an axis: nearer to it lies what the edges of a field of view make


@dataclass(frozen=True)
class MRIOptions:
    """Options of magnetic resonance imaging."""

    mask: str = option(
        "image or array of the size of k-space, or a row of it: white, 1 or true where it was sampled; default: what"
        " the file says, else where k-space is not exactly 0", "",
    )  # fmt: skip
    centre: str = option(
        "what lies in the middle: kspace, the zero frequency of k-space; image, the origin of the image; both, as in"
        " fastMRI, ISMRMRD, BART and SigPy; none, as in numpy.fft.fft2; auto: what file and data tell", "auto",
        choices=("auto", *CENTRES),
    )  # fmt: skip
    maps: str = option(
        "array of the coils' sensitivities [coils, H, W]; default: what the file says, else ESPIRiT, by sigpy", ""
    )
    slice: int | None = option("number of the slice, counted from 0", None, within="[0, 1e6]", type=int)
    noise: float | None = option(
        "standard deviation of each real number of k-space, in its unit; measured and not given: estimated from the"
        " outermost samples; of simulated measurements it is added, and white is 1", None, within="[0, 1e30]",
        type=float,
    )  # fmt: skip
    rician: bool = option(
        "k-space is that of the modulus of a noisy image, whose real and imaginary part have noise of this standard"
        " deviation", False,
    )  # fmt: skip
    rate: float = option("share of sampled frequencies", 0.5, within="(0, 1]", type=float, of="simulate")
    sampling: str = option("which frequencies are sampled", "variable", choices=tuple(masks.GENERATORS), of="simulate")

    def __post_init__(self):
        check(self, "mri")


@problem
class MRI(Problem[MRIOptions]):
    """y = m F(s x)."""

    name = "mri"
    summary = "k-space of which some frequencies were sampled"
    Options = MRIOptions
    methods = (
        "dct", "tv", "cycle-spinning", "fista", "ista", "admm", "hqs", "error-controlled", "lda", "sgp-step",
        "sgp-diag", "unet", "ista-net-plus", "ista-net", "vn", "admm-net",
    )  # fmt: skip
    suffixes = io.KSPACE_SUFFIXES
    norm = 1.0

    def simulate(self, picture: Picture, options: MRIOptions, seed: int = 0) -> Measurement:
        """Frequencies left out of a picture's, real or complex; one coil."""
        for name in ("centre", "maps", "slice"):
            unchanged = getattr(options, name) == getattr(MRIOptions, name)
            expect(unchanged, self.name, f"--{name}", "it with measured k-space only", "it with simulated")
        x = channels(picture)
        size = (x.shape[-2], x.shape[-1])
        scale = unit_scale(picture)
        truth, sigma, notes = x / scale, (options.noise or 0.0) / scale, picture.notes
        if options.mask:
            given, turned = _with_low(io.read_mask(options.mask, size), False)
            mask, notes = torch.from_numpy(given), (*notes, *turned)
        else:
            mask = masks.GENERATORS[options.sampling](size, options.rate, seed)
        mask = mask.to(truth.real)[None, None]
        facts: dict[str, Tensor | float] = {"mask": mask, PAPER_LAM: LAM["mri"]}
        if options.rician:
            truth = truth.abs()
            y = mask * Fourier(mask)(add_rician(truth, _of_modulus(sigma, facts), seed))
            sigma = sigma / 2**0.5  # of the image's white noise each number of k-space has half the power
        else:
            y = mask * add_noise(Fourier(mask)(truth), sigma, seed)
        notes = (*notes, _share(mask))
        return Measurement(self.name, y, size, facts, sigma, scale, truth, None, picture.form, notes)

    def read(self, path: Path, options: MRIOptions) -> Measurement:
        """k-space from a file, with its mask and coil sensitivities."""
        k = io.read_kspace(path, options.slice)
        size = (k.data.shape[-2], k.data.shape[-1])
        centre, layout_notes = _layout(k, options.centre)
        in_kspace, in_image = CENTRES[centre]
        sampled, mask_notes = _sampled(k, options.mask, in_kspace)
        y = torch.from_numpy(_cornered(np.where(sampled, k.data, 0), in_kspace, in_image))[None].to(torch.complex64)
        sampled = np.fft.ifftshift(sampled) if in_kspace else sampled
        mask = torch.from_numpy(sampled).float()[None, None]
        facts: dict[str, Tensor | float] = {"mask": mask, PAPER_LAM: LAM["mri"]}
        gain, maps_notes = 1.0, ()
        if y.shape[1] > 1 or options.maps or k.maps is not None:
            maps, maps_notes = coils.sensitivities(k.maps, options.maps, y, mask)
            gain = float(maps.abs().square().sum(1).max().sqrt()) or 1.0
            facts["maps"] = maps / gain  # so that |A| <= 1
        sigma, noise_notes = options.noise, ()
        if sigma is None:
            sigma, noise_notes = _noise(y[0].numpy(), sampled)
        if options.rician:
            sigma, noise_notes = _of_modulus(options.noise or 0.0, facts) / 2**0.5, ()
        plain = Measurement(self.name, y, size, facts)
        scale = float(self.operator(plain).adjoint(y).abs().max())
        if RICIAN in facts:
            facts[RICIAN] = float(options.noise or 0.0) / scale
        expect(scale > 0, self.name, "k-space", "samples that are not 0 under the mask", "zeros alone")
        window = _window(k, size) if in_image else None
        crop = () if window is None else (f"cropped to {window[2]}x{window[3]}, as the file says",)
        several = (f"{y.shape[1]} coils",) if y.shape[1] > 1 else ()
        notes = (*k.notes, *several, *layout_notes, *mask_notes, *maps_notes, *noise_notes, *crop)
        return Measurement(
            self.name, y / scale, size, facts, None if sigma is None else sigma / scale, scale / gain, None, window,
            k.form, (*notes, f"scale {scale / gain:.3g} taken out and put back"),
        )  # fmt: skip

    def operator(self, m: Measurement) -> LinearOperator:
        """The mask after the Fourier transform, of the image times the sensitivities of several coils."""
        return Fourier(m.tensor("mask")[0, 0], sensitivities=m.tensor("maps")[0] if "maps" in m.facts else None)

    def auto(self, inverse: Inverse) -> Chosen:
        """By noise and operator."""
        return automatic(inverse)

    def conditions(self, table: str) -> list[Condition]:
        """Those of Lee & Chun: rates, noise, lam, or all of them."""
        return paper_tables(table, [Condition(f"{100 * r:g}%", {"rate": r}) for r in RATES], "50% ")

    def compared(self) -> tuple[str, ...]:
        """FISTA early and late, and the shipped networks."""
        return COMPARED


def _of_modulus(sigma: float, facts: dict[str, Tensor | float]) -> float:
    """The standard deviation of Rician noise, which becomes a fact.

    Raises:
        ValueError: there is none, or there are coils.
    """
    expect(sigma > 0, "mri", "--noise", "a number > 0 with --rician", sigma)
    expect("maps" not in facts, "mri", "--rician", "it with k-space of one coil", "several, or sensitivities")
    facts[RICIAN] = sigma
    return sigma


def _layout(k: KSpace, asked: str) -> tuple[str, tuple[str, ...]]:
    """What lies in the middle, a name of CENTRES, and how that is known.

    Raises:
        ValueError: the data say another thing than what was asked, or nothing.
    """
    found = io.looks_centred(k.data, k.mask)
    in_kspace, in_image = found.kspace_centred, found.image_centred
    if asked != "auto":
        here, image = CENTRES[asked]
        fits = in_kspace is None or in_kspace == here
        names = " or ".join(name for name, (other, _) in CENTRES.items() if other != here)
        got = f"{asked}, and the largest samples in the {'corner' if here else 'middle'}"
        expect(fits, "mri", "--centre", f"{names} for such k-space", got)
        odd = in_image is not None and in_image != image
        return asked, ((f"{found}: is --centre {asked} right?",) if odd else ())
    said = ""
    if in_kspace is None:
        in_kspace, said = k.centred, " (the file's kind)"
    names = f"one of {', '.join(CENTRES)}"
    expect(in_kspace is not None, "mri", "--centre", f"{names} to be given: k-space does not tell it", "auto")
    if k.centred is not None and k.centred == in_kspace:
        in_image, said = k.centred, " (the file's kind)"
    elif in_image is None:
        in_image, said = in_kspace, " (the image's: assumed)"
    name = next(name for name, pair in CENTRES.items() if pair == (in_kspace, in_image))
    return name, (f"centre: {name}{said or ' (by the data)'}",)


def _cornered(y: np.ndarray, in_kspace: bool, in_image: bool) -> np.ndarray:
    """k-space [coils, H, W] of the convention of numpy.fft.fft2."""
    if in_kspace:
        y = np.fft.ifftshift(y, AXES)
    if in_image:  # y = fft2(ifftshift(x)): the shift by N // 2 is a phase
        rows, columns = (_phases(n) for n in y.shape[-2:])
        y = y * (rows[:, None] * columns)
    return y


def _phases(n: int) -> np.ndarray:
    turns = np.arange(n) * (n // 2) % n / n  # multiples of a half for even n
    return np.where(turns == 0.5, -1, np.exp(-2j * np.pi * turns))


def _sampled(k: KSpace, name: str, in_kspace: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Where k-space was sampled [H, W] bool, in its own layout, and how that is known.

    Raises:
        ValueError: the mask of a file does not fit.
    """
    there = io.mask_from_zeros(k.data)
    size = there.shape
    if not name and k.mask is None:
        how = "no mask, and no zeros" if there.all() else "mask inferred from exact zeros"
        return there, (f"{how}: {_share(there)}",)
    mask = io.read_mask(name, size) if name else np.asarray(k.mask)
    notes: tuple[str, ...] = () if name else ("mask of the file",)
    if _disagree(there, mask):
        turned = np.fft.fftshift(mask)
        outside = int((there & ~mask).sum())
        inverted = " (is it inverted?)" if not _disagree(there, ~mask) else ""
        got = f"{outside} of {int(there.sum())} such samples outside it{inverted}"
        expect(not _disagree(there, turned), "mri", "--mask", "a mask that is 1 where k-space is not 0", got)
        mask, notes = turned, (*notes, "mask turned by half its size, where the samples are")
    elif there.all():  # nothing but the mask tells where its zero frequency is
        mask, turned_notes = _with_low(mask, in_kspace)
        notes = (*notes, *turned_notes)
    zeros = (mask & ~there).mean() / mask.mean()
    if zeros > FEW:
        notes = (*notes, f"{100 * zeros:.1f}% of what the mask calls samples are exactly 0")
    return mask, (*notes, _share(mask))


def _disagree(there: np.ndarray, mask: np.ndarray) -> bool:
    """Whether neither the samples lie within the mask, nor the mask within the samples, of which it takes some."""
    return (there & ~mask).sum() > FEW * there.sum() and (mask & ~there).sum() > FEW * mask.sum()


def _with_low(mask: np.ndarray, in_kspace: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask with its low frequencies where they belong, and a remark if it was turned for that."""
    found, turned = io.low_frequencies(mask, in_kspace)
    return found, ("mask turned by half its size, so that it samples the low frequencies",) * turned


def _noise(y: np.ndarray, sampled: np.ndarray) -> tuple[float | None, tuple[str, ...]]:
    """Standard deviation of each real number of k-space [coils, H, W], where its outermost samples tell it."""
    distance = np.fft.ifftshift(masks.radius(sampled.shape))
    there = sampled & (y != 0).any(0) & (distance >= OUTER)  # what a scanner filled in with zeros tells nothing
    farthest = np.argsort(-np.where(there, distance, 0), axis=None, kind="stable")
    count = min(int(there.sum()), max(ENOUGH, round(SHARE * sampled.size)))
    if count < ENOUGH:
        return None, ("noise not known: too few of the outermost frequencies were sampled",)
    outer = y.reshape(len(y), -1)[:, farthest[:count]]
    level = float(np.median(np.abs(np.ascontiguousarray(outer).view(np.float32)))) / 0.6745
    rows, columns = np.meshgrid(*map(np.fft.fftfreq, sampled.shape), indexing="ij")
    there = sampled & (y != 0).any(0) & (np.minimum(np.abs(rows), np.abs(columns)) >= EDGES)
    power = torch.from_numpy(np.square(np.abs(y[:, there]).astype(np.float64)).mean(0) / 2)
    f = torch.from_numpy(np.hypot(rows, columns)[there])
    sigma = float(noise.estimate_frequencies(power, f, torch.tensor(level))) if level > 0 else 0.0
    return sigma, (f"noise estimated from the law of the frequencies: {sigma:.3g} in the unit of k-space",)


def _window(k: KSpace, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The middle part of the image that the file says is wanted."""
    wanted = k.facts.get("reconstruction_size")
    if wanted is None or tuple(wanted) == size or any(w > n for w, n in zip(wanted, size, strict=True)):
        return None
    top, left = ((n - w) // 2 for n, w in zip(size, wanted, strict=True))
    return top, left, int(wanted[0]), int(wanted[1])


def _share(mask: np.ndarray | Tensor) -> str:
    return f"{100 * float(mask.mean()):.1f}% of the frequencies are sampled"
