"""Tables "padnet-table1" and "padnet-fig1": deconvolution of slopes by ADMM, HQS and PADNet on one energy.

Source: Table 1 and Figure 1 of Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018
(arXiv:1711.07653), whose images and kernels are others: its numbers stand beside ours for their order.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.cli import arguments
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, add_pictures, names, register
from fastrecon.io import Picture
from fastrecon.models.base import trained
from fastrecon.models.padnet import PADNetModel
from fastrecon.operators import Gradient, LinearOperator
from fastrecon.problems.base import PROBLEMS
from fastrecon.problems.gradient_domain import Course, course
from fastrecon.problems.gradient_domain import solvers as classical

IMAGES = ("camera", "coins", "page", "brick", "moon")  # grey ones that come with scikit-image
LAMS = {1.0: 5e-3, 0.8: 2e-3, 0.0: 5e-4}  # with which HQS errs least, of 1e-4, 5e-4, 2e-3 and 5e-3
SIDES = (13, 21, 29, 37)  # of the kernels, image by image
UNSEEN = 10**7  # seeds of kernels that no training draws
ITERATIONS = 100
PADNET = {  # changes of the model's settings
    "ipadnet": {"variant": "implicit"},
    "epadnet": {"variant": "explicit", "rule": "paper"},
    "epadnet, descent": {"variant": "explicit", "rule": "descent"},
}
METHODS = ("admm", "hqs", *PADNET)
PAPER = {  # iterations and error
    1.0: {"admm": (29, 1.3146), "hqs": (33, 1.3354), "ipadnet": (6, 0.4291), "epadnet": (5, 0.4516)},
    0.8: {"admm": (28, 1.2069), "hqs": (32, 1.2215), "ipadnet": (6, 0.4291), "epadnet": (5, 0.4140)},
    0.0: {"admm": (40, 1.7114), "hqs": (54, 1.7598), "ipadnet": (6, 0.4291), "epadnet": (6, 0.6005)},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, energy and model."""
    add = parser.add_argument
    add_pictures(parser, IMAGES)
    add("--size", type=arguments.integer(64, 8192), default=180, metavar="N", help="their N x N pixels in the middle")
    add("--lam", type=arguments.real(0, 1e6), metavar="LAM", help=f"weight of the penalty (default: {_told(LAMS)})")
    add("--noise", type=arguments.real(0, 10), default=0.01, metavar="SIGMA", help="noise (default: 0.01)")
    add("--tol", type=arguments.real(0, 1), default=1e-3, metavar="TOL", help="relative change at the end (1e-3)")
    add("--model", type=arguments.name, metavar="FILE", help="units (default: the shipped ones)")


def _told(numbers: dict[float, float]) -> str:
    return ", ".join(f"{v:g} for p = {k:g}" for k, v in numbers.items())


def table(args: argparse.Namespace) -> list[Unit]:
    """The paper's numbers, then image by image."""
    found = []
    for p, given in PAPER.items():
        rows: dict[str, Row] = {"zero": {"error": 1.0}}
        rows |= {method: {"error": error, "iterations": n} for method, (n, error) in given.items()}
        for method, row in rows.items():
            found.append(Unit({"energy": f"p = {p:g}, paper", "method": method, "image": ""}, lambda r=row: dict(r)))
    for unit in _units(args, LAMS):
        found.append(Unit(unit.key, lambda u=unit: {k: v for k, v in u.measure().items() if np.ndim(v) == 0}))
    return found


def figure(args: argparse.Namespace) -> list[Unit]:
    """Image by image, p = 0.8."""
    return _units(args, {0.8: LAMS[0.8]})


def _units(args: argparse.Namespace, lams: dict[float, float]) -> list[Unit]:
    found = []
    for number, path in enumerate(arguments.images(args.data)[: args.limit]):
        for p, usual in lams.items():
            lam = usual if args.lam is None else args.lam
            for method in ("zero", *METHODS):
                key: Key = {
                    "energy": f"p = {p:g}", "method": method, "image": io.shown(path.stem), "lam": lam,
                    "noise": args.noise, "tol": args.tol, "size": args.size, "model": args.model or "",
                }  # fmt: skip
                measure = lambda m=method, q=path, n=number, p=p, lam=lam: _measured(m, q, n, p, lam, args)  # noqa: E731
                found.append(Unit(key, measure))
    return found


def _measured(method: str, path: Path, number: int, p: float, lam: float, args: argparse.Namespace) -> Row:
    device = arguments.device(args)
    y, blur, truth = _instance(path, number, args.size, args.noise)
    y, blur, truth = y.to(device), blur.to(device), truth.to(device)
    if method == "zero":
        return {"error": 1.0}
    if method in PADNET:
        run = _padnet(_model(args.model or "", device), y, blur, args.noise, p, lam, PADNET[method])
    else:
        solver = classical(blur, lam, p)[method]
        run: Any = lambda note: solver(y, y, ITERATIONS, 0.0, callback=note)  # noqa: E731
    found: Course = course(run, y, truth, args.tol)
    return {
        "error": found.error.item(), "iterations": int(found.iterations),
        "errors": found.errors[:, 0].tolist(), "changes": found.changes[:, 0].tolist(),
    }  # fmt: skip


@cache
def _instance(path: Path, number: int, size: int, noise: float) -> tuple[Tensor, LinearOperator, Tensor]:
    """Slopes of a blurred image, the blur, the true slopes."""
    problem, picture = PROBLEMS["slopes"], io.read_picture(path)
    pixels = picture.pixels if picture.pixels.ndim == 2 else picture.pixels.mean(-1)
    h, w = (min(size, n) for n in pixels.shape)
    top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    cut = Picture(pixels[top : top + h, left : left + w].copy(), picture.path, picture.form, white=picture.white)
    options = problem.Options(kernel_side=SIDES[number % len(SIDES)], noise=noise)
    m = problem.simulate(cut, options, UNSEEN + number)
    assert m.truth is not None
    return m.y, problem.operator(m), Gradient()(m.truth)


@cache
def _model(name: str, device: torch.device) -> PADNetModel:
    model = trained("padnet", "slopes", name).to(device)
    assert isinstance(model, PADNetModel)
    return model


def _padnet(
    model: PADNetModel, y: Tensor, blur: LinearOperator, noise: float, p: float, lam: float, changes: dict[str, Any]
) -> Callable[[Callable[[int, Any], None]], object]:
    class State:
        def __init__(self, x: Tensor):
            self.x = x

    def run(note: Callable[[int, Any], None]) -> object:
        return model.compute(
            y, blur, noise, start=y, lam=max(lam, 1e-30) / model.settings.lam, p=p, iterations=ITERATIONS, tol=0.0,
            callback=lambda k, x: note(k, State(x())), **changes,
        )  # fmt: skip

    return run


def _draw(rows: Sequence[Row]) -> Any:
    """Means over images of changes and errors, iteration by iteration."""
    from fastrecon import figures

    methods = [name for name in names(rows, "method") if name != "zero"]
    curves = {
        name: tuple(np.mean([row[key] for row in rows if row["method"] == name], 0) for key in ("changes", "errors"))
        for name in methods
    }
    return figures.courses(curves, ("relative change", "error of the slopes"), "Deconvolution of slopes, p = 0.8")


HEADING = "Error of the slopes, |g - D x| / |D x|; the estimate 0 has 1."

register(
    Table(
        "padnet-table1", "deconvolution of slopes: ADMM, HQS and PADNet on one energy", add_arguments, table,
        ("energy", "method", "error"), HEADING, less=True, digits=4,
        also=(Further("iterations", f"Iterations, at most {ITERATIONS}.", 1, less=True),),
    )
)  # fmt: skip
register(
    Table(
        "padnet-fig1", "the same against iterations, p = 0.8", add_arguments, figure, ("energy", "method", "error"),
        HEADING, less=True, digits=4, draw=_draw,
    )
)  # fmt: skip
