"""Block compressed sensing: y = Phi x for every block of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.io import Picture
from fastrecon.operators import BlockSensing, LinearOperator, measurements, random_phi
from fastrecon.options import check, option
from fastrecon.problems.base import Measurement, Problem, add_noise, channels, problem, unit_scale
from fastrecon.solvers.automatic import PRIOR, Chosen
from fastrecon.solvers.methods import METHODS, Inverse

BLOCK = 33  # pixels: of ISTA-Net and LDA
TRAINED = "lda"  # of the models, which lie above
MOST = 2**27  # numbers of a sampling matrix that is drawn


@dataclass(frozen=True)
class BlockCSOptions:
    """Options of block compressed sensing."""

    ratio: float = option(
        "measurements in percent of the pixels, with the Gaussian matrix of --phi-seed", 25.0, within="(0, 100]",
        type=float,
    )  # fmt: skip
    phi: str = option("file with a sampling matrix [m, block * block] of your own: .npy, .npz or .mat", "")
    phi_seed: int = option("of the Gaussian matrix", 0, within="[0, 4294967295]", type=int)
    block: int = option("side of the blocks in pixels", BLOCK, within="[1, 1024]", type=int)
    size: str = option("HEIGHTxWIDTH of the picture; default: what the file says, else whole blocks", "")
    noise: float | None = option(
        "standard deviation of the noise of each measurement, for pictures where white is 1; of simulated measurements"
        " it is added", None, within="[0, 1000]", type=float,
    )  # fmt: skip

    matrix: Tensor | None = None  # [m, block * block], instead of a file

    def __post_init__(self):
        check(self, "block-cs")
        if self.size:
            _size(self.size)


@problem
class BlockCS(Problem[BlockCSOptions]):
    """y = Phi x, block by block."""

    name = "block-cs"
    summary = "block compressed sensing"
    Options = BlockCSOptions
    methods = ("lda", "prior", "ista-net-plus", "ista-net", "lista", "tv", "fista", "ista")
    suffixes = (".npz", ".safetensors", ".npy")

    def simulate(self, picture: Picture, options: BlockCSOptions, seed: int = 0) -> Measurement:
        """Measurements of a picture."""
        scale = unit_scale(picture)
        truth = channels(picture) / scale
        facts = self._matrix(options)
        sigma = (options.noise or 0.0) / scale
        y = add_noise(self._sensing(facts)(truth), sigma, seed)
        size = (truth.shape[-2], truth.shape[-1])
        return Measurement(self.name, y, size, facts, sigma, scale, truth, None, picture.form, picture.notes)

    def read(self, path: Path, options: BlockCSOptions) -> Measurement:
        """An array y [rows, cols, m], with facts beside it."""
        m = io.read_measurements(path)
        y = torch.from_numpy(m.y)[None].float()
        n = options.block**2
        own = options.matrix is not None or bool(options.phi)
        facts: dict[str, Any] = self._matrix(options) if own else {"phi_seed": options.phi_seed, "count": y.shape[3]}
        facts |= {"block": options.block}
        facts |= {k: v for k, v in m.facts.items() if k in ("model", "operator") and isinstance(v, str)}
        notes, size = (), m.size
        if options.size:
            size = _size(options.size)
        if size is None:
            size = (y.shape[1] * options.block, y.shape[2] * options.block)
            notes = ("assumed: whole blocks; the file has no size",)
        if not own and "operator" not in facts:
            notes = (
                f"assumed: made with the Gaussian matrix of seed {options.phi_seed}; the file has no operator",
                *notes,
            )
        rows = len(facts["phi"]) if own else y.shape[3]
        expect(y.shape[3] == rows, self.name, "y", f"{rows} measurements per block, as --phi has", y.shape[3])
        expect(rows <= n, self.name, "y", f"at most {n} measurements per block", y.shape[3])
        self._expect_made(facts)
        noise = options.noise if options.noise is not None else _noise(m.facts)
        if noise is None and own:
            noise, notes = 0.0, ("assumed: no noise (--noise tells its standard deviation)", *notes)
        return Measurement(self.name, y, size, facts, noise, notes=notes)

    def _expect_made(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError where a file tells by a fingerprint that another matrix made its measurements."""
        if "operator" not in facts:
            return
        maker = f", of model {facts['model']}" if "model" in facts else ""
        same = same_sampling(str(facts["operator"]), fingerprint(self._sensing(facts)))
        wanted = "measurements of the sampling matrix of --model, or of --phi or --phi-seed and --block"
        rows = facts["count"] if "count" in facts else len(facts["phi"])
        expect(same, self.name, "operator", wanted, f"{rows} numbers a block of another{maker}")

    def _matrix(self, options: BlockCSOptions) -> dict[str, Any]:
        """The facts that make the sampling matrix."""
        n = options.block**2
        if options.matrix is None and not options.phi:
            return {"phi_seed": options.phi_seed, "count": measurements(options.ratio, n), "block": options.block}
        phi = torch.as_tensor(io.read_matrix(options.phi) if options.matrix is None else options.matrix).float()
        fits = phi.ndim == 2 and phi.shape[1] == n
        expect(fits, self.name, "--phi", f"a matrix [m, {n}] for {options.block}x{options.block} blocks", phi)
        return {"phi": phi, "block": options.block}

    def operator(self, m: Measurement) -> LinearOperator:
        """The sampling."""
        return self._sensing(m.facts).to(m.y.device)

    def auto(self, inverse: Inverse) -> Chosen:
        """The trained network where there is one for the matrix and no noise, to convergence where it has learned where
        to, else the learned prior.
        """
        learned = TRAINED in METHODS and METHODS[TRAINED].fits(inverse)
        if learned and not inverse.noise:
            why = "a shipped model has learned this sampling matrix"
            best = METHODS[TRAINED].best(inverse)
            return Chosen(TRAINED, f"{why}; after its phases on to convergence" if best else why, best)
        why = "the network is trained without noise" if learned else "no shipped model has learned this sampling matrix"
        if inverse.noise is None or PRIOR not in METHODS:
            return Chosen("tv", f"{why}, and the noise is not known")
        noise = f"the noise is {inverse.noise:.3g}" if inverse.noise else "there is no noise"
        return Chosen(PRIOR, f"{why}; a prior learned from pictures takes any, and {noise}")

    def _sensing(self, facts: Mapping[str, Any]) -> BlockSensing:
        block = int(facts["block"])
        if "phi" in facts:
            return BlockSensing(facts["phi"], block)
        numbers = int(facts["count"]) * block**2
        expect(numbers <= MOST, self.name, "--block", f"a sampling matrix of at most {MOST} numbers", numbers)
        return BlockSensing(_drawn(int(facts["count"]), block**2, int(facts["phi_seed"])), block)

    def describe(self, m: Measurement) -> str:
        """Measurements in words."""
        _, rows, cols, count = m.y.shape
        return f"{super().describe(m)}, {rows} x {cols} blocks, {count} numbers each"


@lru_cache(maxsize=4)
def _drawn(count: int, n: int, seed: int) -> Tensor:
    """The Gaussian matrix [count, n] of a seed, float32; operator, start and scores of a picture ask for the same."""
    return random_phi(count, n, seed).float()


def fingerprint(operator: LinearOperator, count: int = 8) -> str:
    """What A makes of a fixed image: numbers that differ between sampling matrices, but not between machines."""
    side = 66
    x = torch.cos(torch.arange(side * side, dtype=torch.float64) ** 2 / side).view(1, 1, side, side)
    like: Tensor = next(t for t in (*operator.parameters(), *operator.buffers()) if t.is_floating_point())
    with torch.no_grad():
        y = operator(x.to(like)).flatten()[:count]
    return " ".join(f"{v:.4f}" for v in y.tolist())


def same_sampling(a: str, b: str) -> bool:
    """Whether two fingerprints are those of one matrix."""
    x, y = (np.array([float(v) for v in t.split()]) for t in (a, b))
    return x.shape == y.shape and bool(np.allclose(x, y, rtol=0, atol=1e-3))


def _noise(facts: Mapping[str, Any]) -> float | None:
    text = str(facts.get("noise", ""))
    return float(text) if text else None


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        height = width = 0
    expect(min(height, width) > 0, "block-cs", "--size", "HEIGHTxWIDTH in pixels", repr(text))
    return height, width
