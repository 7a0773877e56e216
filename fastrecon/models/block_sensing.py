"""LDA, GD-Net and AGD-Net for block compressed sensing: x0 = Q y for every block, then the trained phases.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,
arXiv:2007.11245.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import Report
from fastrecon.checks import flag
from fastrecon.models import card
from fastrecon.models.base import load, register, trained
from fastrecon.models.blocks import BlockModel, fits_sampling, restore, sampling
from fastrecon.models.descent import DescentModel
from fastrecon.models.file import Header
from fastrecon.models.sampling import nearest
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing
from fastrecon.ops.feature_gradient import PRECISIONS
from fastrecon.options import check, option
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.solvers.descent import DescentState
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.solvers.rigorous import RigorousDescent, reductions_left

SOLVERS: dict[str, type[RigorousDescent]] = {"lda": LDA, "gd-net": GDNet, "agd-net": AGDNet}
TITLES = {"lda": "LDA", "gd-net": "GD-Net", "agd-net": "AGD-Net"}


@register(*SOLVERS)
class BlockSensingModel(BlockModel):
    """LDA, GD-Net or AGD-Net for one sampling matrix.

    Args:
        operator, q, meta, blockwise: as of BlockModel.
        solver: LDA, GDNet or AGDNet.
    """

    solver: RigorousDescent

    def __init__(
        self, operator: BlockSensing, solver: RigorousDescent, q: Tensor, meta: Mapping[str, Any],
        blockwise: bool = False,
    ):  # fmt: skip
        name = next(method for method, kind in SOLVERS.items() if type(solver) is kind)
        super().__init__(name, operator, solver, q, meta, blockwise)

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, size: tuple[int, int] | None = None,
        rigorous: bool = False, **options: Any,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """Images [B, 1, H, W] of measurements [B, rows, cols, m]. Unless rigorous, the host never waits for the device.

        Args:
            y: measurements that passed `check`.
            operator: the model's own, or None.
            size: (H, W) of the images, to which the last blocks are cropped; else whole blocks.
            rigorous: whether to continue from the trained phases to convergence (`solve` of the solver; balanced, if it
                has no minimiser).
            options: of the solver's `solve`, or `history` and `callback` of the trained phases.

        Raises:
            ValueError: size or operator does not fit.
        """
        told = options | {"rigorous": flag(rigorous, "reconstruct", "rigorous")}
        return self.reconstructed(y, operator, size, told)

    def image(self, y: Tensor, size: tuple[int, int] | None, options: dict[str, Any]) -> tuple[Tensor, Report]:
        """As of BlockModel."""
        x0, solver, rigorous = self.start(y, size), self.solver, options["rigorous"]
        options = {k: v for k, v in options.items() if k != "rigorous"}
        if not rigorous:
            return solver(y, x0, **options)
        chosen: dict[str, Any] = {"balance": not solver.regulariser.final_activation} | options
        return solver.solve(y, x0, **chosen)

    @property
    def independent(self) -> bool:
        """Whether each image decides about its own eps."""
        return self.solver.eps_mode != "batch"

    def capturable(self, rigorous: bool = False, **options: Any) -> bool:
        """Whether the trained phases alone are computed, and nobody is told of them."""
        return not rigorous and options.get("callback") is None

    def set_precision(self, precision: str) -> None:
        """Of the regulariser's gradient in the steps; see FeatureNorm."""
        self.solver.regulariser.precision = precision

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "BlockSensingModel":
        """The model of what a file holds."""
        settings, kind = head.hyperparameters, SOLVERS[head.method]
        operator, q = sampling(head, tensors)
        names = kind(operator, phases=1).hyperparameters()
        solver = kind(operator, **{k: settings[k] for k in names})
        if "minimiser" in settings:
            solver.minimiser = Minimiser(**settings["minimiser"])
        solver = solver.to(q.dtype)
        restore(solver, tensors)
        return cls(operator, solver, q, head.meta, settings["blockwise"])

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        what = [
            f"{TITLES[self.method]} for block compressed sensing at {self.meta['ratio']:g}%"
            f" ({settings['block']}x{settings['block']} blocks): {settings['phases']} phases,"
            f" {settings['channels']} channels, {settings['layers']} convolutions.",
            "Method: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,"
            " arXiv:2007.11245.",
        ]
        code = ["result = model(model.operator(image), size=image.shape[-2:])  # image [B, 1, H, W] on [0, 1]"]
        images, quality = training["images"], training["validation_psnr"]
        facts = {
            "training data": f"{', '.join(training['data'])}: luminance, {images['training']} images",
            "validation": "none" if quality is None else f"{images['validation']} images, PSNR {quality} dB",
            "steps": f"{training['steps']} of {settings['steps']}",
            "stages": "; ".join(training["stages"]),
            "optimiser": f", batch {settings['batch']} of {settings['patch']}x{settings['patch']} pixels",
            "seeds": f"network and data {settings['seed']}, sampling matrix {settings['phi_seed']}",
        }
        if "auxiliary" in settings:
            facts["seeds"] = f"network and data {settings['seed']}"
            facts["sampling"] = (
                f"matrix and start learned with the network, from {settings['first']}; loss MSE of the last phase +"
                f" {settings['auxiliary']:g} MSE of the start"
            )
        page = card.page(self.meta, what, code, facts)
        second = getattr(self.solver.minimiser, "patches", None) is not None
        return page + card.of_minimiser(training["minimiser"], second) if "minimiser" in training else page


@dataclass(frozen=True)
class Options:
    """Options of LDA and its like."""

    model: str = option("shipped model, or path of a .safetensors file; default: the one for this sampling", "")
    rigorous: bool = option("iterate to convergence after the trained phases", False)
    tol: float = option(
        "rigorous: an image is done once sigma eps < TOL and its gradient is below sigma gamma eps", 1.5e-5,
        within="(0, 1e9]", type=float, of="rigorous",
    )  # fmt: skip
    iterations: int = option("rigorous: at most so many", 50_000, within="[0, 1e9]", type=int, of="rigorous")
    blockwise: bool | None = option(
        "whether every block is an image of its own, as in the paper; default: as the model was trained", None,
        type=bool,
    )  # fmt: skip
    precision: str = option(
        "products in the network's steps: bfloat16 is faster where the processor has it, tf32 on a GPU, direct is"
        " without Winograd's transforms; what is decided and reported is that of float32", "float32",
        choices=PRECISIONS,
    )  # fmt: skip
    features: bool = option("keep the size of the learned features at every pixel", False)

    def __post_init__(self):
        check(self, "reconstruct")


@lru_cache(maxsize=4)  # `auto` asks for every image
def _shipped(method: str, count: int) -> BlockSensingModel | None:
    """The shipped model of the method for so many measurements a block."""
    try:
        found = trained(method, BlockSensingModel.problem, "", partial(fits_sampling, count=count))
    except ValueError:
        return None
    return found if isinstance(found, BlockSensingModel) else None


def _fits(method: str, inverse: Inverse) -> bool:
    """Whether a shipped model of the method has learned the sampling matrix."""
    found = _shipped(method, inverse.y.shape[-1])
    return found is not None and found.to(inverse.y.device).measured(inverse)


def _best(method: str, inverse: Inverse) -> dict[str, Any]:
    """Rigorous where the model that `_fits` has a regulariser that was trained for it."""
    found = _shipped(method, inverse.y.shape[-1])
    return {"rigorous": True} if found is not None and found.solver.minimiser is not None else {}


def _prepare(name: str) -> Callable[[Options, torch.device], Runner]:
    def prepare(options: Options, device: torch.device) -> Runner:
        @cache
        def model(problem: str, count: int, near: str = "") -> BlockSensingModel | DescentModel:
            fits = partial(fits_sampling, count=count) if problem == BlockSensingModel.problem else lambda head: True
            found = trained(name, problem, options.model or near, fits).to(device)
            assert isinstance(found, BlockSensingModel | DescentModel)
            found.solver.regulariser.precision = options.precision
            if isinstance(found, BlockSensingModel):
                found.blockwise = found.blockwise if options.blockwise is None else options.blockwise
            return found

        if options.model:  # a wrong one is told before anything is read
            imaging = name == DescentModel.method and load(options.model).problem == DescentModel.problem
            model(DescentModel.problem if imaging else BlockSensingModel.problem, 0)

        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
            mri = inverse.problem == DescentModel.problem
            problem = DescentModel.problem if mri else BlockSensingModel.problem
            near = nearest(name, inverse.operator) if mri and not options.model else ""
            own = model(problem, 0 if options.model or mri else inverse.y.shape[-1], near)
            own.check(inverse.y)
            told: dict[str, Any] = {"rigorous": options.rigorous, "history": True, "size": inverse.size}
            told |= {"tol": options.tol, "iterations": options.iterations} if options.rigorous else {}
            whole: Callable[[Tensor], Tensor] = lambda x: x  # noqa: E731
            if isinstance(own, BlockSensingModel):
                own.expect_own(inverse)
                start, whole = own.start(inverse.y.to(own.q.dtype), inverse.size), partial(own.whole, inverse=inverse)
            else:
                start, told["operator"] = None, inverse.operator
            told["callback"] = None if watch is None else _Told(own.solver, options, watch, whole)
            result = own(inverse.y, **told)
            if not (torch.isfinite(result.x).all() and torch.isfinite(result.report.merit).all()):
                largest = f"|y| up to {inverse.y.abs().max().item():.3g}"
                raise RuntimeError(
                    f"reconstruct: the iterations diverged: {own.name} is not trained for such measurements ({largest})"
                )
            maps = {"features": own.solver.regulariser.feature_norms(result.x)} if options.features else {}
            return Outcome(result.x, result.report, start, maps, options.model or own.name)

        return run

    return prepare


@dataclass
class _Told:
    """Tells who watches of phases, or of reductions of eps out of all that the termination test needs."""

    solver: RigorousDescent
    options: Options
    watch: Watch
    whole: Callable[[Tensor], Tensor]
    reductions: int = 0

    def __call__(self, k: int, s: DescentState) -> None:
        solver = self.solver
        if not self.options.rigorous:
            self.watch(k, solver.phases, lambda: self.whole(s.x), "phases")
            return
        own = None if solver.minimiser is None else solver.minimiser.sigma
        sigma, gamma, tol = own or solver.sigma, solver.gamma, self.options.tol
        left, what = int(reductions_left(s.eps.detach().cpu(), sigma, gamma, tol).max()), "reductions of eps"
        if solver.minimiser is not None and s.norm is not None:  # eps falls at once, the gradient by and by
            slopes = int(reductions_left(s.norm.cpu() / sigma / gamma, sigma, gamma, tol).max())
            left, what = max(left, slopes), what + " and gradient"
        self.reductions = max(self.reductions, left + 1)
        self.watch(self.reductions - left, self.reductions, lambda: self.whole(s.x), what)


for _name, _summary in (
    ("lda", "learned descent, which can be run to convergence"),
    ("gd-net", "learned gradient descent"),
    ("agd-net", "learned gradient descent with extrapolation"),
):
    _problems = (BlockSensingModel.problem, *([DescentModel.problem] if _name == DescentModel.method else []), "")
    method(_name, Options, _summary, _problems, partial(_fits, _name), partial(_best, _name))(_prepare(_name))
