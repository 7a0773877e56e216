"""Method "two-layer": a photograph in rain as background and streaks, by alternating directions.

min F(B, R) = sum_c |y_c - B_c - R|^2 / 2 + lam |d' B|_1 + along |d R|_1 + sparse |R|_1  over  0 <= R <= min_c y_c

d: the difference along the rain, d' that across it, circular. Streaks are one layer for all colours, since rain has
none, sparse, and change little along their fall, where the background has its edges across it as elsewhere. F is
convex. The splits P = d' B, S = d R, T = R have multipliers; B and R together are one linear system in each frequency.

Source: Deng, Huang, Zhao & Jiang, A Directional Global Sparse Model for Single Image Rain Removal, Appl. Math. Model.
59 (2018); two layers: Li, Tan, Guo, Lu & Brown, Rain Streak Removal Using Layer Priors, CVPR 2016.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import AlternatingReport, Status
from fastrecon.checks import expect, integer, number
from fastrecon.ops import soft_threshold
from fastrecon.ops.reductions import sum_of, sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers.base import Callback, Run, check_measurements, column, iterate
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, given_weight, method

STEEPEST, STEP = 45, 5  # degrees from upright: angles that are looked at
ORDINARY = 0.75  # differences along over those across; most photographs without rain have more
GAIN = 0.15  # lam of the contrast that streaks add
ALONG, SPARSE = 2.0, 0.15  # weights in units of lam


@dataclass(frozen=True)
class Layers:
    """Where the iteration stands."""

    background: Tensor  # B [N, C, H, W]
    streaks: Tensor  # R [N, 1, H, W]
    splits: tuple[Tensor, Tensor, Tensor]  # P, S, T
    duals: tuple[Tensor, Tensor, Tensor]  # scaled multipliers
    primal: Tensor  # [N] |K (B, R) - (P, S, T)|, float64
    dual: Tensor  # [N] penalty |K* (change of the splits)|
    sizes: tuple[Tensor, Tensor]  # [N] of the splits, and of penalty K* (duals)


def across(x: Tensor, angle: Tensor) -> Tensor:
    """d' x: differences of images [N, C, H, W] across a direction, `angle` [N] in radians from upright."""
    c, s = column(angle.cos(), x), column(angle.sin(), x)
    return c * (x.roll(-1, -1) - x) - s * (x.roll(-1, -2) - x)


def along(x: Tensor, angle: Tensor) -> Tensor:
    """d x: those along it."""
    c, s = column(angle.cos(), x), column(angle.sin(), x)
    return c * (x.roll(-1, -2) - x) + s * (x.roll(-1, -1) - x)


def fall(y: Tensor) -> tuple[Tensor, Tensor]:
    """The direction [N] in which photographs [N, C, H, W] change least, and their change along it over that across.

    The darkest colour of a pixel shows streaks best. Angles from -45 to 45 degrees.
    """
    dark = y.amin(1, keepdim=True)
    angles = torch.deg2rad(torch.arange(-STEEPEST, STEEPEST + 1, STEP, dtype=y.dtype, device=y.device))
    d = torch.stack((across(dark, angles.new_zeros(len(y))), along(dark, angles.new_zeros(len(y)))))
    # means of two neighbours: differences about the same point, which no direction is nearer to
    right, down = (d[0] + d[0].roll(-1, -2)) / 2, (d[1] + d[1].roll(-1, -1)) / 2

    def total(d: Tensor) -> Tensor:  # differences that meet the other side tell nothing
        return d[..., :-1, :-1].abs().double().sum((1, 2, 3))

    def ratio(a: Tensor) -> Tensor:
        c, s = a.cos(), a.sin()
        return total(c * down + s * right) / total(c * right - s * down).clamp_min(1e-12)

    best = angles[torch.stack([ratio(a) for a in angles]).argmin(0)]
    return best, total(along(dark, best)) / total(across(dark, best)).clamp_min(1e-12)


class TwoLayer:
    """Background and streaks of photographs; see above.

    Args:
        lam: weight of the background's differences, > 0; None: 0.15 (0.75 - ratio), ratio that of `fall`, at least
            0.002: the more streaks tell, the heavier.
        along, sparse: weights of the streaks in units of lam, >= 0.
        angle: of the rain in degrees from upright, > 0 falling to the right; None: that of `fall`.
        penalty: of the splits, > 0.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, lam: float | None = None, along: float = ALONG, sparse: float = SPARSE, angle: float | None = None,
        penalty: float = 1.0,
    ):  # fmt: skip
        op = "TwoLayer"
        self.lam = None if lam is None else float(number(lam, op, "lam", above=0))
        self.along, self.sparse = (
            float(number(v, op, k, least=0)) for k, v in (("along", along), ("sparse", sparse))
        )  # fmt: skip
        self.angle = None if angle is None else float(number(angle, op, "angle", least=-90, most=90))
        self.penalty = float(number(penalty, op, "penalty", above=0))

    def weights(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """lam and angle in radians, [N] each."""
        angle, ratio = fall(y)
        if self.angle is not None:
            angle = torch.full_like(angle, math.radians(self.angle))
        if self.lam is not None:
            return torch.full_like(angle, self.lam), angle
        return (GAIN * (ORDINARY - ratio)).clamp_min(0.002).to(y.dtype), angle

    def objective(self, background: Tensor, streaks: Tensor, y: Tensor) -> Tensor:
        """F [N] in float64, for streaks within their bounds."""
        lam, angle = self.weights(y)
        w = lam.double()
        return (
            sum_of_squares(y - background - streaks) / 2
            + w * sum_of(across(background, angle).abs())
            + w * (self.along * sum_of(along(streaks, angle).abs()) + self.sparse * sum_of(streaks.abs()))
        )

    @torch.no_grad()
    def __call__(
        self, y: Tensor, iterations: int = 40, tol: float = 1e-3, *, history: bool = False,
        callback: Callback | None = None,
    ) -> tuple[Tensor, Tensor, AlternatingReport]:  # fmt: skip
        """Splits photographs.

        Args:
            y: photographs [N, C, H, W] on [0, 1].
            iterations: at most this many, >= 0.
            tol: >= 0: done once both relative residuals are at most this.
            history: whether to record every iteration.
            callback: called after every iteration with its number and the state.

        Returns:
            B [N, C, H, W], R [N, 1, H, W], and the report, for K (B, R) = (d' B, d R, R).

        Raises:
            ValueError: an argument does not fit.
        """
        check_measurements(y, "TwoLayer")
        expect(y.ndim == 4 and y.is_floating_point(), "TwoLayer", "y", "real photographs [N, C, H, W]", y)
        iterations = integer(iterations, "TwoLayer", "iterations", least=0)
        tol = float(number(tol, "TwoLayer", "tol", least=0))
        found = iterate(
            self._step(y), self._start(y), iterations, callback=callback, row=self._row(y) if history else None,
            done=(lambda s: torch.maximum(*_relative(s)) <= tol) if tol > 0 else None, check_every=8,
            narrow=lambda which: self._step(y[which]),
        )  # fmt: skip
        s = found.state
        streaks = torch.minimum(s.streaks.clamp_min(0), y.amin(1, keepdim=True).clamp_min(0))
        return s.background, streaks, self._certificate(found, y, streaks, tol)

    def _start(self, y: Tensor) -> Layers:
        lam, angle = self.weights(y)
        nothing = torch.zeros_like(y[:, :1])
        splits = across(y, angle), nothing, nothing
        duals = torch.zeros_like(y), nothing, nothing
        unknown = torch.full_like(lam, torch.inf, dtype=torch.float64)
        return Layers(y, nothing, splits, duals, unknown, unknown, (unknown, unknown))

    def _step(self, y: Tensor) -> Any:
        size, count, beta = (y.shape[-2], y.shape[-1]), y.shape[1], self.penalty
        lam, angle = self.weights(y)
        cap = y.amin(1, keepdim=True).clamp_min(0)
        impulse = torch.zeros_like(y[:, :1])
        impulse[..., 0, 0] = 1
        a, d = (torch.fft.rfft2(f(impulse, angle)) for f in (across, along))
        a2, d2 = (t.real.square() + t.imag.square() for t in (a, d))
        seen = torch.fft.rfft2(y)
        weight = [column(w / beta, y) for w in (lam, lam * self.along, lam * self.sparse)]
        own = 1 + beta * a2
        both = count - count / own + beta * (d2 + 1)  # what is left for R once B is eliminated

        def mapped(b: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return across(b, angle), along(r, angle), r

        def step(s: Layers, k: int) -> Layers:
            images = mapped(s.background, s.streaks)
            v = [i + u for i, u in zip(images, s.duals, strict=True)]
            p, q = soft_threshold(v[0], weight[0]), soft_threshold(v[1], weight[1])
            splits = p, q, torch.minimum((v[2] - weight[2]).clamp_min(0), cap)
            duals = v[0] - splits[0], v[1] - splits[1], v[2] - splits[2]
            target = [torch.fft.rfft2(t - u) for t, u in zip(splits, duals, strict=True)]
            to_b = seen + beta * a.conj() * target[0]
            to_r = seen.sum(1, keepdim=True) + beta * (d.conj() * target[1] + target[2])
            r = (to_r - (to_b / own).sum(1, keepdim=True)) / both
            b = torch.fft.irfft2((to_b - r) / own, s=size)
            r = torch.fft.irfft2(r, s=size)
            left = [i - t for i, t in zip(mapped(b, r), splits, strict=True)]
            moved = [t - o for t, o in zip(splits, s.splits, strict=True)]
            sizes = beta * _pulled(duals, angle), _norm(splits)
            return Layers(b, r, splits, duals, _norm(left), beta * _pulled(moved, angle), sizes)

        return step

    def _row(self, y: Tensor) -> Any:
        def row(s: Layers) -> dict[str, Tensor]:
            whole = len(s.primal) == len(y)
            unknown = torch.full_like(s.primal, torch.nan)
            value = self.objective(s.background, s.splits[2], y) if whole else unknown
            return {"objective": value, "primal_residual": s.primal, "dual_residual": s.dual}

        return row

    def _certificate(self, found: Run[Layers], y: Tensor, streaks: Tensor, tol: float) -> AlternatingReport:
        s = found.state
        objective = self.objective(s.background, streaks, y)
        finite = torch.isfinite(objective)
        primal, dual = _relative(s)
        return AlternatingReport(
            objective, s.primal, s.dual, primal, dual, torch.full_like(objective, self.penalty), found.count,
            found.done & finite, Status("iteration limit", found.done & finite, finite), found.history,
        )  # fmt: skip


def _norm(parts: Any) -> Tensor:
    return sum(sum_of_squares(p) for p in parts).sqrt()  # type: ignore[union-attr]


def _pulled(parts: Any, angle: Tensor) -> Tensor:
    """|K* parts| [N]; the adjoint of a difference is that with the other sign, mirrored: as long by its spectrum."""
    p, q, t = parts
    c, s = column(angle.cos(), p), column(angle.sin(), p)
    back = lambda x, a, b: a * (x.roll(1, -1) - x) + b * (x.roll(1, -2) - x)  # noqa: E731
    return _norm((back(p, c, -s), back(q, s, c) + t))


def _relative(s: Layers) -> tuple[Tensor, Tensor]:
    """Primal and dual residuals over the sizes of what they are differences of."""
    pull, size = s.sizes
    return s.primal / size.clamp_min(1e-12), s.dual / pull.clamp_min(1e-12)


@dataclass(frozen=True)
class TwoLayerOptions:
    """Options of "two-layer"."""

    lam: str = option("weight of the background's differences: a number; auto: by the contrast of the streaks", "auto")
    along: float = option("times that weight: of differences along streaks", ALONG, within="[0, 1e6]", type=float)
    sparse: float = option("times that weight: of the streaks themselves", SPARSE, within="[0, 1e6]", type=float)
    angle: str = option(
        "of the rain in degrees from upright, above 0 falling to the right; auto: where the picture changes least",
        "auto",
    )
    iterations: int = option("at most so many", 40, within="[1, 1e6]", type=int)
    tol: float = option("done once both relative residuals are at most TOL; 0: never", 1e-3, within="[0, 1]",
                        type=float)  # fmt: skip

    def __post_init__(self):
        check(self, "two-layer")
        self.weight()
        self.degrees()

    def weight(self) -> float | None:
        """lam, where it is a number."""
        return given_weight(self.lam, "two-layer", above=True)

    def degrees(self) -> float | None:
        """The angle, where it is a number.

        Raises:
            ValueError: it is neither that nor "auto".
        """
        if self.angle == "auto":
            return None
        try:
            value = float(self.angle)
        except ValueError:
            value = math.nan
        expect(-90 <= value <= 90, "two-layer", "--angle", "auto or a number from -90 to 90", self.angle)
        return value


@method("two-layer", TwoLayerOptions, "background and directional streaks, convex", ("derain",))
def two_layer(options: TwoLayerOptions, device: torch.device) -> Runner:
    """Photographs [N, C, H, W] less their streaks: what F counts as noise stays, fine detail among it."""

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        solver = TwoLayer(options.weight(), options.along, options.sparse, options.degrees())

        def tell(k: int, s: Any) -> None:
            if watch is not None:
                watch(k, options.iterations, lambda: inverse.y - s.splits[2])

        _, streaks, report = solver(
            inverse.y, options.iterations, options.tol, history=watch is not None, callback=tell
        )
        return Outcome(inverse.y - streaks, report)

    return run
