"""Block compressed sensing as functions: measurements of images, images from measurements, scores against the truth."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import metrics
from fastrecon.certificates import Report
from fastrecon.checks import expect
from fastrecon.io import GreyImage, Measurements
from fastrecon.models import BlockSensingModel

SSIM_SIDE = 7  # pixels: the window of SSIM


@dataclass(frozen=True)
class Reconstruction:
    """image and start [H, W] float32, not clipped; certificate (a report of one image); seconds it took."""

    image: np.ndarray
    start: np.ndarray
    report: Report
    seconds: float


def simulate(model: BlockSensingModel, pixels: np.ndarray, noise: float = 0.0, seed: int = 0) -> Measurements:
    """y = A x + noise of an image [H, W] on [0, 1].

    Args:
        model: whose operator A measures.
        pixels: the image.
        noise: standard deviation of Gaussian noise on y, on the scale of the pixels.
        seed: of the noise; the same on every device.
    """
    with torch.no_grad():
        y = model.operator(_batch(model, pixels))[0].cpu()
    if noise:
        generator = torch.Generator().manual_seed(seed)
        y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    facts = {"operator": fingerprint(model), "noise": noise, "ratio": model.meta.get("ratio", "")}
    return Measurements(y.numpy(), (pixels.shape[0], pixels.shape[1]), facts)


def fingerprint(model: BlockSensingModel, count: int = 8) -> str:
    """What A makes of a fixed image: numbers that differ between sampling matrices, but not between machines."""
    side = 66
    x = torch.cos(torch.arange(side * side, dtype=torch.float64) ** 2 / side).view(side, side).numpy()
    with torch.no_grad():
        y = model.operator(_batch(model, x)).flatten()[:count]
    return " ".join(f"{v:.4f}" for v in y.tolist())


def reconstruct(model: BlockSensingModel, m: Measurements, rigorous: bool = False, **options: Any) -> Reconstruction:
    """The image that the model finds for measurements.

    Args:
        model: the reconstructor.
        m: measurements made with the model's operator.
        rigorous: iterate to convergence after the trained phases.
        options: of the model's solver.

    Raises:
        ValueError: the measurements do not fit the model.
        RuntimeError: the iterations diverged.
    """
    reference = next(model.parameters())
    y = torch.from_numpy(m.y)[None].to(reference.device, reference.dtype)
    method = type(model.solver).__name__
    expect(not rigorous or hasattr(model.solver, "solve"), "reconstruct", "rigorous", "an LDA model", method)
    if m.y.shape[2] == model.q.shape[1]:  # else the model tells what it expected
        _check_operator(model, m)
    with torch.no_grad():
        synchronise(y)
        begin = time.perf_counter()
        result = model(y, size=m.size, rigorous=rigorous, history=True, **options)
        synchronise(y)
    seconds = time.perf_counter() - begin
    image = _pixels(result.x)
    if not (np.isfinite(image).all() and torch.isfinite(result.report.merit).all()):
        largest = f"|y| up to {np.abs(m.y).max():.3g}"
        raise RuntimeError(
            f"reconstruct: the iterations diverged: {method} is not trained for such measurements ({largest})"
        )
    return Reconstruction(image, _pixels(model.start(y, m.size)), result.report, seconds)


def _check_operator(model: BlockSensingModel, m: Measurements) -> None:
    theirs, ours = m.facts.get("operator"), fingerprint(model)
    if theirs is None:
        return
    try:
        a, b = (np.array([float(v) for v in str(t).split()]) for t in (theirs, ours))
    except ValueError as e:
        expect(False, "reconstruct", "operator", "the numbers that `simulate` writes", repr(str(theirs)[:40]))
        raise AssertionError from e
    same = a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-3)
    expect(
        same, "reconstruct", "measurements", "those of the model's own sampling matrix",
        f"another's (they were made for {m.facts.get('model', 'an unknown model')})",
    )  # fmt: skip


def scores(pixels: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """psnr (dB), ssim (7x7 window; None for a smaller image) and relative_error of [H, W], clipped to [0, 1]."""
    x, ref = (torch.from_numpy(p.astype(np.float64))[None, None] for p in (pixels.clip(0, 1), reference))
    return {
        "psnr": metrics.psnr(x, ref).item(),
        "ssim": metrics.ssim(x, ref).item() if min(pixels.shape) >= SSIM_SIDE else None,
        "relative_error": metrics.relative_error(x, ref).item(),
    }


def evaluate(
    model: BlockSensingModel,
    image: GreyImage,
    noise: float = 0.0,
    seed: int = 0,
    warm_up: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Simulates and reconstructs an image, once before the clock starts if `warm_up`: name, size, scores, seconds."""
    m = simulate(model, image.pixels, noise, seed)
    if warm_up:
        reconstruct(model, m)
    found = reconstruct(model, m, progress=progress)
    height, width = image.pixels.shape
    return {
        "image": image.path.stem, "height": height, "width": width,
        **scores(found.image, image.pixels), "seconds": found.seconds,
    }  # fmt: skip


def describe(m: Measurements) -> str:
    """Measurements in words."""
    (rows, cols, count), size = m.y.shape, m.size or ("?", "?")
    return f"{size[0]} x {size[1]} pixels, {rows} x {cols} blocks, {count} numbers each"


def mean(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over the images of what `evaluate` found, None where an image has no value."""
    names = ("psnr", "ssim", "relative_error", "seconds")
    columns = {name: [row[name] for row in rows] for name in names}
    return {name: None if None in column else float(np.mean(column)) for name, column in columns.items()}


def _batch(model: BlockSensingModel, pixels: np.ndarray) -> Tensor:
    reference = next(model.parameters())
    return torch.from_numpy(pixels)[None, None].to(reference.device, reference.dtype)


def _pixels(x: Tensor) -> np.ndarray:
    return x[0, 0].float().cpu().numpy()


def synchronise(x: Tensor) -> None:
    """Waits for the device of x, before a clock is read."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
