"""`fastrecon reconstruct --task inpaint|fourier|deblur|ct`: simulated measurements, proximal methods, NMSE curves."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrecon
from fastrecon import figures, io, masks, metrics, models
from fastrecon.checks import expect
from fastrecon.cli import arguments, batch, cs
from fastrecon.cli.progress import Progress
from fastrecon.models import DirectModel, StepModel
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.solvers import FISTA, ISTA, SGP

NETWORKS = ("sgp-step", "sgp-diag", "unet")
PROBLEMS = {"fourier": "mri"}  # what models call a task, where it is another name
METHODS = ("fista", "ista", "sgp-step", "sgp-diag", "unet")
MULTIPLE = 1 << problems.LEVEL


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of these tasks alone."""
    group = parser.add_argument_group("--task " + ", ".join(problems.LAM))
    group.add_argument("--method", choices=METHODS, default="fista", help="(default: fista)")
    group.add_argument(
        "--rate",
        type=arguments.real(0, 1, above=True),
        default=0.5,
        help="share of known pixels or frequencies (default: 0.5)",
    )
    add_sampling(group)
    group.add_argument(
        "--iterations", type=arguments.integer(1, 10**6), metavar="N", help="(default: 500; sgp-step and sgp-diag: 20)"
    )
    group.add_argument(
        "--lam-factor", type=arguments.real(1e-9, 1e9), default=1.0, metavar="X",
        help="weight of the wavelet coefficients relative to the paper's (default: 1)",
    )  # fmt: skip


def add_sampling(parser: Any, views: bool = True) -> None:
    """--mask, and --views unless these are varied."""
    parser.add_argument(
        "--mask", choices=tuple(masks.GENERATORS),
        help="which pixels or frequencies are known (default: uniform for inpaint, variable, which is denser at low"
        " frequencies, for fourier)",
    )  # fmt: skip
    if views:
        parser.add_argument(
            "--views", type=arguments.integer(1, 10_000), default=problems.VIEWS, metavar="N",
            help=f"ct: angles of the scan (default: {problems.VIEWS})",
        )  # fmt: skip


def network_of(args: argparse.Namespace, method: str, name: str | None) -> Any:
    """The network `name` for a method, or the shipped one, on the device of --device.

    Raises:
        ValueError: there is none, or it is for another method or task.
    """
    shipped = f"{method}-{args.task}"
    expected = f"a network for {method}, task {args.task}"
    expect(name is not None or shipped in models.pretrained(), "reconstruct", "--model", expected, "none")
    found = arguments.any_model(args, name or shipped)
    right = (found.method, found.problem) == (method, PROBLEMS.get(args.task, args.task))
    expect(right, "reconstruct", "--model", expected, f"{name}, task {found.problem}")
    assert isinstance(found, StepModel | DirectModel)
    return found.network


def run(args: argparse.Namespace) -> None:
    """Simulates, reconstructs and scores each image; writes image, figure and report."""
    device = arguments.device(args)
    network = network_of(args, args.method, args.model) if args.method in NETWORKS else None
    image = "_reconstruction.tif" if args.bits == 32 else "_reconstruction.png"
    ends = [image, *(["_figure.png"] if args.figure else []), "_report.json"]

    def work(path: Path, prefix: Path, progress: Progress) -> dict[str, Any]:
        return produce(path, prefix, args, network, device, progress)

    batch.write_each(args, arguments.images(args.inputs), ends, work, line)


def produce(
    path: Path, prefix: Path, args: argparse.Namespace, network: Any, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """One image: its report, without the histories."""
    image = io.read_image(path)
    pixels, notes = _cropped(image.pixels, path), list(image.notes)
    if pixels.shape != image.pixels.shape:
        notes.append(f"cropped to {pixels.shape[0]}x{pixels.shape[1]}, multiples of {MULTIPLE}")
    x = torch.from_numpy(pixels)[None, None].to(device)
    p = problems.instance(
        args.task, x, args.rate, args.noise or 0.0, args.seed, mask=args.mask, views=args.views
    )  # fmt: skip
    lam = p.lam * args.lam_factor
    counts = {args.method: args.iterations or (500 if network is None else 20)}
    if args.method not in ("fista", "unet"):
        counts["fista"] = max(100, args.iterations or 0)
    curves, done, total = {}, 0, sum(counts.values())
    for method, count in counts.items():
        tell = partial(lambda done, k: progress.part(done + k, total), done)
        curves[method] = solve(method, p, lam, count, network if method == args.method else None, tell)
        done += count
    found = curves[args.method]
    first = p.start()
    start = p.image(first)[0, 0].cpu().numpy()
    result = p.image(found["x"])[0, 0].cpu().numpy()
    scores = {
        name: cs.scores(values, pixels) | {"nmse_db": nmse}  # of all coefficients, imaginary parts included
        for name, values, nmse in (
            ("start", start, _db(first, p.coefficients)),
            ("reconstruction", result, found["nmse_db"][-1]),
        )
    }
    files = {"reconstruction": prefix.with_name(f"{prefix.name}_reconstruction.{'tif' if args.bits == 32 else 'png'}")}
    io.write_image(files["reconstruction"], result, args.bits)
    if args.figure:
        files["figure"] = prefix.with_name(f"{prefix.name}_figure.png")
        captions = [f"{name}\n{s['psnr']:.2f} dB, NMSE {s['nmse_db']:.2f} dB" for name, s in scores.items()]
        drawn = {name: (c["seconds"], c["nmse_db"]) for name, c in curves.items()}
        title = f"{prefix.name} · {args.task} · {args.method}"
        io.write_figure(files["figure"], figures.curves(start, result, pixels, title, captions, drawn))
    files["report"] = prefix.with_name(f"{prefix.name}_report.json")
    report = {
        "input": path, "notes": notes, "fastrecon": fastrecon.__version__, "task": args.task, "method": args.method,
        "rate": None if p.mask is None else args.rate, "mask": p.mask_kind,
        "views": args.views if args.task == "ct" else None, "noise": args.noise or 0.0, "seed": args.seed, "lam": lam,
        "size": list(result.shape), "device": str(device), "seconds": found["seconds"][-1], "scores": scores,
        "certificate": found["certificate"], "files": files,
    }  # fmt: skip
    history = {name: {k: c[k] for k in ("nmse_db", "seconds", "objective")} for name, c in curves.items()}
    io.write_json(files["report"], report | {"history": history})
    return report


def solve(
    method: str, p: problems.Instance, lam: float, iterations: int, network: Any,
    tell: Callable[[int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """x, and after every iteration the NMSE in dB and the seconds so far (those of measuring left out).

    `tell` is called after every iteration with its number.
    """
    truth, x0 = p.coefficients, p.start()
    if method == "unet":
        with torch.no_grad():
            begin = time.perf_counter()
            image = network(p.image(x0))
            cs.synchronise(image)
            seconds = [time.perf_counter() - begin]
        x = problems.analysis(image)
        return {"x": x, "nmse_db": [_db(x, truth)], "seconds": seconds, "objective": [], "certificate": None}
    solvers = {"fista": FISTA, "ista": ISTA}
    solver: Any = solvers[method](p.operator, lam, 1.0) if network is None else SGP(p.operator, lam, 1.0, network)
    nmse, seconds, spent = [_db(x0, truth)], [0.0], 0.0
    begin = time.perf_counter()

    def watch(k: int, x: Tensor) -> None:
        nonlocal begin, spent
        cs.synchronise(x)
        spent += time.perf_counter() - begin
        seconds.append(spent)
        nmse.append(_db(x, truth))
        if tell is not None:
            tell(k)
        begin = time.perf_counter()

    x, report = solver(p.y, x0, iterations=iterations, history=True, callback=watch)
    objective = report.history["objective"][:, 0].tolist()
    return {
        "x": x, "nmse_db": nmse, "seconds": seconds, "objective": objective, "certificate": report.to_dict(0)
    }  # fmt: skip


def line(report: dict[str, Any]) -> str:
    """A report in one line."""
    s = report["scores"]["reconstruction"]
    certificate = report["certificate"]
    objective = certificate and arguments.number(certificate["objective"], ".6g")
    said = f"; F = {objective} after {certificate['iterations']} iterations" if certificate else ""
    return (
        f"{io.shown(report['input'])} -> {io.shown(report['files']['reconstruction'])}:"
        f" PSNR {s['psnr']:.2f} dB,"
        f" NMSE {s['nmse_db']:.2f} dB, {report['seconds']:.3f} s{said}{arguments.remarks(report['notes'])}"
    )


def _cropped(pixels: np.ndarray, path: Path) -> np.ndarray:
    h, w = (n - n % MULTIPLE for n in pixels.shape)
    expect(min(h, w) >= MULTIPLE, "reconstruct", str(path), f"at least {MULTIPLE}x{MULTIPLE} pixels", pixels.shape)
    return np.ascontiguousarray(pixels[:h, :w])


def _db(x: Tensor, truth: Tensor) -> float:
    return metrics.nmse_db(x, truth).item()
