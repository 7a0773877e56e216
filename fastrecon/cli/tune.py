"""`fastrecon tune`: which tiles of the convolutions are fastest on this GPU. Never runs unasked."""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.cli import arguments, console, progress
from fastrecon.ops.feature_gradient import feature_gradient_fwd_ref

EPILOG = """examples:
  fastrecon tune
  fastrecon tune --channels 16 48 --json

Every candidate is first checked: its error against float64 must be at most twice that of the tile in use so far. The
winners are kept in $FASTRECON_CONFIGS, or else in the user's cache, and used from the next start on."""

SHAPE, LAYERS, DELTA, ROUNDS = (4, 1, 256, 256), 4, 0.1, 9
PRODUCTS = {"float32": "ieee", "tf32": "tf32", "bfloat16": "bf16"}
CANDIDATES = {"pixels": (32, 64, 128, 256), "depth": (16, 32), "warps": (4, 8), "stages": (2, 3, 4)}


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--channels", type=arguments.integer(1, 1024), nargs="+", default=[32], metavar="C", help="widths (default: 32)"
    )
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measures, prints and keeps the winners.

    Raises:
        ValueError: there is no CUDA device.
    """
    device = arguments.device(args)
    expect(device.type == "cuda", "tune", "--device", "a CUDA device", device)
    configs: Any = import_module("fastrecon.kernels.configs")
    gpu = torch.cuda.get_device_name(device)
    found = {}
    for channels, precision in itertools.product(args.channels, PRODUCTS):
        winner, row = fastest(channels, precision, device)
        found[configs.key(channels, torch.float32, PRODUCTS[precision], False)] = winner
        if not args.json:
            console.say(row)
    path = configs.own_folder() / configs.file_name(gpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_json(path, configs.of_gpu(gpu) | found)
    arguments.answer(args, {"gpu": gpu, "file": str(path), "configurations": found}, f"kept in {path}")


def problem(channels: int, device: torch.device) -> tuple[Tensor, list[Tensor], Tensor]:
    """Images, kernels that keep the variance, and radii."""
    generator = torch.Generator().manual_seed(0)
    widths = [SHAPE[1], *[channels] * LAYERS]
    kernels = [
        torch.randn(o, i, 3, 3, generator=generator) * (2 / (9 * i)) ** 0.5 for i, o in itertools.pairwise(widths)
    ]
    x = torch.rand(SHAPE, generator=generator)
    return x.to(device), [w.to(device) for w in kernels], torch.full(SHAPE[:1], 1e-3, device=device)


def fastest(channels: int, precision: str, device: torch.device) -> tuple[dict[str, int], str]:
    """The best configuration of a width and precision, and a line about it."""
    feature_gradient: Any = import_module("fastrecon.kernels.feature_gradient")
    launch: Any = import_module("fastrecon.kernels.launch")
    x, weights, eps = problem(channels, device)
    exact = feature_gradient_fwd_ref(x.double(), [w.double() for w in weights], eps.double(), DELTA, False)[1]
    usual = launch.convolution_tile(channels, torch.float32, False, PRODUCTS[precision], device)

    def measure(tile: Any) -> tuple[float, float]:
        """(error, milliseconds) of a tile, for the time of the call in place of the usual one."""
        feature_gradient.convolution_tile = lambda *_: tile
        try:
            work = lambda: feature_gradient.feature_gradient_fwd(x, weights, eps, DELTA, False, precision)  # noqa: E731
            error = ((work()[1] - exact).norm() / exact.norm()).item()
            return error, median(milliseconds(work))
        finally:
            feature_gradient.convolution_tile = launch.convolution_tile

    allowed, before = measure(usual)
    best, time = usual, before
    for tile in progress.over(candidates(usual), "tile"):
        try:
            error, now = measure(tile)
        except Exception as e:  # Triton has no common base for "does not fit on this GPU"
            if "out of resource" not in str(e) and "PassManager" not in str(e):
                raise
            continue
        if error <= 2 * allowed and now < time:
            best, time = tile, now
    kept = {"pixels": best.pixels, "depth": best.depth, "warps": best.warps, "stages": best.stages}
    return kept, f"{channels} channels, {precision}: {before:.3f} -> {time:.3f} ms with {json.dumps(kept)}"


def candidates(usual: Any) -> Iterator[Any]:
    """Tiles to try in place of the usual one: at most 64 accumulators a thread."""
    for values in itertools.product(*CANDIDATES.values()):
        fields = dict(zip(CANDIDATES, values, strict=True))
        if fields["pixels"] * usual.channels <= 64 * 32 * fields["warps"]:
            yield usual._replace(**fields, registers=None)


def milliseconds(work: Any) -> Iterator[float]:
    """Times of some rounds after a warm-up, by the GPU's clock."""
    work()
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        yield begin.elapsed_time(end)
