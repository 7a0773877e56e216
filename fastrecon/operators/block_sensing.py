"""Block compressed sensing: y = Phi x for every block of an image, 33x33 pixels in ISTA-Net and LDA."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon import ops
from fastrecon.checks import an_integer, behind, expect, finite_number, kind
from fastrecon.operators._given import Cache, snapshot, state_of, tensor_of
from fastrecon.operators.base import LinearOperator

block_product = behind(ops.block_product)

ORTHONORMAL = 50  # units in the last place by which products of rows may differ from 0 and from each other


def measurements(ratio: float, n: int = 1089) -> int:
    """Rows of Phi for a sampling `ratio` in percent of n pixels a block: 1, 4, 10, 25, 30, 40, 50% of 1089 are the
    published 10, 43, 109, 272, 327, 436, 545 (down for 1 and 4%, to the nearest for the others).
    """
    good = finite_number(ratio) and 0 < ratio <= 100
    expect(good, "measurements", "ratio", "a number in (0, 100]", ratio)
    expect(an_integer(n, 1), "measurements", "n", "an integer >= 1", n)
    return max(1, int(ratio * n / 100 + (0 if ratio in (1, 4) else 0.5)))


def random_phi(m: int, n: int = 1089, seed: int = 0) -> Tensor:
    """Gaussian sampling matrix [m, n] with orthonormal rows, float64; a seed gives the same anywhere, to rounding."""
    expect(an_integer(n, 1), "random_phi", "n", "an integer >= 1", n)
    expect(an_integer(m, 1) and m <= n, "random_phi", "m", f"1 to n = {n} rows", m)
    expect(an_integer(seed, 0) and seed < 2**32, "random_phi", "seed", "an integer in [0, 2^32)", seed)
    gaussian = np.random.RandomState(seed).standard_normal((n, m))  # the one NumPy stream that is frozen for good
    q, r = torch.linalg.qr(torch.from_numpy(gaussian))
    return torch.where(r.diagonal() < 0, -q, q).T.contiguous()


class BlockSensing(LinearOperator):
    """y = Phi x, block by block: [B, 1, H, W] -> [B, rows, cols, m], blocks and pixels in row-major order.

    The image is padded with zeros at the right and the bottom to whole blocks; the adjoint crops to `size`. Every
    image has the bits it has alone (`ops.block_product`).

    Args:
        phi: sampling matrix [m, block * block]; an nn.Parameter is learned, of anything else a copy is kept.
        block: side of a block in pixels.

    Raises:
        ValueError: phi is no such matrix, or an input has another shape, type or device.
    """

    phi: Tensor

    def __init__(self, phi: Any, block: int = 33):
        super().__init__()
        expect(an_integer(block, 1), "BlockSensing", "block", "a number of pixels >= 1", block)
        expected = f"a real matrix [m, {block * block}] for {block}x{block} blocks"
        matrix = tensor_of(phi, "BlockSensing", "phi", expected)
        fits = matrix.ndim == 2 and matrix.shape[1] == block * block and matrix.is_floating_point()
        expect(fits and len(matrix) > 0, "BlockSensing", "phi", expected, matrix)
        self.block = int(block)
        self.hold("phi", phi, matrix)
        self._row_scale, self._spectrum = Cache(), Cache()

    def to_blocks(self, x: Tensor) -> Tensor:
        """Blocks [B, rows, cols, block * block] of images [B, 1, H, W], zeros beyond right and bottom edge."""
        b, (h, w) = self.block, x.shape[-2:]
        if h % b or w % b:
            x = pad(x, (0, -w % b, 0, -h % b))
        rows, cols = x.shape[-2] // b, x.shape[-1] // b
        return x.reshape(x.shape[0], rows, b, cols, b).transpose(2, 3).reshape(x.shape[0], rows, cols, b * b)

    def to_image(self, blocks: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Images [B, 1, H, W] from their blocks [B, rows, cols, block * block], cropped to `size`."""
        b, (count, rows, cols, _) = self.block, blocks.shape
        if size is not None:
            fits = len(size) == 2 and all((k - 1) * b < s <= k * b for s, k in zip(size, (rows, cols), strict=True))
            expect(fits, "BlockSensing", "size", f"(H, W) of an image of {rows}x{cols} blocks of {b}x{b}", tuple(size))
        x = blocks.reshape(count, rows, cols, b, b).transpose(2, 3).reshape(count, 1, rows * b, cols * b)
        return x if size is None else x[..., : size[0], : size[1]].contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Phi times every block."""
        expect(x.ndim == 4 and x.shape[1] == 1, "BlockSensing", "x", "images [B, 1, H, W]", x)
        self._check_kind(x, "x")
        return product_per_image(self.to_blocks(x), self.phi.T)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Phi^T times every vector of measurements, as an image cropped to `size`."""
        m = self.phi.shape[0]
        expect(y.ndim == 4 and y.shape[3] == m, "BlockSensing", "y", f"measurements [B, rows, cols, {m}]", y)
        self._check_kind(y, "y")
        return self.to_image(product_per_image(y, self.phi), size)

    def _check_kind(self, t: Tensor, argument: str) -> None:
        same = t.dtype == self.phi.dtype and t.device == self.phi.device
        expect(same, "BlockSensing", argument, kind(self.phi), t)

    def row_scale(self, size: Sequence[int]) -> float | None:
        """c with Phi Phi^T = c I, for images of whole blocks; None while Phi is learned."""
        whole = not any(n % self.block for n in size)
        return self._kept(self._row_scale, _row_scale) if whole else None

    def resolvent(self, v: Tensor, weight: Tensor) -> Tensor | None:
        """(1 + w A* A)^-1 v = v - A* w (1 + w A A*)^-1 A v; None while Phi is learned."""
        if state_of(self.phi) is None:
            return None
        b, w, y = self.block, weight.to(v).view(-1, 1, 1, 1), self.forward(v)
        z, (height, width) = torch.empty_like(y), v.shape[-2:]
        for rows, high in _whole_and_last(height, b):
            for cols, wide in _whole_and_last(width, b):
                z[:, rows, cols] = self._damped(y[:, rows, cols], w, high, wide)
        return v - self.apply_adjoint(z, v.shape[-2:])

    def _damped(self, y: Tensor, w: Tensor, height: int, width: int) -> Tensor:
        """w (1 + w A A*)^-1 y for blocks of which so much lies in the image."""
        whole = height == width == self.block
        if whole and (scale := self._kept(self._row_scale, _row_scale)) is not None:
            return w / (1 + w * scale) * y
        turn, factors = self._kept(self._spectrum, lambda phi: _spectrum(phi, self.block, height, width), height, width)
        return product_per_image(w / (1 + w * factors) * product_per_image(y, turn), turn.T)

    def _kept(self, cache: Cache, made: Callable[[Tensor], Any], *which: int) -> Any:
        """What is made of Phi, once; None while Phi is learned."""
        state = state_of(self.phi)
        if state is None:
            return None
        kept = cache.get(key := (self.phi.dtype, self.phi.device, *which))
        if kept is None or not state(kept[0]):
            kept = snapshot(self.phi), made(self.phi.detach())
            cache.put(key, kept)
        return kept[1]

    def _norm(self) -> float:
        return torch.linalg.matrix_norm(self.phi.detach().double(), 2).item()

    def output_size(self, size: Sequence[int] | None) -> None:
        """None: measurements of blocks are no image."""

    def input_size(self, size: Sequence[int] | None = None) -> None:
        """None: images of several sizes have as many blocks."""


def _row_scale(phi: Tensor) -> float | None:
    """c with phi phi^T = c I to the rounding of products, or None."""
    gram = phi.double() @ phi.double().T
    c = gram.diagonal().mean()
    error = (gram - c * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()
    return c.item() if error <= ORTHONORMAL * torch.finfo(phi.dtype).eps * c else None


def _whole_and_last(size: int, block: int) -> list[tuple[slice, int]]:
    """Places of blocks along an axis, and how many pixels of each lie in the image."""
    if size % block == 0:
        return [(slice(None), block)]
    last = [(slice(-1, None), size % block)]
    return [(slice(None, -1), block), *last] if size > block else last


def _spectrum(phi: Tensor, block: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """V [m, m] and s [m] >= 0 with A A* = V diag(s) V^T for a block of which so much lies in the image."""
    part = phi.double().view(-1, block, block)[:, :height, :width].flatten(1)
    factors, turn = torch.linalg.eigh(part @ part.T)
    return turn.to(phi).contiguous(), factors.clamp_min(0).to(phi)


def product_per_image(blocks: Tensor, matrix: Tensor) -> Tensor:
    """blocks [B, rows, cols, k] times matrix [k, l]: [B, rows, cols, l]."""
    return block_product(blocks.flatten(1, 2), matrix).unflatten(1, blocks.shape[1:3])
