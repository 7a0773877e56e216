"""Salt-and-pepper noise removed by D-LADMM: `reconstruct --task saltpepper`, and the table of `evaluate`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrecon
from fastrecon import figures, io
from fastrecon.checks import expect
from fastrecon.cli import arguments, batch, cs, results
from fastrecon.cli.progress import Progress
from fastrecon.models.sparse_coding import PatchDenoiser
from fastrecon.noise import salt_and_pepper
from fastrecon.solvers import LADMM

MODEL = "dladmm-saltpepper"
TOL = 1e-2  # relative duality gap of --rigorous unless --tol is given: below it the image no longer changes visibly
ITERATIONS = (150, 1500)  # of the LADMM that `evaluate` compares with, as in the paper's table
NOISE = 0.1  # share of the pixels that `evaluate` replaces


def model(args: argparse.Namespace) -> PatchDenoiser:
    """That of --model, or the shipped one.

    Raises:
        ValueError: it is a model for another task.
    """
    name = args.model or MODEL
    found = arguments.any_model(args, name)
    if not isinstance(found, PatchDenoiser):
        raise ValueError(f"--model: expected a model for salt-and-pepper noise such as {MODEL}, got {name}")
    return found


def share(args: argparse.Namespace) -> float | None:
    """--noise as the share of replaced pixels."""
    if args.noise is not None:
        expect(args.noise < 1, "saltpepper", "--noise", "a share of the pixels in (0, 1)", args.noise)
    return args.noise


def corrupt(pixels: np.ndarray, amount: float, seed: int) -> np.ndarray:
    """An image [H, W] with that share of its pixels black or white."""
    return salt_and_pepper(torch.from_numpy(pixels), amount, torch.Generator().manual_seed(seed)).numpy()


def reconstruct(args: argparse.Namespace) -> None:
    """Restores each image: as it is, or with --noise after adding noise, and then scored against it."""
    paths, denoiser, amount = arguments.images(args.inputs), model(args), share(args)

    def produce(path: Path, prefix: Path, progress: Progress) -> dict[str, Any]:
        image = io.read_image(path)
        noisy = image.pixels if amount is None else corrupt(image.pixels, amount, args.seed)
        reference = None if amount is None else image.pixels
        about = {"input": path, "notes": image.notes, "noise": amount, "seed": args.seed}
        return _produce(denoiser, noisy, reference, prefix, args, about, progress)

    image = "_reconstruction.tif" if args.bits == 32 else "_reconstruction.png"
    ends = [image, *(["_figure.png"] if args.figure else []), "_report.json"]
    batch.write_each(args, paths, ends, produce, _line)


def _produce(
    denoiser: PatchDenoiser, noisy: np.ndarray, reference: np.ndarray | None, prefix: Path, args: argparse.Namespace,
    about: dict[str, Any], progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Writes image, figure and report; returns the report."""
    options: dict[str, Any] = {}
    if args.rigorous:
        given = args.tol != results.Options().tol
        tol = args.tol if given else TOL

        def watch(k: int, gaps: Tensor) -> None:
            progress.part(k, args.max_iterations, gap=f"{gaps.max().item():.2g}")

        options = {"tol": tol, "max_iterations": args.max_iterations, "progress": watch}
    y = torch.from_numpy(noisy)[None, None].to(denoiser.operator.atoms)
    begin = time.perf_counter()
    found = denoiser(y, rigorous=args.rigorous, **options)
    pixels = found.x[0, 0].float().cpu().numpy()
    seconds = time.perf_counter() - begin
    scores = None
    if reference is not None:
        scores = {"start": cs.scores(noisy, reference), "reconstruction": cs.scores(pixels, reference)}
    files = {"reconstruction": _named(prefix, "reconstruction.tif" if args.bits == 32 else "reconstruction.png")}
    io.write_image(files["reconstruction"], pixels, args.bits)
    if args.figure:
        files["figure"] = _named(prefix, "figure.png")
        title = f"{prefix.name} · {denoiser.meta.get('name', 'D-LADMM')}"
        captions = [
            name + (f"\n{scores[key]['psnr']:.2f} dB" if scores else "")
            for name, key in (("noisy", "start"), ("restored", "reconstruction"))
        ]
        shown = ([] if reference is None else [reference]) + [noisy.clip(0, 1), pixels.clip(0, 1)]
        figure = figures.before_after(shown, ([] if reference is None else ["reference\n"]) + captions, title)
        io.write_figure(files["figure"], figure)
    files["report"] = _named(prefix, "report.json")
    report = about | {
        "fastrecon": fastrecon.__version__, "model": denoiser.meta.get("name"), "size": list(pixels.shape),
        "device": str(y.device), "rigorous": args.rigorous, "seconds": seconds, "scores": scores,
        "certificate": found.report.to_dict(0), "files": files,
    }  # fmt: skip
    io.write_json(files["report"], report)
    return report


def _named(prefix: Path, end: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{end}")


def _line(report: dict[str, Any]) -> str:
    c, scores = report["certificate"], report["scores"]
    quality = ""
    if scores:
        quality = f"PSNR {scores['start']['psnr']:.2f} -> {scores['reconstruction']['psnr']:.2f} dB, "
    names = f"{io.shown(report['input'])} -> {io.shown(report['files']['reconstruction'])}"
    objective, gap = arguments.number(c["objective"], ".6g"), arguments.number(c["gap"], ".3g")
    return (
        f"{names}: {quality}{report['seconds']:.3f} s; {c['status']}"
        f" ({c['iterations']} iterations): objective {objective}, duality gap {gap}"
        f"{arguments.remarks(report['notes'])}"
    )


def evaluate(args: argparse.Namespace) -> None:
    """Prints PSNR of the noisy image, of LADMM with 150 and 1500 iterations, and of D-LADMM, for each image."""
    paths, denoiser, amount = arguments.images(args.data), model(args), share(args)
    noise = NOISE if amount is None else amount
    batch.outputs(args, args.csv)
    outcome = batch.each(paths, lambda path, progress: _row(denoiser, io.read_image(path), noise, args.seed, progress))
    rows = outcome.results
    names = [k for k in rows[0] if k not in ("image", "height", "width")]
    mean = {k: float(np.mean([r[k] for r in rows])) for k in names}
    found = {"model": denoiser.meta.get("name"), "images": rows, "mean": mean, "failed": outcome.faults()}
    arguments.answer(args, found, table(rows, mean))
    if args.csv:  # once the table is out: a full disk does not cost it
        io.write_csv(args.csv, [*rows, {"image": "mean", "height": "", "width": "", **mean}])
    outcome.end()


@torch.no_grad()
def _row(denoiser: PatchDenoiser, image: io.GreyImage, amount: float, seed: int, progress: Progress) -> dict[str, Any]:
    """PSNR in dB and seconds of every method on one image, cropped to whole patches."""
    side, solver = denoiser.side, denoiser.solver
    h, w = (s - s % side for s in image.pixels.shape)
    expect(min(h, w) > 0, "evaluate", str(image.path), f"an image of at least {side}x{side} pixels", image.pixels.shape)
    clean = image.pixels[:h, :w]
    noisy = torch.from_numpy(corrupt(clean, amount, seed))[None, None].to(solver.a.atoms)
    patches = denoiser.to_patches(noisy)
    found: dict[str, Any] = {"image": io.shown(image.path.stem), "height": h, "width": w}
    found["noisy"] = _psnr(noisy, clean)
    classical = LADMM(solver.a, solver.lam)

    def timed(name: str, run: Any) -> None:
        begin = time.perf_counter()
        x = denoiser.to_image(run(), (h, w))
        seconds[f"seconds {name}"] = time.perf_counter() - begin
        found[name] = _psnr(x, clean)

    seconds: dict[str, float] = {}
    for k, count in enumerate(ITERATIONS):
        timed(f"LADMM {count}", lambda count=count: classical.run(patches, count).az)
        progress.part(sum(ITERATIONS[: k + 1]), sum(ITERATIONS))
    timed(f"D-LADMM {solver.layers}", lambda: solver.run(patches, solver.layers).az)
    return found | seconds


def _psnr(x: Tensor, reference: np.ndarray) -> float:
    return float(cs.scores(x[0, 0].float().cpu().numpy(), reference)["psnr"] or 0)


def table(rows: Sequence[dict[str, Any]], mean: dict[str, float]) -> str:
    """The rows and their mean in columns."""
    names = [k for k in mean if not k.startswith("seconds")]
    width = max(len("image"), *(len(r["image"]) for r in rows))
    head = f"{'image':<{width}}  " + "  ".join(f"{n:>12}" for n in names)
    lines = [
        f"{r['image']:<{width}}  " + "  ".join(f"{r[n]:12.2f}" for n in names)
        for r in [*rows, {"image": "mean"} | mean]
    ]
    times = "seconds per image: " + ", ".join(f"{n} {mean[f'seconds {n}']:.3f}" for n in names[1:])
    return "\n".join([head, "-" * len(head), *lines[:-1], "-" * len(head), lines[-1], times])
