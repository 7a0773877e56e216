"""Modules: what proposes to iterations that check it, images in, images out; and how any callable is asked."""

from fastrecon.modules.asking import Module, Modules
from fastrecon.modules.denoisers import Bank, Cleaned, GuidedFilter, TVDenoiser, WaveletDenoiser, by_parts, falling

__all__ = [
    "Bank",
    "Cleaned",
    "GuidedFilter",
    "Module",
    "Modules",
    "TVDenoiser",
    "WaveletDenoiser",
    "by_parts",
    "falling",
]
