"""FISTA with wavelets beside SigPy and deepinv, where they are installed: inpainting of 256x256 images, 8-coil MRI.

    OMP_NUM_THREADS=1 python bench/bench_peers.py [rounds]     # all in turn in one run: the ratios

Each does what its users would write, with equal weights and as many iterations. The problems differ in the boundary of
the wavelets and in whether approximations are shrunk (not by deepinv), so what is wrong is told by the distance to the
truth: nothing is timed before it is that of ours to 1.5 dB.
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

import fastrecon as fr
from fastrecon.operators import Fourier, Inpainting, Wavelet
from fastrecon.solvers import FISTA

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import peers  # type: ignore[import-not-found]

SIDE, ITERATIONS, COILS = 256, 50, 8
LAM = {"inpainting": 0.02, "mri": 0.002}
LEVEL = {"inpainting": 3, "mri": 5}  # 5: what SigPy takes for 256 pixels and db4
NEAR = 1.5  # dB
CASES = {"inpainting": [("sigpy", 1), ("deepinv", 1), ("deepinv", 16)], "mri": [("sigpy", 1)]}
Work = Callable[[], Tensor]


def images(batch: int) -> Tensor:
    """Piecewise smooth images in [0, 1]."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, SIDE, SIDE, generator=g).cumsum(2).cumsum(3)
    x = x + 50 * torch.randn(batch, 1, 8, 8, generator=g).repeat_interleave(32, 2).repeat_interleave(32, 3)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low)


def coils() -> Tensor:
    """Sensitivities [coils, H, W] of a ring of coils, whose squares sum to 1."""
    angle = torch.arange(COILS) * (2 * torch.pi / COILS)
    i, j = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    far = (i - angle.sin().view(-1, 1, 1)) ** 2 + (j - angle.cos().view(-1, 1, 1)) ** 2
    maps = torch.polar(torch.exp(-far), far)
    return maps / maps.abs().square().sum(0).sqrt()


def inpainting(batch: int) -> tuple[Tensor, dict[str, Work]]:
    """The truth, and what every library makes of half its pixels."""
    x, g, lam = images(batch), torch.Generator().manual_seed(1), LAM["inpainting"]
    mask = (torch.rand(SIDE, SIDE, generator=g) > 0.5).float()
    y = mask * (x + 0.01 * torch.randn(x.shape, generator=g))

    def ours() -> Tensor:
        w = Wavelet("sym4", LEVEL["inpainting"])
        return w.T(FISTA(Inpainting(mask) @ w.T, lam, 1.0)(y, iterations=ITERATIONS, tol=0.0)[0])

    works: dict[str, Work] = {"fastrecon": ours}
    if util.find_spec("sigpy") is not None:
        works["sigpy"] = lambda: torch.stack([_sigpy(t[0].numpy(), mask.numpy(), lam) for t in y])[:, None]
    if util.find_spec("deepinv") is not None:
        works["deepinv"] = _deepinv(y, mask, lam)
    return x, works


def _sigpy(y: Any, mask: Any, lam: float) -> Tensor:
    sigpy: Any = import_module("sigpy")
    a, w = sigpy.linop.Multiply(y.shape, mask), sigpy.linop.Wavelet(y.shape, wave_name="sym4", level=3)
    prox = sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(w.oshape, lam), w)
    app = sigpy.app.LinearLeastSquares(a, y, proxg=prox, alpha=1.0, max_iter=ITERATIONS, show_pbar=False)
    return torch.from_numpy(app.run())


def _deepinv(y: Tensor, mask: Tensor, lam: float) -> Work:
    dinv = peers.deepinv()
    physics = dinv.physics.Inpainting((1, SIDE, SIDE), mask=mask[None])
    prior = dinv.optim.WaveletPrior(wv="sym4", level=LEVEL["inpainting"])  # shrinks by a tenth of lambda_reg
    model = dinv.optim.FISTA(
        data_fidelity=dinv.optim.L2(),
        prior=prior,
        lambda_reg=10 * lam,
        stepsize=1.0,
        max_iter=ITERATIONS,
        early_stop=False,
    )
    return lambda: model(y, physics)


def mri(batch: int) -> tuple[Tensor, dict[str, Work]]:
    """The truth, and what every library makes of a third of k-space of eight coils."""
    x, g, lam = images(1).to(torch.complex64), torch.Generator().manual_seed(1), LAM["mri"]
    maps, mask = coils(), fr.masks.variable_density((SIDE, SIDE), 0.33)
    mask = torch.fft.fftshift(mask)  # zero frequency in the middle, as SigPy has it
    a = Fourier(mask, centred="both", sensitivities=maps)
    y = a(x)
    y = y + 0.005 * mask * torch.complex(*(torch.randn(y.shape, generator=g) for _ in range(2)))

    def ours() -> Tensor:
        w = Wavelet("db4", LEVEL["mri"])
        return w.T(FISTA(Fourier(mask, centred="both", sensitivities=maps) @ w.T, lam)(y, iterations=ITERATIONS)[0])

    works: dict[str, Work] = {"fastrecon": ours}
    if util.find_spec("sigpy") is not None:
        app: Any = import_module("sigpy.mri.app")

        def theirs() -> Tensor:
            k = y[0].numpy().reshape(COILS, SIDE, SIDE)
            solver = app.L1WaveletRecon(k, maps.numpy(), lam, max_iter=ITERATIONS, show_pbar=False)
            return torch.from_numpy(solver.run())[None, None]

        works["sigpy"] = theirs
    return x, works


def checked(case: str, batch: int) -> dict[str, Work]:
    """The works, once each is as near to the truth as ours."""
    x, works = {"inpainting": inpainting, "mri": mri}[case](batch)
    db = {name: fr.metrics.psnr(work().abs(), x.abs()).mean().item() for name, work in works.items()}
    assert all(abs(v - db["fastrecon"]) < NEAR for v in db.values()), f"{case}: {db}"
    return works


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("implementation", ["sigpy", "deepinv", "fastrecon"])
@pytest.mark.parametrize("shape", [(1, 1, SIDE, SIDE), (16, 1, SIDE, SIDE)], ids=str)
@pytest.mark.parametrize("case", CASES)
def bench_fista(benchmark, case, shape, implementation):
    if not any(batch == shape[0] and implementation in ("fastrecon", other) for other, batch in CASES[case]):
        pytest.skip("not compared")
    works = checked(case, shape[0])
    if implementation not in works:
        pytest.skip(f"{implementation} is not installed")
    benchmark.pedantic(works[implementation], rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(op="peers", dtype="complex64" if case == "mri" else "float32")


def main(rounds: int = 3) -> None:
    """Prints how many times faster ours is, from runs in turn."""
    for case, compared in CASES.items():
        for other, batch in compared:
            works = checked(case, batch)
            if other not in works:
                print(f"{case:<12} {batch:>2}: {other} is not installed")
                continue
            times: dict[str, list[float]] = {other: [], "fastrecon": []}
            for _ in range(rounds):
                for name, spent in times.items():
                    start = time.perf_counter()
                    works[name]()
                    spent.append(time.perf_counter() - start)
            ratio = median(a / b for a, b in zip(times[other], times["fastrecon"], strict=True))
            print(f"{case:<12} {batch:>2} images: {ratio:5.1f} times as fast as {other}", flush=True)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    main(*map(int, sys.argv[1:2]))
