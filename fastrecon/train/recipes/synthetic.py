"""The synthetic experiment of D-LADMM: sparse codes from data with sparse errors, error against layer.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM (arXiv:1905.06179), sec. 5.1, eq. (22), figure 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon import figures, io, models
from fastrecon.models.sparse_coding import SparseCoder
from fastrecon.solvers import LADMM
from fastrecon.solvers.ladmm import Splitting
from fastrecon.train.objective import Score
from fastrecon.train.recipes.dladmm_base import Config, Layers
from fastrecon.train.world import World

DENSITY = 0.1  # share of the entries of Z and E that are not zero
LAMS = (0.01, 0.05, 0.1, 0.5, 1.0)  # of the LADMM that the figure compares with
ITERATIONS = 150  # of that LADMM


@dataclass(frozen=True)
class Samples:
    """x = A z + e, one sample a row: x, e [N, m], z [N, d]."""

    x: Tensor
    z: Tensor
    e: Tensor


def random_dictionary(m: int, d: int, seed: int) -> Tensor:
    """Gaussian [m, d] with unit columns, float64."""
    a = torch.randn(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a / torch.linalg.vector_norm(a, dim=0)


def draw(atoms: Tensor, count: int, generator: torch.Generator) -> Samples:
    """Samples whose z and e are Bernoulli(0.1) times normal numbers."""
    shapes = ((count, atoms.shape[1]), (count, atoms.shape[0]))
    z, e = (
        torch.randn(s, generator=generator, dtype=torch.float64) * (torch.rand(s, generator=generator) < DENSITY)
        for s in shapes
    )
    return Samples(z @ atoms.T + e, z, e)


def nmse(s: Splitting, truth: Samples) -> float:
    """10 log10(|Z - Z*|^2 / |Z*|^2 + |E - E*|^2 / |E*|^2) in dB, over all samples together."""
    pairs = ((s.z, truth.z), (s.e, truth.e))
    ratios = [(found.double() - true.double()).square().sum() / true.double().square().sum() for found, true in pairs]
    return (10 * torch.log10(ratios[0] + ratios[1])).item()


class Synthetic(Layers[Samples]):
    """The training of the experiment, all of whose data come from the seed; its end writes the figure and the table."""

    def __init__(self, config: Config, world: World, folder: Path, fresh: bool = True):
        atoms = random_dictionary(config.rows, config.columns, config.seed)
        super().__init__(config, world, folder, fresh, atoms, SparseCoder, {})
        generator = torch.Generator().manual_seed(config.seed + 2)
        kinds = (draw(atoms, count, generator) for count in (config.samples, config.test_samples))
        self.train, self.test = (Samples(*(t.to(world.device, self.dtype) for t in vars(s).values())) for s in kinds)

    @property
    def data(self) -> str:
        """Its samples."""
        return f"{self.config.samples} training and {self.config.test_samples} test samples"

    def batch(self) -> tuple[Tensor, Samples]:
        """Samples drawn with replacement, or the codes of one with the errors of another and random signs."""
        rank, size, device = self.world.rank, self.world.size, self.world.device
        chosen = torch.randint(self.config.samples, (2, self.config.batch), generator=self.generator)
        first, second = chosen[:, rank::size].to(device)
        if not self.config.recombine:
            truth = Samples(*(t[first] for t in vars(self.train).values()))
            return truth.x, truth
        signs = 2 * torch.randint(2, (2, self.config.batch, 1), generator=self.generator)[:, rank::size].to(first) - 1
        z, e = signs[0] * self.train.z[first], signs[1] * self.train.e[second]
        x = self.module.operator(z) + e
        return x, Samples(x, z, e)

    def error(self, s: Splitting, truth: Samples) -> Tensor:
        """|Z - Z*|^2 + |E - E*|^2, eq. (8), per sample and row of X."""
        return ((s.z - truth.z).square().sum() + (s.e - truth.e).square().sum()) / truth.x.numel()

    def relative_error(self, s: Splitting, truth: Samples) -> Tensor:
        """|Z - Z*|^2 / |Z*|^2 + |E - E*|^2 / |E*|^2 over the batch: the NMSE of eq. (22)."""
        pairs = ((s.z, truth.z), (s.e, truth.e))
        first, second = ((found - true).square().sum() / true.square().sum() for found, true in pairs)
        return first + second

    @torch.no_grad()
    def validate(self) -> Score:
        """NMSE of the last layer on the test samples, in dB."""
        return Score("nmse", nmse(self.module.solver(self.test.x)[0], self.test), higher_is_better=False)

    def finish(self) -> None:
        """Writes nmse.csv and nmse.png: NMSE of every layer, and of every iteration of LADMM for several lam."""
        best = models.load(self.folder / "model.safetensors").to(self.world.device)  # as exported
        assert isinstance(best, SparseCoder)
        found = curves(best, self.test)
        io.write_csv(self.folder / "nmse.csv", table(found))
        title = f"{self.config.rows} x {self.config.columns}, {self.config.test_samples} samples"
        shown = {k: v[: 2 * self.config.layers] for k, v in found.items()}
        io.write_figure(self.folder / "nmse.png", figures.layers(shown, "NMSE (dB)", title))


@torch.no_grad()
def curves(model: SparseCoder, test: Samples, lams: Iterable[float] = LAMS) -> dict[str, list[float]]:
    """NMSE of each layer of D-LADMM, and of each of 150 iterations of LADMM for several lam."""
    solver = model.solver
    found = {"D-LADMM": [nmse(s, test) for s in solver.states(test.x)]}
    for lam in lams:
        classical = LADMM(solver.a, lam)
        states = classical.chain(test.x, [classical.weights] * ITERATIONS)
        found[f"LADMM, lam = {lam:g}"] = [nmse(s, test) for s in states]
    return found


def table(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each layer, a column for each method, in dB."""
    longest = max(map(len, found.values()))
    columns = {name: [f"{v:.2f}" for v in values] + [""] * (longest - len(values)) for name, values in found.items()}
    return [{"layer": k + 1} | {name: values[k] for name, values in columns.items()} for k in range(longest)]
