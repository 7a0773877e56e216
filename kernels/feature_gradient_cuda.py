"""kernels/feature_gradient_cuda.py: launches feature_gradient.cu. Definition: fastrecon/ops/feature_gradient.py.

It serves precision="bfloat16" for float32 images of one channel, and 2 to 5 layers of 32; Triton serves the rest.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fastrecon.kernels.launch import ready
from fastrecon.kernels.nvrtc import launch, tiles_of

WIDTH = 32
TILES = {2: (1, 2, 3), 3: (1, 2, 3), 4: (1, 2, 3), 5: (1,)}  # by layers: more run out of registers
# What strips and bands are chosen by, guesses until they are measured: columns' worth of time that a row takes besides
# its columns; least rows of a band, and rows' worth of time that it takes to fill and to drain the layers.
ROW, LEAST_ROWS, RAMP = 16, 8, 6


def _supported(x: Tensor, weights: Sequence[Tensor], precision: str) -> bool:
    return (
        precision == "bfloat16"
        and x.dtype == torch.float32
        and x.shape[1] == 1
        and x.numel() > 0
        and len(weights) in TILES
        and len(weights) * x.shape[0] * x.shape[2] < 2**30  # rows of all maps are counted in int32, two to a strip
        and all(w.shape == (WIDTH, WIDTH if k else 1, 3, 3) for k, w in enumerate(weights))
        and (not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (8, 0))
    )


def _strips(width: int, layers: int, halo: int) -> tuple[int, int]:
    """(TILES, strips) that take the least time for images of this width."""
    found = [(t, tiles_of(width, 32 * t - 2 * halo)) for t in TILES[layers]]
    return min(found, key=lambda f: (f[1] * (32 * f[0] + ROW), f[1]))


@cache
def _band(height: int, columns: int, processors: int) -> int:
    """Rows of a band so that `columns` strips of all images in bands take the least time; no bits depend on it."""
    found = {-(-height // n) for n in range(1, max(1, height // LEAST_ROWS) + 1)}
    return min(found, key=lambda rows: (tiles_of(columns * tiles_of(height, rows), processors) * (rows + RAMP), -rows))


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _packed(weights: Sequence[Tensor], back: bool) -> tuple[Tensor, Tensor]:
    """(first [3, 3, 32], others [L - 1, 3, 3, out, in] in bfloat16); for the way back transposed, from the last."""
    first, others = weights[0][:, 0], torch.stack(tuple(weights[1:]))
    if back:
        first, others = first.flip(1, 2), others.flip(0, 3, 4).transpose(1, 2)
    others = others.permute(0, 3, 4, 1, 2).to(torch.bfloat16).contiguous()
    return first.permute(1, 2, 0).contiguous(), others.view(torch.int32)


def macros(layers: int, tiles: int, back: bool) -> dict[str, str]:
    """Those of the source; it checks that SHARED suffices."""
    pitch, products = 32 * tiles + 4, layers - 1
    shared = 128 * layers * pitch + (9216 if tiles > 2 else 6144) * products + 32 * pitch + 1280
    sizes = {"LAYERS": layers, "TILES": tiles, "THREADS": 128 * products, "BACK": int(back), "SHARED": shared}
    return {name: str(size) for name, size in sizes.items()}


def _forward(
    x: Tensor, weights: Sequence[Tensor], eps: Tensor, delta: float, final_activation: bool, back: bool
) -> tuple[Tensor, Tensor]:
    """Value [B] and, if a way `back` follows, words [L, B, H, 2, W, 8] of slopes and the last layer's cotangents."""
    (B, _, H, W), L = x.shape, len(weights)
    tiles, strips = _strips(W, L, L - 1)
    band = _band(H, B * strips, _processors(x))
    kept = torch.empty((L, B, H, 2, W, 8) if back else (0,), dtype=torch.int32, device=x.device)
    rows = torch.empty((B, H, 2 * strips), dtype=torch.float64, device=x.device)
    launch(
        "feature_gradient", "chain_forward", B * strips * tiles_of(H, band), macros(L, tiles, back),
        x, *_packed(weights, back=False), eps, kept, rows, B, H, W, strips, band, float(delta), int(final_activation),
    )  # fmt: skip
    value = torch.empty_like(eps)
    launch("feature_gradient", "chain_sum", B, macros(L, tiles, back), rows, value, H * 2 * strips)
    return value, kept


def _back(weights: Sequence[Tensor], kept: Tensor, grad: Tensor) -> None:
    """Writes the gradient [B, 1, H, W]."""
    (B, _, H, W), L = grad.shape, len(weights)
    tiles, strips = _strips(W, L, L)
    band = _band(H, B * strips, _processors(grad))
    launch(
        "feature_gradient", "chain_back", B * strips * tiles_of(H, band), macros(L, tiles, True),
        *_packed(weights, back=True), kept, grad, B, H, W, strips, band,
    )  # fmt: skip


def feature_gradient_value(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> Tensor:
    """Returns value [B]."""
    if not _supported(x, weights, precision):
        return NotImplemented
    return _forward(ready(x), weights, ready(eps), delta, final_activation, back=False)[0]


def feature_gradient_fwd(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Returns value [B] and gradient like x."""
    if not _supported(x, weights, precision):
        return NotImplemented
    value, kept = _forward(ready(x), weights, ready(eps), delta, final_activation, back=True)
    grad = x.new_empty(x.shape)
    _back(weights, kept, grad)
    return value, grad
