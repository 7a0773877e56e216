"""Back-projection pixel by pixel: against its definition, and what filtered back-projection makes of it."""

import pytest
import torch
from utils import REAL, numbers

from fastrecon.operators import Radon
from fastrecon.ops.back_project import back_project, back_project_ref

GEOMETRIES = {
    "parallel": {},
    "moved": {"offset": 0.7, "centre": (10.0, 14.5), "spacing": 0.9},
    "coarse": {"spacing": 3.0, "detectors": 15},
    "fine": {"spacing": 0.05, "detectors": 61},
    "fan": {"geometry": "fan", "source_distance": 60.0, "detector_distance": 20.0},
    "near": {"geometry": "fan", "source_distance": 22.5, "spacing": 0.05, "detectors": 121},  # images end behind it
    "arc": {"geometry": "fan", "source_distance": 60.0, "detector_distance": 20.0, "curved": True, "offset": 0.4},
}


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_kernel_is_the_definition(name, dtype):
    a = Radon((21, 39), 7, **GEOMETRIES[name])
    fan, curved = a.geometry == "fan", a.curved
    q = numbers(2, 2, 7, a.detectors, dtype=dtype)
    found = back_project(q, a._places, a.size, fan, curved)
    exact = back_project_ref(q.double().flatten(0, 1), a._places, a.size, fan, curved).view(found.shape)
    assert (found - exact).abs().max() <= (3e-5 if dtype == torch.float32 else 1e-12) * exact.abs().max()


@pytest.mark.parametrize("name", ["parallel", "fan", "arc"])
def test_constant_projections_of_a_pixel_are_seen_where_they_are(name):
    """A blob comes back at its place, with its height."""
    a = Radon((33, 41), 180, **GEOMETRIES[name])
    v, h = torch.arange(33.0)[:, None], torch.arange(41.0)
    x = torch.exp(-((v - 11) ** 2 + (h - 25) ** 2) / 18)[None, None]
    found = a.fbp(a(x))
    assert (found - x).abs().max() < 0.04


def test_images_alone_and_in_a_batch_and_derivative():
    a = Radon((17, 24), 9)
    y = numbers(3, 1, 9, a.detectors, dtype=torch.float32)
    together = a.fbp(y)
    assert all(torch.equal(a.fbp(y[i : i + 1])[0], together[i]) for i in range(3))
    y = y[:1].double().requires_grad_()
    w = numbers(1, 1, 17, 24)
    (grad,) = torch.autograd.grad((a.fbp(y) * w).sum(), y)
    assert torch.allclose((grad * y).sum(), (a.fbp(y) * w).sum())  # linear
