"""`fastrecon reconstruct`: images from measurements, each with a figure and its certificate."""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon import io
from fastrecon.cli import arguments, batch, cs, inverse, results, saltpepper
from fastrecon.cli.progress import Progress
from fastrecon.models import BlockSensingModel
from fastrecon.problems import wavelet_l1 as problems

# tasks beside block compressed sensing, which is this module
TASKS = {"saltpepper": saltpepper.reconstruct} | dict.fromkeys(problems.LAM, inverse.run)
_DESCENT, _INVERSE = {"rigorous", "tol", "max_iterations"}, {"method", "iterations", "lam_factor"}
OWN = {  # options that not all tasks have
    "cs": _DESCENT | {"blockwise", "maps", "precision"}, "saltpepper": _DESCENT,
    "inpaint": _INVERSE | {"rate", "mask"}, "fourier": _INVERSE | {"rate", "mask"}, "deblur": _INVERSE,
    "ct": _INVERSE | {"views"},
}  # fmt: skip

EPILOG = """examples:
  fastrecon reconstruct photo.png --model lda-cs-25 --out results
  fastrecon reconstruct scans/ measurements/one.npz --out results --bits 16 --json
  fastrecon reconstruct house.tif --model lda-cs-50 --rigorous --out results
  fastrecon reconstruct noisy.png --task saltpepper --out results
  fastrecon reconstruct clean.png --task saltpepper --noise 0.1 --out results
  fastrecon reconstruct photo.png --task inpaint --method fista --rate 0.3 --out results
  fastrecon reconstruct photo.png --task fourier --method sgp-step --mask radial --out results
  fastrecon reconstruct skimage:phantom --task ct --views 60 --out results

Of an image the sensing is simulated, and the result is scored against it. For an input NAME.png DIR receives
  NAME_reconstruction.png  the image (.tif with --bits 32: float32, not clipped)
  NAME_figure.png          reference, start, reconstruction, error, convergence
  NAME_convergence.png     with --rigorous: objective, merit, gradient, eps and PSNR in every iteration
  NAME_maps.png            with --maps: feature norms next to the gradient norm of the image
  NAME_report.json         scores, certificate (objective, gradient norm, eps, converged or why not, ...) and history"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs",
        nargs="+",
        type=arguments.name,
        metavar="INPUT",
        help=f"image files, measurement files (.npz, .safetensors), folders of them, or {arguments.BUNDLED_HELP}",
    )
    arguments.add_task(parser, *TASKS)
    arguments.add_model(parser, None, f"that of the measurements; {arguments.DEFAULT_MODEL} for images")
    arguments.add_out(parser, "the results", required=True)
    add_options(parser)
    arguments.add_noise(parser)
    arguments.add_precision(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)
    inverse.add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to compute and write: see results.Options."""
    o = results.Options()
    parser.add_argument("--rigorous", action="store_true", help="iterate to convergence after the trained phases")
    parser.add_argument(
        "--tol",
        type=arguments.real(0, 1e3, above=True),
        default=o.tol,
        help=f"--rigorous: until sigma eps < TOL (default: {o.tol})",
    )
    parser.add_argument(
        "--max-iterations", type=arguments.integer(1, 10**9), default=o.max_iterations, metavar="N",
        help=f"--rigorous: at most N (default: {o.max_iterations})",
    )  # fmt: skip
    parser.add_argument(
        "--blockwise", action=argparse.BooleanOptionalAction,
        help="treat every block as an image of its own, as in the paper (default: as the model says)",
    )  # fmt: skip
    parser.add_argument(
        "--bits",
        type=arguments.integer(8, 32),
        choices=(8, 16, 32),
        default=o.bits,
        help=f"of the image (default: {o.bits})",
    )
    parser.add_argument("--figure", action=argparse.BooleanOptionalAction, default=o.figure, help="draw the figures")
    parser.add_argument("--maps", action="store_true", help="draw the feature maps")


def options(args: argparse.Namespace) -> results.Options:
    """Those of the command line."""
    return results.Options(args.rigorous, args.tol, args.max_iterations, args.bits, args.figure, args.maps)


def run(args: argparse.Namespace) -> None:
    """Writes the results of each input as soon as it is done."""
    arguments.own_options(args, args.task, OWN)
    if args.task != "cs":
        TASKS[args.task](args)
        return
    paths = arguments.images(args.inputs, (*io.IMAGE_SUFFIXES, *io.MEASUREMENT_SUFFIXES))
    model = cache(lambda name: arguments.model(args, name))
    if args.model:
        model(args.model)  # a wrong name is told before anything is written
    chosen = options(args)

    def produce(path: Path, prefix: Path, progress: Progress) -> dict[str, Any]:
        m, reference, notes, net = _read(path, args, model)
        return results.produce(net, m, prefix, chosen, reference, progress, input=path, notes=notes)

    batch.write_each(args, paths, results.ends(chosen), produce, line)


def _read(
    path: Path, args: argparse.Namespace, model: Any
) -> tuple[io.Measurements, np.ndarray | None, tuple, BlockSensingModel]:
    """Measurements, the true image if known, remarks, and the model to use."""
    if path.suffix.lower() in io.MEASUREMENT_SUFFIXES:
        m = io.read_measurements(path)
        if args.noise:
            raise ValueError(f"--noise: expected images to measure, got measurements: {path}")
        named = m.facts.get("model")
        if named is not None and not (isinstance(named, str) and named.strip()):
            raise ValueError(f"{path}: model: expected a name, got {arguments.short(str(named))}")
        return m, None, assumed(m, args), model(args.model or named or arguments.DEFAULT_MODEL)
    image, chosen = io.read_image(path), model(args.model or arguments.DEFAULT_MODEL)
    return cs.simulate(chosen, image.pixels, args.noise or 0.0, args.seed), image.pixels, image.notes, chosen


def assumed(m: io.Measurements, args: argparse.Namespace) -> tuple[str, ...]:
    """What a measurement file leaves open, and what stands in for it: remarks for line and report."""
    name = args.model or m.facts.get("model") or arguments.DEFAULT_MODEL
    found = []
    if m.facts.get("operator") is None:
        origin = "of --model" if args.model else "named by the file" if m.facts.get("model") else "the default"
        found.append(f"assumed: made with the sampling matrix of {io.shown(name)}, {origin}; the file has no operator")
    if m.size is None:
        found.append("assumed: whole blocks; the file has no size")
    return tuple(found)


def line(report: dict[str, Any]) -> str:
    """A report in one line."""
    scores = report["scores"] and report["scores"]["reconstruction"]
    names = f"{io.shown(report['input'])} -> {io.shown(report['files']['reconstruction'])}"
    quality = f"PSNR {scores['psnr']:.2f} dB, " if scores else ""
    quality += f"SSIM {scores['ssim']:.4f}, " if scores and scores["ssim"] is not None else ""
    return (
        f"{names}: {quality}{report['seconds']:.3f} s;"
        f" {results.summary(report['certificate'])}{arguments.remarks(report['notes'])}"
    )
