"""Pictures larger than memory: the time of a phase of lda-cs-25 by tiles, and the peak memory of the process.

    OMP_NUM_THREADS=1 python bench/bench_tiles.py 2048 4096

One phase is run of each size, in processor time, and that of 16,384 x 16,384 follows from its pixels.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import Parameter

import fastrecon as fr
from fastrecon.solvers.planes import Plane, strips
from fastrecon.solvers.tiled import TiledLDA

FULL, TILE = 16384, 528


def phase(side: int, model: fr.models.BlockSensingModel) -> None:
    """Measures a texture, and runs the first phase on it."""
    draw = torch.Generator().manual_seed(0)
    block = model.operator.block
    with tempfile.TemporaryDirectory(dir=".") as folder:
        solver = TiledLDA(model.solver, TILE, Path(folder))  # type: ignore[arg-type]
        y = Plane(Path(folder), (-(-side // block), -(-side // block), model.q.shape[1]))
        for begin, end in strips(side, solver.tile):
            coarse = torch.rand(1, 1, (end - begin) // 8 + 2, side // 8 + 2, generator=draw)
            x = torch.nn.functional.interpolate(coarse, size=(end - begin, side), mode="bilinear")
            y.write(begin // block, model.operator(x)[0])
        start = solver.start(y, model.q, (side, side))
        begun: list[float] = []
        solver(y, start, lambda done: begun.append(time.process_time()))
    each = -(-side // solver.tile)
    first, last = begun[each - 1], begun[-1]  # after the look at the start
    seconds, peak = last - first, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    whole = seconds * (FULL / side) ** 2
    print(
        f"{side} x {side}: {seconds:.1f} s a phase, {peak:.2f} GiB; {FULL} x {FULL}: {whole / 60:.0f} min a phase,"
        f" {whole * PHASES / 3600:.1f} h in all",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="+", type=int)
    parser.add_argument("--model", default="lda-cs-25")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    shipped = fr.load(args.model)
    if not isinstance(shipped, fr.models.BlockSensingModel):
        sys.exit("--model: expected LDA for block-cs")
    PHASES = shipped.solver.phases
    for name in ("raw_alpha", "raw_tau"):
        setattr(shipped.solver, name, Parameter(getattr(shipped.solver, name)[:1].detach().clone()))
    shipped.set_precision(args.precision)
    for side in args.sides:
        phase(side, shipped)
