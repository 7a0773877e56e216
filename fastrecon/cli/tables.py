"""`fastrecon evaluate --task inpaint|fourier|deblur|ct`: NMSE of proximal methods, mean and deviation over images.

The tables and curves of Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using
Convolutional Neural Networks for Inverse Problems in Image Processing. NMSE is that of wavelet coefficients against the
true image's, in dB.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrecon import figures, io, models
from fastrecon.checks import expect
from fastrecon.cli import arguments, batch, inverse
from fastrecon.cli.progress import Progress
from fastrecon.models import DirectModel, StepModel
from fastrecon.problems import wavelet_l1 as problems

FISTA = (100, 1200)  # iterations: the rival, and what stands for the minimiser
NETWORK = 20  # iterations of SGP with a network
LONG = 40  # iterations of its curves
RATES, VIEWS = (0.3, 0.5, 0.7), (144, 72)
NOISE = 5.0
FILES = ("table.csv", "table.json", "curves.png")
Curve = tuple[list[float], list[float]]  # seconds and NMSE in dB in every iteration
TABLES = ("rates", "noise", "lam", "all")
LABELS = {"sgp-step": f"step-learned SGP, {NETWORK}", "sgp-diag": f"diag-learned SGP, {NETWORK}", "unet": "U-Net"}


@dataclass(frozen=True)
class Condition:
    """One column of a table."""

    name: str
    rate: float = 0.5
    views: int = problems.VIEWS
    noise: float = 0.0
    lam_factor: float = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of these tasks alone."""
    group = parser.add_argument_group("--task " + ", ".join(problems.LAM))
    group.add_argument(
        "--table", choices=TABLES, default="all",
        help="rates: 30, 50, 70%% (ct: 144, 72 views); noise: noise at 50%%; lam: half and twice the weight;"
        " all of them (default)",
    )  # fmt: skip
    group.add_argument(
        "--networks", nargs="+", type=arguments.name, metavar="NAME", default=(),
        help="networks for SGP and direct U-Nets, beside or instead of the shipped ones: names or .safetensors files",
    )  # fmt: skip
    group.add_argument(
        "--side", type=arguments.integer(8, 8192), default=256, metavar="N",
        help="images become squares of N pixels: cut in the middle, then resized (default: 256)",
    )  # fmt: skip
    group.add_argument(
        "--out", type=arguments.name, metavar="DIR", help=f"write {', '.join(FILES[:2])} and {FILES[2]} there"
    )
    inverse.add_sampling(group, views=False)


def conditions(task: str, table: str, noise: float) -> list[Condition]:
    """The columns of a table."""
    if task in problems.MASK:
        plain = [Condition(f"{100 * r:g}%", rate=r) for r in RATES]
    else:
        plain = [Condition(f"{v} views", views=v) for v in VIEWS] if task == "ct" else [Condition("noiseless")]
    base = "50% " if task in problems.MASK else ""
    groups = {
        "rates": plain,
        "noise": [Condition(f"{base}noise {noise:g}", noise=noise)],
        "lam": [Condition(f"{base}{name}", lam_factor=f) for name, f in (("lam/2", 0.5), ("2 lam", 2.0))],
    }
    return [c for name, group in groups.items() if table in (name, "all") for c in group]


def evaluate(args: argparse.Namespace) -> None:
    """Prints the table, once all images are done."""
    expect(args.side % inverse.MULTIPLE == 0, "evaluate", "--side", f"a multiple of {inverse.MULTIPLE}", args.side)
    paths, networks = arguments.images(args.data), networks_of(args)
    device = arguments.device(args)
    columns = conditions(args.task, args.table, args.noise or NOISE)
    if args.out:
        batch.apart(args.out, args.data)
    batch.outputs(args, args.csv, *(Path(args.out) / name for name in FILES if args.out))
    number = {path: k for k, path in enumerate(paths)}
    long = LONG if args.out else NETWORK
    total = len(columns) * (FISTA[1] + long * len(networks))

    def work(path: Path, progress: Progress) -> list[tuple[dict[str, Any], Curve]]:
        x = torch.from_numpy(square(io.read_image(path).pixels, args.side))[None, None].to(device)
        found, seed, done = [], args.seed + number[path], 0  # masks and noise differ from image to image
        for c in columns:
            p = problems.instance(args.task, x, c.rate, c.noise, seed, mask=args.mask, views=c.views)
            for method, network in {"fista": None, **networks}.items():
                count = FISTA[1] if network is None else long
                tell = partial(lambda done, k: progress.part(done + k, total), done)
                solved = inverse.solve(method, p, p.lam * c.lam_factor, count, network, tell)
                done += count
                for row, curve in _rows(method, solved, count):
                    found.append(({"image": io.shown(path.stem), "condition": c.name} | row, curve))
        return found

    outcome = batch.each(paths, work)
    rows, curves = [], {c.name: {} for c in columns}
    for row, curve in (pair for found in outcome.results for pair in found):
        rows.append(row)
        curves[row["condition"]].setdefault(row["method"], []).append(curve)
    summary = summarise(rows)
    found = {"task": args.task, "conditions": [asdict(c) for c in columns], "table": summary, "images": rows}
    arguments.answer(args, found | {"failed": outcome.faults()}, text(args.task, summary))
    if args.csv:  # once the table is out: a full disk does not cost it
        io.write_csv(args.csv, rows)
    if args.out:
        _write(Path(args.out), args.task, rows, summary, curves)
    outcome.end()


def networks_of(args: argparse.Namespace) -> dict[str, nn.Module]:
    """One network for each method: shipped ones, and those of --networks and --model, the last of each."""
    shipped = [n for m in inverse.NETWORKS if (n := f"{m}-{args.task}") in models.pretrained()]
    found = {}
    for name in [*shipped, *args.networks, *([args.model] if args.model else [])]:
        model = arguments.any_model(args, name)
        fits = isinstance(model, StepModel | DirectModel) and model.problem == inverse.PROBLEMS.get(
            args.task, args.task
        )
        expect(fits, "evaluate", "--networks", f"a network for task {args.task}", f"{name}, task {model.problem}")
        found[model.method] = model.network
    return {m: found[m] for m in ("unet", "sgp-step", "sgp-diag") if m in found}


def _rows(method: str, found: dict[str, Any], count: int) -> Iterator[tuple[dict[str, Any], Curve]]:
    """Rows of a method for one problem, and their curves: seconds and NMSE in every iteration."""
    if method != "fista":
        yield _row(LABELS[method], NETWORK, found), _curve(found, count)
        return
    for n in FISTA:
        yield _row(f"FISTA, {n}", n, found), _curve(found, FISTA[0])


def _row(label: str, n: int, found: dict[str, Any]) -> dict[str, Any]:
    n = min(n, len(found["nmse_db"]) - 1)  # the U-Net has no iterations
    objective = found["objective"][n] if found["objective"] else None
    return {"method": label, "nmse_db": found["nmse_db"][n], "objective": objective, "seconds": found["seconds"][n]}


def _curve(found: dict[str, Any], n: int) -> Curve:
    return found["seconds"][: n + 1], found["nmse_db"][: n + 1]


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square of an image [H, W], resized bicubically where it has another side."""
    from PIL import Image

    n = min(pixels.shape)
    top, left = ((s - n) // 2 for s in pixels.shape)
    pixels = pixels[top : top + n, left : left + n]
    if n != side:
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)
    return np.ascontiguousarray(pixels)


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the NMSE over images, mean objective and seconds, for each column and method."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["method"]), []).append(row)
    found = []
    for (condition, method), group in groups.items():
        nmse = [r["nmse_db"] for r in group]
        objective = None if group[0]["objective"] is None else float(np.mean([r["objective"] for r in group]))
        found.append({
            "condition": condition, "method": method, "images": len(group), "nmse_db": float(np.mean(nmse)),
            "deviation": float(np.std(nmse)), "objective": objective,
            "seconds": float(np.mean([r["seconds"] for r in group])),
        })  # fmt: skip
    return found


def text(task: str, summary: Sequence[dict[str, Any]]) -> str:
    """The table: a row for each method, a column for each condition."""
    cells = {(s["condition"], s["method"]): s for s in summary}
    names, methods = (list(dict.fromkeys(s[k] for s in summary)) for k in ("condition", "method"))
    width = max(len(m) for m in methods)
    head = f"{'':<{width}}  " + "  ".join(f"{n:>14}" for n in names)

    def line(method: str) -> str:
        found = (cells[n, method] for n in names)
        return f"{method:<{width}}  " + "  ".join(f"{s['nmse_db']:7.2f} ± {s['deviation']:4.2f}" for s in found)

    times = (f"{m} {np.mean([cells[n, m]['seconds'] for n in names]):.3f}" for m in methods)
    count = summary[0]["images"]
    title = f"{task}: NMSE in dB, mean ± standard deviation over {count} image{'s' if count > 1 else ''}"
    return "\n".join([title, head, "-" * len(head), *map(line, methods), "seconds: " + "; ".join(times)])


def _write(folder: Path, task: str, rows: list[dict[str, Any]], summary: list[dict[str, Any]], curves: Any) -> None:
    io.write_csv(folder / "table.csv", rows)
    io.write_json(folder / "table.json", summary)
    panels = {
        condition: {m: tuple(np.mean(c, 0) for c in zip(*found, strict=True)) for m, found in methods.items()}
        for condition, methods in curves.items()
    }
    for methods in panels.values():
        methods.pop(f"FISTA, {FISTA[1]}")  # the same curve
    limits = {s["condition"]: s["nmse_db"] for s in summary if s["method"] == f"FISTA, {FISTA[1]}"}
    io.write_figure(folder / "curves.png", figures.panels(panels, limits, f"{task}: mean NMSE", f"FISTA, {FISTA[1]}"))
