"""`fastrecon reconstruct --tile`: one picture larger than memory, read, reconstructed and written by pieces."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastrecon
from fastrecon import io
from fastrecon.cli import arguments, batch, choice, output
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, one_stage
from fastrecon.io.pieces import SUFFIXES, Pieces, pieces, written
from fastrecon.models.block_sensing import BlockSensingModel, Options
from fastrecon.solvers.automatic import ASKED
from fastrecon.solvers.lda import LDA
from fastrecon.solvers.planes import Plane, Rows, strips
from fastrecon.solvers.tiled import TiledLDA

ENDS = ("_reconstruction.tif", "_reconstruction.npy", "_reconstruction.zarr", "_report.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--tile."""
    parser.add_argument(
        "--tile", type=arguments.integer(1, 2**16), metavar="PIXELS",
        help="for pictures larger than memory, of a trained LDA for block-cs: work in tiles of about so many pixels a"
        " side (528 is good), with scratch files in --out; grey TIFF, .npy or .zarr come in and go out by pieces, and"
        " the picture is the same to the bit as without, on one thread",
    )  # fmt: skip


@dataclass(frozen=True)
class _Measured:
    """Measurements that are read from a file as they are needed, [rows, cols, m]."""

    file: Pieces

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them."""
        return self.file.shape

    def read(self, begin: int, end: int) -> Tensor:
        """Those of rows of blocks."""
        return torch.from_numpy(self.file.read(begin, end))


@dataclass(frozen=True)
class TiledJob:
    """What is done with every input.

    Attributes:
        model: LDA for block compressed sensing.
        options: of the method.
        size: (H, W) of measured pictures; None: whole blocks.
        simulate: whether inputs are pictures.
        tile: side of a tile in pixels.
        bits: of the result; None: as the input.
        about: of the report.
    """

    model: BlockSensingModel
    options: Options
    size: tuple[int, int] | None
    simulate: bool
    tile: int
    bits: int | None
    about: dict[str, Any]

    @cached_property
    def block(self) -> int:
        """Side of a block in pixels."""
        return self.model.operator.block

    def produce(self, item: Item, progress: Progress) -> dict[str, Any]:
        """The picture of one input, written with its report, which comes back.

        Raises:
            ValueError: the input is of another kind.
            RuntimeError: the iterations diverged.
        """
        path, prefix = item.path, item.prefix
        with pieces(path) as source:
            solver = TiledLDA(self.model.solver, self.tile, prefix.parent)  # type: ignore[arg-type]
            scale = source.scale(solver.tile) if self.simulate else 1.0
            begun = time.perf_counter()
            y, size = self._measurements(path, source, solver, scale)
            x = solver.start(y, self.model.q, size)
            told = partial(progress.part, total=self.model.solver.phases, what="phases")
            start = self._scores(x, source, scale, solver.tile)
            x, report = solver(y, x, told)
            seconds = time.perf_counter() - begun
            if not torch.isfinite(report.merit).all():
                raise RuntimeError(f"reconstruct: the iterations diverged: {self.model.name} is not trained for this")
            scores = self._scores(x, source, scale, solver.tile)
            file = self._write(x, source, scale, prefix, solver.tile)
        files = {"reconstruction": file, "report": prefix.with_name(f"{prefix.name}_report.json")}
        told = {
            "schema": output.SCHEMA, "fastrecon": fastrecon.__version__, "input": path, "notes": [],
            "problem": self.model.problem, **self.about, "why": ASKED, "simulated": self.simulate, "size": list(size),
            "channels": 1, "noise": 0.0 if self.simulate else None, "scale": scale, "device": "cpu",
            "backend": output.backend(torch.device("cpu")), "seconds": seconds, "tile": solver.tile,
            "scores": {"start": start, "reconstruction": scores} if self.simulate else None,
            "certificate": output.certificate(report, 1), "files": files,
        }  # fmt: skip
        io.write_json(files["report"], told | {"history": {}})
        return told

    def _measurements(self, path: Path, source: Pieces, solver: TiledLDA, scale: float) -> tuple[Rows, tuple[int, int]]:
        """y [rows, cols, m] and the size of the picture."""
        m, block, name = self.model.q.shape[1], self.block, io.shown(path)
        if not self.simulate:
            fits = len(source.shape) == 3 and source.shape[2] == m and source.dtype.kind == "f"
            if not fits:
                raise ValueError(f"{name}: expected measurements [rows, cols, {m}], got {source.dtype} {source.shape}")
            rows, cols = source.shape[:2]
            size = self.size or (rows * block, cols * block)
            if tuple(-(-n // block) for n in size) != (rows, cols):
                raise ValueError(f"--size: expected a picture of {rows}x{cols} blocks, got {size[0]}x{size[1]}")
            return _Measured(source), size
        if len(source.shape) != 2:
            raise ValueError(f"{name}: expected a grey picture [H, W], got shape {source.shape}")
        height, width = source.shape
        y = Plane(solver.folder, (-(-height // block), -(-width // block), m))
        for begin, end in strips(height, solver.tile):
            y.write(begin // block, self.model.operator(_images(source, begin, end, scale))[0])
        return y, (height, width)

    def _scores(self, x: Plane, source: Pieces, scale: float, each: int) -> dict[str, float | None] | None:
        """As Problem.scores, without SSIM, whose windows are of the whole picture."""
        if not self.simulate:
            return None
        clipped, error, square = (torch.zeros((), dtype=torch.float64) for _ in range(3))
        for begin, end in strips(x.shape[0], each):
            truth, found = _images(source, begin, end, scale)[0, 0].double(), x.read(begin, end).double()
            clipped += (found.clamp(0, 1) - truth).square().sum()
            error += (found - truth).square().sum()
            square += truth.square().sum()
        psnr = 10 * torch.log10(x.shape[0] * x.shape[1] / clipped)
        ratio = (clipped / square).sqrt()
        return {
            "psnr": psnr.item(), "ssim": None, "relative_error": ratio.item(),
            "nmse_db": (10 * torch.log10(error / square)).item(),
        }  # fmt: skip

    def _write(self, x: Plane, source: Pieces, scale: float, prefix: Path, each: int) -> Path:
        dtype = source.dtype.name if self.bits is None else f"uint{self.bits}" if self.bits < 32 else "float32"
        path = prefix.with_name(f"{prefix.name}_reconstruction{source.suffix}")
        with written(path, (x.shape[0], x.shape[1]), dtype) as put:
            for begin, end in strips(x.shape[0], each):
                put(begin, (x.read(begin, end) * scale).numpy())
        return path


def _images(source: Pieces, begin: int, end: int, scale: float) -> Tensor:
    """Rows of a picture as an image [1, 1, rows, W]."""
    return torch.from_numpy(source.read(begin, end))[None, None] / scale


def run(args: argparse.Namespace) -> None:
    """Writes the results of each input as soon as it is done.

    Raises:
        ValueError: model, method or an option is none that is made by tiles.
    """
    chosen: choice.Choice = args.choice
    model, wanted = chosen.model, "a --model of LDA for block-cs with it"
    fits = isinstance(model, BlockSensingModel) and type(model.solver) is LDA
    choice.expect_option(fits, "--tile", wanted, got="none" if model is None else f"one of {model.method}")
    assert isinstance(model, BlockSensingModel)
    problem, options = chosen.problem_options(args, args.simulate), chosen.method_options(args)
    assert isinstance(options, Options)
    for flag, asked in (
        ("--rigorous", options.rigorous), ("--features", options.features), ("--noise", problem.noise),
        ("--blockwise", model.blockwise if options.blockwise is None else options.blockwise),
        ("--device cuda", arguments.device(args).type != "cpu"),
    ):  # fmt: skip
        choice.expect_option(not asked, flag, "none with --tile", got="it with --tile")
    expected = "the sampling matrix of --model with --tile"
    choice.expect_option(not problem.phi, "--phi", expected, got="another")
    model.set_precision(options.precision)
    size = tuple(int(n) for n in problem.size.lower().split("x")) if problem.size else None
    about = {
        "problem_options": output.plain(problem), "seed": None, "method": model.method,
        "method_options": output.plain(options), "model": options.model or model.name,
    }  # fmt: skip
    job = TiledJob(model, options, size, args.simulate, args.tile, args.bits, about)  # type: ignore[arg-type]
    batch.write_each(args, list(_inputs(args.inputs)), ENDS, partial(batch.each, one_stage(job.produce)), output.line)


def _inputs(names: list[str]) -> Iterator[Path]:
    """The files that are named: those in folders that are no arrays."""
    for name in names:
        path = Path(name)
        if path.suffix.lower() == ".zarr" or not path.is_dir():
            yield path
        else:
            arrays = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not arrays:
                raise ValueError(f"{io.shown(path)}: expected a folder with {', '.join(SUFFIXES)}, found none")
            yield from arrays
