"""Haze, the model: I = t J + (1 - t) A, with a transmission t in (0, 1] of each pixel and the light A of the air.

Photographs [B, C, H, W] lie on [0, 1], C = 3 or 1; A is [B, C, 1, 1] or [C, 1, 1]; transmissions are [B, 1, H, W].

Source: Meng, Wang, Duan, Xiang & Pan, Efficient Image Dehazing with Boundary Constraint and Contextual Regularization,
ICCV 2013; He, Sun & Tang, Single Image Haze Removal Using Dark Channel Prior, CVPR 2009.
"""

import torch
from torch import Tensor

from fastrecon.solvers import windows

DARKEST, BRIGHTEST = 20 / 255, 300 / 255  # C0, C1 of Meng et al.: between them lies every radiance
PATCH = 15  # pixels: side of the windows that hold something dark
CLOSED = 3
FLOOR = 0.1  # transmissions below are taken for it: what is left of the scene there is noise


def airlight(photograph: Tensor) -> Tensor:
    """A [B, C, 1, 1]: of each channel the largest value of its 15 x 15 minima, which small bright things do not set."""
    return windows.least(photograph, PATCH).amax((-2, -1), keepdim=True)


def boundary(photograph: Tensor, light: Tensor) -> Tensor:
    """The least transmission that leaves the radiance within [C0, C1], closed over 3 x 3 pixels.

    Needs light above C0 and below C1 in every channel.
    """
    darker = (light - photograph) / (light - DARKEST)
    brighter = (photograph - light) / (BRIGHTEST - light)
    t = torch.maximum(darker, brighter).amax(1, keepdim=True).clamp(0, 1)
    return windows.closing(t, CLOSED)


def dark_channel(photograph: Tensor, light: Tensor, omega: float = 0.95) -> Tensor:
    """t = 1 - omega min over the window and the channels of I / A: something in every window is dark."""
    dark = windows.least((photograph / light).amin(1, keepdim=True), PATCH)
    return 1 - omega * dark


def guide(photograph: Tensor, light: Tensor) -> Tensor:
    """I / A [B, 3, H, W], at most 2, what networks see of the photograph; grey is as good as three equal colours."""
    return (photograph / light).clamp(0, 2).expand(-1, 3, -1, -1)


def hazy(radiance: Tensor, t: Tensor, light: Tensor) -> Tensor:
    """I."""
    return t * radiance + (1 - t) * light


def radiance(photograph: Tensor, t: Tensor, light: Tensor, floor: float = FLOOR, exponent: float = 1.0) -> Tensor:
    """J = (I - A) / max(t, floor)^exponent + A. With an exponent below 1 some haze stays, which looks natural."""
    return (photograph - light) / t.clamp(floor, 1).pow(exponent) + light
