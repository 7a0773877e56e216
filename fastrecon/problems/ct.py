"""Computed tomography: images from their line integrals along parallel or fan beams."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastrecon import io, noise
from fastrecon.checks import expect, finite_number
from fastrecon.io import Form, Picture
from fastrecon.io.arrays import npz_names
from fastrecon.operators import LinearOperator, Radon
from fastrecon.options import check, option
from fastrecon.problems.base import Condition, Measurement, Problem, add_noise, channels, problem, unit_scale
from fastrecon.problems.inpaint import COMPARED, paper_tables
from fastrecon.problems.scan import Scan, axis_of, looks_like_counts, views_first
from fastrecon.problems.wavelet_l1 import LAM, VIEWS
from fastrecon.solvers.automatic import Chosen, automatic
from fastrecon.solvers.methods import Inverse
from fastrecon.solvers.wavelet_methods import PAPER_LAM

BRIGHT = 0.999  # this share of the pixels is darker than what counts as white
ASIDE = 0.25  # detectors: an axis so far from where it is taken to be is told
MOST = 100_000  # views
TURN = {"parallel": math.pi, "fan": 2 * math.pi}


@dataclass(frozen=True)
class CTOptions:
    """Options of computed tomography."""

    angles: str = option(
        "of the views: a file, start:stop:count (stop is not among them) with deg or rad at its end, or their number,"
        " then evenly over half a turn, of a fan over a full one (default: those in a .npz; simulated, 144)", "",
    )  # fmt: skip
    unit: str = option("of the angles, where their span does not tell it", "", choices=("deg", "rad"))
    geometry: str = option(
        "parallel or fan beams; skimage: parallel as scikit-image has them, detectors first and turned about pixel"
        " N // 2", "parallel", choices=("parallel", "fan", "skimage"),
    )  # fmt: skip
    pixel: float | None = option(
        "side of a pixel of the image, in the unit of all lengths, which is the picture's too: attenuation per unit"
        " (default: what one detector sees at the centre of rotation; 1 without --pitch)", None, within="[1e-9, 1e9]",
        type=float,
    )  # fmt: skip
    pitch: float | None = option(
        "from the middle of a detector to the next (default: a pixel at the centre of rotation)", None,
        within="[1e-9, 1e9]", type=float,
    )  # fmt: skip
    source_distance: float | None = option(
        "fan: from the source to the centre of rotation", None, within="[1e-9, 1e9]", type=float
    )
    detector_distance: float | None = option(
        "fan: from the centre of rotation to the detectors (default: 0)", None, within="[0, 1e9]", type=float
    )
    curved: bool = option("fan: the detectors lie on an arc around the source", False)
    axis: str = option(
        "detector that the axis of rotation falls on, counted from 0, also between two; auto: by the centres of mass of"
        " the views (default: the middle)", "",
    )  # fmt: skip
    size: int | None = option(
        "side of the image in pixels (default: as wide as the detectors see)", None, within="[1, 1e5]", type=int
    )
    axes: str = option(
        "which axis of the sinogram is first; auto: as the number of angles tells", "auto",
        choices=("auto", "views", "detectors"),
    )  # fmt: skip
    flat: str = option(
        "photons without an object, a number or a file: the input holds numbers of photons, not line integrals", ""
    )
    dark: str = option("counts without photons, a number or a file", "")
    noise: float | None = option(
        "standard deviation of the line integrals; measured and not given: estimated; of simulated ones it is added, in"
        " the unit in which white is 1 and the norm of the scan too", None, within="[0, 1e9]", type=float,
    )  # fmt: skip

    def __post_init__(self):
        check(self, "ct")
        for name in ("source_distance", "detector_distance"):
            of_fan = self.geometry == "fan" or getattr(self, name) is None
            expect(of_fan, "ct", _flag(name), "it with --geometry fan only", f"it with {self.geometry}")
        expect(
            self.geometry == "fan" or not self.curved, "ct", "--curved", "it with --geometry fan only", self.geometry
        )
        fan = self.geometry != "fan" or self.source_distance is not None
        expect(fan, "ct", "--source-distance", "a length for --geometry fan", "none")
        expect(self.axis in ("", "auto") or self.middle() is not None, "ct", "--axis", "a number, or auto", self.axis)
        own = self.geometry != "skimage" or (self.axis == "" and self.pitch is None)
        expect(own, "ct", "--geometry", "no --axis and no --pitch with skimage, which has its own", "them")
        expect(not self.dark or self.flat != "", "ct", "--flat", "it with --dark", "none")

    def middle(self) -> float | None:
        """The axis, where it is a number."""
        try:
            value = float(self.axis)
        except ValueError:
            return None
        return value if finite_number(value) else None


@problem
class CT(Problem[CTOptions]):
    """y = A x."""

    name = "ct"
    summary = "sinograms: integrals along parallel or fan beams"
    Options = CTOptions
    methods = (
        "dct", "tv", "cycle-spinning", "fista", "ista", "admm", "hqs", "error-controlled", "sgp-step", "sgp-diag",
        "unet",
    )  # fmt: skip
    suffixes = (".npy", ".npz", ".tif", ".tiff", ".png", ".safetensors")
    norm = 1.0

    def simulate(self, picture: Picture, options: CTOptions, seed: int = 0) -> Measurement:
        """The scan of a picture."""
        for name in ("axis", "size", "axes", "flat", "dark"):
            unchanged = getattr(options, name) == getattr(CTOptions, name)
            expect(unchanged, self.name, _flag(name), "it with measured sinograms only", "it with simulated")
        x = channels(picture)
        expect(not x.is_complex(), self.name, "picture", "a real one", "complex numbers")
        size, scale = (x.shape[-2], x.shape[-1]), unit_scale(picture)
        angles, notes = _angles(options, options.angles or str(VIEWS))
        scan = _scan(options, size, angles, None)
        truth, sigma = x / scale, (options.noise or 0.0) / scale
        m = _measurement(scan, torch.zeros(len(x), 1, len(scan.angles), scan.detectors))
        y = add_noise(self.operator(m)(truth), sigma, seed)
        return Measurement(
            self.name, y, size, m.facts, sigma, scale, truth, None, picture.form, (*picture.notes, *notes, _said(scan))
        )

    def read(self, path: Path, options: CTOptions) -> Measurement:
        """A sinogram from a file."""
        sinogram = io.read_array(path)
        angles, notes = self._views(path, sinogram.data.shape[1], options)
        skimage = options.geometry == "skimage"
        axes = "detectors" if skimage and options.axes == "auto" else options.axes
        y, turned = views_first(sinogram.data, len(angles), axes)
        if options.flat:
            y, count_notes = self._integrals(y, options, bool(turned))
            notes = (*notes, *count_notes)
        wanted = "line integrals, about 0 beside the object"
        expect(not looks_like_counts(y), self.name, "sinogram", wanted, "the largest numbers there (counts? --flat)")
        mean = float(y.mean(dtype=np.float64))
        below = " (--flat too low?)" if options.flat else ""
        expect(mean >= 0, self.name, "sinogram", "line integrals >= 0 but for noise", f"a mean of {mean:.3g}{below}")
        axis, axis_notes = _axis(options, y, angles)
        scan = _scan(options, None, angles, y.shape[1], axis)
        notes = (*notes, *turned, *axis_notes, _said(scan), *_coverage(scan))
        return self._measured(scan, torch.from_numpy(y).float()[None, None], options, sinogram.form, notes)

    def _views(self, path: Path, columns: int, options: CTOptions) -> tuple[np.ndarray, tuple[str, ...]]:
        """The angles of a sinogram of so many columns, and remarks."""
        if options.angles:
            return _angles(options, options.angles)
        if path.suffix.lower() == ".npz" and {"angles", "theta"} & set(npz_names(path)):
            return _angles(options, path)
        wanted = "a file, start:stop:count, or the number of views"
        expect(options.geometry == "skimage", self.name, "--angles", wanted, "none")
        return _evenly(columns, "parallel"), ()  # scikit-image's own default

    def _integrals(self, counts: np.ndarray, options: CTOptions, turned: bool) -> tuple[np.ndarray, tuple[str, ...]]:
        """Line integrals of counts [views, detectors], and remarks; fields of their shape were turned as they were."""

        def field(name: str) -> np.ndarray | float | None:
            text = getattr(options, name)
            try:
                return float(text) if text else None
            except ValueError:
                a = io.read_array(text, (name,), row=True).data
                return a.T if turned and a.T.shape == counts.shape else a

        flat, dark = field("flat"), field("dark")
        assert flat is not None
        return io.line_integrals(counts, flat, dark, self.name)

    def _measured(self, scan: Scan, y: Tensor, options: CTOptions, form: Form, notes: tuple[str, ...]) -> Measurement:
        """Line integrals with their scale taken out."""
        pixel = _lengths(options)[0]
        unit = _measurement(scan, y)
        gain = pixel / unit.number("pixel")  # from integrals in which |A| = 1 to those of the file
        sigma = options.noise
        if sigma is None:
            sigma = float(noise.estimate(y).mean())
            notes = (*notes, f"noise estimated: {sigma:.3g} in the unit of the line integrals")
        first = self.start(_measurement(scan, y / gain)).numpy()
        scale = float(np.quantile(np.abs(first), BRIGHT))
        expect(scale > 0, self.name, "sinogram", "line integrals that are not all 0", "zeros alone")
        per = "pixel" if pixel == 1 else f"unit of length, pixels of {pixel:g}"
        notes = (*notes, f"picture: attenuation per {per}; scale {scale:.3g} taken out and put back")
        return Measurement(
            self.name, y / (gain * scale), scan.size, unit.facts, sigma / (gain * scale), scale, form=form, notes=notes
        )

    def operator(self, m: Measurement) -> LinearOperator:
        """The projector, in the unit in which its norm is 1."""
        return Scan.of(m).radon(m.number("pixel"))

    def start(self, m: Measurement) -> Tensor:
        """Filtered back-projection, 0 beyond the circle that all views see."""
        scan = Scan.of(m)
        x = scan.radon(m.number("pixel")).fbp(m.y, "hann")
        seen = scan.seen()
        return x if seen.all() else x * seen.to(x)

    def auto(self, inverse: Inverse) -> Chosen:
        """By noise and operator."""
        return automatic(inverse)

    def conditions(self, table: str) -> list[Condition]:
        """Those of Lee & Chun: numbers of views, noise, lam, or all of them."""
        return paper_tables(table, [Condition(f"{v} views", {"angles": str(v)}) for v in (VIEWS, VIEWS // 2)], "")

    def compared(self) -> tuple[str, ...]:
        """FISTA early and late."""
        return COMPARED[:2]

    def describe(self, m: Measurement) -> str:
        """Size, views and detectors."""
        return f"{super().describe(m)}, {m.y.shape[-2]} views of {m.y.shape[-1]} detectors"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _measurement(scan: Scan, y: Tensor) -> Measurement:
    """y, with the facts of a scan whose norm is 1."""
    facts = scan.facts() | {"pixel": scan.unit(), PAPER_LAM: LAM["ct"]}
    return Measurement("ct", y, scan.size, facts)


def _evenly(views: int, geometry: str) -> np.ndarray:
    turn = TURN["fan" if geometry == "fan" else "parallel"]
    return torch.arange(views, dtype=torch.float64).mul(turn / views).numpy()


def _angles(options: CTOptions, text: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Angles in radians, and remarks."""
    if not (isinstance(text, str) and text.isascii() and text.isdigit()):
        return io.read_angles(text, options.unit or None)
    expect(0 < int(text) <= MOST, "ct", "--angles", f"a number of views in [1, {MOST}]", text)
    return _evenly(int(text), options.geometry), ()


def _lengths(options: CTOptions) -> tuple[float, float, float, float]:
    """Side of a pixel; spacing, distance of the source and of the detectors in pixels."""
    source, behind = options.source_distance or 0.0, options.detector_distance or 0.0
    magnification = 1 + behind / source if source else 1.0
    pitch, pixel = options.pitch, options.pixel
    if pixel is None:
        pixel = 1.0 if pitch is None else pitch / magnification
    spacing = magnification if pitch is None else pitch / pixel
    return pixel, spacing, source / pixel, behind / pixel


def _scan(
    options: CTOptions,
    size: tuple[int, int] | None,
    angles: np.ndarray,
    detectors: int | None,
    axis: float | None = None,
) -> Scan:
    """The geometry; of a measured sinogram the size is not known, of a simulated one the number of detectors."""
    _, spacing, source, behind = _lengths(options)
    if size is None:
        assert detectors is not None
        magnification = 1 + behind / source if source else 1.0
        side = options.size or max(1, round(detectors * spacing / magnification))
        most = io.max_pixels()
        expect(side**2 <= most, "ct", "--size", f"an image of at most {most} pixels (--pixel?)", f"{side}x{side}")
        size = (side, side)
    if options.geometry == "skimage":
        whole = math.ceil(math.sqrt(2) * max(size))
        circle = detectors is not None and detectors == min(size)
        fits = detectors in (None, min(size), whole)
        expected = f"{detectors}, or one that scikit-image sees with {detectors} detectors"
        expect(fits, "ct", "--size", expected, size[0])
        return Scan.like(Radon.like_skimage(size, np.rad2deg(angles).tolist(), circle))
    fan = options.geometry == "fan"
    offset = 0.0
    if axis is not None:
        assert detectors is not None
        offset = ((detectors - 1) / 2 - axis) * spacing
    return Scan.like(
        Radon(
            size, torch.from_numpy(np.ascontiguousarray(angles)), detectors, spacing, "fan" if fan else "parallel",
            source_distance=source if fan else None, detector_distance=behind, curved=options.curved, offset=offset,
        )
    )  # fmt: skip


def _axis(options: CTOptions, y: np.ndarray, angles: np.ndarray) -> tuple[float | None, tuple[str, ...]]:
    """The detector that the axis falls on, None for the middle, and remarks."""
    if options.geometry != "parallel":
        expect(options.axis != "auto", "ct", "--axis", "a number for fan beams", "auto")
        return options.middle(), ()
    seen = axis_of(y, angles)
    if options.axis == "auto":
        told = "centres of mass on a sine, that tell the axis"
        expect(seen is not None, "ct", "--axis", told, "others (an object wider than the detector?): give it")
        return seen, (f"axis of rotation at detector {seen:.2f}, by the centres of mass",)
    taken = options.middle()
    at = (y.shape[1] - 1) / 2 if taken is None else taken
    if seen is None or abs(seen - at) <= ASIDE:
        return taken, ()
    return taken, (f"the axis is taken at detector {at:g}, the centres of mass say {seen:.2f}: --axis auto?",)


def _coverage(scan: Scan) -> tuple[str, ...]:
    """A remark on views that leave a part of the turn out."""
    t = np.sort(np.mod(scan.angles, TURN[scan.geometry]))
    gap = float(np.diff(np.append(t, t[0] + TURN[scan.geometry])).max())
    return (f"no views over {math.degrees(gap):.0f} degrees",) if gap > math.radians(20) and len(t) > 9 else ()


def _said(scan: Scan) -> str:
    span = math.degrees(max(scan.angles) - min(scan.angles))
    return f"{scan.geometry} beams, {len(scan.angles)} views over {span:.4g} degrees, {scan.detectors} detectors"
