"""kernels/launch.py: how the Triton kernels are launched: block sizes by shape, grids, tensors as kernels read them.

Block sizes depend on the sizes of one problem and never on the batch, so that image i gets the same bits in any batch.
All programs lie on the grid's first axis, which alone reaches 2^31 - 1; the others end at 65535.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrecon.kernels import configs

CPU = torch.device("cpu")
TILE = 1024  # elements per program of an elementwise kernel: 8 per thread


def ready(t: Tensor) -> Tensor:
    """`t` contiguous, without lazy conjugation or sign, and aligned to 16 bytes.

    Triton compiles other code for odd addresses, and that may add in another order.
    """
    t = t.resolve_conj().resolve_neg().contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def parts(t: Tensor) -> tuple[Tensor, int]:
    """(real view of `t`, real numbers per element): a complex tensor gains a last axis of length 2."""
    t = ready(t)
    return (torch.view_as_real(t), 2) if t.is_complex() else (t, 1)


def blocks(size: int, block: int) -> int:
    """How many blocks cover `size` elements."""
    return -(-size // block)


def power_of_2(size: int, least: int = 1, most: int = 2**62) -> int:
    """The smallest power of two >= size, kept within [least, most]."""
    return min(max(1 << (max(size, 1) - 1).bit_length(), least), most)


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Runs `kernel` on the device of its first argument, a tensor, unless there is nothing to compute."""
    if programs == 0:
        return
    device = args[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*args, **options)


def group_tile(channels: int, pixels: int, count: int = 1) -> dict[str, int]:
    """Tile of the kernels that reduce over channels of `count` real numbers: BLOCK_C at a time, BLOCK_N pixels."""
    block_c = power_of_2(channels, 1, 32 // count)
    return {"BLOCK_C": block_c, "BLOCK_N": power_of_2(pixels, 1, TILE // (block_c * count))}


def strip_tile(inner: int, columns: int, element_size: int) -> dict[str, int]:
    """Tile of an array [R, M, S] whose parameters vary along M: BLOCK_M of M, BLOCK_Q of the R x S others.

    Neighbours in memory lie along S, or along M if S is short. A tile has 2 KiB: wider ones run out of registers.
    """
    elements = 2048 // max(element_size, 4)
    block_m = 1 if columns >= 32 else power_of_2(inner, 1, elements // 4)
    return {"BLOCK_M": block_m, "BLOCK_Q": elements // block_m}


class ConvolutionTile(NamedTuple):
    """Tile of an implicit matrix product: BLOCK_M pixels, all channels padded to BLOCK_C, BLOCK_K summed at a time."""

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int
    registers: int | None  # at most; None leaves it to ptxas, which in float64 spills to fit one block more


def convolution_tile(
    channels: int, dtype: torch.dtype, pair: bool, products: str = "ieee", device: torch.device = CPU
) -> ConvolutionTile:
    """The tile for kernels of width `channels`, with one or (`pair`) two accumulators: measured, or a safe one."""
    padded, wide = power_of_2(channels, 16, 128), dtype == torch.float64
    measured = configs.lookup(channels, dtype, products, pair, device)
    if measured is not None:
        fields = (measured[f] for f in ("depth", "warps", "stages"))
        return ConvolutionTile(measured["pixels"], padded, *fields, None)
    accumulators = 2048 if pair else 4096  # 16 to 32 per thread: larger tiles spill, smaller ones reload the weights
    if wide:
        accumulators //= 4
    pixels = power_of_2(accumulators // padded, 16, 4 * padded)
    return ConvolutionTile(pixels, padded, 16, 8 if padded == 128 else 4, 3, 168 if wide else None)


def weight_tile(channels: int, inputs: int, dtype: torch.dtype) -> ConvolutionTile:
    """The tile for weight gradients: BLOCK_K inputs by BLOCK_C output channels, summed BLOCK_M pixels at a time."""
    padded, wide = power_of_2(channels, 16, 128), dtype == torch.float64
    accumulators = 2048 if wide else 4096
    return ConvolutionTile(
        16, padded, power_of_2(inputs, 16, max(16, accumulators // padded)), 4, 3, 168 if wide else None
    )
