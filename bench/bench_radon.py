"""Radon transform and its adjoint at 512x512, 144 views, parallel beams; fan beams against eager alone.

eager: the definition in plain PyTorch. scikit-image: `radon`, and `iradon` without a filter, which turns the image or
looks up lines and is no exact adjoint. astra: the CPU projectors of astra-toolbox, with Joseph's weights ("linear") or
areas ("strip"). Libraries that are not installed are left out.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from utils import DEVICES, GRAPHS, finished

pytest.importorskip("skimage")

from skimage import data
from skimage.transform import iradon, radon

from fastrecon import ops
from fastrecon.ops.radon import radon_adjoint_ref, radon_ref
from fastrecon.ops.rays import Rays

SIDE, VIEWS, DETECTORS = 512, 144, 725
IMPLEMENTATIONS = ["eager", "scikit-image", "astra linear", "astra strip", "fastrecon", *GRAPHS]
DIRECTIONS = ["forward", "adjoint"]
# relative distance from the definition in float64: fastrecon is held to twice eager's; astra computes positions in
# float32 ("linear") or has another model ("strip"), scikit-image's centre is half a pixel away
ALLOWED = {"astra linear": 1e-3, "astra strip": 0.01, "scikit-image": 0.03}


def rays_of(geometry: str) -> Rays:
    angles = torch.arange(VIEWS, dtype=torch.float64) / VIEWS
    if geometry == "parallel":
        return ops.parallel_rays((SIDE, SIDE), math.pi * angles, DETECTORS, 1.0)
    return ops.fan_rays((SIDE, SIDE), 2 * math.pi * angles, DETECTORS, 1.6, 1000.0, 500.0)


@cache
def problem(geometry: str, batch: int, direction: str, device: str) -> tuple[Rays, Tensor, Tensor]:
    """Rays, the input in float32 and the answer in float64."""
    rays = rays_of(geometry).to(torch.device(device))
    image = torch.from_numpy(data.camera()).to(device, torch.float32) / 255
    x = torch.stack([image.roll(17 * k, 0) for k in range(batch)])[:, None]
    if direction == "adjoint":
        x = ops.radon(x, rays)
    return rays, x, definition(x.double(), rays, direction)


def definition(x: Tensor, rays: Rays, direction: str) -> Tensor:
    if direction == "forward":
        return radon_ref(x[:, 0], rays.lines, rays.axis)[:, None]
    return radon_adjoint_ref(x[:, 0], rays.lines, rays.axis, *rays.size)[:, None]


def scikit_image(x: Tensor, direction: str) -> Tensor:
    degrees = np.arange(VIEWS) * (180 / VIEWS)
    if direction == "forward":
        answers = [radon(image, degrees, circle=False).T for image in x[:, 0].numpy()]
    else:
        options: dict[str, Any] = {"output_size": SIDE, "circle": False, "filter_name": None}
        back = [iradon(y.T, degrees, **options) for y in x[:, 0].numpy()]
        answers = [image * (2 * VIEWS / math.pi) for image in back]
    return torch.from_numpy(np.stack(answers))[:, None]


@cache
def astra_operator(kind: str):
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    geometry = astra.create_proj_geom("parallel", 1.0, DETECTORS, np.arange(VIEWS) * (np.pi / VIEWS))
    return astra.OpTomo(astra.create_projector(kind, geometry, astra.create_vol_geom(SIDE, SIDE)))


def astra(x: Tensor, direction: str, kind: str) -> Tensor:
    operator = astra_operator(kind)
    function = operator.FP if direction == "forward" else operator.BP
    return torch.from_numpy(np.stack([function(image) for image in x[:, 0].numpy()]))[:, None]


def chosen(implementation: str, rays: Rays, x: Tensor, direction: str) -> Callable[[], Tensor]:
    if implementation.startswith("eager"):
        return lambda: definition(x, rays, direction)
    if implementation == "scikit-image":
        return lambda: scikit_image(x, direction)
    if implementation.startswith("astra"):
        return lambda: astra(x, direction, implementation.split()[1])
    function = ops.radon if direction == "forward" else ops.radon_adjoint
    return lambda: function(x, rays)


def time_projection(benchmark, implementation, geometry, batch, direction, device) -> None:
    rays, x, exact = problem(geometry, batch, direction, device)
    run = finished(chosen(implementation, rays, x, direction), implementation, device)

    def error(result: Tensor) -> float:
        return ((result - exact).norm() / exact.norm()).item()

    allowed = ALLOWED.get(implementation) or 2 * error(definition(x, rays, direction)) + 5e-7
    assert error(run()) <= allowed  # no timing of wrong answers
    rounds = 15 if implementation.startswith("fastrecon") else 3
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=rounds // 5)
    ones = torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64, device=x.device)
    samples = batch * (ops.radon(ones, rays)[0, 0] / rays.lines[2]).sum().item()
    benchmark.extra_info.update(
        op="radon" if direction == "forward" else "radon_adjoint", dtype="float32",
        bytes=4 * (x.numel() + exact.numel()), flops=4 * samples,  # two weights and two sums a sample
    )  # fmt: skip


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (8, SIDE, SIDE)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_parallel(benchmark, implementation, direction, shape, device):
    if device == "cuda" and not implementation.startswith(("eager", "fastrecon")):
        pytest.skip(f"{implementation} runs on the CPU")
    time_projection(benchmark, implementation, "parallel", shape[0], direction, device)


@pytest.mark.parametrize("implementation", ["eager", "fastrecon"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(1, SIDE, SIDE)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_fan(benchmark, implementation, direction, shape, device):
    time_projection(benchmark, implementation, "fan", shape[0], direction, device)
