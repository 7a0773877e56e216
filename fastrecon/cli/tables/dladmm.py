"""Tables "dladmm-fig1" and "dladmm-table": D-LADMM beside LADMM, on synthetic codes and on salt-and-pepper noise.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), section 5. Its table has 12 images
of the Waterloo set and one network, trained without the truth by the duality gap; here it is trained both ways.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.cli import arguments
from fastrecon.cli.tables.base import Key, Row, Table, Unit, register
from fastrecon.cli.tables.trained import MEASURED, QUOTED, Runs, Wanted, add_arguments, picture, pictures, score
from fastrecon.metrics import psnr
from fastrecon.models import SparseCoder
from fastrecon.problems.base import PROBLEMS
from fastrecon.train.recipes import synthetic

IMAGES = (
    "barb", "boat", "france", "frog", "goldhill", "lena", "library", "mandrill", "mountain", "peppers", "washsat",
    "zelda",
)  # fmt: skip
TABLE = {
    "noisy": (15.4, 15.3, 14.5, 15.6, 15.4, 15.4, 14.2, 15.6, 14.4, 15.1, 15.1, 15.2),
    "LADMM, 150": (27.9, 29.8, 21.6, 26.5, 30.4, 31.3, 17.8, 24.3, 20.5, 30.0, 34.5, 35.7),
    "LADMM, 1500": (29.9, 31.1, 22.2, 26.9, 31.8, 33.2, 18.0, 25.1, 20.7, 32.8, 36.2, 37.8),
    "D-LADMM, gap": (29.5, 31.3, 21.9, 25.9, 32.5, 35.1, 18.8, 24.5, 19.3, 34.3, 35.6, 38.9),
}
SHIPPED = "dladmm-saltpepper"
SAMPLES, ROWS, COLUMNS, LAYERS = 1000, 500, 250, 15


def table(args: argparse.Namespace) -> list[Unit]:
    """The numbers of the paper; LADMM, the shipped network, and networks trained here by the truth and by the gap."""
    found = []
    for name, values in TABLE.items():
        for image, value in zip(IMAGES, values, strict=True):
            key: Key = {"noise": f"10%, {QUOTED}", "method": name, "image": image}
            found.append(Unit(key, lambda v=value: {"psnr": v, "source": "quoted"}))
    both = {
        f"D-LADMM, {kind}": Wanted(
            f"dladmm-{kind}", "d-ladmm", "dladmm", {"problem": "impulse", "loss": loss, "deep": deep, "init": SHIPPED}
        )
        for kind, loss, deep in (("gap", "gap", 1.0), ("supervised", "supervised", 0.0))
    }
    own = Wanted(SHIPPED, "d-ladmm", "dladmm", {"problem": "impulse"}, SHIPPED)
    runs, device = Runs(args, [own, *both.values()]), arguments.device(args)

    def measure(path: Any, seed: int, method: str, options: dict[str, Any], run: str = "") -> Row:
        own = options | ({"model": runs.model(run, device)[1]} if run else {})
        return score("impulse", {}, method, own, picture(path, args.side), seed, device)[0] | {"source": "measured"}

    classical = {f"LADMM, {n}": {"iterations": n} for n in (150, 1500)}
    for seed, path in pictures(args):
        key = {"noise": f"10%, {MEASURED}", "image": io.shown(path.stem), "side": args.side, "seed": seed}
        found.append(Unit(key | {"method": "noisy"}, lambda p=path, s=seed: _noisy(args, p, s)))
        for name, options in classical.items():
            found.append(Unit(key | {"method": name}, lambda p=path, s=seed, o=options: measure(p, s, "ladmm", o)))
        for name, one in ({"D-LADMM, shipped": own} | both).items():
            if runs.has(one.name):
                unit = lambda p=path, s=seed, n=one.name: measure(p, s, "d-ladmm", {}, n)  # noqa: E731
                found.append(Unit(key | {"method": name}, unit))
    return found


def _noisy(args: argparse.Namespace, path: Any, seed: int) -> Row:
    problem = PROBLEMS["impulse"]
    m = problem.simulate(picture(path, args.side), problem.Options(), seed)
    assert m.truth is not None
    return {"psnr": psnr(m.y, m.truth).item(), "source": "measured"}


def figure(args: argparse.Namespace) -> list[Unit]:
    """NMSE of every layer on synthetic samples, and of every iteration of LADMM for several lam."""
    wanted = Wanted("dladmm-sparse-coding", "d-ladmm", "dladmm", {"problem": "sparse-coding"}, data=False)
    runs = Runs(args, [wanted])
    if not runs.has(wanted.name):
        return []
    kept: dict[str, list[float]] = {}

    def curve(name: str) -> Row:
        if not kept:
            model = runs.model(wanted.name, arguments.device(args))[0]
            expect(isinstance(model, SparseCoder), "reproduce", "--take", "a model of dladmm", model.method)
            assert isinstance(model, SparseCoder)
            atoms = model.solver.a.atoms
            seed = torch.Generator().manual_seed((args.seed or 0) + 3)
            drawn = synthetic.draw(atoms.double().cpu(), SAMPLES, seed)
            test = synthetic.Samples(*(t.to(atoms) for t in vars(drawn).values()))
            kept.update(synthetic.curves(model, test))
        values = kept[name]
        return {"nmse_db": values[min(LAYERS, len(values)) - 1], "curve": values, "source": "measured"}

    lines = ["D-LADMM", *(f"LADMM, lam = {lam:g}" for lam in synthetic.LAMS)]
    return [
        Unit({"samples": f"{LAYERS} layers or iterations", "method": n, "seed": args.seed}, lambda n=n: curve(n))
        for n in lines
    ]


def _draw(rows: Sequence[Row]) -> Any:
    """NMSE against layers."""
    from fastrecon import figures

    curves = {row["method"]: row["curve"][: 2 * LAYERS] for row in rows}
    return figures.layers(curves, "NMSE (dB)", f"{SAMPLES} samples of {ROWS} numbers, codes of {COLUMNS}")


register(
    Table(
        "dladmm-table", "salt-and-pepper noise: LADMM, D-LADMM trained by the truth and by the duality gap",
        add_arguments, table, ("noise", "method", "psnr"),
        "PSNR in dB with 10% of the pixels black or white. The line with `paper` is quoted, over its 12 images.",
    )
)  # fmt: skip
register(
    Table(
        "dladmm-fig1", "sparse codes: error of D-LADMM's layers beside LADMM's iterations", add_arguments, figure,
        ("samples", "method", "nmse_db"), "NMSE of codes and errors in dB.", less=True, draw=_draw,
    )
)  # fmt: skip
