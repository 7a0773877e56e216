"""A learned prior for every operator: the image that minimises phi(x) = |A x - y|^2 / 2 + w r(x).

r is learned once, from pictures with noise; its weight lam(sigma) for noise of standard deviation sigma comes from the
same training, and so does that of a second term v s(x), sparse patches, where the model has one. Data of another
operator need nothing but the noise of y: w = |A|^2 lam(sigma / |A|), so that measuring in other units changes nothing,
and less where A damps or misses frequencies: see `fastrecon.models.weighing`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import SmoothReport
from fastrecon.checks import expect, expect_finite, number, per_image
from fastrecon.models import card
from fastrecon.models.base import Model, in_precision, pretrained, register, trained
from fastrecon.models.file import Header
from fastrecon.models.weighing import spread
from fastrecon.operators.base import LinearOperator, keeps_norms
from fastrecon.ops.reductions import sum_of_squares
from fastrecon.options import check, option
from fastrecon.solvers.base import column
from fastrecon.solvers.linear import smooth
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method
from fastrecon.solvers.sliding_dct import SlidingDCT
from fastrecon.solvers.smooth_descent import SmoothDescent, SmoothState
from fastrecon.terms.feature_norm import FeatureNorm
from fastrecon.terms.multiscale import MultiScale
from fastrecon.terms.ridge import RidgePrior
from fastrecon.terms.scaled import Scaled, grey, ungrey
from fastrecon.terms.sparse_patches import SparsePatches
from fastrecon.terms.sum import Sum

METHOD = "prior"
PROBLEMS = ("denoise", "inpaint", "deblur", "mri", "ct", "block-cs", "")
# Noise that is assumed where there is less, with images on [0, 1]: a quarter of a grey level; and where there is more,
# which would overflow.
NOISELESS, DROWNED = 1e-3, 10.0
# Where A leaves something of real images out, or there is next to no noise, the start comes from so many iterations of
# "dct": a descent from there takes half as many, and large holes end at a lower phi. Elsewhere it saves none.
FAINTEST, SPLITTINGS = 2e-3, 20
FAR = 2.0  # noise beyond the training's by this factor is told
ORDINARY = (0.1, 10.0)  # brightest pixels that count as images on [0, 1]
USUAL = (255.0, 65535.0)  # what is white in images of 8 and 16 bits


@register(METHOD)
class PriorModel(Model):
    """Images by a learned prior.

    Args:
        regulariser: r, of grey images: a FeatureNorm with a radius eps, a MultiScale of such, or a RidgePrior.
        sigmas: knots [K] of standard deviations of noise, > 0, increasing, for images on [0, 1].
        lams: weights [K] there, > 0: log lam is linear in log sigma between knots, and of slope 2 beyond.
        patches: None, or a second term, whose weights are of the same kind.
        patch_lams: its weights [K], > 0.
        meta: facts to keep with the model: `name`, `training`, and `fits`: by name of a problem (a, s), where
            exp(a) / exp(2 s) r(exp(s) x) takes the place of r(x).

    Raises:
        ValueError: r has no radius or takes more than one channel, or the knots do not fit.
    """

    method, problem, operator = METHOD, "", None
    sigmas: Tensor
    lams: Tensor
    patch_lams: Tensor | None

    def __init__(
        self, regulariser: FeatureNorm | MultiScale | RidgePrior, sigmas: Tensor, lams: Tensor,
        meta: Mapping[str, Any] | None = None, patches: SparsePatches | None = None, patch_lams: Tensor | None = None,
    ):  # fmt: skip
        super().__init__(meta)
        name = type(self).__name__
        expect(regulariser.smooth, name, "regulariser", "a smooth term: a FeatureNorm with eps", "one without")
        fits = sigmas.ndim == 1 and len(sigmas) > 0 and bool((sigmas > 0).all() and (sigmas.diff() > 0).all())
        expect(fits, name, "sigmas", "increasing numbers > 0 [K]", sigmas.tolist())
        both = (patches is None) == (patch_lams is None)
        expect(both, name, "patch_lams", "weights where there are patches, else None", patch_lams)
        self.register_buffer("sigmas", sigmas.detach().float().clone())
        for key, weights in {"lams": lams, "patch_lams": patch_lams}.items():
            fits = weights is None or (weights.shape == sigmas.shape and bool((weights > 0).all()))
            expect(fits, name, key, f"numbers > 0 [{len(sigmas)}]", weights)
            self.register_buffer(key, None if weights is None else weights.detach().float().clone())
        self.regulariser, self.patches = regulariser, patches
        self.fits = {k: (float(a), float(s)) for k, (a, s) in dict(self.meta.get("fits", {})).items()}

    @property
    def independent(self) -> bool:
        """Always: nothing is shared by the images of a batch."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the iterations."""
        return next(self.regulariser.parameters()).dtype

    def lam(self, sigma: Tensor, lams: Tensor | None = None) -> Tensor:
        """The weight of r for noise of standard deviation sigma > 0, or that with these weights [K] at the knots;
        float64."""
        x, y = self.sigmas.double().log(), (self.lams if lams is None else lams).double().log()
        at = sigma.to(x).log()
        if len(x) == 1:
            return (y[0] + 2 * (at - x[0])).exp()
        k = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
        inside = y[k - 1] + (y[k] - y[k - 1]) * (at - x[k - 1]) / (x[k] - x[k - 1])
        below, above = y[0] + 2 * (at - x[0]), y[-1] + 2 * (at - x[-1])
        return torch.where(at < x[0], below, torch.where(at > x[-1], above, inside)).exp()

    def weights(self, sigma: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The weights of r and, where there are such, of patches for noise of standard deviation sigma [B], where
        images are wrong by `seen`, at least sigma; None: by sigma. float64.

        Source: `fastrecon.models.weighing`, whose s that is.
        """
        seen = sigma.double() if seen is None else seen
        share = (sigma.double() / seen).square()
        return share * self.lam(seen), None if self.patch_lams is None else share * self.lam(seen, self.patch_lams)

    def term(self, weight: Tensor, patch_weight: Tensor | None = None, problem: str = "") -> Scaled | Sum:
        """weight [B] r and patch_weight [B] times the second term, as they are for a problem, of every channel and of
        real and imaginary part.

        Raises:
            ValueError: there is a second term and no weight for it, or none and a weight.
        """
        fits = (self.patches is None) == (patch_weight is None)
        expect(fits, METHOD, "patch_weight", "a weight [B] where the model has a second term, else None", patch_weight)
        a, s = self.fits.get(problem, (0.0, 0.0))
        weighed = [(self.regulariser, weight), (self.patches, patch_weight)]
        scaled = [
            Scaled(term, (math.exp(a) * w).to(self.dtype), math.exp(s))
            for term, w in weighed
            if term is not None and w is not None
        ]
        return scaled[0] if len(scaled) == 1 else Sum(scaled)

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape is the operator's to judge.

        Raises:
            ValueError: they are not numeric, on another device, or hold NaN or Inf.
        """
        fits = y.ndim > 1 and (y.is_floating_point() or y.is_complex())
        expect(fits, METHOD, "y", "real or complex measurements [B, ...]", y)
        here = anywhere or y.device == self.sigmas.device
        expect(here, METHOD, "y", f"a tensor on {self.sigmas.device}", f"one on {y.device}")
        expect_finite(y, METHOD, "finite measurements", "image")

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, noise: float | Tensor | None = None,
        size: tuple[int, int] | None = None, start: Tensor | None = None, *, better: bool | None = None,
        norm: float | None = None, problem: str = "", lam: float = 1.0, scale: float | None = None, tol: float = 1e-3,
        iterations: int = 1000, history: bool = True,
        callback: Callable[[int, int, Tensor], object] | None = None,
    ) -> tuple[Tensor, SmoothReport]:  # fmt: skip
        """Images [B, C, H, W] of measurements.

        Where A leaves something out, or there is next to no noise, the start is made better by some iterations of
        method "dct", which the report does not count. phi is that of images and measurements divided by `scale`.

        Args:
            y: measurements that passed `check`.
            operator: A.
            noise: standard deviation of each real number of y, >= 0: a number or [B]; with a norm of A of 1 and images
                on [0, 1] less than 0.001 counts as 0.001, and more than 10 as 10.
            size: (H, W) of the images, where y and A alone do not tell.
            start: images to start from; None: the adjoint of A at y.
            better: whether that may be made better; None: unless a start is given.
            norm: |A|, to about 1%; None: it is found out.
            problem: whose fitted contrast is used; "": none.
            lam: times the weight that belongs to the noise, > 0.
            scale: what is white in the images, > 0; None: 1, unless an image is brighter or darker by a factor of 10:
                then 255 or 65535 where that is likely, else about its brightest pixels.
            tol: as of SmoothDescent.
            iterations: at most so many.
            history: whether to record every iteration.
            callback: callback(k, expected, images) after iteration k of about so many.

        Raises:
            ValueError: an argument does not fit, or the noise is not known.
        """
        expect(isinstance(operator, LinearOperator), METHOD, "operator", "a LinearOperator", type(operator).__name__)
        expect(noise is not None, METHOD, "noise", "the standard deviation of the noise of y, 0 for none", None)
        assert operator is not None
        assert noise is not None
        lam = float(number(lam, METHOD, "lam", above=0))
        tol = float(number(tol, METHOD, "tol", above=0))
        operator = in_precision(operator, self.dtype)
        y = y.to(self.dtype.to_complex() if y.is_complex() else self.dtype)
        x = operator.apply_adjoint(y, size) if start is None else start.to(y.device)
        x = x.to(self.dtype.to_complex() if x.is_complex() else self.dtype)
        white = (
            _white(operator, y, size)
            if scale is None
            else x.new_full((len(x),), float(number(scale, METHOD, "scale", above=0)), dtype=torch.float64)
        )
        y, x = y / column(white, y), x / column(white, x)
        size_of = norm if norm is not None else operator.norm(x[:1].shape, tol=1e-2)
        size_of = size_of if 0 < size_of < math.inf else 1.0
        sigma = per_image(noise, white, METHOD, "noise", least=0) / (white * size_of)
        good = torch.isfinite(sigma) & (sigma >= 0)
        expect(bool(good.all()), METHOD, "noise", "standard deviations >= 0", sigma.tolist())
        some, sigma = sigma > NOISELESS, sigma.clamp(NOISELESS, DROWNED)
        which = ((sigma <= FAINTEST) | _missing(operator, x)).nonzero().flatten()
        if (start is None if better is None else better) and len(which):
            x = x.index_copy(0, which, _splitting(operator.take(which), y[which], x[which], sigma[which], size_of))

        def tell(k: int, s: SmoothState) -> None:
            assert callback is not None
            reached = float((s.norm / s.size).max())
            callback(k, expected_iterations(k, reached, tol, iterations), s.x * column(white, s.x))

        weight, patch_weight = (
            None if w is None else size_of**2 * lam * w
            for w in self.weights(sigma, spread(operator, x, sigma, size_of))
        )
        assert weight is not None
        x, report = SmoothDescent(operator, self.term(weight, patch_weight, problem)).solve(
            y, x, iterations, tol, history=history, callback=None if callback is None else tell
        )
        low, high = float(self.sigmas[0]) / FAR, float(self.sigmas[-1]) * FAR
        return x * column(white, x), replace(
            report, noise=sigma * white * size_of, weight=weight, patch_weight=patch_weight, scale=white,
            beyond_training=(some & (sigma < low)) | (sigma > high),
        )  # fmt: skip

    def feature_norms(self, x: Tensor) -> Tensor:
        """Maps [B, H, W] of the size of the features of images [B, C, H, W], root mean square over the channels."""
        maps = self.regulariser.feature_norms(grey(x.to(self.dtype.to_complex() if x.is_complex() else self.dtype)))
        maps = ungrey(maps[:, None], x)
        return maps.abs().square().mean(1).sqrt()

    def hyperparameters(self) -> dict[str, Any]:
        """Of the regulariser, beside its weights."""
        r = self.regulariser
        if isinstance(r, RidgePrior):
            return {"beta": r.beta, "weak_convexity": r.weak_convexity, "strength": r.strength}
        first = r.finest if isinstance(r, MultiScale) else r
        own = {"delta": first.delta, "eps": first.eps, "final_activation": first.final_activation}
        return own | {"scales": len(r.scales)} if isinstance(r, MultiScale) else own

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "PriorModel":
        """The model of what a file holds."""
        sigmas, lams, of_patches = tensors.pop("sigmas"), tensors.pop("lams"), tensors.pop("patch_lams", None)
        second: dict[str, Any] = {}
        if of_patches is not None:
            second = {"patches": SparsePatches(float(tensors.pop("patches.radius"))), "patch_lams": of_patches}
        if "beta" in head.hyperparameters:
            filters = [tensors[f"regulariser.filters.{k}"] for k in range(len(tensors) - 1)]
            ridge = RidgePrior(filters, tensors["regulariser.scaling"], **head.hyperparameters)
            ridge.filters = nn.ParameterList(filters)  # as they were: their norm is 1 to rounding
            return cls(ridge, sigmas, lams, head.meta, **second)
        settings = dict(head.hyperparameters)
        count = settings.pop("scales", None)
        if count is None:
            return cls(_feature_norm(tensors, "regulariser.", settings), sigmas, lams, head.meta, **second)
        scales = [_feature_norm(tensors, f"regulariser.scales.{k}.", settings) for k in range(count)]
        return cls(MultiScale(scales), sigmas, lams, head.meta, **second)

    def card(self) -> str:
        """As of Model."""
        training, _ = card.training_of(self.meta)
        r = self.regulariser
        second = "" if self.patches is None else " + v(sigma) s(x)"
        what = [
            f"A learned prior for every linear operator: the image minimises |A x - y|^2 / 2 + lam(sigma) r(x){second},"
            " sigma the standard deviation of the noise of y.",
            f"r: {r.extra_repr()}; noise of the training {float(self.sigmas[0]):g} to {float(self.sigmas[-1]):g} with"
            " images on [0, 1].",
        ]
        if self.patches is not None:
            what.append(f"s: {self.patches.extra_repr()}.")
        code = ["result = model(y, operator, noise=0.05)  # y = operator(image) + noise, image [B, 1, H, W] on [0, 1]"]
        images, quality = training.get("images", {}), training.get("validation_psnr")
        facts = {
            "training data": f"{', '.join(training.get('data', []))}, {images.get('training', '?')} images",
            "validation": "none" if quality is None else f"{images.get('validation', '?')} images, PSNR {quality} dB",
        }
        return card.page(self.meta, what, code, facts)


def expected_iterations(k: int, reached: float, tol: float, most: int) -> int:
    """How many there will be in all if, as in the first k, the relative gradient goes down from about 1 to what is
    `reached` now at a steady rate: at least k, at most `most`."""
    if not tol < reached < 1:
        return k if reached <= tol else most
    return min(most, max(k, round(k * math.log(tol) / math.log(reached))))


def _feature_norm(tensors: dict[str, Tensor], at: str, settings: dict[str, Any]) -> FeatureNorm:
    """That whose weights are named with this before them."""
    weights = [tensors[f"{at}weights.{k}"] for k in range(sum(name.startswith(at) for name in tensors))]
    r = FeatureNorm(in_channels=weights[0].shape[1], layers=len(weights), **settings)
    r.weights = nn.ParameterList(weights)
    return r


def _white(operator: LinearOperator, y: Tensor, size: tuple[int, int] | None) -> Tensor:
    """1, or about the brightest pixels of an image that is far from [0, 1], as the adjoint shows it; [B] float64."""
    x = operator.apply_adjoint(y, size)
    energy, seen = sum_of_squares(x), sum_of_squares(operator.forward(x))
    magnitudes = x.abs().flatten(1)
    bright = magnitudes.topk(max(1, magnitudes.shape[1] // 1000)).values[:, -1].double()
    peak = energy / seen * bright
    white = peak
    for usual in USUAL:
        white = torch.where((peak >= usual / 2) & (peak <= 1.5 * usual), usual, white)
    ordinary = (peak >= ORDINARY[0]) & (peak <= ORDINARY[1])
    return torch.where(ordinary | ~(peak > 0) | ~torch.isfinite(peak), 1.0, white)


def _missing(operator: LinearOperator, like: Tensor) -> Tensor:
    """Whether A is known to be blind to something of images `like` these, [B] bool. Of complex images that is not said:
    the splitting, of both parts, takes as long as it saves."""
    if like.is_complex():
        return torch.zeros(len(like), dtype=torch.bool, device=like.device)
    found = operator.diagonal(like)
    if found is not None:
        blind = found.factors == 0
        each = blind.flatten(1).any(1) if blind.ndim == like.ndim else blind.any()
    else:
        each = torch.tensor(operator.row_scale(like.shape[-2:]) is not None and not keeps_norms(operator))
    return each.to(like.device).expand(len(like))


def _splitting(operator: LinearOperator, y: Tensor, x: Tensor, sigma: Tensor, norm: float) -> Tensor:
    """Images near x [B, C, H, W] and y whose patches are sparse, for noise sigma [B] in the images."""
    if keeps_norms(operator) and keeps_norms(operator, adjoint=True):
        return x
    first = smooth(Inverse(y, operator, (x.shape[-2], x.shape[-1]), start=x, norm=norm))
    return SlidingDCT(operator, y, norm * sigma, norm).split(first, SPLITTINGS)[0]


@dataclass(frozen=True)
class Options:
    """Options of the learned prior."""

    model: str = option("shipped prior, or path of a .safetensors file (default: prior-natural)", "")
    lam: float = option("times the weight that belongs to the noise", 1.0, within="[1e-6, 1e6]", type=float)
    tol: float = option(
        "an image is done once |grad phi(x)| <= TOL |w grad r(x)|, the pull of the prior",
        1e-3,
        within="[1e-12, 1]",
        type=float,
    )
    iterations: int = option("at most so many", 1000, within="[0, 1e6]", type=int)
    features: bool = option("keep the size of the learned features at every pixel", False)

    def __post_init__(self):
        check(self, METHOD)


def file_of(name: str) -> str:
    """The model that a short name means: "natural" is prior-natural."""
    return f"prior-{name}" if f"prior-{name}" in pretrained() else name


@method(METHOD, Options, "a learned prior, minimised: needs the noise; any linear operator", PROBLEMS)
def prior(options: Options, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""
    model = trained(METHOD, "", file_of(options.model)).to(device)
    assert isinstance(model, PriorModel)

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        def tell(k: int, expected: int, x: Tensor) -> None:
            assert watch is not None
            watch(k, expected, lambda: x)

        model.check(inverse.y)
        x0 = inverse.first()
        x0 = x0.to(inverse.y.dtype) if inverse.y.is_complex() else x0
        x, report = model.compute(
            inverse.y, inverse.operator, inverse.noise, inverse.size, x0, norm=inverse.norm, problem=inverse.problem,
            better=bool(inverse.problem) or inverse.start is None, scale=1.0 if inverse.problem else None,
            lam=options.lam, tol=options.tol, iterations=options.iterations,
            callback=None if watch is None else tell,
        )  # fmt: skip
        maps = {"features": model.feature_norms(x)} if options.features else {}
        return Outcome(x, report, extras=maps, model=options.model or model.name)

    return run
