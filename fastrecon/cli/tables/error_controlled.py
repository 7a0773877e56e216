"""Tables "ol-fig2" and "ol-fig6": error-controlled iterations with and without their module, deblurring and k-space.

Source: Figures 2 and 6 of Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020, which show
pictures without numbers; so lines and images are ours.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastrecon import io
from fastrecon.cli import arguments, evaluate, output
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, add_pictures, middle, register
from fastrecon.cli.tables.padnet_image import file_of
from fastrecon.io.slices import SUFFIXES
from fastrecon.models.error_controlled_method import ErrorControlledOptions, chosen
from fastrecon.operators import motion_kernel
from fastrecon.problems.base import PROBLEMS, Measurement

IMAGES = ("camera", "coins", "brick", "moon")  # grey ones that come with scikit-image
ALONE = "module alone"
START = "start"
USUAL = ("error-controlled", "error-controlled:module=none", ALONE, START, "tv")
SOLUTION = "error-controlled:module=none,iterations=300"  # of the same objective, about
KERNEL = 19  # side of the blur of a shaking camera, drawn for each picture
WIDE = 2.0  # pixels, of the Gaussian blur
STRONG = 0.03  # of a module alone, on what missing frequencies leave
LINES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "deblur": {
        f"{blur}noise {n:g}": {"noise": n, **options}
        for blur, options in (("", {}), ("Gaussian blur, ", {"sigma": WIDE}))
        for n in (0.01, 0.02, 0.04)
    },
    "mri": {
        f"{kind} {100 * rate:g}%": {"sampling": kind, "rate": rate}
        for kind in ("variable", "gaussian", "cartesian", "radial")
        for rate in (0.1, 0.2, 0.3)
    },
}


def add_arguments(parser: argparse.ArgumentParser, problem: str) -> None:
    """Images, lines and methods."""
    add = parser.add_argument
    what = "folders of pictures, picture files" + ("; .npz or .npy files of slices" if problem == "mri" else "")
    add_pictures(parser, IMAGES, what)
    add("--side", type=arguments.integer(16, 8192), metavar="N", help="cut to the N x N pixels in their middle")
    lines = ", ".join(LINES[problem]).replace("%", "%%")
    add("--rows", nargs="+", metavar="TEXT", help=f"lines whose names hold one of these texts (all: {lines})")
    usual = (*USUAL, SOLUTION) if problem == "mri" else USUAL
    add(
        "--methods", nargs="+", default=list(usual), metavar="NAME[:OPTION=VALUE,...]",
        help=f"methods; '{ALONE}' cleans the start once, '{START}' is that (default: {' '.join(usual)})",
    )  # fmt: skip


def units(args: argparse.Namespace, problem: str) -> list[Unit]:
    """Image by image, line by line.

    Raises:
        FileNotFoundError, ValueError: a file, a line or a method is none.
    """
    device, found = arguments.device(args), []
    lines = [n for n in LINES[problem] if args.rows is None or any(t.lower() in n.lower() for t in args.rows)]
    if not lines:
        raise ValueError(f"--rows: expected texts that names of lines hold ({', '.join(LINES[problem])}), got others")
    solvers = {t: t if t in (ALONE, START) else evaluate.entry(t, PROBLEMS[problem], device) for t in args.methods}
    for number, (name, picture) in enumerate(_pictures(args, problem)):
        seed = ((args.seed or 0) + number) % 2**32
        for line in lines:
            for text, solver in solvers.items():
                key: Key = {"line": line, "method": text, "image": name, "side": args.side, "seed": seed}
                found.append(Unit(key, partial(_measured, problem, picture, line, solver, seed, device)))
    return found


def _pictures(args: argparse.Namespace, problem: str) -> list[tuple[str, io.Picture]]:
    """Pictures by name, cut."""
    several = [n for n in args.data if problem == "mri" and n.lower().endswith(SUFFIXES)]
    found = [
        (f"{io.shown(Path(n).stem)} {k}", io.Picture(pixels, Path(n), io.Form(".npy", str(pixels.dtype)), white=None))
        for n in several
        for k, pixels in enumerate(io.read_slices(Path(n)))
    ]
    rest = [n for n in args.data if n not in several]
    found += [(io.shown(p.stem), io.read_picture(p)) for p in (arguments.images(rest) if rest else [])]
    found = found[: args.limit]
    if args.side is None:
        return found
    return [(name, replace(p, pixels=middle(p.pixels, args.side))) for name, p in found]


def _measured(problem: str, picture: io.Picture, line: str, solver: Any, seed: int, device: torch.device) -> Row:
    p = PROBLEMS[problem]
    options = LINES[problem][line]
    if problem == "deblur" and "sigma" not in options:
        with file_of(motion_kernel(KERNEL, seed).numpy()) as kernel:
            m = p.simulate(picture, p.Options(kernel=str(kernel), **options), seed)
    else:
        m = p.simulate(picture, p.Options(**options), seed)
    begin, trust = time.perf_counter(), {}
    if isinstance(solver, str):
        x = _cleaned(problem, m) if solver == ALONE else p.start(m)
    else:
        m = m.to(device)
        outcome = solver.ready()(p.inverse(m))
        output.synchronise(device)
        x, report = outcome.x, outcome.report
        if report is not None and hasattr(report, "rejected"):
            trust = {n: float(getattr(report, n).double().mean()) for n in ("accepted", "rejected")}
    scores = p.scores(x.cpu() if not x.is_cuda else x, m)
    assert scores is not None
    return {"psnr": scores["psnr"], "ssim": scores["ssim"], "seconds": time.perf_counter() - begin} | trust


@torch.no_grad()
def _cleaned(problem: str, m: Measurement) -> torch.Tensor:
    """The start as the module alone cleans it."""
    module = chosen(ErrorControlledOptions(), problem).module
    assert module is not None
    return module(PROBLEMS[problem].start(m), m.noise or STRONG)


for _name, _problem, _what in (("ol-fig2", "deblur", "deblurring"), ("ol-fig6", "mri", "images from some frequencies")):
    register(
        Table(
            _name, f"{_what}: error-controlled iterations with and without their module", partial(
                add_arguments, problem=_problem
            ), partial(units, problem=_problem), ("line", "method", "psnr"), "PSNR in dB.",
            (Further("ssim", "SSIM.", 3), Further("accepted", "Proposals accepted.", 1, None),
             Further("rejected", "Proposals rejected.", 1, None)),
        )
    )  # fmt: skip
