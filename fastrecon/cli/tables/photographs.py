"""Tables "ol-fig3", "ol-fig4" and "ol-fig5": rain, low light and smoothing, each with the score that applies.

Rain has PSNR, where there are pairs of photographs, or rain is put on clean ones. Low light has no truth: the entropy
of the grey values (`skimage.measure.shannon_entropy`: more is seen), and NIQE of scikit-video where that is installed
(extra `quality`). Smoothing is scored by its own objective, |x - y|^2 / 2 + lam edges, and by what is left of texture
and of edges.

Source: figures 3 to 5 of Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020, which prints
pictures without numbers. NIQE: Mittal, Soundararajan & Bovik, Making a Completely Blind Image Quality Analyzer, IEEE
Signal Process. Lett. 20 (2013).
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.cli import arguments, evaluate, output
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, add_pictures, register
from fastrecon.operators import Gradient
from fastrecon.problems.base import PROBLEMS, Measurement, quality

COLOURED = ("astronaut", "coffee", "chelsea")  # colour ones that come with scikit-image
EDGE = 1 / 255  # a difference below is none
STRONG = 0.1  # and one above an edge that should stay
PRICE = 0.01  # of an edge, in the score of smoothing
METHODS = {
    "derain": ("two-layer", "separation", "error-controlled:module=two-layer", "error-controlled"),
    "low-light": ("wls", "lp", "guided", "error-controlled", "error-controlled:module=wls"),
    "smooth": ("l0", "separation", "wls", "guided", "tv:lam=0.05", "error-controlled", "error-controlled:module=wls"),
}
INPUT = "input"


def _arguments(problem: str, what: str) -> Callable[[argparse.ArgumentParser], None]:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add_pictures(parser, COLOURED, what, "photographs")
        parser.add_argument(
            "--methods", nargs="+", default=list(METHODS[problem]), metavar="NAME[:OPTION=VALUE,...]",
            help=f"methods for {problem} (default: {' '.join(METHODS[problem])})",
        )  # fmt: skip
        if REFERENCES[problem]:
            parser.add_argument("--no-references", action="store_true", help="without scikit-image")
        else:
            parser.set_defaults(no_references=True)
        parser.add_argument("--pictures", action="store_true", help="write the results beside the table")

    return add_arguments


def pairs(paths: list[Path]) -> list[tuple[Path, Path | None]]:
    """Photographs with what is true: NAME_rain beside NAME_clean; clean ones alone with None."""
    by_stem = {(p.parent, p.stem): p for p in paths}
    found = []
    for path in paths:
        name, _, kind = path.stem.rpartition("_")
        if kind == "rain" and (path.parent, f"{name}_clean") in by_stem:
            found.append((path, by_stem[path.parent, f"{name}_clean"]))
        elif not (kind == "clean" and (path.parent, f"{name}_rain") in by_stem):
            found.append((path, None))
    return found


def rain_units(args: argparse.Namespace) -> list[Unit]:
    """Photograph by photograph: pairs, and clean ones in drawn rain, light and heavy."""
    problem, device, found = PROBLEMS["derain"], arguments.device(args), []
    for path, clean in pairs(arguments.images(args.data))[: args.limit]:
        levels = ("light", "heavy") if clean is None else (io.shown(path.parent.name),)
        for level in levels:

            def measured(path: Path = path, clean: Path | None = clean, level: str = level) -> Measurement:
                if clean is None:
                    return problem.simulate(io.read_picture(path), problem.Options(rain=level), args.seed or 0)
                return problem.read(path, problem.Options())

            def score(x: Tensor, m: Measurement, clean: Path | None = clean) -> Row:
                true = m if clean is None else problem.read(clean, problem.Options())
                truth = true.y if m.truth is None else m.truth
                return dict(quality(x, problem.images(truth, true).to(x)))

            line: Key = {"rain": level if clean is not None else f"{level} rain", "image": io.shown(path.stem)}
            found += _each(args, "derain", line, measured, score, device)
    return found


def light_units(args: argparse.Namespace) -> list[Unit]:
    """Photograph by photograph."""
    problem, device, found = PROBLEMS["low-light"], arguments.device(args), []
    for path in arguments.images(args.data)[: args.limit]:

        def measured(path: Path = path) -> Measurement:
            return problem.read(path, problem.Options())

        def score(x: Tensor, m: Measurement) -> Row:
            return no_reference(_pixels(x))

        found += _each(args, "low-light", {"light": "low", "image": io.shown(path.stem)}, measured, score, device)
    return found


def smooth_units(args: argparse.Namespace) -> list[Unit]:
    """Picture by picture."""
    problem, device, found = PROBLEMS["smooth"], arguments.device(args), []
    for path in arguments.images(args.data)[: args.limit]:

        def measured(path: Path = path) -> Measurement:
            return problem.read(path, problem.Options())

        def score(x: Tensor, m: Measurement) -> Row:
            return smoothness(x.transpose(0, 1), problem.images(m.y, m).transpose(0, 1))

        found += _each(args, "smooth", {"smoothing": "pictures", "image": io.shown(path.stem)}, measured, score, device)
    return found


def _each(
    args: argparse.Namespace, name: str, line: Key, measured: Callable[[], Measurement],
    score: Callable[[Tensor, Measurement], Row], device: torch.device,
) -> list[Unit]:  # fmt: skip
    """The cells of one photograph: as it is, then by every method."""
    problem = PROBLEMS[name]

    def start() -> Row:
        m = measured().to(device)
        return score(problem.images(problem.start(m), m), m)

    def written(x: Tensor, m: Measurement, text: str) -> Row:
        if not args.pictures:
            return {}
        target = Path(args.out) / f"{line['image']}_{text.translate(str.maketrans(':=, ', '____'))}"
        return {"picture": io.write_picture(target, _pixels(x) * np.float32(m.scale), m.form).name}

    def solved(text: str, entry: evaluate.Entry) -> Row:
        m = measured().to(device)
        runner = entry.ready()
        with torch.no_grad():
            inverse, begin = problem.inverse(m), time.perf_counter()
            x = runner(inverse).x
            output.synchronise(device)
        seconds, x = time.perf_counter() - begin, problem.images(x, m)
        return score(x, m) | {"seconds": seconds} | written(x, m, text)

    def referred(text: str, function: Callable[[Any], Any]) -> Row:
        m = measured()
        pixels = _pixels(problem.images(problem.start(m), m))
        begin = time.perf_counter()
        done = np.asarray(function(pixels), dtype=np.float32)
        seconds = time.perf_counter() - begin
        x = torch.from_numpy(done if done.ndim == 3 else done[..., None]).movedim(-1, 0)[:, None].contiguous()
        return score(x, m) | {"seconds": seconds} | written(x, m, text)

    found = [Unit({**line, "method": INPUT}, start)]
    for text in args.methods:
        entry = evaluate.entry(text, problem, device)
        found.append(Unit({**line, "method": text}, lambda t=text, e=entry: solved(t, e)))
    for text, function in ({} if args.no_references else REFERENCES[name]).items():
        found.append(Unit({**line, "method": text}, lambda t=text, f=function: referred(t, f)))
    return found


def _pixels(x: Tensor) -> Any:
    """[H, W, C] or [H, W] on [0, 1] of images [C, 1, H, W]."""
    a = x.detach().cpu().clamp(0, 1).float().numpy()[:, 0]
    return np.ascontiguousarray(a[0] if len(a) == 1 else np.moveaxis(a, 0, -1))


def _colours(pixels: Any) -> int | None:
    return None if pixels.ndim == 2 else -1


def _clahe(pixels: Any) -> Any:
    from skimage.exposure import equalize_adapthist

    return equalize_adapthist(pixels)


def _gamma(pixels: Any) -> Any:
    from skimage.exposure import adjust_gamma

    return adjust_gamma(pixels, 0.45)  # type: ignore[arg-type]


def _tv(pixels: Any) -> Any:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(pixels, weight=0.1, channel_axis=_colours(pixels))


def _bilateral(pixels: Any) -> Any:
    from skimage.restoration import denoise_bilateral

    return denoise_bilateral(pixels, sigma_color=0.1, sigma_spatial=3, channel_axis=_colours(pixels))


REFERENCES: dict[str, Mapping[str, Callable[[Any], Any]]] = {  # of scikit-image
    "derain": {}, "low-light": {"skimage CLAHE": _clahe, "skimage gamma": _gamma},
    "smooth": {"skimage TV": _tv, "skimage bilateral": _bilateral},
}  # fmt: skip


def no_reference(pixels: Any) -> Row:
    """Scores of a picture [H, W] or [H, W, 3] on [0, 1] that need no other; niqe is None without scikit-video."""
    from skimage.measure import shannon_entropy

    grey = pixels if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114])
    levels = (255 * grey).round().astype(np.uint8)
    return {"entropy": float(shannon_entropy(levels)), "niqe": _niqe(levels)}


def _niqe(levels: Any) -> float | None:
    try:
        with warnings.catch_warnings():  # of what it imports from SciPy
            warnings.simplefilter("ignore")
            from skvideo.measure import niqe  # type: ignore[import-not-found]

            return float(niqe(levels[None, ..., None])[0])
    except (ImportError, AssertionError):  # it refuses pictures below 193 pixels
        return None


def smoothness(x: Tensor, y: Tensor) -> Row:
    """Of a smoothed picture x [1, C, H, W] of y: the objective per pixel, the share of flat pixels, and how much of its
    strong differences is left."""
    d, e = (Gradient().forward(t)[..., :-1, :-1] for t in (x, y))  # the last meet the other side
    edge, strong = d.abs().amax(1) > EDGE, e.abs() > STRONG
    kept = (d * e)[strong].sum() / e.square()[strong].sum().clamp_min(1e-12)
    fit = (x - y).square().sum(1)[..., :-1, :-1]
    return {
        "objective": float((fit / 2 + PRICE * edge).mean()), "flat": float((~edge).double().mean()),
        "edges": float(kept),
    }  # fmt: skip


register(
    Table(
        "ol-fig3", "rain: two layers, a network, the error-controlled iteration",
        _arguments("derain", "folders with pairs NAME_rain and NAME_clean, or of clean photographs, or files"),
        rain_units, ("rain", "method", "psnr"), "PSNR in dB of photographs without their rain.",
        also=(Further("ssim", "SSIM.", 3), Further("seconds", "Seconds.", 2, less=True)),
    )
)  # fmt: skip
register(
    Table(
        "ol-fig4", "low light: weighted least squares, sparse slopes, guided filter, the error-controlled iteration",
        _arguments("low-light", "folders of dark photographs, or files"), light_units,
        ("light", "method", "entropy"), "Entropy of the grey values in bits (skimage.measure.shannon_entropy).",
        also=(
            Further("niqe", "NIQE (skvideo.measure.niqe).", 2, less=True), Further("seconds", "Seconds.", 2, less=True),
        ),
    )
)  # fmt: skip
register(
    Table(
        "ol-fig5", "smoothing: l0 gradient, weighted least squares, guided filter, the error-controlled iteration",
        _arguments("smooth", "folders of pictures, or files"), smooth_units, ("smoothing", "method", "objective"),
        f"|x - y|^2 / 2 + {PRICE:g} edges per pixel, an edge being a difference above 1/255.",
        also=(
            Further("flat", "Share of pixels without an edge.", 3),
            Further("edges", f"Share of differences above {STRONG:g} that is left.", 3, None),
            Further("seconds", "Seconds.", 2, less=True),
        ),
        less=True, digits=5,
    )
)  # fmt: skip
