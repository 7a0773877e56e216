"""Table "picture": what one gets without options, beside named methods and one-liners of scikit-image and SciPy."""

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fastrecon import io
from fastrecon.cli import arguments, evaluate, output
from fastrecon.cli.tables.base import Key, Row, Table, Unit, add_pictures, middle, register
from fastrecon.cli.tables.one_liners import ONE_LINERS
from fastrecon.problems.base import PROBLEMS, Measurement
from fastrecon.solvers.methods import METHODS

AUTO = "auto"
IMAGES = ("camera", "coins", "page", "brick", "moon")  # grey ones that come with scikit-image


@dataclass(frozen=True)
class Case:
    """A line of the table: a problem and what is simulated."""

    problem: str
    simulate: dict[str, Any] = field(default_factory=dict)


CASES = {
    "denoise 0.05": Case("denoise", {"noise": 0.05}),
    "denoise 0.1": Case("denoise", {"noise": 0.1}),
    "inpaint 50%": Case("inpaint", {"rate": 0.5}),
    "inpaint 30%": Case("inpaint", {"rate": 0.3}),
    "inpaint 50%, noise 10/255": Case("inpaint", {"rate": 0.5, "noise": 10 / 255}),
    "deblur": Case("deblur"),
    "deblur, noise 2/255": Case("deblur", {"noise": 2 / 255}),
    "Fourier 30%": Case("mri", {"rate": 0.3}),
    "Fourier 30%, noise 10/255": Case("mri", {"rate": 0.3, "noise": 10 / 255}),
    "CT 60 views": Case("ct", {"angles": "60", "geometry": "skimage"}),
    "CT 144 views": Case("ct", {"angles": "144", "geometry": "skimage"}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, lines and methods."""
    add = parser.add_argument
    add_pictures(parser, IMAGES)
    add("--side", type=arguments.integer(8, 8192), metavar="N", help="pictures cut to the N x N pixels in their middle")
    add(
        "--rows", nargs="+", metavar="TEXT",
        help=f"lines of the table whose names hold one of these texts (all: {'; '.join(CASES).replace('%', '%%')})",
    )  # fmt: skip
    add(
        "--methods", nargs="+", default=[AUTO, "cycle-spinning"], metavar="NAME[:OPTION=VALUE,...]",
        help="methods, each for the problems that it solves; auto is what one gets unasked (default: auto"
        " cycle-spinning)",
    )  # fmt: skip
    add("--no-references", action="store_true", help="without scikit-image and SciPy")


def units(args: argparse.Namespace) -> list[Unit]:
    """Image by image, line by line.

    Raises:
        ValueError: a line or a method is unknown.
    """
    paths = arguments.images(args.data)[: args.limit]
    wanted = [n for n in CASES if args.rows is None or any(text.lower() in n.lower() for text in args.rows)]
    if not wanted:
        raise ValueError(f"--rows: expected texts that the names of lines hold ({'; '.join(CASES)}), got others")
    device, found = arguments.device(args), []
    for text in args.methods:
        if text != AUTO and text.partition(":")[0] not in METHODS:
            known = ", ".join((AUTO, *METHODS))
            raise ValueError(f"--methods: expected some of {known}, got {arguments.short(text)}")
    for number, path in enumerate(paths):
        for name in wanted:
            case = CASES[name]
            for text in args.methods:
                if text == AUTO or METHODS[text.partition(":")[0]].solves(case.problem):
                    found.append(_unit(path, number, name, text, device, args))
            for reference in () if args.no_references else ONE_LINERS.get(case.problem, {}):
                found.append(_unit(path, number, name, reference, device, args))
    return found


def _unit(path: Path, number: int, name: str, method: str, device: torch.device, args: argparse.Namespace) -> Unit:
    seed = ((args.seed or 0) + number) % 2**32
    key: Key = {"problem": name, "method": method, "image": io.shown(path.stem), "side": args.side, "seed": seed}
    return Unit(key, lambda: _measured(path, CASES[name], method, seed, args.side, device))


def _measured(path: Path, case: Case, method: str, seed: int, side: int | None, device: torch.device) -> Row:
    problem, picture = PROBLEMS[case.problem], io.read_picture(path)
    if side is not None:
        picture = replace(picture, pixels=middle(picture.pixels, side))
    m = problem.simulate(picture, problem.Options(**case.simulate), seed)
    one_liner = ONE_LINERS.get(case.problem, {}).get(method)
    taken, why = method, ""
    with torch.no_grad():
        if one_liner is not None:
            begin = time.perf_counter()
            x = torch.stack([torch.as_tensor(one_liner(m, k)).float() for k in range(len(m.y))])[:, None]
        else:
            m = m.to(device)
            taken, why, begin, x = _ours(problem, m, method, device)
        output.synchronise(device)
        seconds = time.perf_counter() - begin
    scores = problem.scores(x, m)
    assert scores is not None
    return {"taken": taken, "why": why, **scores, "seconds": seconds}


def _ours(problem: Any, m: Measurement, method: str, device: torch.device) -> tuple[str, str, float, torch.Tensor]:
    """The method that was taken and why, when it began, and the images."""
    inverse, taken, why = problem.inverse(m), method, ""
    if method == AUTO:
        chosen = problem.auto(inverse)
        taken, why = chosen.method, chosen.why
        runner = METHODS[taken].ready(device, **chosen.settings)
    else:
        runner = evaluate.entry(taken, problem, device).ready()
    begin = time.perf_counter()
    return taken, why, begin, runner(inverse).x


register(
    Table(
        "picture", "defaults beside named methods and one-liners of scikit-image and SciPy", add_arguments, units,
        ("problem", "method", "psnr"), "PSNR in dB; `auto` is what one gets without options.",
    )
)  # fmt: skip
