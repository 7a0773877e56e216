"""Reconstruction methods, one a file."""

from fastrecon.solvers.gd_net import AGDNet, GDNet
from fastrecon.solvers.lda import LDA

__all__ = ["LDA", "AGDNet", "GDNet"]
