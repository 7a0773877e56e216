"""Seeded requests of every kind for the scheduler and the server, and the answers that each has alone."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from zoo import small_coder

import fastrecon as fr
from fastrecon.models.error_controlled import ErrorControlledModel
from fastrecon.models.padnet import PADNetModel, Settings
from fastrecon.models.sgp import StepModel
from fastrecon.networks import RBFUnit, ResidualCNN
from fastrecon.networks.unet import StepNet
from fastrecon.operators import Blur, Fourier, Inpainting
from fastrecon.terms.feature_norm import FeatureNorm

KINDS = (
    "lda", "rigorous", "prior-mask", "prior-kernel", "prior-fourier", "noiseless", "fista", "ista", "scheduled", "admm",
    "hqs", "sgp", "implicit", "explicit", "auto", "controlled", "coder",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One request: what `Scheduler.submit` is given, and the kind that it is of."""

    kind: str
    model: str
    y: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def alone(self, models: dict[str, Any]) -> fr.Result:
        """What it gets without a scheduler."""
        model = models[self.model]
        if isinstance(model, str):
            return fr.reconstruct(self.y, method=model, **self.options)
        return model(self.y, **self.options)


def models() -> dict[str, Any]:
    """What answers, by the names in `Asked`: small models with weights that nobody trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        term = FeatureNorm(channels=8, layers=3, eps=1e-2)
        operator = fr.operators.BlockSensing(fr.operators.random_phi(16, 64), 8)
        solver = fr.solvers.LDA(operator, phases=3, channels=8, layers=2)
        steps = StepNet("diag", width=8, iterations=3)
        torch.nn.init.normal_(steps.head.weight, std=0.1)
        cnn = ResidualCNN(layers=3, channels=8, levels=True)
        denoiser = ResidualCNN(layers=3, channels=8, levels=True)
        for convolution in denoiser.modules():  # so that its first answer changes an image a little
            if isinstance(convolution, torch.nn.Conv2d):
                torch.nn.init.normal_(convolution.weight, std=0.03)
        coder = small_coder()
        rbf = [RBFUnit(filters=4, side=3) for _ in range(2)]
    q = operator.phi.T.contiguous()
    knots = torch.tensor([0.01, 0.1])
    prior = fr.models.PriorModel(term, knots, knots, None, fr.terms.SparsePatches(0.02), knots / 100)
    lda = fr.models.BlockSensingModel(operator.float(), solver.float(), q.float(), {"ratio": 25.0})
    scheduled = fr.load("learned-fista-inpaint")
    implicit = Settings("implicit", iterations=8, tol=1e-3)
    explicit = Settings("explicit", iterations=12, tol=1e-3, lam=1e-3)
    return {
        "controlled": ErrorControlledModel(denoiser, "deblur"),
        "coder": coder,
        "sgp": StepModel(steps, "inpaint"),
        "implicit": PADNetModel([[cnn]], "deblur", implicit),
        "explicit": PADNetModel([rbf[:1], rbf], "deblur", explicit),
        "hqs": "hqs",
        "lda": lda,
        "prior": prior,
        "scheduled": scheduled,
        "fista": "fista",
        "ista": "ista",
        "admm": "admm",
        "auto": "auto",
    }


def requests(count: int, seed: int = 0, sides: tuple[int, ...] = (16, 24, 40), iterations: int = 40) -> list[Asked]:
    """So many requests, their kinds, sizes, masks and kernels drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    phi = models()["lda"].operator

    def among(options: tuple[Any, ...]) -> Any:
        return options[int(torch.randint(len(options), (1,), generator=draw))]

    return [_request(among(KINDS), among(sides), phi, among, draw, iterations) for _ in range(count)]


def _request(kind: str, side: int, phi: Any, among: Any, draw: torch.Generator, iterations: int) -> Asked:
    coarse = torch.rand(1, 1, 4, 4, generator=draw)
    x = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    mask = Inpainting((torch.rand(side, side, generator=draw) < among((0.4, 0.7))).float())
    if kind == "coder":
        spots = torch.rand(x.shape, generator=draw)
        y = torch.where(spots < 0.05, torch.zeros(()), torch.where(spots > 0.95, torch.ones(()), x))
        return Asked(kind, "coder", y, {"rigorous": True, "tol": among((1e-2, 3e-3)), "iterations": iterations})
    noise, limit = among((0.01, 0.03)), {"iterations": among((iterations // 2, iterations))}
    if kind in ("lda", "rigorous"):
        return Asked(
            kind, "lda", phi(x), {"size": (side, side)} | ({"rigorous": True} | limit if kind != "lda" else {})
        )
    if kind == "noiseless":  # by several weights, one after the other
        return Asked(kind, "prior", mask(x), {"operator": mask, "noise": 0.0} | limit)
    if kind == "scheduled":
        return Asked(kind, "scheduled", mask(x), {"operator": mask} | limit)
    if kind == "auto":
        return Asked(kind, "auto", mask(x), {"operator": mask, "noise": noise})
    kernel = torch.rand(3, 3, generator=draw)
    operators = {"fourier": Fourier((torch.rand(side, side, generator=draw) < 0.5).float()), "mask": mask}
    operators["kernel"] = Blur(kernel / kernel.sum())
    real = ("mask",) if kind == "sgp" else ("mask", "kernel") if kind in ("implicit", "explicit") else tuple(operators)
    operator = operators[kind.partition("-")[2] or among(real)]
    clean = operator(x)
    y = clean + noise * torch.randn(clean.shape, generator=draw).to(clean)
    told = {"operator": operator, "noise": noise} | limit
    if kind in ("fista", "ista"):
        told["tol"] = among((0.0, 1e-3))
    if kind == "hqs":
        told = {"operator": operator, "noise": noise}
    if kind == "sgp":
        told = {"operator": operator, "iterations": among((5, 9))}
    if kind == "controlled":
        told = {"operator": operator, "noise": noise, "iterations": among((6, 9)), "tol": among((0.0, 1e-3))}
    if kind in ("implicit", "explicit"):
        told = {"operator": operator, "noise": noise, "iterations": among((4, 8))}
    return Asked(kind, "prior" if kind.startswith("prior") else kind, y, told)


def same(a: fr.Result, b: fr.Result) -> bool:
    """Whether two answers are one, bit for bit, histories included."""
    if not _alike(a.x, b.x) or (a.report is None) != (b.report is None):
        return False
    if a.report is None:
        return True
    theirs = []
    b.report.map(lambda name, t: theirs.append((name, t)) or t)
    ours = []
    a.report.map(lambda name, t: ours.append((name, t)) or t)
    return len(ours) == len(theirs) and all(
        n == m and _alike(t, u) for (n, t), (m, u) in zip(ours, theirs, strict=True)
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether all bits are the same, those of zeros and NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
