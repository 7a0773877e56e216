"""Trained methods, a family a file; `load` gives one by its name."""

from fastrecon.models.base import METHODS, Reconstructor, load, pretrained

__all__ = ["METHODS", "Reconstructor", "load", "pretrained"]
