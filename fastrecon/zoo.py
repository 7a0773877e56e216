"""One small problem for every op, operator, term, solver and shipped model: what `verification` and tests run."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fastrecon import masks, models, ops
from fastrecon.models.sampling import rate
from fastrecon.networks.step_schedule import StepSchedule
from fastrecon.operators import (
    BlockSensing,
    Blur,
    Callables,
    Dictionary,
    Fourier,
    Gradient,
    Identity,
    Inpainting,
    LinearOperator,
    Radon,
    Wavelet,
    gaussian_kernel,
    random_phi,
)
from fastrecon.ops.layout import wide_dtype
from fastrecon.ops.prox_gradient_iterations import prox_gradient_iterations_
from fastrecon.ops.wavelets import lowpass
from fastrecon.problems.scan import even_scan
from fastrecon.solvers import (
    DLADMM,
    FISTA,
    ISTA,
    LADMM,
    LDA,
    SGP,
    AGDNet,
    CycleSpinning,
    GDNet,
    ScheduledFISTA,
    SmoothDescent,
)
from fastrecon.terms import L1, FeatureNorm, GroupL21, LeastSquares, Lp, RidgePrior, Scaled, Term

IMAGES = 3


@dataclass(frozen=True)
class Case:
    """A function of batches [B, ...]: what belongs to an image, be it a mask, is a batch.

    Attributes:
        run: from the batches and what is shared to a tensor, a dataclass, or a tuple of such.
        inputs: batches.
        shared: what all images have in common, such as weights.
        operator: from the batches but the first to A, where `run` is linear.
        smooth: whether there is a derivative.
        claims: from what `run` answers, the batches and what is shared, in float64, to what its certificate says and
            what it says of itself when it is recomputed, [B] each, by name; None: there is no certificate, or none yet.
    """

    run: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    shared: tuple[Any, ...] = ()
    operator: Callable[..., LinearOperator] | None = None
    smooth: bool = True
    claims: Callable[..., dict[str, tuple[Tensor, Tensor]]] | None = None


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal random numbers, the same in every precision to rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def scenes(count: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth images with edges, [count, 1, height, width] on [0, 1], each another."""
    v, h = torch.linspace(0, 1, height, dtype=torch.float64)[:, None], torch.linspace(0, 1, width, dtype=torch.float64)
    x = torch.stack([(3 * v + (k + 1) * h).sin().abs() + (v > h + 0.2 * k) for k in range(count)])
    return (x[:, None] / 2).to(dtype)


def some(*shape: int, share: float = 0.5, seed: int = 0) -> Tensor:
    """A mask that knows about this share."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).float()


def layers(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Convolution kernels of these shapes that keep the size of what goes through."""
    return tuple(numbers(*s, seed=k + 5) / math.prod(s[1:]) ** 0.5 for k, s in enumerate(shapes))


def learned(x: Tensor, eps: Tensor, *weights: Tensor) -> Any:
    """The learned regulariser's value and gradient."""
    return ops.feature_gradient(x, weights, eps)


def radii(count: int = IMAGES) -> Tensor:
    """A smoothing radius for each image."""
    return 0.2 + 0.1 * torch.arange(count, dtype=torch.float32)


def _ops() -> dict[str, Callable[[], Case]]:
    """Public ops on shapes with primes, whose vectors have ends."""
    b, z = IMAGES, torch.complex64
    g, x, c = numbers(b, 5, 7, 9), numbers(b, 1, 19, 13), numbers(b, 2, 11, 7, dtype=z)
    chain = layers((8, 1, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3))
    views = torch.arange(5, dtype=torch.float64)
    parallel, fan = ops.parallel_rays((13, 9), views, 17, 1.0), ops.fan_rays((13, 9), views, 17, 1.0, 20.0, 5.0)
    rows, matrix, data = numbers(b, 23), numbers(17, 23, seed=1) / 5, numbers(b, 17, seed=2)
    step, lam, slack = 0.3 + radii(), 0.1 * radii(), torch.zeros(b)
    grad, far = numbers(*c.shape, dtype=z, seed=1), numbers(*x.shape, seed=1)
    return {
        "soft_threshold": lambda: Case(lambda x, t: ops.soft_threshold(x, t[:, None, None, None]), (x, radii())),
        "soft_threshold, complex": lambda: Case(lambda x: ops.soft_threshold(x, 0.4), (c,)),
        "group_soft_threshold": lambda: Case(ops.group_soft_threshold, (g, radii())),
        "prox_lp": lambda: Case(lambda x: ops.prox_lp(x, 0.3, 0.5), (x,)),
        "smoothed_l21": lambda: Case(ops.smoothed_l21, (g, 5 * radii())),
        "feature_gradient": lambda: Case(learned, (x, radii()), chain),
        "feature_gradient, one layer": lambda: Case(learned, (x, radii()), layers((6, 1, 3, 3))),
        "feature_gradient, 1x1": lambda: Case(learned, (x, radii()), layers((6, 1, 1, 1), (6, 6, 1, 1))),
        "feature_gradient, 5x5": lambda: Case(learned, (x, radii()), layers((6, 1, 5, 5), (7, 6, 5, 5))),
        "feature_gradient, colour": lambda: Case(learned, (g[:, :3], radii()), layers((6, 3, 3, 3), (6, 6, 3, 3))),
        "feature_value": lambda: Case(lambda x, e, *w: ops.feature_value(x, w, e), (x, radii()), chain),
        "dwt2": lambda: Case(lambda x: ops.dwt2(x, "sym4", 1), (numbers(b, 1, 18, 22),)),
        "idwt2": lambda: Case(lambda x: ops.idwt2(x, "haar", 2), (numbers(b, 1, 12, 20, dtype=z),)),
        "radon": lambda: Case(lambda x: ops.radon(x, parallel), (numbers(b, 1, 13, 9),)),
        "radon_adjoint": lambda: Case(lambda y: ops.radon_adjoint(y, fan), (numbers(b, 1, 5, 17),)),
        "block_product": lambda: Case(ops.block_product, (numbers(b, 3, 23),), (numbers(23, 17, seed=1),)),
        "fourier_consistency": lambda: Case(
            lambda k, y: ops.fourier_consistency(k, some(11, 7).to(k.device, k.real.dtype), y), (c, grad)
        ),
        "prox_gradient_step": lambda: Case(ops.prox_gradient_step, (x, far, step, lam)),
        "prox_gradient_step, complex": lambda: Case(ops.prox_gradient_step, (c, grad, step, lam)),
        "prox_gradient_iterations_": lambda: Case(
            _iterations, (numbers(b, 1, 16, 24), some(b, 1, 16, 24), numbers(b, 1, 16, 24, seed=1)), smooth=False
        ),
        "squares, many numbers": lambda: Case(ops.squares, (numbers(b, 40_001),), smooth=False),
        "squares": lambda: Case(ops.squares, (c, grad), smooth=False),
        "armijo": lambda: Case(
            lambda x, z, g, t, s: ops.armijo(x, z, g, 0.1, t, s), (x, -far, far, 9 * x[:, 0, 0, 0] ** 2, slack),
            smooth=False,
        ),
        "prox_tv": lambda: Case(lambda x, t: ops.prox_tv(x, t, tol=0.0, iterations=12).x, (x, radii()), smooth=False),
        "rbf_unit": lambda: Case(
            ops.rbf_unit, (numbers(b, 2, 19, 13),), (numbers(6, 2, 5, 5, seed=1) / 5, numbers(6, 9, seed=2) / 9)
        ),
        "select_descent": lambda: Case(ops.select_descent, (x, far, numbers(b), numbers(b, seed=1))),
        "shrink_eps": lambda: Case(lambda f, r, e: ops.shrink_eps(f, r, e, 40.0, 0.9), (x, far, radii())),
        "ladmm_shrink": lambda: Case(lambda z, t, w: ops.ladmm_shrink(z, t, w, 0.1), (rows, data), (matrix,)),
        "ladmm_step": lambda: Case(
            lambda z, x, e, d, a: ops.ladmm_step(z, a, x, e, d, 1.1, 0.7, 0.2, 1.2),
            (rows, data, numbers(b, 17, seed=3), numbers(b, 17, seed=4)), (matrix,),
        ),
    }  # fmt: skip


def _iterations(x: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Three of FISTA."""
    misfit = mask * ops.idwt2(x, "haar", 2) - y
    x, v, ahead, lam = x.clone(), x.clone(), misfit.clone(), x.new_full((1, 1), 0.1)
    rows = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64, device=x.device).repeat(len(x), 1)
    taps, mask = lowpass("haar"), mask.to(x.dtype)
    trace = prox_gradient_iterations_(x, v, misfit, ahead, y, mask, lam, rows, taps, 2, 3, True, False)
    return x, trace


def linear(operator: Callable[..., LinearOperator], *inputs: Tensor) -> Callable[[], Case]:
    """The case of an operator made from the inputs but the first: A x and the adjoint there."""

    def run(x: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
        a = operator(*own)
        y = a(x)
        return y, a.adjoint(y, x.shape[-2:])

    return lambda: Case(run, inputs, operator=operator)


def _operators() -> dict[str, Callable[[], Case]]:
    b, z = IMAGES, torch.complex64
    maps, phi = numbers(3, 24, 20, dtype=z, seed=2), random_phi(40, 121, 1).float()
    own, kernels = some(b, 1, 33, 47), numbers(b, 1, 5, 5).abs() / 20
    wavelet, scan = Wavelet("sym4", 3).T, Radon((33, 29), 11)
    fan = Radon((33, 29), 11, geometry="fan", source_distance=60.0, detector_distance=20.0)
    return {
        "BlockSensing": linear(lambda: BlockSensing(phi, 11), scenes(b, 40, 27)),
        "Blur, circular": linear(lambda: Blur(gaussian_kernel(1.5, 9)), scenes(b, 64, 64)),
        "Blur, zero": linear(lambda: Blur(gaussian_kernel(1.5, 9), "zero"), scenes(b, 33, 47)),
        "Blur, a kernel per image": linear(Blur, scenes(b, 33, 47), kernels),
        "Callables": linear(
            lambda: Callables(lambda x: x - x.roll(1, -1), lambda y: y - y.roll(-1, -1), (33, 47)), scenes(b, 33, 47)
        ),
        "Dictionary": linear(lambda: Dictionary(numbers(17, 53)), numbers(b, 53)),
        "Fourier": linear(lambda: Fourier(some(64, 64)), numbers(b, 1, 64, 64, dtype=z)),
        "Fourier, centred, a mask per image": linear(
            lambda m: Fourier(m, centred=True), numbers(b, 1, 33, 47, dtype=z), own
        ),
        "Fourier, image centred too": linear(
            lambda: Fourier(some(33, 47), centred="both"), numbers(b, 1, 33, 47, dtype=z)
        ),
        "Fourier, coils": linear(lambda: Fourier(some(24, 20), sensitivities=maps), numbers(b, 1, 24, 20, dtype=z)),
        "Inpainting": linear(lambda: Inpainting(some(33, 47)), scenes(b, 33, 47)),
        "Inpainting, a mask per image": linear(Inpainting, scenes(b, 33, 47), own),
        "Radon, parallel": linear(lambda: scan, scenes(b, 33, 29)),
        "Radon, fan": linear(lambda: fan, scenes(b, 33, 29)),
        "Wavelet": linear(lambda: Wavelet("sym4", 3), scenes(b, 40, 24)),
        "Fourier @ Wavelet.T": linear(lambda: Fourier(some(40, 24)) @ wavelet, numbers(b, 1, 40, 24, dtype=z)),
        "Blur @ Wavelet.T": linear(lambda: Blur(gaussian_kernel(1.0, 5)) @ wavelet, numbers(b, 1, 32, 32)),
    }


def _prox(term: Callable[..., Term], v: Tensor, *inputs: Tensor) -> Callable[[], Case]:
    """The case of a term made from the inputs: its proximal map with a weight for each image, and its value there."""

    def run(v: Tensor, weight: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
        f = term(*own)
        x = f.prox(v, weight)
        return x, f.value(x)

    return lambda: Case(run, (v, radii(), *inputs), smooth=False)


def _terms() -> dict[str, Callable[[], Case]]:
    b, z = IMAGES, torch.complex64
    x, k, masks = scenes(b, 40, 24), numbers(b, 1, 40, 24, dtype=z), some(b, 1, 40, 24)
    blur, phi = gaussian_kernel(1.5, 9), random_phi(40, 64, 1).float()
    maps, wavelet = numbers(3, 40, 24, dtype=z, seed=2), Wavelet("sym4", 3)

    def fidelity(operator: Callable[..., LinearOperator]) -> Callable[..., Term]:
        return lambda y, *own: LeastSquares(operator(*own).to(y.device), y)

    def zero_blur() -> LinearOperator:
        return Blur(blur, "zero")

    def coils(mask: Tensor) -> LinearOperator:
        return Fourier(mask, sensitivities=maps.to(mask.device))

    return {
        "LeastSquares, a mask per image": _prox(fidelity(Inpainting), x, x * masks, masks),
        "LeastSquares, wavelets": _prox(fidelity(lambda m: Inpainting(m) @ wavelet.T), x, x * masks, masks),
        "LeastSquares, Fourier": _prox(fidelity(Fourier), k, k * masks, masks),
        "LeastSquares, blur": _prox(fidelity(lambda: Blur(blur)), x, x),
        "LeastSquares, blocks": _prox(fidelity(lambda: BlockSensing(phi, 8)), x, numbers(b, 5, 3, 40)),
        "LeastSquares, iterated": _prox(fidelity(zero_blur), x, x),
        "LeastSquares, iterated, coils": _prox(fidelity(coils), k, numbers(b, 3, 40, 24, dtype=z, seed=1), masks),
        "L1 of wavelets": _prox(lambda: L1(0.3, wavelet), x),
        "Lp": _prox(lambda: Lp(0.3, 0.5), k),
        "GroupL21": _prox(lambda: GroupL21(0.3), numbers(b, 2, 19, 13)),
        "RidgePrior": lambda: Case(
            lambda x, r: r.evaluate(x), (x,),
            (RidgePrior(layers((3, 1, 5, 5), (6, 3, 3, 3)), 2 + numbers(6) / 5, 2.0),), smooth=False,
        ),
        "Scaled, complex": lambda: Case(
            lambda x, w, r: Scaled(r, w, 1.3).evaluate(x), (k, radii()), (_prior(),), smooth=False
        ),
    }  # fmt: skip


def use(operator: LinearOperator) -> LinearOperator:
    """An operator that all images share."""
    return operator


def bold(x: Tensor, grad: Tensor) -> Tensor:
    """A network for SGP that always asks for nearly twice the safe step."""
    return torch.full((len(x),), 1.9, device=x.device)


def _descent(kind: Any, solve: bool = False, safeguard: bool = False) -> Callable[[], Case]:
    def make() -> Case:
        a = BlockSensing(random_phi(30, 121, 2).float(), 11)
        torch.manual_seed(1)
        net = kind(a, phases=3, channels=8, layers=3, **({"safeguard": True} if safeguard else {}))
        y = a(scenes(IMAGES, 33, 29)).detach()

        def run(y: Tensor, net: Any) -> Any:
            x0 = net.fidelity.operator.adjoint(y, (33, 29))
            if solve:
                return net.solve(y, x0, iterations=12)
            with torch.no_grad():
                return net(y, x0, history=True)

        def claims(result: Any, y: Tensor, net: Any) -> dict[str, tuple[Tensor, Tensor]]:
            x, report = result
            x, eps = x.detach().double().requires_grad_(), report.eps.double()
            with torch.enable_grad():
                phi = net.fidelity.value(x, y) + net.regulariser.value(x, eps)
                (grad,) = torch.autograd.grad(phi.sum(), x)
            return {
                "phi_eps": (report.phi_eps, phi.detach()),
                "grad_norm": (report.grad_norm, grad.flatten(1).norm(dim=1)),
            }

        return Case(run, (y,), (net,), smooth=False, claims=claims)

    return make


def _proximal(
    kind: Any, operator: Callable[..., LinearOperator], own: bool, size: tuple[int, int] = (40, 24),
    iterations: int = 8, **options: Any,
) -> Callable[[], Case]:  # fmt: skip
    def make() -> Case:
        x, lam = scenes(IMAGES, *size), 0.02
        inputs = (some(IMAGES, 1, *size),) if own else ()
        y = operator(*inputs)(x)

        def run(y: Tensor, *own: Tensor) -> Any:
            a = operator(*own).to(y.device) @ Wavelet("sym4", 3).T
            return kind(a, lam, **options)(y, iterations=iterations, tol=0.03, check_every=3)

        def claims(result: Any, y: Tensor, *own: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
            x, report = result[0].to(wide_dtype(result[0])), result[1]
            a = operator(*own).to(y.device, torch.float64) @ Wavelet("sym4", 3).T
            objective = (a(x) - y).flatten(1).abs().square().sum(1) / 2 + lam * x.flatten(1).abs().sum(1)
            return {"objective": (report.objective, objective)}

        return Case(run, (y, *inputs), smooth=False, claims=claims)

    return make


def _spinning() -> Case:
    mask = some(IMAGES, 1, 40, 24)

    def run(y: Tensor, mask: Tensor) -> Any:
        return CycleSpinning(Inpainting(mask).to(y.device), 0.01, 1.0)(y, iterations=8)

    return Case(run, (mask * scenes(IMAGES, 40, 24), mask), smooth=False)


def _prior() -> FeatureNorm:
    torch.manual_seed(1)
    return FeatureNorm(8, 2, delta=0.1, eps=0.05)


def _smooth(operator: Callable[..., LinearOperator], own: bool) -> Callable[[], Case]:
    def make() -> Case:
        inputs = (some(IMAGES, 1, 33, 29),) if own else ()
        y = operator(*inputs)(scenes(IMAGES, 33, 29))

        def run(y: Tensor, *more: Any) -> Any:
            *own, r = more
            a = operator(*own).to(y.device)
            return SmoothDescent(a, Scaled(r, 0.05)).solve(y, a.adjoint(y, (33, 29)), iterations=12, tol=1e-6)

        return Case(run, (y, *inputs), (_prior(),), smooth=False)

    return make


def _splitting(kind: Any, method: str = "forward", general: bool = False, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        torch.manual_seed(1)
        a, b = numbers(40, 90) / 6, numbers(40, 40, seed=3) / 6 + torch.eye(40) if general else None
        solver = kind(Dictionary(a), 0.45, b, **({"layers": 4, "noise": 0.05} if kind is DLADMM else {}))
        codes = numbers(IMAGES, 90, seed=1) * (numbers(IMAGES, 90, seed=2) > 1.3)
        x = codes @ a.T + 0.5 * (numbers(IMAGES, 40, seed=4) > 1.5)
        return Case(lambda x, solver: getattr(solver, method)(x, **options), (x,), (solver,), smooth=False)

    return make


def _solvers() -> dict[str, Callable[[], Case]]:
    blur, radon = (partial(use, a) for a in (Blur(gaussian_kernel(1.0, 5)), Radon((40, 24), 9)))
    return {
        "LDA": _descent(LDA), "LDA.solve": _descent(LDA, solve=True), "LDA, safeguarded": _descent(LDA, safeguard=True),
        "GDNet": _descent(GDNet), "AGDNet": _descent(AGDNet),
        "ISTA, many pixels": _proximal(ISTA, Inpainting, True, (200, 176), 1),
        "ISTA": _proximal(ISTA, Inpainting, True), "ISTA, blur": _proximal(ISTA, blur, False),
        "ISTA, backtracking": _proximal(ISTA, Fourier, True, rule="backtracking"),
        "FISTA": _proximal(FISTA, Inpainting, True), "FISTA, Radon": _proximal(FISTA, radon, False),
        "FISTA, backtracking": _proximal(FISTA, Fourier, True, rule="backtracking"),
        "ScheduledFISTA, Radon": _proximal(
            ScheduledFISTA, radon, False, lipschitz=None, schedule=StepSchedule(4, gains=True)
        ),
        "ScheduledFISTA": _proximal(ScheduledFISTA, Inpainting, True, lipschitz=None, schedule=StepSchedule(4)),
        "CycleSpinning": _spinning,
        "SmoothDescent": _smooth(Inpainting, True), "SmoothDescent, blur": _smooth(blur, False),
        "SmoothDescent, Radon": _smooth(partial(use, Radon((33, 29), 9)), False),
        "SGP": _proximal(SGP, Inpainting, True),
        "SGP, network": _proximal(SGP, Fourier, True, network=bold),
        "SGP, paper's rule": _proximal(SGP, Inpainting, True, network=bold, rule="paper"),
        "LADMM": _splitting(LADMM, iterations=30, history=True),
        "LADMM.solve": _splitting(LADMM, "solve", iterations=40),
        "LADMM.solve, general B": _splitting(LADMM, "solve", general=True, iterations=50),
        "DLADMM": _splitting(DLADMM, history=True), "DLADMM.solve": _splitting(DLADMM, "solve", iterations=40),
        "DLADMM, safeguarded": _splitting(DLADMM, safeguard=True),
    }  # fmt: skip


def _deblurred(blur: Any, y: Tensor, model: Any) -> Any:
    return model(y, operator=blur.to(y.device), noise=0.01, iterations=3)


def _scanned(scan: Any, y: Tensor, model: Any) -> Any:
    return model(y, operator=scan.to(y.device), lipschitz=1.0, iterations=3)


def _model(name: str) -> Callable[[], Case]:
    def make() -> Case:
        model = models.load(name)
        if isinstance(model, models.BlockSensingModel):
            y = model.operator(scenes(IMAGES, 40, 33))
            return Case(lambda y, model: model(y, size=(40, 33)), (y,), (model,), smooth=False)
        if model.problem == "impulse":
            x = torch.where(
                some(IMAGES, 1, 45, 70, share=0.2) > 0, some(IMAGES, 1, 45, 70, seed=1), scenes(IMAGES, 45, 70)
            )
            return Case(lambda x, model: model(x), (x,), (model,), smooth=False)
        if isinstance(model, models.PriorModel):
            y = scenes(IMAGES, 64, 64) + 0.1 * numbers(IMAGES, 1, 64, 64)
            return Case(lambda y, model: model(y, Identity(), noise=0.1, iterations=5), (y,), (model,), smooth=False)
        if isinstance(model, models.PADNetModel) and model.problem in ("deblur", "slopes"):
            blur = Blur(gaussian_kernel(1.0, 5))
            y = blur(scenes(IMAGES, 24, 24)) + 0.01 * numbers(IMAGES, 1, 24, 24)
            y = Gradient()(y) if model.problem == "slopes" else y
            return Case(partial(_deblurred, blur), (y,), (model,), smooth=False)
        if isinstance(model, models.Separation):
            y = torch.cat([scenes(IMAGES, 32, 32) for _ in range(3)], 1)
            return Case(lambda y, model: model(y, Identity()), (y,), (model,), smooth=False)
        if model.problem == "dehaze":
            y = torch.cat((some(IMAGES, 1, 32, 32, share=0.5), *(scenes(IMAGES, 32, 32) for _ in range(3))), 1)
            return Case(lambda y, model: model(y, Identity()), (y,), (model,), smooth=False)
        if model.problem == "ct":
            scan = even_scan((64, 64), 9)
            return Case(partial(_scanned, scan), (scan(scenes(IMAGES, 64, 64)),), (model,), smooth=False)
        if isinstance(model, models.DescentModel | models.UnrolledModel):
            own = masks.radial((32, 32), rate(model) or 0.3).expand(IMAGES, 1, 32, 32).contiguous()
            y = Fourier(own)(scenes(IMAGES, 32, 32))
            return Case(lambda y, own, model: model(y, operator=Fourier(own)), (y, own), (model,), smooth=False)
        operator: Any = {"inpaint": Inpainting, "mri": Fourier}[model.problem]
        own = some(IMAGES, 1, 64, 64)
        y = operator(own)(scenes(IMAGES, 64, 64))

        steps = {} if isinstance(model, models.ErrorControlledModel) else {"lipschitz": 1.0, "iterations": 3}

        def run(y: Tensor, own: Tensor, model: Any) -> Any:
            return model(y, operator=operator(own), lam=0.01, history=True, **steps)

        return Case(run, (y, own), (model,), smooth=False)

    return make


@cache
def groups() -> dict[str, dict[str, Callable[[], Case]]]:
    """{kind: {name: how the case is made}}."""
    shipped = {name: _model(name) for name in models.pretrained()}
    return {"op": _ops(), "operator": _operators(), "term": _terms(), "solver": _solvers(), "model": shipped}
