"""Filtered back-projection of 144 parallel views to 512x512, from exact line integrals of the Shepp-Logan phantom.

astra: FBP of astra-toolbox on the CPU with its projectors, where it is installed. All use the ramp filter; none is
timed unless its image is as near to the phantom, and ours as near as the best of them.
Source: Shepp & Logan, IEEE Trans. Nucl. Sci. 21 (1974), with the contrasts of Toft (1996).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastrecon as fr
from fastrecon.operators import Radon

SIDE, VIEWS, DETECTORS = 512, 144, 725
FINER = 4  # pixels of the truth are means of so many samples along each side
IMPLEMENTATIONS = ["astra linear", "astra line", "astra strip", "fastrecon"]
LEAST = {"astra linear": 26.0, "astra line": 24.0, "astra strip": 27.0, "fastrecon": 27.2}  # dB
# contrast, half axes, centre, angle in degrees; the phantom fills [-1, 1] in both directions
ELLIPSES = [
    (1.0, 0.69, 0.92, 0.0, 0.0, 0), (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0), (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18), (0.1, 0.21, 0.25, 0.0, 0.35, 0), (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0), (0.1, 0.046, 0.023, -0.08, -0.605, 0), (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
]  # fmt: skip


@cache
def phantom() -> Tensor:
    """[1, 1, SIDE, SIDE] float64."""
    t = (np.arange(FINER * SIDE) + 0.5) * (2 / (FINER * SIDE)) - 1
    x, y = t[None, :], -t[:, None]
    image = np.zeros((FINER * SIDE, FINER * SIDE))
    for contrast, a, b, u, v, degrees in ELLIPSES:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = (x - u) * c + (y - v) * s, (y - v) * c - (x - u) * s
        image += contrast * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return torch.from_numpy(image.reshape(SIDE, FINER, SIDE, FINER).mean((1, 3)))[None, None]


@cache
def sinogram() -> Tensor:
    """Exact integrals in pixels [1, 1, VIEWS, DETECTORS] float32: of chords of ellipses."""
    angles = np.arange(VIEWS)[:, None] * (math.pi / VIEWS)
    w = (np.arange(DETECTORS) - (DETECTORS - 1) / 2)[None, :] * (2 / SIDE)
    total = np.zeros((VIEWS, DETECTORS))
    for contrast, a, b, u, v, degrees in ELLIPSES:
        turned = angles - math.radians(degrees)
        square = (a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2
        far = w - u * np.cos(angles) - v * np.sin(angles)
        total += contrast * 2 * a * b / square * np.sqrt(np.maximum(square - far**2, 0))
    return torch.from_numpy(total * (SIDE / 2)).float()[None, None]


def ours() -> Callable[[], Tensor]:
    a, y = Radon((SIDE, SIDE), VIEWS, DETECTORS), sinogram()
    return lambda: a.fbp(y)


def astra(kind: str) -> Callable[[], Tensor]:
    library: Any = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    views = library.create_proj_geom("parallel", 1.0, DETECTORS, angles)
    pixels = library.create_vol_geom(SIDE, SIDE)
    config: Any = library.astra_dict("FBP")
    config["ProjectorId"] = library.create_projector(kind, views, pixels)
    config["ProjectionDataId"] = library.data2d.create("-sino", views, sinogram()[0, 0].numpy())
    config["ReconstructionDataId"] = image = library.data2d.create("-vol", pixels)
    config["option"] = {"FilterType": "Ram-Lak"}
    algorithm = library.algorithm.create(config)

    def run() -> Tensor:
        library.algorithm.run(algorithm)
        return torch.from_numpy(library.data2d.get(image))[None, None]

    return run


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, SIDE, SIDE)], ids=str)
def bench_fbp(benchmark, implementation, shape):
    run = ours() if implementation == "fastrecon" else astra(implementation.split()[1])
    db = fr.metrics.psnr(run().double(), phantom()).item()
    assert db >= LEAST[implementation], f"{db:.2f} dB"  # no timing of wrong answers
    rounds = 15 if implementation == "fastrecon" else 3
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)
    benchmark.extra_info.update(
        op="fbp", dtype="float32", bytes=4 * (SIDE * SIDE + VIEWS * DETECTORS), psnr=round(db, 2)
    )
