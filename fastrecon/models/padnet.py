"""PADNet as a model: units of any registered kind, and the solver's settings they were trained for.

Explicit, the image minimises |A x - y|^2 / 2 + r(x), r an lp penalty, and units only propose: see solvers/padnet.py. Of
blurred images the objective is one of slopes, min over x of |A x - y|^2 / 2 + beta |D x - g|^2 / 2 + lam |g|_p^p (eq.
15 of the paper). Implicit, the units are all the prior there is.

Source: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653); strengths of
units after Zhang, Li, Zuo, Zhang, Van Gool & Timofte, Plug-and-Play Image Restoration with Deep Denoiser Prior, IEEE
Trans. Pattern Anal. Mach. Intell. 44 (2022).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import CorrectedReport, MisfitReport
from fastrecon.checks import choice, expect, expect_finite, number
from fastrecon.models import card
from fastrecon.models.base import Model, register, trained
from fastrecon.models.file import Header
from fastrecon.networks import UNITS, described, made
from fastrecon.operators import Blur, Crop, Gradient, LinearOperator
from fastrecon.operators.base import Composition
from fastrecon.operators.blurred_slopes import BlurredSlopes
from fastrecon.options import check, flag_of, option
from fastrecon.solvers import PADNet, haze_methods
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.terms import LeastSquares, Lp

METHOD = "padnet"
BLURRED = "deblur"  # whose model serves operators of the caller's
PROBLEMS = (BLURRED, "slopes", haze_methods.PROBLEM, "")  # for which a model can be trained and chosen
VARIANTS = ("explicit", "implicit")
PRECISIONS = ("float32", "bfloat16")
LOOSE = 1e-6  # mu of units that are told their strength, implicit: nothing but these and the data hold the image
FAINT = 2e-3  # noise that is assumed where there is less, of images on [0, 1]
MIRRORED = 0.01  # weight of the mirrored photograph, where what lies beyond its edges is estimated


@dataclass(frozen=True)
class Settings:
    """How units are used. Those of the solver by name: see solvers.PADNet.

    Attributes:
        variant: "explicit" or "implicit".
        p, lam: of r = lam |.|_p^p, explicit.
        lam_noise: noise at which lam holds: it grows as noise^1.5; None: it is the same for all.
        slopes: whether the explicit objective of images is that of their slopes; False: that of what A takes.
        beta: of it.
        clip: largest root mean square of a unit's output; None: any.
        strengths: units with levels: that of the first iteration, for images on [0, 1], and that of the last in units
            of the noise; geometric between. Their outputs are `pull` noise / strength times the residual, and rho is
            (pull noise / strength)^2, so that with them `rho` and `growth` do not count.
        pull: see there.
        warm: implicit iterations before the explicit ones: these start where those end. The implicit variant takes so
            many. 0: none, and `iterations` of either.
        iterations: at most so many.
        tol: relative change at which an image is done; 0: never.
    """

    variant: str = "explicit"
    p: float = 0.8
    lam: float = 5e-4
    lam_noise: float | None = None
    slopes: bool = False
    beta: float = 0.1
    rule: str = "descent"
    mu: float | None = None
    error: float = 0.45
    rho: float = 1.0
    growth: float = 1.5
    most: int = 5
    clip: float | None = None
    strengths: tuple[float, float] = (0.2, 1.0)
    pull: float = 2.0
    warm: int = 0
    iterations: int = 30
    tol: float = 1e-3

    def __post_init__(self):
        object.__setattr__(self, "strengths", tuple(float(s) for s in self.strengths))


@register(METHOD)
class PADNetModel(Model):
    """Images by PADNet.

    Args:
        rows: the units of every iteration, the last list for all that follow; see solvers.padnet.Units. Each of a kind
            in `networks.UNITS`. One that stands in several places is kept once.
        problem: name of the problem.
        settings: how they are used.
        meta: facts to keep with the model: `name`, `training`.

    Raises:
        ValueError: there is no unit, or one of an unknown kind.
    """

    method, operator = METHOD, None

    def __init__(
        self, rows: Sequence[Sequence[nn.Module]], problem: str, settings: Settings | None = None,
        meta: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__(meta)
        name, kinds = type(self).__name__, tuple(UNITS.values())
        fits = len(rows) > 0 and all(len(row) > 0 and all(isinstance(u, kinds) for u in row) for row in rows)
        expect(fits, name, "rows", f"lists of units, of {', '.join(UNITS)}", rows)
        self.problem, self.settings = problem, settings or Settings()
        distinct = list({id(u): u for row in rows for u in row}.values())
        self.units = nn.ModuleList(distinct)
        place = {id(u): k for k, u in enumerate(distinct)}
        self.order = [[place[id(u)] for u in row] for row in rows]
        self.precision = PRECISIONS[0]

    @property
    def rows(self) -> list[list[Any]]:
        """The units of every iteration."""
        return [[self.units[k] for k in row] for row in self.order]

    @property
    def independent(self) -> bool:
        """Always: nothing is shared by the images of a batch."""
        return True

    @property
    def like(self) -> Tensor:
        """A tensor of the units, whose type and device are the model's."""
        return next(self.units.parameters())

    def set_precision(self, precision: str) -> None:
        """What the units compute in: their outputs are proposals, and nothing that is certified depends on them.

        Raises:
            ValueError: it is unknown.
        """
        self.precision = choice(precision, PRECISIONS, METHOD, "precision")

    def planned(self, **changes: Any) -> int:
        """Iterations of `compute` with these changes, at most."""
        s = replace(self.settings, **changes)
        if s.variant == "implicit":
            return s.warm if s.warm and "iterations" not in changes else s.iterations
        return s.warm + s.iterations

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape is the operator's to judge.

        Raises:
            ValueError: they are not real, on another device, or hold NaN or Inf.
        """
        expect(y.ndim == 4 and y.is_floating_point(), METHOD, "y", "real measurements [B, C, H, W]", y)
        here = anywhere or y.device == self.like.device
        expect(here, METHOD, "y", f"a tensor on {self.like.device}", f"one on {y.device}")
        expect_finite(y, METHOD, "finite measurements", "image")

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, noise: float | None = None,
        size: tuple[int, int] | None = None, start: Tensor | None = None, *, lam: float = 1.0, history: bool = True,
        callback: Callable[[int, Callable[[], Tensor]], object] | None = None, **changes: Any,
    ) -> tuple[Tensor, CorrectedReport | MisfitReport]:  # fmt: skip
        """Images [B, C, H, W] of measurements, and their certificates: CorrectedReport, of the implicit variant
        MisfitReport.

        Args:
            y: measurements that passed `check`.
            operator: A.
            noise: standard deviation of each number of y, where white is 1; None: the training's, 0.01.
            size: (H, W) of the images, where neither y nor A tell.
            start: images to start from; None: the adjoint of A at y.
            lam: times the weight of r, > 0.
            history: whether to record every iteration.
            callback: callback(k, x) after every iteration, x() the images.
            changes: other values of `Settings`, by name.

        Raises:
            ValueError: an argument does not fit.
        """
        expect(isinstance(operator, LinearOperator), METHOD, "operator", "a LinearOperator", type(operator).__name__)
        assert operator is not None
        known = asdict(self.settings)
        for name in changes:
            expect(name in known, METHOD, "options", f"some of {', '.join(known)}", repr(name))
        s = replace(self.settings, **changes)
        expect(s.variant in VARIANTS, METHOD, "variant", " or ".join(VARIANTS), repr(s.variant))
        sigma = 0.01 if noise is None else max(float(number(noise, METHOD, "noise", least=0)), FAINT)
        weight = float(number(lam, METHOD, "lam", above=0)) * s.lam
        weight *= 1.0 if s.lam_noise is None else (sigma / s.lam_noise) ** 1.5
        y = y.to(self.like.dtype).contiguous()  # transforms of strided images round otherwise
        x = operator.apply_adjoint(y, size) if start is None else start.to(y)
        explicit, shown, done = s.variant == "explicit", lambda x: x, 0
        if s.warm and explicit:
            first = {"variant": "implicit", "iterations": s.warm, "tol": 0.0}
            x, _ = self.compute(y, operator, noise, start=x, history=False, callback=callback, **changes | first)
            done = s.warm
        elif s.warm and "iterations" not in changes:
            s = replace(s, iterations=s.warm)
        on_slopes = explicit and s.slopes
        levels = bool(getattr(self.rows[0][0], "levels", False))
        strengths = (_strengths(s, sigma)[-1:] if done else _strengths(s, sigma)) if levels else []
        gain, half = s.pull * sigma, self.precision == "bfloat16"
        wrap: Callable[[Any, float | None], Any] = lambda u, level: Scaled(u, level, gain, half)  # noqa: E731
        if on_slopes:
            operator, y = _whole(operator, y, x, bool(done))
            expect(isinstance(operator, Blur), METHOD, "operator", "a Blur", type(operator).__name__)
            assert isinstance(operator, Blur)
            expect(y.shape[1] == 1, METHOD, "y", "grey pictures [B, 1, H, W], colours each on its own", y)
            reduced, image_y = BlurredSlopes(operator, s.beta), y
            wrap = lambda u, level: OnImages(Scaled(u, level, gain, half), reduced, image_y, level, gain)  # noqa: E731
            shown = lambda g: reduced.image(g, image_y)  # noqa: E731
            operator, y, x = reduced, reduced.measured(y), Gradient().forward(x)
        last = len(self.rows) - 1
        planned: list[float | None] = [*strengths] or [None] * len(self.rows)
        units = [[wrap(u, level) for u in self.rows[min(k, last)]] for k, level in enumerate(planned)]
        rho, growth = s.rho, s.growth
        if strengths:
            rho = (gain / strengths[0]) ** 2
            growth = (strengths[0] / strengths[1]) ** 2 if len(strengths) > 1 else 1.0
        clip = None if s.clip is None else s.clip * math.sqrt(x[0].numel())
        solver = PADNet(
            operator, Lp(weight, s.p) if explicit else None, units, rule=s.rule,
            mu=LOOSE if levels and not explicit else s.mu, error=s.error, rho=rho, growth=max(growth, 1.0), most=s.most,
            clip=clip,
        )  # fmt: skip

        def tell(k: int, state: Any) -> None:
            assert callback is not None
            if len(state.x) == len(x):
                callback(done + k, lambda: shown(state.x))

        found, report = solver(y, x, s.iterations, s.tol, history=history, callback=None if callback is None else tell)
        return shown(found), report

    def hyperparameters(self) -> dict[str, Any]:
        """Of units and solver."""
        return {"units": [described(u) for u in self.units], "order": self.order, "settings": asdict(self.settings)}

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "PADNetModel":
        """The model of what a file holds."""
        units = [made(given) for given in head.hyperparameters["units"]]
        rows = [[units[k] for k in row] for row in head.hyperparameters["order"]]
        model = cls(rows, head.problem, Settings(**head.hyperparameters["settings"]), head.meta)
        model.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
        model.load_state_dict(tensors)
        return model

    def card(self) -> str:
        """As of Model."""
        training, _ = card.training_of(self.meta)
        s, count = self.settings, len(self.units)
        what = [
            f"PADNet for the problem {self.problem}: {count} unit{'s' if count > 1 else ''}"
            f" ({', '.join(sorted({g['kind'] for g in self.hyperparameters()['units']}))}), {s.variant}, at most"
            f" {s.iterations} iteration{'s' if s.iterations > 1 else ''}.",
            "Method: Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018.",
        ]
        code = ["result = model(y, operator=A, noise=0.01)  # result.x [B, C, H, W], result.report"]
        if self.problem == haze_methods.PROBLEM:
            code = [
                "result = model(y, operator=fr.operators.Identity())",
                "# y [B, 4, H, W]: bound of the transmission, photograph / light; result.x[:, :1] the transmission",
                "# in one line: fastrecon reconstruct photo.jpg --problem dehaze --out done",
            ]
        return card.page(self.meta, what, code, {k: str(v) for k, v in training.get("facts", {}).items()})


class Scaled:
    """A unit on images of any number of channels, each on its own; its output as `Settings.strengths` says."""

    joins = True

    def __init__(self, unit: Any, level: float | None, gain: float, half: bool = False):
        self.unit, self.level, self.gain, self.half = unit, level, gain, half
        self.channels = int(unit.settings.get("in_channels", 1))

    def residual(self, v: Tensor) -> Tensor:
        """The unit's G."""
        c = self.channels
        fits = v.shape[1] % c == 0
        expect(fits, METHOD, "x", f"images with a multiple of {c} channels", v)
        flat = v.reshape(-1, c, *v.shape[2:])
        with torch.autocast(v.device.type, torch.bfloat16, enabled=self.half):
            g = self.unit(flat) if self.level is None else self.unit(flat, self.level)
        return g.to(v).reshape(v.shape)

    def __call__(self, v: Tensor) -> Tensor:
        """G scaled."""
        g = self.residual(v)
        return g if self.level is None else self.gain / self.level * g


class OnImages:
    """A unit of images at work on slopes: it sees the image that slopes and measurements give."""

    joins = True

    def __init__(self, unit: Scaled, reduced: BlurredSlopes, y: Tensor, level: float | None, gain: float):
        self.unit, self.reduced, self.y, self.level, self.gain = unit, reduced, y, level, gain

    def __call__(self, v: Tensor) -> Tensor:
        """v less the slopes of the cleaned image."""
        x = self.reduced.image(v, self.y)
        g = v - Gradient().forward(x - self.unit.residual(x))
        return g if self.level is None else self.gain / self.level * g

    def take(self, which: Tensor) -> "OnImages":
        """For the images `which` of the batch."""
        reduced = self.reduced.take(which)
        assert isinstance(reduced, BlurredSlopes)
        return OnImages(self.unit, reduced, self.y[which], self.level, self.gain)


def _strengths(s: Settings, sigma: float) -> list[float]:
    """Of the iterations, falling."""
    first, last = s.strengths[0], min(s.strengths[0], s.strengths[1] * sigma)
    steps = max(s.iterations - 1, 1)
    return [first * (last / first) ** (k / steps) for k in range(max(s.iterations, 1))]


def _whole(operator: LinearOperator, y: Tensor, x: Tensor, known: bool) -> tuple[LinearOperator, Tensor]:
    """A blur behind a window as one without: beyond the window stands what the blur of the scene has there, of x where
    that is `known`, else of an estimate near x.
    """
    behind = isinstance(operator, Composition) and isinstance(operator.outer, Crop) and isinstance(operator.inner, Blur)
    if not behind:
        return operator, y
    assert isinstance(operator, Composition)
    assert isinstance(operator.outer, Crop)
    window, blur = operator.outer, operator.inner
    scene = x if known else LeastSquares(operator, y, tol=1e-3, iterations=50).prox(x, 1 / MIRRORED)
    blurred = blur.forward(scene)
    return blur, blurred - window.apply_adjoint(window.forward(blurred)) + window.apply_adjoint(y)


@dataclass(frozen=True)
class Options:
    """Options of PADNet."""

    model: str = option("shipped model, or path of a .safetensors file; default: the shipped one, if there is one", "")
    variant: str = option(
        "explicit: an objective falls in every iteration; implicit: the units alone; default: the model's", "",
        choices=VARIANTS,
    )  # fmt: skip
    iterations: int | None = option("at most so many; default: the model's", None, within="[1, 1e6]", type=int)
    tol: float | None = option(
        "an image is done once its relative change is at most TOL; 0: never; default: the model's", None,
        within="[0, 1]", type=float,
    )  # fmt: skip
    lam: float = option(
        "of explicit: times the weight of the objective's penalty", 1.0, within="[1e-9, 1e9]", type=float
    )
    p: float | None = option("of explicit: its exponent; default: the model's", None, within="[0, 1]", type=float)
    rule: str = option(
        "what an explicit iteration accepts: descent of the objective, or the paper's error condition alone; default:"
        " the model's", "", choices=("descent", "paper"),
    )  # fmt: skip

    precision: str = option("of the units, which only propose: bfloat16 is quick where the processor has it", "float32",
                            choices=PRECISIONS)  # fmt: skip

    def __post_init__(self):
        check(self, METHOD)

    def changes(self) -> dict[str, Any]:
        """The settings that differ from the model's."""
        given = {k: getattr(self, k) for k in ("variant", "iterations", "tol", "p", "rule")}
        return {k: v for k, v in given.items() if v not in ("", None)}


def _refused(options: Options, model: "PADNetModel") -> None:
    """Raises ValueError where an option of the objective is given, which the implicit variant has not."""
    if (options.variant or model.settings.variant) == "explicit":
        return
    for name in ("lam", "p", "rule"):
        value = getattr(options, name)
        expect(value == getattr(Options, name), METHOD, flag_of(name), "--variant explicit, where it is given", value)


@method(METHOD, Options, "units that are trained propose, a test accepts (PADNet); needs the noise", PROBLEMS)
def padnet(options: Options, device: torch.device) -> Runner:
    """Images [B, 1, H, W]."""
    models: dict[str, Model] = {}

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        problem = inverse.problem or ("" if options.model else BLURRED)
        model = models.setdefault(problem, trained(METHOD, problem, options.model).to(device))
        assert isinstance(model, PADNetModel)
        model.set_precision(options.precision)
        _refused(options, model)
        total = model.planned(**options.changes())

        hazy, count = inverse.problem == haze_methods.PROBLEM, inverse.y.shape[1]
        y, first = inverse.y, inverse.first()
        if hazy:  # the photograph rides along, as its units want it
            y = first = haze_methods.guided(inverse)

        def tell(k: int, x: Callable[[], Tensor]) -> None:
            assert watch is not None
            watch(k, total, lambda: x()[:, :count] if hazy else x())

        model.check(y)
        x, report = model.compute(
            y, inverse.operator, inverse.noise, inverse.size, first, lam=options.lam,
            callback=None if watch is None else tell, **options.changes(),
        )  # fmt: skip
        if hazy:
            x = haze_methods.finished(x[:, :count], haze_methods.scene(inverse, METHOD)[0])
            report = haze_methods.apart(x, inverse.y, report.status.texts[1])
        return Outcome(x, report, model=options.model or model.name)

    return run
