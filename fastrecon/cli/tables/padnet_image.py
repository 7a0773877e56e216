"""Table "padnet-table2": deconvolution of photographs with 1% noise, beside scikit-image and SciPy.

Source: Table 2 of Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653);
scores of real photographs after Levin, Weiss, Durand & Freeman, Understanding and Evaluating Blind Deconvolution
Algorithms, CVPR 2009: the best of small shifts, by quarters of a pixel, since the camera moved between sharp picture
and photograph. Half a pixel beside it, the sharp picture itself scores 25 to 30 dB.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.cli import arguments, evaluate, output
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, add_pictures, middle, register
from fastrecon.cli.tables.one_liners import ONE_LINERS
from fastrecon.io.arrays import npz_names
from fastrecon.metrics import psnr
from fastrecon.operators import motion_kernel
from fastrecon.problems.base import PROBLEMS, Measurement

IMAGES = ("camera", "coins", "page", "brick", "moon")  # grey ones that come with scikit-image
SIDES = (13, 19, 25, 31)  # of the kernels that are drawn where none are given
METHODS = ("tv", "hyper-laplacian", "padnet:variant=explicit", "padnet:variant=implicit", "prior")
SIMULATED, REAL = "simulated", "real"
SHIFT = 5  # pixels by which a real photograph may be beside its sharp picture
PAPER = {  # PSNR on 32 photographs of Levin et al. and 640 of Sun et al.; their images and noise are not ours
    "paper, Levin": {"tv": 29.38, "hyper-laplacian": 30.12, METHODS[2]: 33.41, METHODS[3]: 33.37},
    "paper, Sun": {"tv": 30.67, "hyper-laplacian": 31.03, METHODS[2]: 32.69, METHODS[3]: 32.71},
}
LUCY = 30  # iterations of Richardson and Lucy: the library's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, kernels and methods."""
    add = parser.add_argument
    add_pictures(parser, IMAGES, "folders of sharp pictures, or files", "pictures")
    add(
        "--side", type=arguments.integer(48, 8192), metavar="N", help="pictures cut to the N x N pixels in their middle"
    )
    add(
        "--kernels", nargs="+", type=arguments.name, metavar="FILE", default=[],
        help="kernels, each an array or image, or FILE.npz with several (default: drawn, of"
        f" {', '.join(str(n) for n in SIDES)} pixels)",
    )  # fmt: skip
    add("--noise", type=arguments.real(0, 1), default=0.01, metavar="S", help="standard deviation, where white is 1")
    add(
        "--real", type=arguments.name, metavar="DIR",
        help="folder with sharp pictures NAME.png, photographs NAME_KERNEL.png of them, and kernels.npz with their"
        " kernels: a line of its own",
    )  # fmt: skip
    add(
        "--methods", nargs="+", default=list(METHODS), metavar="NAME[:OPTION=VALUE,...]",
        help=f"methods for deblurring (default: {' '.join(METHODS)})",
    )  # fmt: skip
    add("--no-references", action="store_true", help="without scikit-image and SciPy")


def units(args: argparse.Namespace) -> list[Unit]:
    """Picture by picture, kernel by kernel; real photographs first.

    Raises:
        FileNotFoundError, ValueError: a kernel or a method is none.
    """
    device, found = arguments.device(args), []
    solvers: dict[str, Any] = {text: evaluate.entry(text, PROBLEMS["deblur"], device) for text in args.methods}
    if not args.no_references:
        solvers |= ONE_LINERS["deblur"] | {"skimage richardson_lucy": _lucy}
    for line, numbers in PAPER.items():
        for name, value in numbers.items():
            found.append(Unit({"blur": line, "method": name, "image": ""}, lambda v=value: {"psnr": v}))
    for path, sharp, kernel in _photographs(args.real) if args.real else []:
        for text, solver in solvers.items():
            key: Key = {"blur": REAL, "method": text, "image": io.shown(path.stem), "noise": args.noise}
            found.append(Unit(key, lambda p=path, s=sharp, k=kernel, m=solver: _real(p, s, k, m, args.noise, device)))
    kernels = _kernels(args.kernels)
    for number, path in enumerate(arguments.images(args.data)[: args.limit]):
        for which, (name, kernel) in enumerate(kernels.items()):
            seed = ((args.seed or 0) + number * len(kernels) + which) % 2**32
            for text, solver in solvers.items():
                key = {
                    "blur": SIMULATED, "method": text, "image": io.shown(path.stem), "kernel": name, "side": args.side,
                    "noise": args.noise, "seed": seed,
                }  # fmt: skip
                found.append(Unit(key, lambda p=path, k=kernel, m=solver, s=seed: _simulated(p, k, m, args, s, device)))
    return found


def _kernels(names: Sequence[str]) -> dict[str, Any]:
    """Kernels by name: those of files, or drawn ones."""
    if not names:
        return {f"drawn {side}": motion_kernel(side, side).numpy() for side in SIDES}
    found: dict[str, Any] = {}
    for name in names:
        several = npz_names(Path(name)) if name.endswith(".npz") else []
        for one in [f"{name}:{part}" for part in several] or [name]:
            found[io.shown(Path(one).name)] = io.read_kernel(one)[0]
    return found


def _photographs(folder: str) -> list[tuple[Path, Path, Any]]:
    """Photographs with their sharp pictures and kernels."""
    there, found = arguments.images([folder]), []
    by_stem, kernels = {p.stem: p for p in there}, f"{folder}/kernels.npz"
    for path in there:
        name, _, kernel = path.stem.rpartition("_")
        if name in by_stem:
            found.append((path, by_stem[name], io.read_kernel(f"{kernels}:{kernel}")[0]))
    if not found:
        raise ValueError(f"--real: expected pictures NAME and NAME_KERNEL, got none in {io.shown(folder)}")
    return found


def _simulated(path: Path, kernel: Any, solver: Any, args: argparse.Namespace, seed: int, device: torch.device) -> Row:
    problem, picture = PROBLEMS["deblur"], io.read_picture(path)
    if args.side is not None:
        picture = replace(picture, pixels=middle(picture.pixels, args.side))
    with file_of(kernel) as file:
        m = problem.simulate(picture, problem.Options(kernel=str(file), noise=args.noise * _white(picture)), seed)
    x, seconds = _run(m, solver, device)
    assert m.truth is not None
    border = [n // 2 for n in kernel.shape]
    found, truth = (_inside(problem.images(t, m), border) for t in (x.clamp(0, 1), m.truth))
    return {"psnr": float(psnr(found.transpose(0, 1), truth.transpose(0, 1))), "seconds": seconds}


def _real(path: Path, sharp: Path, kernel: Any, solver: Any, noise: float, device: torch.device) -> Row:
    problem, truth = PROBLEMS["deblur"], io.read_picture(sharp)
    picture = io.read_picture(path)
    with file_of(kernel) as file:
        m = problem.read(path, problem.Options(kernel=str(file), noise=noise * _white(picture)))
    x, seconds = _run(m, solver, device)
    found = (problem.pixels(x, m) / _white(truth)).clip(0, 1)
    row = _aligned(found, truth.pixels / _white(truth), [n // 2 for n in kernel.shape])
    return row | {"seconds": seconds}


@contextmanager
def file_of(kernel: Any) -> Iterator[Path]:
    """A kernel as the file that problems read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.npy"
        np.save(path, kernel)
        yield path


def _white(picture: io.Picture) -> float:
    return 1.0 if picture.white is None else float(picture.white)


def _run(m: Measurement, solver: Any, device: torch.device) -> tuple[Tensor, float]:
    """Images of the size that the problem's operator takes, and seconds."""
    problem = PROBLEMS["deblur"]
    with torch.no_grad():
        if isinstance(solver, evaluate.Entry):
            m = m.to(device)
            runner, inverse = solver.ready(), problem.inverse(m)
            begin = time.perf_counter()
            x = runner(inverse).x
            output.synchronise(device)
            return x.cpu(), time.perf_counter() - begin
        whole = replace(m, y=problem.start(m))  # of a photograph: mirrored at its edges, which they know nothing of
        begin = time.perf_counter()
        x = torch.stack([torch.as_tensor(np.ascontiguousarray(solver(whole, k))).float() for k in range(len(m.y))])
        return x[:, None], time.perf_counter() - begin


def _inside(x: Tensor, border: Sequence[int]) -> Tensor:
    h, w = x.shape[-2:]
    return x[..., border[0] : h - border[0], border[1] : w - border[1]]


def _aligned(found: np.ndarray, truth: np.ndarray, border: Sequence[int]) -> Row:
    """The best PSNR of `found` shifted by up to SHIFT pixels, without the border and what a shift brings in: of whole
    pixels, then of halves and quarters around the best.
    """
    top, left = (b + SHIFT + 1 for b in border)
    h, w = truth.shape[:2]
    inner = truth[top : h - top, left : w - left].astype(np.float64)
    mirrored = np.concatenate([found, found[::-1]]).astype(np.float64)
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], 1)  # no jump at the edges
    spectrum = np.fft.rfft2(mirrored, axes=(0, 1))
    rows, columns = np.fft.fftfreq(2 * h)[:, None], np.fft.rfftfreq(2 * w)

    def whole(i: float, j: float) -> np.ndarray:
        return found[top + int(i) : h - top + int(i), left + int(j) : w - left + int(j)]

    def between(i: float, j: float) -> np.ndarray:
        phase = np.exp(2j * np.pi * (rows * i + columns * j)).reshape(2 * h, w + 1, *[1] * (found.ndim - 2))
        return np.fft.irfft2(spectrum * phase, s=mirrored.shape[:2], axes=(0, 1))[top : h - top, left : w - left]

    def best(at: Callable[[float, float], np.ndarray], i: float, j: float, step: float, reach: int) -> list[float]:
        offsets = [step * k for k in range(-reach, reach + 1)]
        tried = [(float(np.square(at(i + a, j + b).clip(0, 1) - inner).mean()), i + a, j + b)
                 for a in offsets for b in offsets]  # fmt: skip
        return list(min(tried))

    _, i, j = best(whole, 0, 0, 1, SHIFT)
    for step in (0.5, 0.25):
        error, i, j = best(between, i, j, step, 1)
    return {"psnr": -10 * np.log10(max(error, 1e-20)), "down": i, "right": j}


def _lucy(m: Measurement, k: int) -> Any:
    from skimage.restoration import richardson_lucy

    y = m.y[k, 0].cpu().numpy().clip(0, None)
    return richardson_lucy(y, m.tensor("kernel").cpu().numpy(), num_iter=LUCY, clip=False)


register(
    Table(
        "padnet-table2", "deconvolution of photographs: PADNet beside total variation, hyper-Laplacian and libraries",
        add_arguments, units, ("blur", "method", "psnr"),
        "PSNR in dB without the border of half a kernel; real photographs: the best of small shifts,"
        " by quarters of a pixel.",
        (Further("seconds", "Seconds a picture.", 2, True),),
    )
)  # fmt: skip
