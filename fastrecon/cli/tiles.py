"""`fastrecon reconstruct --tile`: one picture larger than memory, read, reconstructed and written by pieces."""

import argparse
import contextlib
import hashlib
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
from fastrecon.certificates import Certificate
from fastrecon.cli import arguments, batch, choice, output
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, one_stage
from fastrecon.io.pieces import SUFFIXES, Pieces, pieces, written
from fastrecon.models.block_sensing import BlockSensingModel, Options
from fastrecon.models.sparse_coding import PatchDenoiser
from fastrecon.solvers.automatic import ASKED
from fastrecon.solvers.lda import LDA
from fastrecon.solvers.planes import Kept, Plane, Rows, strips
from fastrecon.solvers.tiled import TiledLDA

ENDS = ("_reconstruction.tif", "_reconstruction.npy", "_reconstruction.zarr", "_report.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--tile."""
    parser.add_argument(
        "--tile", type=arguments.integer(1, 2**16), metavar="PIXELS",
        help="for pictures larger than memory, by a trained LDA for block-cs or D-LADMM for impulse: work in tiles of"
        " about so many pixels a side (528 is good), with scratch files in --out; grey TIFF, .npy or .zarr come in and"
        " go out by pieces, and the picture is the same to the bit as without, on one thread",
    )  # fmt: skip
    parser.add_argument(
        "--resumable", action="store_true",
        help="with --tile and LDA: keep the state after every phase in --out, so that the same command goes on where"
        " one was broken off",
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
class Job:
    """What is done with every input.

    Attributes:
        options: of the method.
        simulate: whether inputs are pictures that are measured first.
        tile: side of a tile in pixels.
        bits: of the result; None: as the input.
        about: of the report.
    """

    options: Any
    simulate: bool
    tile: int
    bits: int | None
    about: dict[str, Any]

    @property
    def _backend(self) -> Any:
        return output.backend(torch.device("cpu"))

    def written(
        self, item: Item, source: Pieces, x: Plane, scale: float, report: Certificate, seconds: float, tile: int,
        scores: dict[str, Any] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """The report of a picture, written beside it."""
        prefix = item.prefix
        dtype = source.dtype.name if self.bits is None else f"uint{self.bits}" if self.bits < 32 else "float32"
        path = prefix.with_name(f"{prefix.name}_reconstruction{source.suffix}")
        with written(path, (x.shape[0], x.shape[1]), dtype) as put:
            for begin, end in strips(x.shape[0], tile):
                put(begin, (x.read(begin, end) * scale).numpy())
        files = {"reconstruction": path, "report": prefix.with_name(f"{prefix.name}_report.json")}
        told = {
            "schema": output.SCHEMA, "fastrecon": fastrecon.__version__, "input": item.path, "notes": [],
            **self.about, "why": ASKED, "simulated": self.simulate, "size": list(x.shape),
            "channels": 1, "noise": 0.0 if self.simulate else None, "scale": scale, "device": "cpu",
            "backend": self._backend, "seconds": seconds, "tile": tile, "scores": scores,
            "certificate": output.certificate(report, 1), "files": files,
        }  # fmt: skip
        io.write_json(files["report"], told | {"history": {}})
        return told


@dataclass(frozen=True)
class BlockJob(Job):
    """LDA for block compressed sensing.

    Attributes:
        model: it.
        size: (H, W) of measured pictures; None: whole blocks.
        resumable: whether the state after every phase stays in the folder of results.
    """

    model: BlockSensingModel
    size: tuple[int, int] | None
    resumable: bool

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
        prefix = item.prefix
        with pieces(item.path) as source, contextlib.ExitStack() as stack:
            kept = None
            if self.resumable:
                folder = prefix.with_name(f".{prefix.name}_tiles")
                kept = stack.enter_context(Kept(folder, self._key(item.path, source)))
            solver = TiledLDA(self.model.solver, self.tile, prefix.parent, kept)  # type: ignore[arg-type]
            begun = time.perf_counter()
            begins = kept is None or "standing" not in kept.state
            scale = source.scale(solver.tile) if self.simulate else 1.0
            y, size = self._measurements(item.path, source, solver, scale)
            x = solver.start(y, self.model.q, size) if begins else None
            start = self._scores(x, source, scale, solver.tile) if x is not None else kept.state["start"]  # type: ignore[union-attr]
            if kept is not None:
                kept.keep(start=start)
            told = partial(progress.part, total=self.model.solver.phases, what="phases")
            x, report = solver(y, x, told)
            seconds = time.perf_counter() - begun
            if not torch.isfinite(report.merit).all():
                raise RuntimeError(f"reconstruct: the iterations diverged: {self.model.name} is not trained for this")
            scores = self._scores(x, source, scale, solver.tile)
            both = {"start": start, "reconstruction": scores} if self.simulate else None
            return self.written(item, source, x, scale, report, seconds, solver.tile, both)

    def _key(self, path: Path, source: Pieces) -> dict[str, Any]:
        """What tells this computation from others; the tiles are not among it."""
        head = path if path.is_file() else next(p for p in (path / "zarr.json", path / ".zarray") if p.exists())
        stat, weights = head.stat(), hashlib.sha256()
        for name, t in sorted(self.model.solver.state_dict().items()):
            weights.update(name.encode() + t.detach().cpu().contiguous().numpy().tobytes())
        return {
            "fastrecon": fastrecon.__version__, "input": str(path.resolve()), "changed": stat.st_mtime_ns,
            "shape": source.shape, "bytes": stat.st_size, "model": weights.hexdigest(), "size": self.size,
            "simulate": self.simulate, "options": output.plain(self.options), "backend": self._backend,
        }  # fmt: skip

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


@dataclass(frozen=True)
class PatchJob(Job):
    """D-LADMM for impulse noise, whose patches know nothing of each other.

    Attributes:
        model: it.
    """

    model: PatchDenoiser

    def produce(self, item: Item, progress: Progress) -> dict[str, Any]:
        """The picture of one input, written with its report, which comes back.

        Raises:
            ValueError: the input is of another kind.
        """
        with pieces(item.path) as source:
            if len(source.shape) != 2:
                raise ValueError(f"{io.shown(item.path)}: expected a grey picture [H, W], got shape {source.shape}")
            begun, reports, side = time.perf_counter(), [], self.model.side
            tile = max(1, -(-self.tile // side)) * side
            scale, x = source.scale(tile), Plane(item.prefix.parent, (source.shape[0], source.shape[1]))
            told = {"rigorous": True, "tol": self.options.tol, "iterations": self.options.iterations}
            for begin, end in strips(x.shape[0], tile):
                progress.part(begin, x.shape[0], "rows")
                y = _images(source, begin, end, scale)
                self.model.check(y)
                part, report = self.model.compute(y, **(told if self.options.rigorous else {}))
                x.write(begin, part[0, 0])
                reports.append(report)
            report = reports[0].joined(reports[1:]).merged(len(reports))
            seconds = time.perf_counter() - begun
            return self.written(item, source, x, scale, report, seconds, tile, None)


def _images(source: Pieces, begin: int, end: int, scale: float) -> Tensor:
    """Rows of a picture as an image [1, 1, rows, W]."""
    return torch.from_numpy(source.read(begin, end))[None, None] / scale


def run(args: argparse.Namespace) -> None:
    """Writes the results of each input as soon as it is done.

    Raises:
        ValueError: model, method or an option is none that is made by tiles.
    """
    chosen: choice.Choice = args.choice
    model, wanted = chosen.model, "a --model of LDA for block-cs, or of D-LADMM for impulse, with it"
    blocks = isinstance(model, BlockSensingModel) and type(model.solver) is LDA
    fits = blocks or isinstance(model, PatchDenoiser)
    choice.expect_option(fits, "--tile", wanted, got="none" if model is None else f"one of {model.method}")
    assert model is not None
    problem, options = chosen.problem_options(args, args.simulate), chosen.method_options(args)
    on_gpu = arguments.device(args).type != "cpu"
    choice.expect_option(not on_gpu, "--device cuda", "none with --tile", got="it with --tile")
    about = {
        "problem": model.problem, "problem_options": output.plain(problem), "seed": None, "method": model.method,
        "method_options": output.plain(options), "model": options.model or model.name,
    }  # fmt: skip
    common = Job(options, args.simulate, args.tile, args.bits, about)
    job = (
        _blocks(args, model, problem, common) if isinstance(model, BlockSensingModel) else _patches(args, model, common)
    )
    batch.write_each(args, list(_inputs(args.inputs)), ENDS, partial(batch.each, one_stage(job.produce)), output.line)


def _blocks(args: argparse.Namespace, model: BlockSensingModel, problem: Any, common: Job) -> BlockJob:
    options: Options = common.options
    for flag, asked in (
        ("--rigorous", options.rigorous), ("--features", options.features), ("--noise", problem.noise),
        ("--blockwise", model.blockwise if options.blockwise is None else options.blockwise),
    ):  # fmt: skip
        choice.expect_option(not asked, flag, "none with --tile", got="it with --tile")
    choice.expect_option(not problem.phi, "--phi", "the sampling matrix of --model with --tile", got="another")
    model.set_precision(options.precision)
    size = tuple(int(n) for n in problem.size.lower().split("x")) if problem.size else None
    return BlockJob(**vars(common), model=model, size=size, resumable=args.resumable)  # type: ignore[arg-type]


def _patches(args: argparse.Namespace, model: Any, common: Job) -> PatchJob:
    for flag, asked in (("--simulate", args.simulate), ("--resumable", args.resumable)):
        choice.expect_option(not asked, flag, "none with --tile and impulse noise", got="it")
    return PatchJob(**vars(common), model=model)


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
