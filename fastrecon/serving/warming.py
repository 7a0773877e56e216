"""A small request for every model, so that the first one of a client finds everything in place."""

from pathlib import Path

import numpy as np

from fastrecon.io import Form, Picture
from fastrecon.problems.base import PROBLEMS
from fastrecon.serving import bodies
from fastrecon.serving.door import Door, Work
from fastrecon.solvers.methods import METHODS

SIDE = 66  # pixels
USUAL = "denoise"  # the problem of a model for all


def work(door: Door, name: str) -> Work:
    """Simulated measurements of a ramp for the model of this name."""
    model = door.loaded[name]
    problem, method = PROBLEMS[model.problem or USUAL], METHODS[model.method]
    grey = (np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE)).astype(np.float32)
    last: Exception = ValueError(f"{name}: nothing to try")
    for pixels in (grey, np.stack([grey, grey, grey], -1)):
        picture = Picture(pixels, Path("ramp"), Form())
        try:
            m = problem.simulate(picture, problem.Options(**model.problem_options()), 0)
        except ValueError as e:  # some problems are of pictures in colour
            last = e
            continue
        kind = bodies.KINDS[0]
        return Work(
            problem, m.to(door.device), method, method.Options(model=door.models[name]), False, kind, name, None
        )
    raise last
