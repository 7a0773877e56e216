"""kernels/feature_gradient.py: value and gradient of the learned regulariser, and their derivative (Triton).

  x, grad, d_grad, d_x  [B, CIN, H, W]  images       eps, value, d_value, d_eps  [B]  radii (> 0) and sums of each image
  weights  L >= 1 kernels [C, CIN, 3, 3], [C, C, 3, 3], ...; C <= 128, CIN <= 4     delta > 0  radius of the activation
  h_0 = x, h_l = a(W_l h_{l-1}), g = h_L     value = sum_i h(|g_i|)     grad = J_g(x)^T y,  y_i = g_i / max(|g_i|, eps)
L launches forward and, unless only the value is asked for, L back; features stay channels last between them. The
derivative with cotangents v of the value and G of the gradient is a tangent pass along G (dot_l), two transposed passes
q = J^T y, r = its tangent plus v J^T y, and d W_l = <h_{l-1}, s_l> + <dot_{l-1}, z_l> with z_l = a'_l q_l and
s_l = a'_l r_l + a''_l dt_l q_l.
Definition: fastrecon/ops/feature_gradient.py.  Maths: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10), (33).

Products are exact in float32, unless `precision` asks for "bfloat16", "tf32" or "tf32x3", and in float64; those with
the image always are. With "bfloat16" the features between launches are stored in it too, rounded once for both uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrecon.kernels import convolution
from fastrecon.kernels.launch import ConvolutionTile, blocks, convolution_tile, launch, power_of_2, ready, weight_tile
from fastrecon.kernels.sums import ordered_sum

# How tl.dot multiplies float32 numbers; "tf32" and "tf32x3" are for direct callers.
_PRODUCTS = {"float32": "ieee", "direct": "ieee", "bfloat16": "bf16", "tf32": "tf32", "tf32x3": "tf32x3"}
_CHUNK, _CHUNKS = 512, 256  # least pixels and most programs per tap in a weight gradient: short sums, small workspace


def _supported(x: Tensor, weights: Sequence[Tensor]) -> bool:
    width, channels = weights[0].shape[0], x.shape[1]
    return (
        x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and x.shape[2] * x.shape[3] < 2**30  # pixels of one image are counted in int32
        and 1 <= channels <= 4
        and 1 <= width <= 128
        and all(w.shape == (width, width if k else channels, 3, 3) for k, w in enumerate(weights))
    )


@dataclass
class _Chain:
    """The layers' packed weights and the launches of one pass, with (`pair`) or without tangents."""

    x: Tensor  # [B, CIN, H, W]
    weights: list[Tensor]  # [CIN, 3, 3, C], then [3, 3, C_in, C_out]
    delta: float
    final_activation: bool
    precision: str
    pair: bool

    def __post_init__(self) -> None:
        self.B, self.CIN, self.H, self.W = self.x.shape
        self.C = self.weights[0].shape[-1]
        self.products = _PRODUCTS[self.precision] if self.x.dtype == torch.float32 else "ieee"
        self.tile = convolution_tile(self.C, self.x.dtype, self.pair, self.products, self.x.device)
        self.programs = self.B * blocks(self.H * self.W, self.tile.pixels)

    def features(self) -> Tensor:
        dtype = torch.bfloat16 if self.products == "bf16" else self.x.dtype
        return self.x.new_empty((self.B, self.H, self.W, self.C), dtype=dtype)

    def options(self, tile: ConvolutionTile) -> dict[str, Any]:
        return {
            "C": self.C, "BLOCK_M": tile.pixels, "BLOCK_C": tile.channels, "BLOCK_K": tile.depth,
            "PRECISION": self.products, "num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": tile.registers,
        }  # fmt: skip

    def forward(
        self, tangent: Tensor, eps: Tensor, d_value: Tensor, back: bool = True
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """(outputs, tangents) of every layer but the last, of which it is the cotangents; and sums [B] over pixels.

        Unless a way `back` follows, no layer's output is kept.
        """
        source, layers = (self.x, tangent), []
        partial = self.x.new_empty((self.B, self.programs // self.B, 1), dtype=torch.float64)
        last = len(self.weights) - 1
        for layer, w in enumerate(self.weights):
            out = self.features()
            outputs = (out, self.features() if self.pair else out)
            launch(
                convolution.forward_kernel, self.programs, *source, w, eps, d_value, *outputs, partial,
                self.H, self.W, FIRST=layer == 0, LAST=layer == last, ACTIVE=layer < last or self.final_activation,
                PAIR=self.pair, BACK=back or layer < last, DELTA=self.delta, CIN=self.CIN, **self.options(self.tile),
            )  # fmt: skip
            source = outputs
            if back:
                layers.append(outputs)
        return layers, ordered_sum(partial, self.x.dtype)[:, 0]

    def back(self, z: Tensor, s: Tensor, layer: int, below: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Cotangents z, s of the pre-activations of `layer` taken to the layer below, given its output and tangent."""
        out = self.features()
        pair = (out, self.features() if self.pair else out)
        launch(
            convolution.transposed_kernel, self.programs, z, s, self.weights[layer], *below, *pair, self.H, self.W,
            PAIR=self.pair, DELTA=self.delta, **self.options(self.tile),
        )  # fmt: skip
        return pair

    def image(self, z: Tensor) -> Tensor:
        out = torch.empty_like(self.x)
        t = self.tile
        launch(
            convolution.image_kernel, self.programs, z, self.weights[0], out, self.H, self.W,
            CIN=self.CIN, C=self.C, BLOCK_M=t.pixels, BLOCK_C=t.channels, num_warps=t.warps,
        )  # fmt: skip
        return out

    def weight_gradient(self, layer: int, below: tuple[Tensor, Tensor], z: Tensor, s: Tensor) -> Tensor:
        total = self.B * self.H * self.W
        chunk = power_of_2(blocks(total, _CHUNKS), least=power_of_2(total, 16, _CHUNK))
        w = self.weights[layer]
        partial = torch.empty((1, blocks(total, chunk), w.numel()), dtype=w.dtype, device=w.device)
        tile = weight_tile(self.C, self.C if layer else 9 * self.CIN, w.dtype)
        slices = 9 * blocks(self.C, tile.depth) if layer else blocks(9 * self.CIN, tile.depth)
        launch(
            convolution.weight_kernel, partial.shape[1] * slices, *below, z, s, partial, self.H, self.W, total,
            CHUNK=chunk, FIRST=layer == 0, CIN=self.CIN, **self.options(tile),
        )  # fmt: skip
        gradient = ordered_sum(partial, w.dtype).view(w.shape)
        return gradient.permute(3, 2, 0, 1).contiguous() if layer else gradient.permute(3, 0, 1, 2).contiguous()


def _pack(weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights with output channels last, as the kernels read them."""
    first, *others = weights
    hidden = torch.stack(others).permute(0, 3, 4, 2, 1).contiguous() if others else ()
    return [first.permute(1, 2, 3, 0).contiguous(), *hidden]


def feature_gradient_value(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> Tensor:
    """Returns value [B]."""
    if not _supported(x, weights):
        return NotImplemented
    x, eps = ready(x), ready(eps)
    chain = _Chain(x, _pack(weights), delta, final_activation, precision, pair=False)
    return chain.forward(x, eps, eps, back=False)[1]


def feature_gradient_fwd(
    x: Tensor, weights: list[Tensor], eps: Tensor, delta: float, final_activation: bool, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Returns value [B] and gradient like x."""
    if not _supported(x, weights):
        return NotImplemented
    x, eps = ready(x), ready(eps)
    chain = _Chain(x, _pack(weights), delta, final_activation, precision, pair=False)
    layers, value = chain.forward(x, eps, eps)
    z = layers.pop()[0]
    for layer in range(len(weights) - 1, 0, -1):
        z = chain.back(z, z, layer, layers.pop())[0]
    return value, chain.image(z)


def feature_gradient_vjp(
    d_value: Tensor, d_grad: Tensor, x: Tensor, weights: list[Tensor], eps: Tensor, delta: float,
    final_activation: bool, precision: str = "float32",
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    """Returns d_x like x, d_weights like weights, d_eps [B]; never multiplies in bfloat16."""
    if not _supported(x, weights):
        return NotImplemented
    d_value, d_grad, x, eps = (ready(t) for t in (d_value, d_grad, x, eps))
    precision = "float32" if precision == "bfloat16" else precision
    chain = _Chain(x, _pack(weights), delta, final_activation, precision, pair=True)
    layers, d_eps = chain.forward(d_grad, eps, d_value)
    z, s = layers.pop()
    d_weights = []
    for layer in range(len(weights) - 1, -1, -1):
        below = layers.pop() if layer else (x, d_grad)
        d_weights.append(chain.weight_gradient(layer, below, z, s))
        if layer:
            z, s = chain.back(z, s, layer, below)
    return chain.image(s), d_weights[::-1], d_eps
