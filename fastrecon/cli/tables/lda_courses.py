"""Tables "lda-fig7", "lda-fig8" and "lda-fig9": how LDA converges, and what its features see.

Source: section 4.3 of Chen, Liu, Ye & Zhang (arXiv:2007.11245), on the image House at 50%. Iterations go on from the
trained phases as there: on the objective of the phases, each step searched for by backtracking.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.cli import arguments
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, names, register
from fastrecon.cli.tables.lda import lda
from fastrecon.cli.tables.trained import Runs, add_arguments, picture, pictures, quoted, score
from fastrecon.metrics import psnr
from fastrecon.models import BlockSensingModel
from fastrecon.problems.base import PROBLEMS

RATIO = 50
HOUSE = {15: 40.68, 500: 39.99, 1000: 39.49, 5000: 39.07, 12000: 39.05}  # PSNR after so many iterations
ITERATIONS = 500


def with_iterations(parser: argparse.ArgumentParser) -> None:
    """Those of trained tables, and --iterations."""
    add_arguments(parser)
    parser.add_argument(
        "--iterations", type=arguments.integer(1, 10**6), metavar="N", default=ITERATIONS,
        help=f"after the trained phases (default: {ITERATIONS}; the paper's 12000 take some minutes a picture)",
    )  # fmt: skip


def _runs(args: argparse.Namespace) -> tuple[Runs, str]:
    name = f"lda-cs-{RATIO}"
    return Runs(args, [lda(RATIO, name, name)]), name


def course(args: argparse.Namespace, runs: Runs, name: str, path: Path, seed: int) -> Row:
    """Objective, gradient and PSNR after every iteration."""
    device = arguments.device(args)
    model = copy.deepcopy(runs.model(name, device)[0])
    expect(isinstance(model, BlockSensingModel), "reproduce", "--take", f"{name}=FILE of a model of lda", model.method)
    assert isinstance(model, BlockSensingModel)
    model.solver.minimiser = None
    problem = PROBLEMS["block-cs"]
    m = problem.simulate(picture(path, args.side), problem.Options(**model.problem_options()), seed).to(device)
    assert m.truth is not None
    truth, quality = m.truth, []

    def note(k: int, s: Any) -> None:
        quality.append(psnr(s.x.clamp(0, 1).to(truth), truth).item())

    model(m.y, size=m.size, callback=note)  # the phases, of which iterations tell nothing
    _, report = model(
        m.y, size=m.size, rigorous=True, balance=False, iterations=args.iterations, history=True, callback=note
    )
    history = {k: v[1:, 0].tolist() for k, v in report.history.items()}
    return {
        "psnr": quality[-1], "psnrs": quality, "objective": history["phi_eps"], "merit": history["merit"],
        "gradient": history["grad_norm"], "reductions": int(report.reductions[0]), "source": "measured",
    }  # fmt: skip


def figure7(args: argparse.Namespace) -> list[Unit]:
    """The course on every picture."""
    runs, name = _runs(args)
    found = []
    for seed, path in pictures(args) if runs.has(name) else []:
        key: Key = {
            "network": "LDA", "picture": io.shown(path.stem), "iterations": args.iterations, "side": args.side,
            "seed": seed,
        }  # fmt: skip
        found.append(Unit(key, lambda p=path, s=seed: course(args, runs, name, p, s)))
    return found


def figure8(args: argparse.Namespace) -> list[Unit]:
    """The numbers of the paper, and PSNR on the way."""
    row = {f"{k} iterations": {"psnr": v} for k, v in HOUSE.items()}
    return [*quoted({"House": row}, "picture", "at"), *_on_the_way(args)]


def _on_the_way(args: argparse.Namespace) -> list[Unit]:
    runs, name = _runs(args)
    kept: dict[Path, Row] = {}

    def at(path: Path, seed: int, count: int) -> Row:
        if path not in kept:
            kept[path] = course(args, runs, name, path, seed)  # iterations are counted from the first phase on
        return {"psnr": kept[path]["psnrs"][count - 1], "source": "measured"}

    found = []
    for seed, path in pictures(args) if runs.has(name) else []:
        for count in [k for k in HOUSE if k <= args.iterations]:
            key: Key = {
                "picture": io.shown(path.stem), "at": f"{count} iterations", "side": args.side, "seed": seed,
            }  # fmt: skip
            found.append(Unit(key, lambda p=path, s=seed, c=count: at(p, s, c)))
    return found


def figure9(args: argparse.Namespace) -> list[Unit]:
    """Maps of features beside slopes, each picture's as a figure in --out."""
    runs, name = _runs(args)
    found = []
    for seed, path in pictures(args) if runs.has(name) else []:
        key: Key = {"network": "LDA", "picture": io.shown(path.stem), "side": args.side, "seed": seed}
        found.append(Unit(key, lambda p=path, s=seed: _maps(args, runs, name, p, s)))
    return found


def _maps(args: argparse.Namespace, runs: Runs, name: str, path: Path, seed: int) -> Row:
    from fastrecon import figures

    device = arguments.device(args)
    model, place = runs.model(name, device)
    shown = picture(path, args.side)
    row, found = score(
        "block-cs", model.problem_options(), "lda", {"model": place, "features": True}, shown, seed, device
    )
    pixels, norms = found.x[0, 0].cpu().numpy(), found.extras["features"][0].cpu().numpy()
    target = Path(args.out) / f"{path.stem}_features.png"
    io.write_figure(target, figures.feature_maps(pixels, norms, f"{path.stem}, {RATIO}%"))
    slopes = figures.gradient_norm(pixels)
    inner = np.s_[1:-1, 1:-1]  # zeros beyond the border show in both
    alike = np.corrcoef(norms[inner].ravel(), slopes[inner].ravel())[0, 1]
    return {"psnr": row["psnr"], "correlation": float(alike), "figure": target.name, "source": "measured"}


def _draw7(rows: Sequence[Row]) -> Any:
    """Objective and gradient, against iterations."""
    from fastrecon import figures

    drawn = [row for row in rows if "objective" in row]
    curves = {row["picture"]: (row["gradient"], row["objective"]) for row in drawn}
    return figures.courses(curves, ("gradient of the objective", "objective"), f"LDA at {RATIO}%, to convergence")


def _draw9(rows: Sequence[Row]) -> Any:
    """How like features are to slopes."""
    from fastrecon import figures

    cells = {(row["picture"], "LDA"): row["correlation"] for row in rows}
    return figures.bars(cells, names(rows, "picture"), ["LDA"], "correlation", "Features and slopes")


PHI = "phi is that of the trained phases; its upper bound phi_eps + m eps / 2 never increases."
register(
    Table(
        "lda-fig7", "objective and gradient of LDA against iterations", with_iterations, figure7,
        ("picture", "network", "psnr"), f"PSNR in dB after all iterations; {PHI}", draw=_draw7,
        also=(Further("reductions", "Reductions of eps.", 0),),
    )
)  # fmt: skip
register(
    Table(
        "lda-fig8", "PSNR of LDA on its way to convergence", with_iterations, figure8, ("picture", "at", "psnr"),
        f"PSNR in dB. The line with `paper` is quoted; {PHI}",
    )
)  # fmt: skip
register(
    Table(
        "lda-fig9", "what LDA's features see, beside slopes", add_arguments, figure9,
        ("picture", "network", "correlation"), "Correlation of |g_i(x)| with |(D x)_i|; a figure of each picture is"
        " beside this table.", digits=3, draw=_draw9,
    )
)  # fmt: skip
