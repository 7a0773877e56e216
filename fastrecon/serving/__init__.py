"""Serving: many requests for images, answered together, each with the bits that it has alone."""

from fastrecon.serving.request import Busy, Late
from fastrecon.serving.scheduler import Scheduler

__all__ = ["Busy", "Late", "Scheduler"]
