"""`fastrecon reconstruct --task inpaint|fourier|deblur`: simulated measurements, proximal methods, NMSE curves."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrecon
from fastrecon import figures, io, metrics, problems, step_models
from fastrecon.checks import expect
from fastrecon.solvers import FISTA, ISTA, SGP
from fastrecon.tasks import arguments, cs

METHODS = ("fista", "ista", "sgp-step", "sgp-diag", "unet")
MULTIPLE = 1 << problems.LEVEL


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of these tasks alone."""
    group = parser.add_argument_group("--task inpaint, fourier, deblur")
    group.add_argument("--method", choices=METHODS, default="fista", help="(default: fista)")
    group.add_argument(
        "--rate",
        type=arguments.positive(float),
        default=0.5,
        help="share of known pixels or frequencies (default: 0.5)",
    )
    group.add_argument(
        "--iterations", type=arguments.positive(int), metavar="N", help="(default: 500; sgp-step and sgp-diag: 20)"
    )
    group.add_argument(
        "--lam-factor", type=arguments.positive(float), default=1.0, metavar="X",
        help="weight of the wavelet coefficients relative to the paper's (default: 1)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Simulates, reconstructs and scores each image; writes image, figure and report."""
    expect(args.rate <= 1, "reconstruct", "--rate", "a share in (0, 1]", args.rate)
    learned = args.method in step_models.METHODS
    expect(not learned or args.model is not None, "reconstruct", "--model", f"a network for {args.method}", "none")
    network, device = None, arguments.device(args)
    if learned:
        network, meta = step_models.load(str(args.model))
        right = (meta["method"], meta["task"]) == (args.method, args.task)
        expected = f"a network for {args.method}, task {args.task}"
        expect(right, "reconstruct", "--model", expected, f"{meta['method']}, task {meta['task']}")
        network = network.to(device)
    paths = io.expand(args.inputs)
    stems, folder, reports = arguments.stems(paths), io.output_folder(args.out), []
    bar = arguments.progress(list(zip(paths, stems, strict=True)), unit="image")
    for path, stem in bar:
        report = produce(path, folder / stem, args, network, device)
        reports.append(report)
        if not args.json:
            bar.write(line(report))
    if args.json:
        arguments.answer(args, reports, "")


def produce(path: Path, prefix: Path, args: argparse.Namespace, network: Any, device: torch.device) -> dict[str, Any]:
    """One image: its report, without the histories."""
    image = io.read_image(path)
    pixels, notes = _cropped(image.pixels, path), list(image.notes)
    if pixels.shape != image.pixels.shape:
        notes.append(f"cropped to {pixels.shape[0]}x{pixels.shape[1]}, multiples of {MULTIPLE}")
    x = torch.from_numpy(pixels)[None, None].to(device)
    p = problems.instance(args.task, x, args.rate, args.noise or 0.0, args.seed)
    lam = p.lam * args.lam_factor
    curves = {args.method: _solve(args.method, p, lam, args.iterations, network)}
    if args.method not in ("fista", "unet"):
        curves["fista"] = _solve("fista", p, lam, max(100, args.iterations or 0), None)
    found = curves[args.method]
    zero_filled = p.operator.adjoint(p.y)
    start = p.image(zero_filled)[0, 0].cpu().numpy()
    result = p.image(found["x"])[0, 0].cpu().numpy()
    scores = {
        name: cs.scores(values, pixels) | {"nmse_db": nmse}  # of all coefficients, imaginary parts included
        for name, values, nmse in (
            ("start", start, _db(zero_filled, p.coefficients)),
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
        "rate": None if args.task == "deblur" else args.rate, "noise": args.noise or 0.0, "seed": args.seed, "lam": lam,
        "size": list(result.shape), "device": str(device), "seconds": found["seconds"][-1], "scores": scores,
        "certificate": found["certificate"], "files": files,
    }  # fmt: skip
    history = {name: {k: c[k] for k in ("nmse_db", "seconds", "objective")} for name, c in curves.items()}
    io.write_json(files["report"], report | {"history": history})
    return report


def _solve(method: str, p: problems.Instance, lam: float, iterations: int | None, network: Any) -> dict[str, Any]:
    """x, and after every iteration the NMSE in dB and the seconds so far (those of measuring left out)."""
    truth, nmse, seconds, spent = p.coefficients, [], [0.0], 0.0
    if method == "unet":
        with torch.no_grad():
            begin = time.perf_counter()
            image = network(p.image(p.operator.adjoint(p.y)))
            seconds = [time.perf_counter() - begin]
        x = problems.analysis(image)
        return {"x": x, "nmse_db": [_db(x, truth)], "seconds": seconds, "objective": [], "certificate": None}
    solvers = {"fista": FISTA, "ista": ISTA}
    solver: Any = solvers[method](p.operator, lam, 1.0) if network is None else SGP(p.operator, lam, 1.0, network)
    x0 = p.operator.adjoint(p.y)
    nmse.append(_db(x0, truth))
    begin = time.perf_counter()

    def watch(_: int, x: Tensor) -> None:
        nonlocal begin, spent
        cs.synchronise(x)
        spent += time.perf_counter() - begin
        seconds.append(spent)
        nmse.append(_db(x, truth))
        begin = time.perf_counter()

    default = 500 if network is None else 20
    x, report = solver(p.y, x0, iterations=iterations or default, history=True, callback=watch)
    objective = report.history["objective"][:, 0].tolist()
    return {
        "x": x, "nmse_db": nmse, "seconds": seconds, "objective": objective, "certificate": report.to_dict(0)
    }  # fmt: skip


def line(report: dict[str, Any]) -> str:
    """A report in one line."""
    s = report["scores"]["reconstruction"]
    certificate = report["certificate"]
    said = f"; F = {certificate['objective']:.6g} after {certificate['iterations']} iterations" if certificate else ""
    return (
        f"{report['input']} -> {report['files']['reconstruction']}: PSNR {s['psnr']:.2f} dB,"
        f" NMSE {s['nmse_db']:.2f} dB, {report['seconds']:.3f} s{said}{arguments.remarks(report['notes'])}"
    )


def _cropped(pixels: np.ndarray, path: Path) -> np.ndarray:
    h, w = (n - n % MULTIPLE for n in pixels.shape)
    expect(min(h, w) >= MULTIPLE, "reconstruct", str(path), f"at least {MULTIPLE}x{MULTIPLE} pixels", pixels.shape)
    return np.ascontiguousarray(pixels[:h, :w])


def _db(x: Tensor, truth: Tensor) -> float:
    return metrics.nmse_db(x, truth).item()
