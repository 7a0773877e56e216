"""kernels/radon_cuda.py: launches kernels/radon.cu. Definition: fastrecon/ops/radon.py."""

import torch
from torch import Tensor

from fastrecon.kernels.nvrtc import REALS, THREADS, launch, tiles_of

SIDE = 16  # kSide of the source


def radon(x: Tensor, lines: Tensor, axis: Tensor) -> Tensor:
    """Returns y [N, A, D] like x."""
    (N, H, W), (A, D) = x.shape, axis.shape
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0 or axis.numel() == 0:
        return NotImplemented
    y = x.new_empty(N, A, D)
    launch(
        "radon", "radon", N * A * tiles_of(D, THREADS), {"REAL": REALS[x.dtype]},
        x.contiguous(), x.mT.contiguous(), lines.contiguous(), axis.contiguous(), y, A, D, H, W,
    )  # fmt: skip
    return y


def radon_adjoint(y: Tensor, lines: Tensor, axis: Tensor, height: int, width: int) -> Tensor:
    """Returns x [N, height, width] like y."""
    if y.dtype not in (torch.float32, torch.float64) or y.numel() == 0 or height * width == 0:
        return NotImplemented
    x = y.new_empty(len(y), height, width)
    launch(
        "radon", "radon_adjoint", len(y) * tiles_of(height, SIDE) * tiles_of(width, SIDE), {"REAL": REALS[y.dtype]},
        y.contiguous(), lines.contiguous(), axis.contiguous(), x, *axis.shape, height, width,
    )  # fmt: skip
    return x
