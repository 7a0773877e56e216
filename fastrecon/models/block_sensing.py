"""LDA, GD-Net and AGD-Net for block compressed sensing: x0 = Q y for every block, then the trained phases.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,
arXiv:2007.11245.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import Report
from fastrecon.checks import expect, expect_finite, flag, size_2d
from fastrecon.models import card
from fastrecon.models.base import Model, register, trained
from fastrecon.models.file import Header
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing, measurements, product_per_image, random_phi
from fastrecon.ops.feature_gradient import PRECISIONS
from fastrecon.options import check, option
from fastrecon.problems.block_cs import fingerprint, same_sampling
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.solvers.descent import DescentState
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.solvers.rigorous import RigorousDescent, reductions_left

SOLVERS: dict[str, type[RigorousDescent]] = {"lda": LDA, "gd-net": GDNet, "agd-net": AGDNet}
SAME = 1e-5  # sampling matrices that differ by less are one, made on two machines


@register(*SOLVERS)
class BlockSensingModel(Model):
    """A trained method for one sampling matrix.

    Args:
        operator: the sampling A; it must be the solver's.
        solver: LDA, GDNet or AGDNet.
        q: least-squares start [block * block, m], A Q = I.
        meta: facts to keep with the model: `ratio`, `name`, `training`, and `phi_seed` if random_phi made Phi.
        blockwise: whether every block is an image of its own, as in the paper; else the regulariser sees the whole
            image, which leaves no block edges.
    """

    problem = "block-cs"
    operator: BlockSensing
    q: Tensor

    def __init__(
        self, operator: BlockSensing, solver: RigorousDescent, q: Tensor, meta: Mapping[str, Any],
        blockwise: bool = False,
    ):  # fmt: skip
        super().__init__(meta)
        n, m = operator.phi.shape[::-1]
        own, name = solver.fidelity.operator is operator, type(self).__name__
        expect(q.shape == (n, m), name, "q", f"a matrix ({n}, {m})", q)
        expect(own, name, "operator", "the operator of the solver", "another")
        self.method = next(method for method, kind in SOLVERS.items() if type(solver) is kind)
        self.operator = operator  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody sets another kind
        self.solver, self.blockwise = solver, blockwise
        self.register_buffer("q", q)

    def start(self, y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x0 [B, 1, H, W] from y [B, rows, cols, m], cropped to `size`."""
        return self.operator.to_image(product_per_image(y, self.q.T), size)

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
        rigorous, size = flag(rigorous, "reconstruct", "rigorous"), size and size_2d(size, "reconstruct", "size")
        if operator is not None and operator is not self.operator:
            expect(self.measures(operator), "reconstruct", "operator", "the model's own sampling matrix", "another")
        return (self._blocks if self.blockwise else self._image)(y.to(self.q.dtype), size, rigorous, options)

    def _image(self, y: Tensor, size: Any, rigorous: bool, options: dict[str, Any]) -> tuple[Tensor, Report]:
        x0, solver = self.start(y, size), self.solver
        if not rigorous:
            return solver(y, x0, **options)
        chosen: dict[str, Any] = {"balance": not solver.regulariser.final_activation} | options
        return solver.solve(y, x0, **chosen)

    def _blocks(self, y: Tensor, size: Any, rigorous: bool, options: dict[str, Any]) -> tuple[Tensor, Report]:
        count, rows, cols, m = y.shape
        x, report = self._image(y.reshape(-1, 1, 1, m), None, rigorous, options)
        return self.operator.to_image(x.reshape(count, rows, cols, -1), size), report.merged(rows * cols)

    def measures(self, operator: LinearOperator) -> bool:
        """Whether an operator is the model's own, but for rounding."""
        if not isinstance(operator, BlockSensing) or operator.block != self.operator.block:
            return False
        ours, theirs = self.operator.phi, operator.phi
        return ours.shape == theirs.shape and torch.allclose(ours, theirs.to(ours), rtol=0, atol=SAME)

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

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """
        m = self.q.shape[1]
        fits = y.ndim == 4 and y.is_floating_point()
        expect(fits, "reconstruct", "y", f"real measurements [B, rows, cols, {m}]", y)
        ratio = f" (ratio {self.meta['ratio']:g}%)" if "ratio" in self.meta else ""
        got = f"{y.shape[3]} ({100 * y.shape[3] / len(self.q):.0f}% of the {len(self.q)} pixels)"
        expect(y.shape[1] * y.shape[2] > 0, "reconstruct", "y", "at least one block an image", y)
        expect(y.shape[3] == m, "reconstruct", "y", f"{m} measurements per block{ratio}", got)
        here = anywhere or y.device == self.q.device
        expect(here, "reconstruct", "y", f"a tensor on {self.q.device}", f"one on {y.device}")
        expect_finite(y, "reconstruct", "finite measurements", "image")

    def problem_options(self) -> dict[str, Any]:
        """The sampling matrix and the side of the blocks."""
        block = {"block": self.operator.block}
        if not self._from_seed:
            return {"matrix": self._phi} | block
        ratio = self.meta.get("ratio", 100 * len(self._phi) / self._phi.shape[1])
        return {"ratio": ratio, "phi_seed": self.meta["phi_seed"]} | block

    def hyperparameters(self) -> dict[str, Any]:
        """Of the solver, and of the blocks."""
        own: dict[str, Any] = {"block": self.operator.block, "blockwise": self.blockwise}
        return self.solver.hyperparameters() | own | ({"phi_sample": _sample(self._phi)} if self._from_seed else {})

    def tensors(self) -> dict[str, Tensor]:
        """Weights and start. A sampling matrix that `random_phi` makes of `meta["phi_seed"]` is left out, and made
        again by `load`.
        """
        own = {k: v for k, v in self.solver.state_dict().items() if not k.startswith("fidelity.")} | {"q": self.q}
        return own if self._from_seed else own | {"phi": self._phi}

    @property
    def _phi(self) -> Tensor:
        return self.operator.phi.detach()

    @property
    def _from_seed(self) -> bool:
        seed, phi = self.meta.get("phi_seed"), self._phi
        return seed is not None and torch.equal(random_phi(phi.shape[0], phi.shape[1], seed).to(phi), phi)

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "BlockSensingModel":
        """The model of what a file holds."""
        settings, kind = head.hyperparameters, SOLVERS[head.method]
        q, phi = tensors.pop("q"), tensors.pop("phi", None)
        if phi is None:
            seed = head.operator["phi_seed"]
            phi = random_phi(q.shape[1], q.shape[0], seed).to(q)
            pairs = zip(_sample(phi), settings["phi_sample"], strict=True)
            if not all(math.isclose(a, b, abs_tol=SAME) for a, b in pairs):
                raise RuntimeError(f"the sampling matrix of seed {seed} comes out differently on this machine")
        operator = BlockSensing(phi, settings["block"])
        names = kind(operator, phases=1).hyperparameters()
        solver = kind(operator, **{k: settings[k] for k in names})
        if "minimiser" in settings:
            solver.minimiser = Minimiser(**settings["minimiser"])
        solver = solver.to(q.dtype)
        found = solver.load_state_dict(tensors, strict=False)
        missing = [k for k in found.missing_keys if not k.startswith("fidelity.")]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"parameters missing: {missing}, unknown: {found.unexpected_keys}")
        return cls(operator, solver, q, head.meta, settings["blockwise"])

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        what = [
            f"LDA for block compressed sensing at {self.meta['ratio']:g}% ({settings['block']}x{settings['block']}"
            f" blocks): {settings['phases']} phases, {settings['channels']} channels, {settings['layers']}"
            " convolutions.",
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
        page = card.page(self.meta, what, code, facts)
        return page + _minimiser_page(training["minimiser"]) if "minimiser" in training else page


def _minimiser_page(training: Mapping[str, Any]) -> str:
    """What the card says of the second regulariser."""
    settings, images = training["settings"], training["images"]
    anchored = " + mu |x - x_K|^2 / 2" if settings["anchor"] else ""
    quality = training["validation_psnr"]
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {images['training']} images",
        "validation": "none" if quality is None else f"{images['validation']} images, converged, PSNR {quality} dB",
        "steps": f"{training['steps']} of {settings['steps']}",
        "optimiser": f"Adam, learning rate {settings['lr']:g} ({settings['decay']}), batch {settings['batch']} of"
        f" {settings['patch']}x{settings['patch']} pixels",
        "time": f"{training['hours']} h",
    }
    rows = [f"| {k} | {v} |" for k, v in facts.items()]
    return "\n".join([
        "", "## Rigorous mode", "",
        f"`model(y, rigorous=True)` goes on from the image x_K of the phases to a stationary point of |A x - y|^2 / 2 +"
        f" r(x){anchored} with a second regulariser r, trained for that point; the phases are as they were.", "",
        "| fact | value |", "| --- | --- |", *rows, "", "```", training["command"], "```", "",
    ])  # fmt: skip


def _sample(phi: Tensor) -> list[float]:
    """A few entries that tell whether a matrix made from its seed is the one of the training."""
    return phi.flatten()[:: max(1, phi.numel() // 7)].tolist()


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
    maps: bool = option("keep the size of the learned features at every pixel", False)

    def __post_init__(self):
        check(self, "reconstruct")


def _prepare(name: str) -> Callable[[Options, torch.device], Runner]:
    def prepare(options: Options, device: torch.device) -> Runner:
        @cache
        def model(count: int) -> BlockSensingModel:
            def fits(head: Header) -> bool:
                return measurements(head.operator["ratio"], head.hyperparameters["block"] ** 2) == count

            found = trained(name, BlockSensingModel.problem, options.model, fits).to(device)
            assert isinstance(found, BlockSensingModel)
            found.set_precision(options.precision)
            found.blockwise = found.blockwise if options.blockwise is None else options.blockwise
            return found

        if options.model:  # a wrong one is told before anything is read
            model(0)

        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
            own = model(0 if options.model else inverse.y.shape[-1])
            own.check(inverse.y)
            _expect_own(own, inverse)
            told = {"tol": options.tol, "iterations": options.iterations} if options.rigorous else {}
            callback = None if watch is None else _Told(own, inverse, options, watch)
            result = own(
                inverse.y, size=inverse.size, rigorous=options.rigorous, history=True, callback=callback, **told
            )
            if not (torch.isfinite(result.x).all() and torch.isfinite(result.report.merit).all()):
                largest = f"|y| up to {inverse.y.abs().max().item():.3g}"
                raise RuntimeError(
                    f"reconstruct: the iterations diverged: {own.name} is not trained for such measurements ({largest})"
                )
            maps = {"maps": own.solver.regulariser.feature_norms(result.x)} if options.maps else {}
            start = own.start(inverse.y.to(own.q.dtype), inverse.size)
            return Outcome(result.x, result.report, start, maps, options.model or own.name)

        return run

    return prepare


@dataclass
class _Told:
    """Tells who watches of phases, or of reductions of eps out of all that the termination test needs."""

    model: BlockSensingModel
    inverse: Inverse
    options: Options
    watch: Watch
    reductions: int = 0

    def __call__(self, k: int, s: DescentState) -> None:
        solver = self.model.solver
        if not self.options.rigorous:
            self.watch(k, solver.phases, lambda: self._images(s.x), "phases")
            return
        sigma, gamma, tol = solver.sigma, solver.gamma, self.options.tol
        left, what = int(reductions_left(s.eps.detach().cpu(), sigma, gamma, tol).max()), "reductions of eps"
        if solver.minimiser is not None and s.norm is not None:  # eps falls at once, the gradient by and by
            slopes = int(reductions_left(s.norm.cpu() / sigma / gamma, sigma, gamma, tol).max())
            left, what = max(left, slopes), what + " and gradient"
        self.reductions = max(self.reductions, left + 1)
        self.watch(self.reductions - left, self.reductions, lambda: self._images(s.x), what)

    def _images(self, x: Tensor) -> Tensor:
        if not self.model.blockwise:
            return x
        return self.model.operator.to_image(x.reshape(*self.inverse.y.shape[:3], -1), self.inverse.size)


def _expect_own(model: BlockSensingModel, inverse: Inverse) -> None:
    """Raises ValueError unless the measurements were made with the model's sampling matrix.

    A file may say by a fingerprint what made them; then its operator was only assumed.
    """
    told = inverse.facts.get("operator")
    if isinstance(told, str):
        same = same_sampling(told, fingerprint(model.operator))
    else:
        same = model.measures(inverse.operator)
    maker = f" (they were made for {inverse.facts['model']})" if "model" in inverse.facts else ""
    expect(same, "reconstruct", "measurements", "those of the model's own sampling matrix", f"another's{maker}")


for _name, _summary in (
    ("lda", "learned descent, which can be run to convergence"),
    ("gd-net", "learned gradient descent"),
    ("agd-net", "learned gradient descent with extrapolation"),
):
    method(_name, Options, _summary, (BlockSensingModel.problem, ""))(_prepare(_name))
