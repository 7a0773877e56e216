"""Error-controlled iterations as a model: a module, and the settings of the iteration that it was trained for.

min F(x) = |A x - y|^2 / 2 + lam |W x|_p^p, W an orthonormal wavelet transform without its approximation. The module
proposes with falling strength from its first answer on, and a proposal is taken where F falls (solvers/
error_controlled.py). With noise in y the step of the check is short: a whole gradient step puts the noise back into the
picture that the module had taken out, at a lower F, and no proposal would ever be taken again.

Source: Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020; strengths after Zhang, Li, Zuo,
Zhang, Van Gool & Timofte, Plug-and-Play Image Restoration with Deep Denoiser Prior, IEEE Trans. Pattern Anal. Mach.
Intell. 44 (2022).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import ControlledReport
from fastrecon.checks import expect, expect_finite, number
from fastrecon.models import card
from fastrecon.models.base import Model, register
from fastrecon.models.file import Header
from fastrecon.modules import Cleaned, Modules, falling
from fastrecon.networks import UNITS, described, made
from fastrecon.operators import Crop, LinearOperator, Wavelet
from fastrecon.ops.layout import real_dtype
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.solvers import ErrorControlled, detail_weights
from fastrecon.solvers.base import where
from fastrecon.terms import LeastSquares, Lp

METHOD = "error-controlled"
LEFT = 0.78  # best for a Gaussian blur and for a shaking camera alike, at 1 and 4% of noise, on three crops of BSD68
PROBES = 12  # values of rho that are tried
FAR = 0.5  # a first answer that changes images by more of their size, and of the noise in them, is none


@dataclass(frozen=True)
class Settings:
    """How a module is used.

    Attributes:
        p, lam: of the penalty; lam in units of the noise.
        strengths: of the module, in the first iteration (0: as in the last), and in the last in units of the noise.
        pull: rho of A_f is (noise / strength)^2 / pull, if `left` is None.
        left: rho of A_f is such that the noise it leaves is so much of the strength; see `balanced`.
        faint: noise that is assumed where there is less.
        step: of the check, in units of 1 / |A|^2.
        rule, mu, error: of the solver.
        iterations: at most so many, the module's first answer among them.
        tol: relative change at which an image is done; 0: never.
        wavelet, level: of W.
    """

    p: float = 0.8
    lam: float = 0.05
    strengths: tuple[float, float] = (0.2, 1.0)
    pull: float = 3.0
    left: float | None = None
    faint: float = 3e-3
    step: float = 0.1
    rule: str = "monotone"
    mu: float | None = 1e-3
    error: float = 0.45
    iterations: int = 24
    tol: float = 1e-4
    wavelet: str = "sym4"
    level: int = 3

    def __post_init__(self):
        object.__setattr__(self, "strengths", tuple(float(s) for s in self.strengths))


# by problem, where others than the usual ones did better
SETTINGS = {
    "deblur": Settings(left=LEFT, iterations=8),  # more do not help
    "mri": Settings(strengths=(0.15, 1.0), pull=30.0, step=0.01, iterations=28),
    "inpaint": Settings(strengths=(0.1, 1.0), pull=300.0, step=0.01),
    "block-cs": Settings(strengths=(0.15, 1.0), pull=30.0, step=0.01, iterations=28),
    # the data hold the noise in full: nothing but the penalty keeps a step of the check from putting it back
    "denoise": Settings(lam=0.6, strengths=(0.0, 1.0), pull=30.0, step=0.01),
}


@dataclass(frozen=True)
class Problem:
    """What is minimised: f and r of images that the transform keeps, the first images, the window of the picture."""

    fidelity: LeastSquares
    prior: Lp
    x: Tensor
    size: tuple[int, int]

    def cropped(self, x: Tensor) -> Tensor:
        """The images of the measurements."""
        return x[..., : self.size[0], : self.size[1]].contiguous()


def posed(operator: LinearOperator, y: Tensor, x: Tensor, lam: float, s: Settings) -> Problem:
    """The problem of images x [B, C, H, W]; those whose size is no multiple of 2^level go on, as far as it takes."""
    h, w = x.shape[-2:]
    step = 1 << s.level
    height, width = h + -h % step, w + -w % step
    if (height, width) != (h, w):
        operator = operator @ Crop((height, width), 0, 0, (h, w))
        pad = (0, width - w, 0, height - h)
        parts = torch.view_as_real(x).movedim(-1, 1).flatten(1, 2) if x.is_complex() else x
        parts = nn.functional.pad(parts, pad, mode="replicate")
        x = torch.view_as_complex(parts.unflatten(1, (2, -1)).movedim(1, -1).contiguous()) if x.is_complex() else parts
    weights = detail_weights((height, width), s.level, lam).to(x.device, real_dtype(x))
    prior = Lp(weights, s.p, Wavelet(s.wavelet, s.level))
    return Problem(LeastSquares(operator, y, tol=1e-4, iterations=30), prior, x, (h, w))


@torch.no_grad()
def run(
    module: Any, s: Settings, y: Tensor, operator: LinearOperator, x: Tensor, noise: float | None, lam: float = 1.0,
    norm: float | None = None, history: bool = True,
    callback: Callable[[int, Callable[[], Tensor]], object] | None = None,
) -> tuple[Tensor, ControlledReport]:  # fmt: skip
    """Images [B, C, H, W] from the start x by a module, and their certificates; None: without one.

    The first answer is not checked: it is where the iteration starts, unless it changes an image by more than half of
    its size and all of its noise, leaves the range of the module's images, or is none.
    """
    sigma = max(noise or 0.0, s.faint)
    q = posed(operator, y, x, float(number(lam, METHOD, "lam", above=0)) * s.lam * sigma, s)
    last = s.strengths[1] * sigma
    strengths = falling(s.strengths[0] or last, last, s.iterations)
    norm = operator.norm(x.shape, tol=1e-3) if norm is None else norm
    norm = (norm or 1.0) * 1.001  # power iteration comes from below
    rho: list[float] | list[Tensor] = [(sigma / v) ** 2 / s.pull for v in strengths]
    if module is not None and s.left is not None:
        rho = balanced(q, [v / sigma for v in strengths], s.left, norm)
    start, iterations = q.x, s.iterations
    reasons: tuple[str, ...] = ()
    if module is not None and iterations > 1:
        start, reasons = _first(module, q, strengths[0], rho[0], sigma)
        strengths, rho, iterations = strengths[1:], rho[1:], iterations - 1
    solver = ErrorControlled(
        q.fidelity, q.prior, module, strengths=strengths, rho=None if module is None else rho, rule=s.rule, mu=s.mu,
        error=s.error, step=(s.step if module is not None else 0.99) / norm**2, norm=norm,
    )  # fmt: skip
    done = s.iterations - iterations

    def tell(k: int, state: Any) -> None:
        if callback is not None and len(state.x) == len(x):
            callback(done + k, lambda: q.cropped(state.x))

    told = None if callback is None else tell  # a loop that nobody watches may be shared
    found, report = solver(y, start, iterations, s.tol, history=history, callback=told)
    return q.cropped(found), replace(report, reasons=tuple(dict.fromkeys((*reasons, *report.reasons))))


def balanced(q: Problem, strengths: Sequence[float], left: float, norm: float) -> list[Tensor]:
    """rho [B] of A_f for strengths in units of the noise: that at which A_f leaves `left` of them.

    What is left of white noise depends on the frequency: k / (k^2 + rho) of it where A is k. A module stands a little
    more than it is told at some frequencies, not ten times as much, which the mean square would allow of a blur that
    keeps few of them; so the mean is that of the fourth power.
    """
    y, x = q.fidelity.measurements(None), q.x
    white = torch.randn(y.shape[1:], generator=torch.Generator().manual_seed(0)).to(y).expand(y.shape)
    fidelity, zero = (
        LeastSquares(q.fidelity.operator, white, q.fidelity.tol, q.fidelity.iterations),
        torch.zeros_like(x),
    )
    low, high = 1 / (64 * max(strengths) ** 2), 4 / min(strengths) ** 2
    tried = [norm**2 * low * (high / low) ** (k / (PROBES - 1)) for k in range(PROBES)]
    found = []
    for rho in tried:
        u = torch.fft.fft2(fidelity.prox(zero, 1 / rho), norm="ortho").abs().flatten(1)
        found.append((u.square().square().double().mean(1) / 2).pow(0.25))  # 2: of the powers of Gaussian numbers
    logs = torch.stack(found).log()  # [PROBES, B], falling
    steps = torch.tensor(tried, dtype=torch.float64, device=x.device).log()
    rhos = []
    for s in strengths:
        k = (logs > math.log(left * s)).sum(0).clamp(1, PROBES - 1)
        above, below = (logs.gather(0, i[None])[0] for i in (k - 1, k))
        share = ((above - math.log(left * s)) / (above - below)).clamp(0, 1)
        rhos.append(torch.lerp(steps[k - 1], steps[k], share).exp())
    return rhos


def _first(
    module: Any, q: Problem, strength: float, rho: float | Tensor, noise: float
) -> tuple[Tensor, tuple[str, ...]]:
    """The module's first answer, images of which there is none as they were; and what went wrong."""
    reasons: list[str] = []
    u = q.fidelity.prox(q.x, 1 / rho)
    modules = Modules(module, [strength], METHOD)
    answer = modules.asked(u, 0, reasons)
    power = noise**2 * u[0].numel() * (2 if u.is_complex() else 1)
    near = (sum_of_squares(answer.u - u) <= FAR**2 * sum_of_squares(u) + power) & modules.within(answer.u)
    return where(near & ~answer.failed, answer.u, q.x), tuple(reasons)


@register(METHOD)
class ErrorControlledModel(Model):
    """Images by error-controlled iterations with a trained module.

    Args:
        unit: a network of a kind in `networks.UNITS`, which answers what to take off an image.
        problem: name of the problem.
        settings: how it is used.
        meta: facts to keep with the model: `name`, `training`.

    Raises:
        ValueError: the unit is of an unknown kind.
    """

    method, operator = METHOD, None

    def __init__(
        self, unit: nn.Module, problem: str, settings: Settings | None = None, meta: Mapping[str, Any] | None = None
    ):  # fmt: skip
        super().__init__(meta)
        fits = isinstance(unit, tuple(UNITS.values()))
        expect(fits, type(self).__name__, "unit", f"one of {', '.join(UNITS)}", type(unit).__name__)
        self.unit, self.problem, self.settings = unit, problem, settings or Settings()

    def module(self, half: bool = False) -> Cleaned:
        """What proposes."""
        return Cleaned(self.unit, half)

    @property
    def independent(self) -> bool:
        """Always: nothing is shared by the images of a batch."""
        return True

    @property
    def like(self) -> Tensor:
        """A tensor of the unit, whose type and device are the model's."""
        return next(self.unit.parameters())

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape is the operator's to judge.

        Raises:
            ValueError: they are not numeric, on another device, or hold NaN or Inf.
        """
        expect(y.is_floating_point() or y.is_complex(), METHOD, "y", "real or complex measurements", y)
        here = anywhere or y.device == self.like.device
        expect(here, METHOD, "y", f"a tensor on {self.like.device}", f"one on {y.device}")
        expect_finite(y, METHOD, "finite measurements", "image")

    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, noise: float | None = None,
        size: tuple[int, int] | None = None, start: Tensor | None = None, *, lam: float = 1.0, history: bool = True,
        callback: Callable[[int, Callable[[], Tensor]], object] | None = None, **changes: Any,
    ) -> tuple[Tensor, ControlledReport]:  # fmt: skip
        """Images [B, C, H, W] of measurements, complex where they are, and their certificates.

        Args:
            y: measurements that passed `check`.
            operator: A.
            noise: standard deviation of each real number of y, where white is 1; None: as good as none.
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
        kind = self.like.dtype.to_complex() if y.is_complex() else self.like.dtype
        y = y.to(kind).contiguous()
        x = operator.apply_adjoint(y, size) if start is None else start
        x = x.to(kind if y.is_complex() else self.like.dtype)
        s = changed(self.settings, changes)
        return run(self.module(), s, y, operator, x, noise, lam, None, history, callback)

    def hyperparameters(self) -> dict[str, Any]:
        """Of the unit and the iteration."""
        return {"unit": described(self.unit), "settings": asdict(self.settings)}

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "ErrorControlledModel":
        """The model of what a file holds."""
        given = head.hyperparameters
        model = cls(made(given["unit"]), head.problem, Settings(**given["settings"]), head.meta)
        model.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
        model.load_state_dict(tensors)
        return model

    def card(self) -> str:
        """As of Model."""
        training, _ = card.training_of(self.meta)
        s = self.settings
        what = [
            f"A denoiser inside error-controlled iterations for the problem {self.problem}: at most {s.iterations}"
            " iterations, whose objective never rises whatever the network says.",
            "Method: Liu, Optimization Learning: Perspective, Method, and Applications, IJCAI 2020.",
        ]
        code = [
            "result = model(y, operator=A, noise=0.01)  # result.x [B, 1, H, W], result.report",
            "module = model.module()  # the denoiser alone: module(x, sigma)",
        ]
        return card.page(self.meta, what, code, {k: str(v) for k, v in training.get("facts", {}).items()})


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with other values.

    Raises:
        ValueError: one has an unknown name.
    """
    known = asdict(settings)
    for name in changes:
        expect(name in known, METHOD, "options", f"some of {', '.join(known)}", repr(name))
    return replace(settings, **({"left": None} if "pull" in changes else {}), **changes)
