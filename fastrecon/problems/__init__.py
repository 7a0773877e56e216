"""Inverse problems, one a file: what was measured, how it is read, and how it is simulated."""

from fastrecon.problems.base import PROBLEMS, Condition, Measurement, Problem, problem
from fastrecon.problems.block_cs import BlockCS
from fastrecon.problems.ct import CT
from fastrecon.problems.deblur import Deblur
from fastrecon.problems.dehaze import Dehaze
from fastrecon.problems.denoise import Denoise
from fastrecon.problems.derain import Derain
from fastrecon.problems.impulse import Impulse
from fastrecon.problems.inpaint import Inpaint
from fastrecon.problems.low_light import LowLight
from fastrecon.problems.mri import MRI
from fastrecon.problems.slopes import Slopes
from fastrecon.problems.smooth import Smooth

__all__ = [
    "CT",
    "MRI",
    "PROBLEMS",
    "BlockCS",
    "Condition",
    "Deblur",
    "Dehaze",
    "Denoise",
    "Derain",
    "Impulse",
    "Inpaint",
    "LowLight",
    "Measurement",
    "Problem",
    "Slopes",
    "Smooth",
    "problem",
]
