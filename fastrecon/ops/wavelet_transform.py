"""Wavelet coefficients of images in one array, and back: `dwt2` and `idwt2`, with any boundary of PyWavelets."""

from collections.abc import Sequence

from torch import Tensor

from fastrecon.checks import accepts_arrays, choice, expect, integer, size_2d
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.dwt2 import periodic

PERIODIC = "periodization"
DEEPEST = 30  # levels: more would need images of 2^30 pixels a side


@accepts_arrays
def dwt2(x: Tensor, wavelet: str = "sym4", level: int = 3, mode: str = PERIODIC) -> Tensor:
    """Coefficients of images in a wavelet basis.

    Args:
        x: images [B, C, H, W], real or complex; with "periodization" H and W are divisible by 2^level, otherwise the
            transform would not be orthonormal: pad or crop first.
        wavelet: as PyWavelets names it: haar, db1 to db38, sym2 to sym20, coif1 to coif17; in the other modes any
            discrete one.
        level: how often the approximation is split again, >= 0.
        mode: how the image goes on beyond its edges, as PyWavelets names it. "periodization": periodically, with as
            many coefficients as pixels, the fast kernel. "zero", "symmetric", "reflect", "periodic", "constant": with
            more of them, which for an orthonormal wavelet are the kernel's too, on images that are continued first.
            With "zero" the transform of such a wavelet keeps norms. Biorthogonal wavelets are plain PyTorch.

    Returns:
        Coefficients like x in Mallat's layout, pywt.coeffs_to_array(pywt.wavedec2(x, wavelet, mode, level)).
        Differentiable to any order.

    Raises:
        ValueError: sizes do not fit, wavelet or mode is unknown, or x is no batch of images.
    """
    if mode == PERIODIC:
        return periodic("dwt2", "x", x, wavelet, level, back=False)
    level = check("dwt2", "x", x, level, mode)
    return modes.to_array(modes.decompose(x, wavelet, level, mode), wavelet, mode, x.shape[-2:])


@accepts_arrays
def idwt2(
    c: Tensor, wavelet: str = "sym4", level: int = 3, mode: str = PERIODIC, size: Sequence[int] | None = None
) -> Tensor:
    """Images [B, C, H, W] from their coefficients c: the inverse of `dwt2`.

    With "periodization" it is the adjoint too, and c is like x. In the other modes c alone does not tell the images'
    `size` (H, W), and the adjoint is `Wavelet(wavelet, level, mode=mode).T`.

    Raises:
        ValueError: as dwt2, or `size` is missing or does not fit c.
    """
    if mode == PERIODIC:
        return periodic("idwt2", "c", c, wavelet, level, back=True)
    level = check("idwt2", "c", c, level, mode)
    size = size_2d(size, "idwt2", "size")
    fitting("idwt2", "c", c, size, wavelet, level, mode)
    x = modes.recompose(modes.from_array(c, wavelet, level, mode, size), wavelet, mode)
    return x[..., : size[0], : size[1]].contiguous()


def check(op: str, argument: str, x: Tensor, level: int, mode: str) -> int:
    """The level, of arguments that fit each other as far as they can be looked at."""
    choice(mode, modes.MODES, op, "mode")
    fits = x.ndim == 4 and (x.is_floating_point() or x.is_complex()) and min(x.shape[2:]) > 0
    expect(fits, op, argument, "real or complex images [B, C, H, W]", x)
    return integer(level, op, "level", least=0, most=DEEPEST)


def fitting(
    op: str, argument: str, c: Tensor, size: Sequence[int], wavelet: str, level: int, mode: str
) -> None:  # fmt: skip
    """Raises ValueError unless c [B, C, H', W'] has the shape of the coefficients of images of `size`."""
    h, w = modes.array_shape(size, wavelet, level, mode)
    expect(tuple(c.shape[2:]) == (h, w), op, argument, f"coefficients [B, C, {h}, {w}] of {tuple(size)}", c)
