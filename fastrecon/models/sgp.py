"""SGP with a trained network as a model, and the direct U-Net it is compared with: images of measurements by any A.

Images are sparse in wavelets: SGP minimises |A W* c - y|^2 / 2 + lam |c|_1 over their coefficients c.
Source: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural
Networks for Inverse Problems in Image Processing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon.certificates import TRAINED_ONLY, MisfitReport, ProximalReport, Status
from fastrecon.checks import expect, expect_finite
from fastrecon.models import card
from fastrecon.models.base import Model, register, trained
from fastrecon.models.file import Header
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.networks.unet import MULTIPLE, DirectNet, StepNet
from fastrecon.operators import LinearOperator, Radon, Wavelet
from fastrecon.ops import squares
from fastrecon.options import check, option
from fastrecon.problems.wavelet_l1 import LAM, LEVEL, SCALE, WAVELET
from fastrecon.solvers import SGP
from fastrecon.solvers.lasso import Lasso
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method

ITERATIONS = 20
OPERATORS = {  # of the examples on cards
    "inpaint": "Inpainting(mask)",
    "mri": "Fourier(mask)",
    "deblur": "Blur(kernel)",
    "ct": "Radon(image.shape[-2:], views)",
}
N = TypeVar("N", StepNet, StepSchedule, DirectNet)


class NetworkModel(Model, Generic[N]):
    """A network for a kind of measurements, whose operator comes with each call.

    Args:
        network: trained.
        problem: inpaint, mri, deblur or ct.
        meta: facts to keep with the model: `name`, `training`.
    """

    network: N
    source = (
        "Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional Neural"
        " Networks for Inverse Problems in Image Processing"
    )

    def __init__(self, network: N, problem: str, meta: Mapping[str, Any] | None = None):
        super().__init__(meta)
        self.network, self.problem, self.operator = network, problem, None

    @property
    def like(self) -> Tensor:
        """A tensor of the network, whose type and device are the model's."""
        return next(self.network.parameters())

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements, on the model's device or `anywhere`; their shape is the operator's to judge.

        Raises:
            ValueError: they have another type or device, NaN or Inf.
        """
        name, device = type(self).__name__, self.like.device
        fits = y.ndim > 0 and (y.is_floating_point() or y.is_complex())
        expect(fits, name, "y", "real or complex measurements [B, ...]", y)
        expect(anywhere or y.device == device, name, "y", f"a tensor on {device}", f"one on {y.device}")
        expect_finite(y, name, "finite measurements", "image")

    def _given(self, y: Tensor, operator: LinearOperator | None) -> tuple[Tensor, LinearOperator]:
        """y in the network's precision, and A."""
        name, kind = type(self).__name__, self.like.dtype
        known = isinstance(operator, LinearOperator)
        expect(known, name, "operator", "a LinearOperator, from images to y", type(operator).__name__)
        assert operator is not None
        return y.to(kind.to_complex() if y.is_complex() else kind), operator

    def hyperparameters(self) -> dict[str, Any]:
        """Of the network."""
        return self.network.settings

    def tensors(self) -> dict[str, Tensor]:
        """Of the network."""
        return self.network.state_dict()

    def page(self, what: str, code: Sequence[str], data: str, trained: str) -> str:
        """The card's text: what the model is, code that uses it, its problems and its training."""
        training, settings = card.training_of(self.meta)
        page = [
            f"{what}; problem {self.problem}.",
            f"Method: {self.source}.",
        ]
        sides = (
            settings["side"] if isinstance(settings["side"], list) else [settings["side"]]
        )  # of older files a number
        sizes = [f"{n}x{n}" for n in sides]
        psnr, nmse = training["validation_psnr"], training["validation_nmse"]
        held = f"{settings['held']} images" + (f" of {sizes[0]}" if len(sizes) > 1 else "")
        quality = "none" if psnr is None else f"{held}, PSNR {psnr} dB, NMSE {nmse:.2f} dB"
        facts = {
            "training data": f"{', '.join(training['data'])}: luminance, {training['images']} central squares of"
            f" {' and '.join(sizes)} pixels",
            "problems": data,
            "validation": quality,
            "trained": trained,
            "steps": f"{training['steps']}, batch {settings['batch']}",
            "seed": f"{settings['seed']}",
        }
        operator = f"A = fr.operators.{OPERATORS[self.problem]}  # image [B, 1, H, W] on [0, 1]"
        return card.page(self.meta, page, [operator, *code], facts)

    def measured(self) -> list[str]:
        """What the measurements of the training were, in words."""
        settings = card.training_of(self.meta)[1]
        known = f"{settings['views']} views" if self.problem == "ct" else f"rate {_listed(settings['rate'])}"
        unit = 1 if "task" in settings else SCALE  # runs of then told their noise on the scale of 255
        levels = _listed([unit * v for v in settings["noise"]])
        return ([] if self.problem == "deblur" else [known]) + [f"noise {levels} of 255"]


def _listed(values: Sequence[float]) -> str:
    return " or ".join(f"{v:g}" for v in values)


def first_image(operator: LinearOperator, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """The image to start from: the adjoint at y; of a scan the filtered back-projection."""
    return operator.fbp(y, "hann") if isinstance(operator, Radon) else operator.adjoint(y, size)


def rebuilt(network: N, tensors: dict[str, Tensor]) -> N:
    """The network with its parameters."""
    network.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))  # made in torch's default dtype
    network.load_state_dict(tensors)
    return network


class WaveletModel(NetworkModel[N]):
    """Images sparse in wavelets, found by a solver with a network; a subclass gives the solver.

    Attributes:
        network: what the solver takes.
        iterations: of the solver, unless a call says how many.
    """

    iterations = ITERATIONS

    def solver_for(self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor) -> Lasso[Any]:
        """The solver of min |A W* c - y|^2 / 2 + lam |c|_1; `operator` is A W*."""
        raise NotImplementedError

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """As of Model; measurements are complex where the network was trained for such."""
        super().check(y, anywhere)
        kind = "complex" if self.network.settings["complex_input"] else "real"
        expect(y.is_complex() == (kind == "complex"), type(self).__name__, "y", f"{kind} measurements [B, ...]", y)

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, x0: Tensor | None = None,
        size: Sequence[int] | None = None, iterations: int | None = None, lam: float | Tensor | None = None,
        lipschitz: float | Tensor | None = None, **options: Any,
    ) -> tuple[Tensor, ProximalReport]:  # fmt: skip
        """Images [B, 1, H, W] of measurements, complex where these are, and certificates in wavelet coefficients.

        Args:
            y: measurements [B, ...] that passed `check`, of images that lie about in [0, 1].
            operator: A, from images [B, 1, H, W]; for each image of the batch its own, or one for all.
            x0: images [B, 1, H, W] to start from; None: see `first_image`.
            size: (H, W) of the images, where neither A nor x0 tells.
            iterations: at most so many; None: the model's own.
            lam: weight of the coefficients; None: the paper's, times |A|^2.
            lipschitz: >= |A|^2; None: it is found out.
            options: of the solver's call: `tol`, `check_every`, `history`, `callback`.

        Raises:
            ValueError: an argument does not fit.
        """
        y, a = self._given(y, operator)
        back_projected = x0 is None and not isinstance(a, Radon)
        x0 = first_image(a, y, size) if x0 is None else x0.to(y)
        wavelet = Wavelet(WAVELET, LEVEL, x0.shape[-2:])
        c0 = wavelet(x0.to(y.dtype))
        if lipschitz is None:
            lipschitz = (a @ wavelet.T).norm((1, *c0.shape[1:]), tol=1e-9) ** 2
        lam = LAM[self.problem] * lipschitz if lam is None else lam
        count = self.iterations if iterations is None else iterations
        c, report = self.solver_for(a @ wavelet.T, lam, lipschitz)(y, c0, iterations=count, **options)
        return wavelet.adjoint(c), replace(report, adjoint_calls=report.adjoint_calls + int(back_projected))


@register("sgp-step", "sgp-diag")
class StepModel(WaveletModel[StepNet]):
    """SGP with the step sizes of a network."""

    def __init__(self, network: StepNet, problem: str, meta: Mapping[str, Any] | None = None):
        super().__init__(network, problem, meta)
        self.method = f"sgp-{network.settings['variant']}"  # a step size for each image, or for each coefficient

    def solver_for(self, operator: LinearOperator, lam: float | Tensor, lipschitz: float | Tensor) -> SGP:
        """As of WaveletModel."""
        return SGP(operator, lam, lipschitz, self.network)

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "StepModel":
        """The model of what a file holds."""
        model = cls(rebuilt(StepNet(**head.hyperparameters), tensors), head.problem, head.meta)
        if model.method != head.method:
            raise ValueError(f"a network for {model.method}")
        return model

    def card(self) -> str:
        """As of Model."""
        settings = card.training_of(self.meta)[1]
        step, whole = self.method == "sgp-step", settings["unroll"]
        each = "image" if step else "coefficient"
        what = f"A U-Net of width {settings['width']} that chooses a step size for each {each} in each iteration of SGP"
        trained = (
            f"end to end through {settings['unroll']} iterations, towards the true images"
            if whole
            else f"{settings['stages']} greedy stages, towards {settings['target_iterations']} iterations of FISTA"
        )
        data = [*self.measured(), f"lam {_listed(settings['lam_factor'])} times the paper's"]
        code = ["result = model(A(image), operator=A)  # result.x [B, 1, H, W], result.report"]
        return self.page(what, code, ", ".join(data), trained)


@register("unet")
class DirectModel(NetworkModel[DirectNet]):
    """A U-Net that corrects the image of `first_image`. Nothing is promised: its certificate is the misfit."""

    method = "unet"

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, x0: Tensor | None = None,
        size: Sequence[int] | None = None,
    ) -> tuple[Tensor, MisfitReport]:  # fmt: skip
        """Real images [B, 1, H, W] of measurements, and how far A x is from these.

        Args:
            y: measurements [B, ...] that passed `check`, of images that lie about in [0, 1].
            operator: A, from images [B, 1, H, W]; for each image of the batch its own, or one for all.
            x0: images [B, 1, H, W] to correct; None: see `first_image`.
            size: (H, W) of the images, where neither A nor x0 tells.

        Raises:
            ValueError: an argument does not fit.
        """
        y, a = self._given(y, operator)
        x0 = first_image(a, y, size) if x0 is None else x0.to(y)
        x0 = x0.real if x0.is_complex() else x0
        h, w = x0.shape[-2:]
        whole = pad(x0, (0, -w % MULTIPLE, 0, -h % MULTIPLE), mode="replicate")
        x = self.network(whole)[..., :h, :w].contiguous()
        return x, _misfit(a(x), y)

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "DirectModel":
        """The model of what a file holds."""
        return cls(rebuilt(DirectNet(**head.hyperparameters), tensors), head.problem, head.meta)

    def card(self) -> str:
        """As of Model."""
        width = card.training_of(self.meta)[1]["width"]
        what = (
            f"A U-Net of width {width} that maps the zero-filled image, or the filtered back-projection, to the image"
        )
        return self.page(what, ["x = model(A(image), operator=A).x"], ", ".join(self.measured()), "mean squared error")


def _misfit(image: Tensor, y: Tensor) -> MisfitReport:
    """Of A x and y."""
    distance, size = squares(image, y).sqrt(), squares(y).sqrt()
    finite = torch.isfinite(distance)
    status = Status(TRAINED_ONLY, torch.zeros_like(finite), finite)
    return MisfitReport(distance, distance / size.clamp_min(1e-300), torch.zeros_like(finite), status)


@dataclass(frozen=True)
class DirectOptions:
    """Options of the direct U-Net."""

    model: str = option("shipped model, or path of a .safetensors file; default: the shipped one, if there is one", "")

    def __post_init__(self):
        check(self, "reconstruct")


@dataclass(frozen=True)
class StepOptions(DirectOptions):
    """Options of methods for images sparse in wavelets that have a network."""

    iterations: int = option("at most so many", ITERATIONS, within="[1, 1e6]", type=int)
    lam_factor: float = option(
        "weight of the coefficients relative to the paper's", 1.0, within="[1e-9, 1e9]", type=float
    )


def by_network(name: str) -> Callable[[StepOptions, torch.device], Runner]:
    """What `method` registers: the method `name` with a model of it for the problem at hand."""

    def prepare(options: StepOptions, device: torch.device) -> Runner:
        model = _finder(name, options.model, device)

        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
            own, x0 = model(inverse.problem, inverse.y.is_complex()), inverse.first()
            assert isinstance(own, WaveletModel)
            wavelet = Wavelet(WAVELET, LEVEL, x0.shape[-2:])
            bound = (inverse.operator.norm(x0.shape, tol=1e-9) if inverse.norm is None else inverse.norm) ** 2

            def tell(k: int, s: Any) -> None:
                assert watch is not None
                watch(k, options.iterations, lambda: wavelet.adjoint(s.x))

            x, report = own(
                inverse.y, operator=inverse.operator, x0=x0, iterations=options.iterations, lipschitz=bound,
                lam=options.lam_factor * LAM[own.problem] * bound, history=True,
                callback=None if watch is None else tell,
            )  # fmt: skip
            return Outcome(x, report, model=options.model or own.name)

        return run

    return prepare


def _prepare_direct(options: DirectOptions, device: torch.device) -> Runner:
    model = _finder(DirectModel.method, options.model, device)

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        own = model(inverse.problem, inverse.y.is_complex())
        x, report = own(inverse.y, operator=inverse.operator, x0=inverse.first())
        return Outcome(x, report, model=options.model or own.name)

    return run


def _finder(name: str, chosen: str, device: torch.device) -> Callable[[str, bool], Model]:
    """The model for a problem and measurements that are complex or not; one that was chosen is looked at now."""

    @cache
    def find(problem: str, complex_input: bool) -> Model:
        def fits(head: Header) -> bool:
            return bool(problem) or head.hyperparameters["complex_input"] == complex_input

        return trained(name, problem, chosen, fits).to(device)

    if chosen:
        find("", False)
    return find


MEASURED = (*OPERATORS, "")
method("sgp-step", StepOptions, "images sparse in wavelets by SGP, steps by a network", MEASURED)(
    by_network("sgp-step")
)
method("sgp-diag", StepOptions, "images sparse in wavelets by SGP, a metric by a network", MEASURED)(
    by_network("sgp-diag")
)
method("unet", DirectOptions, "a network corrects the first image; nothing is promised", tuple(OPERATORS))(
    _prepare_direct
)
