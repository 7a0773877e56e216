"""A learned prior beside WCRR: denoising of one image of 321x481, noise 0.1, to the same stationarity.

    OMP_NUM_THREADS=2 python bench/bench_prior.py [--rounds N] [--state FILE] [image ...]      # all in turn in one run

"theirs" is WCRR as its authors publish and run it: the network of Goujon, Neumayer & Unser (SIAM J. Imaging Sci. 17,
2024; convolutions of 5x5 pixels, 1-4-8-60 channels; potentials of arXiv:2510.01755) in plain PyTorch, minimised by
their accelerated gradient descent of step 1 / (1 + mu) with restarts. "ridge" is the same objective by SmoothDescent,
"prior" the shipped prior with its own objective. Each ends once |grad phi| is a thousandth of what it was at the noisy
image, as float64 confirms before anything is timed; the first two must have found the same minimiser.

Weights are drawn, with the curvature at which the authors' training begins (mu = exp(4)), unless --state names public
ones of arXiv:2510.01755; images are scikit-image's, unless some are named.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastrecon import io, models
from fastrecon.operators import Identity
from fastrecon.solvers import SmoothDescent
from fastrecon.terms import RidgePrior
from fastrecon.terms.base import Term

SIZE, SIGMA, TOL = (321, 481), 0.1, 1e-3
SHAPES = ((4, 1, 5, 5), (8, 4, 5, 5), (60, 8, 5, 5))
BETA = 4.0  # log of mu
MOST = 20000  # iterations
SAME = 0.01  # dB from the exact minimiser, about
Work = Callable[[], Tensor]


def ridge(state: Path | None = None) -> RidgePrior:
    """WCRR, with weights of a file or drawn ones."""
    if state is not None:
        return RidgePrior.from_state(torch.load(state, map_location="cpu", weights_only=True)).requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    first, *others = (torch.randn(s, generator=g) for s in SHAPES)
    filters = [first - first.mean((2, 3), keepdim=True), *others]
    scaling = torch.full((SHAPES[-1][0],), 2 / SIGMA).log()  # where their training begins
    return RidgePrior(filters, scaling, BETA).requires_grad_(False)


def noisy(image: Path | None = None) -> Tensor:
    """An image [1, 1, H, W] with noise."""
    if image is None:
        from skimage.color import rgb2gray
        from skimage.data import astronaut

        x = torch.from_numpy(rgb2gray(astronaut())).float()[: SIZE[0], : SIZE[1]][None, None]
    else:
        p = io.read_picture(image)
        x = torch.as_tensor(p.pixels).float().reshape(1, 1, *p.pixels.shape[:2]) / 255
    return x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def theirs(y: Tensor, r: RidgePrior) -> Tensor:
    """accelerated_gd of the authors' code, of one image, stopped by the gradient it has anyway."""
    filters, scaling, steep = list(r.filters), r.scaling.exp(), torch.tensor(r.beta).exp().item()
    rho, strength = r.weak_convexity, r.strength

    def gradient(x: Tensor) -> Tensor:
        t = x
        for w in filters:
            t = F.conv2d(t, w, padding=w.shape[-1] // 2)
        t = t * scaling
        t = ((steep * t).clamp(-1, 1) - rho * t.clamp(-1, 1)) * (strength / scaling)
        for w in reversed(filters):
            t = F.conv_transpose2d(t, w, padding=w.shape[-1] // 2)
        return (x - y + t) / (1 + strength * steep)

    x = z = y.clone()
    t, bound = 1.0, 0.0
    for k in range(MOST):
        g = gradient(z)
        bound = TOL * float(g.norm()) if k == 0 else bound
        if float(g.norm()) <= bound:
            break
        old, x = x, z - g
        before, t = t, (1 + (1 + 4 * t * t) ** 0.5) / 2
        z = x + (before - 1) / t * (x - old)
        if float((g * (x - old)).sum()) > 0:  # uphill: without momentum
            t, z = 1.0, x
    return z


def gradient_norm(term: Term, x: Tensor, y: Tensor) -> float:
    """|grad phi(x)| in float64."""
    wide = x.double()
    return float((wide - y.double() + term.double().grad(wide)).norm())


def ours(y: Tensor, term: Term, bound: float) -> Tensor:
    """By SmoothDescent."""
    return SmoothDescent(Identity(), term).solve(y, y, MOST, 0.0, bound=bound, history=False)[0]


def shipped() -> Term:
    """The shipped prior, of weight for this noise."""
    model = models.load("prior-natural")
    assert isinstance(model, models.PriorModel)
    return model.term(*model.weights(torch.tensor([SIGMA])), "denoise").requires_grad_(False)


def works(y: Tensor, r: RidgePrior) -> dict[str, Work]:
    """What is timed, once every end is one."""
    prior = shipped()
    bounds = {name: TOL * gradient_norm(deepcopy(t), y, y) for name, t in (("ridge", r), ("prior", prior))}
    found: dict[str, Work] = {
        "theirs": lambda: theirs(y, r),
        "ridge": lambda: ours(y, r, bounds["ridge"]),
        "prior": lambda: ours(y, prior, bounds["prior"]),
    }
    results = {name: work() for name, work in found.items()}
    for name, x in results.items():
        term, bound = (prior, bounds["prior"]) if name == "prior" else (r, bounds["ridge"])
        norm = gradient_norm(deepcopy(term), x, y)
        assert norm <= 1.02 * bound, f"{name}: |grad| {norm / bound:.2f} of what it may be"
    apart = (results["ridge"] - results["theirs"]).norm() / (y - results["theirs"]).norm()
    assert apart < SAME, f"another minimiser: {apart:.1e}"
    return found


@pytest.mark.parametrize("implementation", ["eager", "fastrecon"])
@pytest.mark.parametrize("case", ["ridge", "prior"])
def bench_denoise(benchmark, case, implementation):
    work = works(noisy(), ridge())
    benchmark.pedantic(work["theirs" if implementation == "eager" else case], rounds=3)
    benchmark.extra_info.update(op="prior", dtype="float32")


def main() -> None:
    """Prints medians, and how many times as fast as theirs ours are, from runs in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--state", type=Path)
    args = parser.parse_args()
    for image in args.images or [None]:
        work = works(noisy(image), ridge(args.state))
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
        for _ in range(args.rounds):
            for name, run in work.items():
                wall, processor = time.perf_counter(), time.process_time()
                run()
                spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
        print(image or "astronaut", f"threads {torch.get_num_threads()}")
        for name, pairs in spent.items():
            wall, processor = (median(p[i] for p in pairs) for i in (0, 1))
            times = [[a[i] / b[i] for a, b in zip(spent["theirs"], pairs, strict=True)] for i in (0, 1)]
            print(f"  {name:<8}{wall:8.2f} s {processor:8.2f} s of processors;"
                  f" {median(times[0]):5.1f} and {median(times[1]):5.1f} times as fast", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
