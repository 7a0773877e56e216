"""Deconvolution of slopes: who converges where, with units that know the answer and units that know nothing."""

import pytest
import torch
from utils import numbers
from zoo import scene

from fastrecon.operators import Gradient, gaussian_kernel
from fastrecon.problems.gradient_domain import gradient_deconvolution

KERNEL = gaussian_kernel(0.8, 5, torch.float64)


@pytest.mark.parametrize("p", [0.0, 0.8, 1.0])
def test_units_that_know_the_slopes_are_nearer_in_fewer_iterations(p):
    x = scene(24, 2, torch.float64)
    truth = Gradient()(x)
    unit = lambda v: v - truth[: len(v)]  # noqa: E731
    found = gradient_deconvolution(x, KERNEL, p, 1e-3, iterations=40, units=unit, implicit=[unit], padnet={"most": 2})
    assert set(found) == {"admm", "hqs", "epadnet", "ipadnet"}
    for course in found.values():
        assert course.errors.shape == course.changes.shape == (40, 2)
        assert (course.iterations >= 1).all()
        assert torch.isfinite(course.errors).all()
        rows = course.iterations - 1
        assert torch.equal(course.error, course.errors[rows, torch.arange(2)])
    assert (found["ipadnet"].error < found["admm"].error).all()
    assert (found["ipadnet"].error < found["hqs"].error).all()


def test_hostile_units_do_no_harm():
    x = scene(16, 1, torch.float64)
    wild = lambda v: 1e6 * numbers(*v.shape)  # noqa: E731
    found = gradient_deconvolution(x, KERNEL, 1.0, 1e-3, iterations=30, units=wild)
    assert (found["epadnet"].error < 1).all()


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="gradient_deconvolution: x: expected grey images"):
        gradient_deconvolution(torch.zeros(1, 3, 8, 8), KERNEL, 1.0, 1e-3)
    with pytest.raises(ValueError, match="Lp: p: expected a number in"):
        gradient_deconvolution(torch.zeros(1, 1, 8, 8), KERNEL, 2.0, 1e-3)
    with pytest.raises(ValueError, match="gradient_deconvolution: lam: expected a number >= 0"):
        gradient_deconvolution(torch.zeros(1, 1, 8, 8), KERNEL, 1.0, -1.0)
