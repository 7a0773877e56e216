"""Reconstruction methods, one a file."""

from fastrecon.solvers.dladmm import DLADMM
from fastrecon.solvers.gd_net import AGDNet, GDNet
from fastrecon.solvers.ladmm import LADMM
from fastrecon.solvers.lda import LDA

__all__ = ["DLADMM", "LADMM", "LDA", "AGDNet", "GDNet"]
