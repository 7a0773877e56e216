"""deepinv's own algorithms as they are ("eager") and with one line added ("fastrecon"), on 256x256 images.

    OMP_NUM_THREADS=2 python bench/bench_adapters.py [batch] [rounds]     # both in turn in one run: the ratios

The line is `accelerate(model)`; of tomography also `radon_like(physics)`, which follows rays instead of turning images.
Nothing is timed before its objective, by deepinv's own cost function, is at most a thousandth above deepinv's.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import peers  # type: ignore[import-not-found]

SIDE, ITERATIONS = 256, 20
CASES = ["pgd inpainting", "fista inpainting", "pgd deblurring", "fista deblurring", "tv inpainting", "tomography"]


def images(batch: int) -> Tensor:
    """Piecewise smooth images in [0, 1]."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, SIDE, SIDE, generator=g).cumsum(2).cumsum(3)
    x = x + 50 * torch.randn(batch, 1, 8, 8, generator=g).repeat_interleave(32, 2).repeat_interleave(32, 3)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low)


def problem(case: str, batch: int) -> tuple[Callable[[], Any], Any, Any, Tensor]:
    """A maker of deepinv's model, its physics, what the line makes of the physics, measurements."""
    dinv = peers.deepinv()
    optim, physics = dinv.optim, dinv.physics
    x, g = images(batch), torch.Generator().manual_seed(1)
    if "inpainting" in case:
        p = physics.Inpainting((1, SIDE, SIDE), mask=(torch.rand(1, SIDE, SIDE, generator=g) > 0.5).float())
    elif "deblurring" in case:
        p = physics.BlurFFT((1, SIDE, SIDE), physics.blur.gaussian_blur(sigma=2.0))
    else:
        p = physics.Tomography(60, SIDE, normalize=True)
    y = p.A(x)
    y = y + 0.01 * torch.randn(y.shape, generator=g)
    prior = {"tv": lambda: optim.TVPrior(n_it_max=20), "to": lambda: optim.WaveletPrior(wv="db8", level=3)}
    kind = optim.FISTA if case.startswith("fista") else optim.PGD

    def model() -> Any:
        chosen = prior.get(case[:2], prior["to"])()
        weight = 0.01 if case.startswith("tv") else 0.1
        return kind(
            data_fidelity=optim.L2(), prior=chosen, lambda_reg=weight, stepsize=1.0, max_iter=ITERATIONS,
            early_stop=False,
        )  # fmt: skip

    if case == "tomography":
        from fastrecon.adapters.deepinv import radon_like

        return model, p, radon_like(p), y
    return model, p, p, y


def works(case: str, batch: int) -> tuple[dict[str, Callable[[], Tensor]], Callable[[Tensor], Tensor]]:
    """The model as it is and with the line, and deepinv's objective [B] of an image."""
    make, physics, ours, y = problem(case, batch)
    from fastrecon.adapters.deepinv import accelerate  # after `problem`, which sees to it that deepinv imports

    slow, fast = make(), accelerate(make())

    def objective(x: Tensor) -> Tensor:
        with torch.no_grad():
            return slow.data_fidelity[0](x, y, physics) + slow.params_algo["lambda"][0] * slow.prior[0](x)

    return {"eager": lambda: slow(y, physics), "fastrecon": lambda: fast(y, ours)}, objective


def checked(case: str, batch: int) -> tuple[dict[str, Callable[[], Tensor]], float]:
    """Both, once their objectives are as near as they must be, and by how much ours is above."""
    both, objective = works(case, batch)
    theirs, ours = (objective(both[name]()) for name in ("eager", "fastrecon"))
    above = float(((ours - theirs) / theirs).max())
    allowed = 2e-2 if case == "tomography" else 1e-3  # there the projectors differ, and theirs made y and judges
    assert above < allowed, f"{case}: objective {above:.1e} above deepinv's"
    return both, above


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("implementation", ["eager", "fastrecon"])
@pytest.mark.parametrize("shape", [(1, 1, SIDE, SIDE)], ids=str)
@pytest.mark.parametrize("case", CASES)
def bench_deepinv(benchmark, case, shape, implementation):
    both, _ = checked(case, shape[0])
    benchmark.pedantic(both[implementation], rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(op="adapters", dtype="float32")


def interleaved(batch: int, rounds: int) -> None:
    """Prints how many times faster each case is, from runs in turn."""
    for case in CASES:
        both, above = checked(case, batch)
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(rounds):
            for name, work in both.items():
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
        ratios = [a / b for a, b in zip(times["eager"], times["fastrecon"], strict=True)]
        print(f"{case:<18} batch {batch}: {median(ratios):5.1f} times as fast, objective {above:+.1e}", flush=True)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    interleaved(*(int(a) for a in (*sys.argv[1:3], *("4", "3")[len(sys.argv) - 1 :])))
