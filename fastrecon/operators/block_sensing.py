"""Block compressed sensing: y = Phi x for every block of an image, 33x33 pixels in ISTA-Net and LDA."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fastrecon.checks import expect, kind
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.block_product import block_product


def measurements(ratio: float, n: int = 1089) -> int:
    """Rows of Phi for a sampling `ratio` in percent of n pixels a block: 1, 4, 10, 25, 30, 40, 50% of 1089 are the
    published 10, 43, 109, 272, 327, 436, 545 (down for 1 and 4%, to the nearest for the others).
    """
    expect(0 < ratio <= 100, "measurements", "ratio", "a number in (0, 100]", ratio)
    return max(1, int(ratio * n / 100 + (0 if ratio in (1, 4) else 0.5)))


def random_phi(m: int, n: int = 1089, seed: int = 0) -> Tensor:
    """Gaussian sampling matrix [m, n] with orthonormal rows, float64; a seed gives the same anywhere, to rounding."""
    expect(1 <= m <= n, "random_phi", "m", f"1 to n = {n} rows", m)
    gaussian = np.random.RandomState(seed).standard_normal((n, m))  # the one NumPy stream that is frozen for good
    q, r = torch.linalg.qr(torch.from_numpy(gaussian))
    return torch.where(r.diagonal() < 0, -q, q).T.contiguous()


class BlockSensing(LinearOperator):
    """y = Phi x, block by block: [B, 1, H, W] -> [B, rows, cols, m], blocks and pixels in row-major order.

    The image is padded with zeros at the right and the bottom to whole blocks; the adjoint crops to `size`. Every
    image has the bits it has alone (`ops.block_product`).

    Args:
        phi: sampling matrix [m, block * block]; an nn.Parameter is learned, anything else is a buffer.
        block: side of a block in pixels.
    """

    phi: Tensor

    def __init__(self, phi: Any, block: int = 33):
        super().__init__()
        matrix = torch.as_tensor(phi)
        expect(
            matrix.ndim == 2 and matrix.shape[1] == block * block and matrix.is_floating_point(),
            "BlockSensing", "phi", f"a real matrix [m, {block * block}] for {block}x{block} blocks", matrix,
        )  # fmt: skip
        self.block = block
        if isinstance(phi, nn.Parameter):
            self.phi = phi
        else:
            self.register_buffer("phi", matrix.contiguous())

    def to_blocks(self, x: Tensor) -> Tensor:
        """Blocks [B, rows, cols, block * block] of images [B, 1, H, W], zeros beyond right and bottom edge."""
        b, (h, w) = self.block, x.shape[-2:]
        if h % b or w % b:
            x = pad(x, (0, -w % b, 0, -h % b))
        rows, cols = x.shape[-2] // b, x.shape[-1] // b
        return x.reshape(-1, rows, b, cols, b).transpose(2, 3).reshape(-1, rows, cols, b * b)

    def to_image(self, blocks: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Images [B, 1, H, W] from their blocks [B, rows, cols, block * block], cropped to `size`."""
        b, (_, rows, cols, _) = self.block, blocks.shape
        if size is not None:
            fits = len(size) == 2 and all((k - 1) * b < s <= k * b for s, k in zip(size, (rows, cols), strict=True))
            expect(fits, "BlockSensing", "size", f"(H, W) of an image of {rows}x{cols} blocks of {b}x{b}", tuple(size))
        x = blocks.reshape(-1, rows, cols, b, b).transpose(2, 3).reshape(-1, 1, rows * b, cols * b)
        return x if size is None else x[..., : size[0], : size[1]].contiguous()

    def _forward(self, x: Tensor) -> Tensor:
        expect(x.ndim == 4 and x.shape[1] == 1, "BlockSensing", "x", "images [B, 1, H, W]", x)
        self._check_kind(x, "x")
        return product_per_image(self.to_blocks(x), self.phi.T)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        m = self.phi.shape[0]
        expect(y.ndim == 4 and y.shape[3] == m, "BlockSensing", "y", f"measurements [B, rows, cols, {m}]", y)
        self._check_kind(y, "y")
        return self.to_image(product_per_image(y, self.phi), size)

    def _check_kind(self, t: Tensor, argument: str) -> None:
        same = t.dtype == self.phi.dtype and t.device == self.phi.device
        expect(same, "BlockSensing", argument, kind(self.phi), t)

    def _norm(self) -> float:
        return torch.linalg.matrix_norm(self.phi.detach().double(), 2).item()


def product_per_image(blocks: Tensor, matrix: Tensor) -> Tensor:
    """blocks [B, rows, cols, k] times matrix [k, l]: [B, rows, cols, l]."""
    return block_product(blocks.flatten(1, 2), matrix).unflatten(1, blocks.shape[1:3])
