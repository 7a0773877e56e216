"""Modules: what proposes to iterations that check it, images in, images out; and how any callable is asked."""

from fastrecon.modules.asking import Module, Modules

__all__ = ["Module", "Modules"]
