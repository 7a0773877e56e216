"""Networks of learned phases for magnetic resonance imaging that minimise no objective: ISTA-Net(+), ADMM-Net, VN.

Sources: of the solvers, `solvers.ista_net`, `admm_net` and `variational_network`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import MisfitReport
from fastrecon.checks import expect, expect_finite, flag, number
from fastrecon.models import card
from fastrecon.models.base import Model, in_precision, register, trained
from fastrecon.models.blocks import restore
from fastrecon.models.file import Header
from fastrecon.models.sampling import aligned, nearest, tell_other_rate
from fastrecon.operators import Identity
from fastrecon.operators.base import LinearOperator
from fastrecon.options import check, option
from fastrecon.solvers.admm_net import ADMMNet
from fastrecon.solvers.base import column, with_parts
from fastrecon.solvers.ista_net import ISTANet
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.unrolled import Unrolled
from fastrecon.solvers.variational_network import VariationalNetwork
from fastrecon.terms.least_squares import LeastSquares

SOLVERS: dict[str, type[Unrolled]] = {
    "ista-net": ISTANet, "ista-net-plus": ISTANet, "admm-net": ADMMNet, "vn": VariationalNetwork,
}  # fmt: skip
TITLES = {"ista-net": "ISTA-Net", "ista-net-plus": "ISTA-Net+", "admm-net": "ADMM-Net", "vn": "Variational network"}


@register(*SOLVERS, problem="mri")
class UnrolledModel(Model):
    """A network of learned phases for any Fourier sampling.

    A, whose norm must be about 1, comes with each call. Images start from A* y.

    Args:
        method: its name, of SOLVERS.
        solver: the network; what it was made for stands in for A.
        meta: facts to keep with the model: `name`, `training`.
        real: whether real images are sought: the network has learned no others.
        scaled: whether images are divided by the largest modulus of A* y first, and multiplied by it in the end.
    """

    problem, operator = "mri", None

    def __init__(
        self, method: str, solver: Unrolled, meta: Mapping[str, Any] | None = None, real: bool = False,
        scaled: bool = True,
    ):  # fmt: skip
        super().__init__(meta)
        self.method = method
        self.solver = with_parts(solver, fidelity=LeastSquares(Identity()))
        self.real, self.scaled = flag(real, method, "real"), flag(scaled, method, "scaled")

    @classmethod
    def from_published(cls, state: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> "UnrolledModel":
        """The model of weights of ISTA-Net-PyTorch for MRI, which take real images on [0, 1] as they are.

        Args:
            state: as of ISTANet.from_state.
            meta: facts to keep, such as `name`.

        Raises:
            ValueError: they are of another layout.
        """
        solver = ISTANet.from_state(Identity(), state).float()
        return cls("ista-net-plus" if solver.plus else "ista-net", solver, meta, real=True, scaled=False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the phases."""
        return next(self.solver.parameters()).dtype

    @property
    def independent(self) -> bool:
        """Always: phases are applied image by image."""
        return True

    def for_operator(self, operator: LinearOperator) -> Unrolled:
        """The network with an operator, whose parameters are those of this one."""
        return with_parts(self.solver, fidelity=LeastSquares(operator))

    def first(self, operator: LinearOperator, y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The images A* y that phases start from."""
        filled = operator.apply_adjoint(y, size)
        return filled.real.contiguous() if self.real else filled

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape is the operator's to judge.

        Raises:
            ValueError: they are not complex, on another device, or hold NaN or Inf.
        """
        expect(y.ndim == 4 and y.is_complex(), self.method, "y", "complex measurements [B, coils, H, W]", y)
        device = next(self.solver.parameters()).device
        expect(anywhere or y.device == device, self.method, "y", f"a tensor on {device}", f"one on {y.device}")
        expect_finite(y, self.method, "finite measurements", "image")

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, size: tuple[int, int] | None = None,
        callback: Callable[[int, Tensor], object] | None = None, *, scale: float | None = None,
    ) -> tuple[Tensor, MisfitReport]:  # fmt: skip
        """Images [B, 1, H, W] of measurements [B, coils, H, W], complex or real as the network has learned them.

        Args:
            y: measurements that passed `check`.
            operator: A; conventions and shares of frequencies as of DescentModel.
            size: (H, W) of the images, where y and A alone do not tell.
            callback: callback(k, images) after every phase, not yet multiplied by the scale.
            scale: what images are divided by, > 0; None: the largest modulus of A* y, or 1 if not `scaled`.

        Raises:
            ValueError: an argument does not fit.
        """
        expect(
            isinstance(operator, LinearOperator), self.method, "operator", "a LinearOperator", type(operator).__name__
        )
        assert operator is not None
        y = y.to(self.dtype.to_complex())
        if not torch.compiler.is_compiling():  # a graph cannot look at numbers
            operator = aligned(operator, y, self.method)
            tell_other_rate(self, operator)
        operator = in_precision(operator, self.dtype)
        filled = self.first(operator, y, size)
        if scale is not None or not self.scaled:
            given = 1.0 if scale is None else float(number(scale, self.method, "scale", above=0))
            white = torch.full((len(y),), given, dtype=torch.float64, device=y.device)
        else:
            white = filled.abs().flatten(1).amax(1).double()
            white = torch.where(white > 0, white, 1.0)
        x, report = self.for_operator(operator)(y / column(white, y), filled / column(white, filled), callback)
        misfit = report.misfit * white
        return x * column(white, x), MisfitReport(misfit, report.relative_misfit, report.converged, report.status)

    def hyperparameters(self) -> dict[str, Any]:
        """Of the solver, and what images it takes."""
        return self.solver.hyperparameters() | {"real": self.real, "scaled": self.scaled}

    def tensors(self) -> dict[str, Tensor]:
        """Its weights."""
        return self.solver.state_dict()

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "UnrolledModel":
        """The model of what a file holds."""
        own = dict(head.hyperparameters)
        real, scaled = own.pop("real"), own.pop("scaled")
        solver = SOLVERS[head.method](Identity(), **own).to(next(iter(tensors.values())).dtype)
        restore(solver, tensors)
        return cls(head.method, solver, head.meta, real, scaled)

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        images, quality = training["images"], training.get("validation_psnr")
        what = [
            f"{TITLES[self.method]} for magnetic resonance imaging, {100 * settings['rate']:g}% of the frequencies"
            f" ({settings['sampling']}): {self.solver.phases} phases.",
        ]
        code = ["result = model(y, operator)  # y = operator(image), operator = fr.operators.Fourier(mask)"]
        facts = {
            "training data": f"{', '.join(training['data'])}, {images['training']} images",
            "validation": "none" if quality is None else f"{images['validation']} images, PSNR {quality} dB",
            "optimiser": f", batch {settings['batch']} of {settings['patch']}x{settings['patch']} pixels",
        }
        return card.page(self.meta, what, code, facts)


@dataclass(frozen=True)
class Options:
    """Options of networks of learned phases."""

    model: str = option("shipped model, or path of a .safetensors file; default: the shipped one, if there is one", "")

    def __post_init__(self):
        check(self, "reconstruct")


def runner(name: str, file: str, device: torch.device) -> Runner:
    """The method of a network for magnetic resonance imaging.

    Raises:
        ValueError: there is no such model.
    """

    @cache
    def model(which: str) -> UnrolledModel:
        found = trained(name, UnrolledModel.problem, which).to(device)
        assert isinstance(found, UnrolledModel)
        return found

    if file:  # a wrong one is told before anything is read
        model(file)

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        own = model(file or nearest(name, inverse.operator))
        own.check(inverse.y)

        def tell(k: int, x: Tensor) -> None:
            if watch is not None:
                watch(k, own.solver.phases, lambda: x, "phases")

        result = own(inverse.y, operator=inverse.operator, size=inverse.size, callback=tell)
        if not torch.isfinite(result.x.abs()).all():
            largest = f"|y| up to {inverse.y.abs().max().item():.3g}"
            expect(False, "reconstruct", "y", f"measurements such as {own.name} is trained for", largest)
        return Outcome(result.x, result.report, model=file or own.name)

    return run


for _name in ("admm-net", "vn"):

    @method(_name, Options, f"{TITLES[_name]}: learned phases", (UnrolledModel.problem, ""))
    def _prepare(options: Options, device: torch.device, name: str = _name) -> Runner:
        return runner(name, options.model, device)
