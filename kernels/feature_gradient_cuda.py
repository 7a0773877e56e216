"""kernels/feature_gradient_cuda.py: launches kernels/feature_gradient.cu. Definition: fastrecon/ops/feature_gradient.py.

It serves what the tensor cores are for: precision="bfloat16", float32 images of one channel, 2 to 5 layers of 32.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fastrecon.kernels.nvrtc import launch, tiles_of

WIDTH = 32
TILES = {2: (1, 2, 3), 3: (1, 2, 3), 4: (1, 2), 5: (1,)}  # by layers: more of them run out of registers
LEAST_ROWS, RAMP = 8, 6  # of a band; and the rows' worth of time that it takes to fill and to drain the layers


def _supported(x: Tensor, weights: Sequence[Tensor], precision: str) -> bool:
    return (
        precision == "bfloat16"
        and x.dtype == torch.float32
        and x.shape[1] == 1
        and x.numel() > 0
        and len(weights) in TILES
        and all(w.shape == (WIDTH, WIDTH if k else 1, 3, 3) for k, w in enumerate(weights))
        and (not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (8, 0))
    )


def _strips(width: int, layers: int, halo: int) -> tuple[int, int]:
    """(TILES, strips) with the fewest columns computed, and then the fewest strips, for images of this width."""
    found = [(t, tiles_of(width, 32 * t - 2 * halo)) for t in TILES[layers]]
    return min(found, key=lambda f: (f[0] * f[1], f[1]))


@cache
def _band(height: int, columns: int, processors: int) -> int:
    """Rows of a band so that `columns` strips of all images in bands take the least time; no bits depend on it."""
    found = {-(-height // n) for n in range(1, max(1, height // LEAST_ROWS) + 1)}
    return min(found, key=lambda rows: (tiles_of(columns * tiles_of(height, rows), processors) * (rows + RAMP), -rows))


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _packed(weights: Sequence[Tensor], back: bool) -> tuple[Tensor, Tensor]:
    """(first [3, 3, 32], others [L - 1, 3, 3, out, in] in bfloat16), transposed and in reverse order for the way back."""
    first, others = weights[0][:, 0], torch.stack(tuple(weights[1:]))
    if back:
        first, others = first.flip(1, 2), others.flip(0, 3, 4).transpose(1, 2)
    others = others.permute(0, 3, 4, 1, 2).to(torch.bfloat16).contiguous()
    return first.permute(1, 2, 0).contiguous(), others.view(torch.int32)


def _run(
    kernel: str, halo: int, x: Tensor, layers: int, back: bool, arguments: Sequence[Tensor], *last: float | int
) -> int:
    """Launches one pass over images like x and returns its number of strips."""
    B, _, H, W = x.shape
    tiles, strips = _strips(W, layers, halo)
    band = _band(H, B * strips, _processors(x))
    macros = {"LAYERS": layers, "TILES": tiles, "THREADS": 128 * (layers - 1), "BACK": int(back)}
    programs = B * strips * tiles_of(H, band)
    strings = {k: str(v) for k, v in macros.items()}
    launch("feature_gradient", kernel, programs, strings, *arguments, B, H, W, strips, band, *last)
    return strips


def _forward(
    x: Tensor, weights: Sequence[Tensor], eps: Tensor, delta: float, final_activation: bool, back: bool
) -> tuple[Tensor, Tensor]:
    """Value [B], and if a way `back` follows what it needs, [L, B, H, 4, W, 4]."""
    (B, _, H, W), L = x.shape, len(weights)
    kept = torch.empty((L, B, H, 4, W, 4) if back else (1,), dtype=torch.int32, device=x.device)  # words
    halo = L - 1
    rows = torch.empty(B, H, 2 * _strips(W, L, halo)[1], dtype=torch.float64, device=x.device)
    arguments = (x, *_packed(weights, back=False), eps, kept, rows)
    _run("chain_forward", halo, x, L, back, arguments, float(delta), int(final_activation))
    value = torch.empty_like(eps)
    macros = {"LAYERS": str(L), "TILES": "1", "THREADS": str(128 * halo), "BACK": "0"}
    launch("feature_gradient", "chain_sum", B, macros, rows, value, rows[0].numel())
    return value, kept


def feature_gradient_value(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> Tensor:
    """Returns value [B]."""
    if not _supported(x, weights, precision):
        return NotImplemented
    return _forward(x.contiguous(), weights, eps.contiguous(), delta, final_activation, back=False)[0]


def feature_gradient_fwd(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Returns value [B] and gradient like x."""
    if not _supported(x, weights, precision):
        return NotImplemented
    x = x.contiguous()
    value, kept = _forward(x, weights, eps.contiguous(), delta, final_activation, back=True)
    grad = torch.empty_like(x)
    _run("chain_back", len(weights), x, len(weights), True, (*_packed(weights, back=True), kept, grad))
    return value, grad
