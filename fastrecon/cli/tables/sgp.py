"""Tables "sgp-table1" to 3 and "sgp-fig2" to 6: SGP with learned steps, beside FISTA and a direct U-Net.

Source: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural
Networks for Inverse Problems in Image Processing, whose numbers are means over 50 images of BSDS500 as 256x256 squares.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrecon import io
from fastrecon.cli import arguments, evaluate
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, register
from fastrecon.cli.tables.trained import MEASURED, Runs, Wanted, add_arguments, picture, pictures, quoted, score
from fastrecon.problems.base import PROBLEMS, Condition

RATES = ("30%", "50%", "70%")
TABLE1 = {  # NMSE in dB and its deviation
    "FISTA, 100": ((-5.20, 1.01), (-10.74, 2.29), (-17.69, 2.85)),
    "U-Net": ((-7.05, 0.97), (-19.40, 2.91), (-9.11, 2.38)),
    "step, 20": ((-13.77, 2.86), (-17.73, 3.01), (-21.65, 3.05)),
    "diag, 20": ((-13.85, 2.71), (-17.50, 2.97), (-21.35, 3.05)),
}  # fmt: skip
TABLE2 = {
    "FISTA, 100": ((-20.46, 3.49), (-24.84, 3.99), (-32.31, 4.74)),
    "U-Net": ((-18.22, 3.43), (-20.17, 4.08), (-19.62, 4.57)),
    "step, 20": ((-20.80, 3.67), (-25.49, 4.20), (-33.04, 4.79)),
    "diag, 20": ((-20.80, 3.65), (-25.52, 4.17), (-33.06, 4.78)),
}  # fmt: skip
TABLE3 = {  # Fourier, 50%, noise 5
    "FISTA, 100": ((-22.79, 2.85),), "U-Net": ((-19.85, 3.79),), "step, 20": ((-23.16, 2.78),),
    "diag, 20": ((-23.18, 2.76),),
}  # fmt: skip
SHIPPED = {"inpaint": "inpaint", "mri": "fourier"}  # how models of a problem are called
SIDE = 256
PLAIN: dict[str, list[Condition]] = {
    "deblur": [Condition("Gaussian blur", {}, {"lam": "paper"})],
    "ct": [Condition("144 views", {"angles": "144"}, {"lam": "paper"})],
}


def conditions(problem: str, which: str) -> list[Condition]:
    """The columns of a table: rates, noise or lam."""
    return PLAIN.get(problem) or PROBLEMS[problem].conditions(which)


def methods(problem: str) -> dict[str, Wanted | dict[str, Any]]:
    """What is compared, by the name of its line: models, or options of FISTA."""
    own = SHIPPED.get(problem, problem)

    def step(variant: str) -> Wanted:
        settings = {"problem": problem, "variant": variant, "width": 8, "side": 96, "unroll": 8}
        return Wanted(
            f"sgp-{variant}-{own}", f"sgp-{variant}", "sgp", settings, f"sgp-{variant}-{own}"
        )  # fmt: skip

    direct = Wanted(f"unet-{own}", "unet", "sgp", {"problem": problem, "method": "unet", "width": 8, "side": 96})
    return {
        "FISTA, 100": {"iterations": 100}, "U-Net": direct, "step, 20": step("step"), "diag, 20": step("diag")
    }  # fmt: skip


def rows_of(args: argparse.Namespace, problem: str, which: str, watch: bool = False) -> list[Unit]:
    """All methods in all conditions on every picture."""
    compared, device = methods(problem), arguments.device(args)
    runs = Runs(args, [w for w in compared.values() if isinstance(w, Wanted)])
    found = []
    for seed, path in pictures(args):
        for condition in conditions(problem, which):
            for name, how in compared.items():
                if isinstance(how, Wanted) and not runs.has(how.name):
                    continue
                key: Key = {
                    "condition": f"{condition.name}, {MEASURED}", "method": name, "image": io.shown(path.stem),
                    "side": args.side, "seed": seed,
                }  # fmt: skip
                measure = lambda p=path, c=condition, h=how, s=seed: _cell(runs, problem, c, h, p, s, device, watch)  # noqa: E731
                found.append(Unit(key, measure))
    return found


def _cell(
    runs: Runs, problem: str, condition: Condition, how: Wanted | dict[str, Any], path: Path, seed: int,
    device: torch.device, watch: bool,
) -> Row:  # fmt: skip
    shown, side = picture(path, None), runs.args.side or SIDE
    shown = replace(shown, pixels=evaluate.square(shown.pixels, side))
    if isinstance(how, Wanted):
        method = how.method
        own: dict[str, Any] = {"model": runs.model(how.name, device)[1]}
        known = {"lam_factor"} if method != "unet" else set()
    else:
        method, own, known = "fista", how, {"lam", "lam_factor"}
    options = own | {k: v for k, v in condition.solve.items() if k in known}
    row, _ = score(problem, condition.simulate, method, options, shown, seed, device, watch)
    return row | {"source": "measured"}


def _quoted(table: dict[str, tuple[tuple[float, float], ...]], lines: Sequence[str]) -> list[Unit]:
    found = {
        line: {name: {"nmse_db": v[k][0], "deviation": v[k][1]} for name, v in table.items()}
        for k, line in enumerate(lines)
    }
    return quoted(found, "condition", "method")


def _draw(rows: Sequence[Row]) -> Any:
    """NMSE against iteration and time, means over images."""
    from fastrecon import figures

    kept: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        curve = row.get("curve")
        if curve and curve["iteration"]:
            values = tuple(np.asarray(curve[k]) for k in ("iteration", "seconds", "nmse_db"))
            kept.setdefault(row["condition"], {}).setdefault(row["method"], []).append(values)
    found = {
        condition: {name: tuple(np.mean(c, 0) for c in zip(*curves, strict=True)) for name, curves in by.items()}
        for condition, by in kept.items()
    }
    return figures.panels(found, "Mean NMSE")


HEADING = "NMSE of wavelet coefficients in dB. Lines with `paper` are quoted, those with `here` measured."
PSNR = Further("psnr", "PSNR in dB, of what was measured.")


def _register(name: str, summary: str, units: Any, draw: Any = None) -> None:
    columns = ("condition", "method", "nmse_db")
    register(Table(name, summary, add_arguments, units, columns, HEADING, also=(PSNR,), less=True, draw=draw))


_register(
    "sgp-table1", "inpainting: learned steps, FISTA and a U-Net",
    lambda args: [*_quoted(TABLE1, RATES), *rows_of(args, "inpaint", "rates")],
)  # fmt: skip
_register(
    "sgp-table2", "Fourier sampling: the same", lambda args: [*_quoted(TABLE2, RATES), *rows_of(args, "mri", "rates")]
)
_register(
    "sgp-table3", "Fourier sampling with noise: the same",
    lambda args: [*_quoted(TABLE3, ["50% noise 5"]), *rows_of(args, "mri", "noise")],
)  # fmt: skip
for _name, _problem, _which, _what in (
    ("sgp-fig2", "inpaint", "rates", "inpainting at three rates"),
    ("sgp-fig3", "inpaint", "lam", "inpainting with half and twice the weight"),
    ("sgp-fig4", "mri", "all", "Fourier sampling: rates, noise and weights"),
    ("sgp-fig5", "deblur", "", "deblurring"),
    ("sgp-fig6", "ct", "", "tomography"),
):
    _register(
        _name, f"NMSE against iterations, {_what}",
        lambda args, p=_problem, w=_which: rows_of(args, p, w, watch=True), _draw,
    )  # fmt: skip
