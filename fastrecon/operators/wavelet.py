"""The wavelet transform as an operator: images to coefficients; its transpose is the synthesis."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from fastrecon import ops
from fastrecon.checks import an_integer, behind, choice, expect
from fastrecon.operators._given import a_size
from fastrecon.operators.base import LinearOperator, Synthesis
from fastrecon.ops import wavelet_modes as modes
from fastrecon.ops.wavelet_transform import DEEPEST, PERIODIC, check, fitting
from fastrecon.ops.wavelets import FAMILIES, lowpass

dwt2, idwt2 = behind(ops.dwt2), behind(ops.idwt2)


class Wavelet(LinearOperator):
    """W: images [B, C, H, W] to coefficients [B, C, H', W'] in Mallat's layout; the adjoint is exact in every mode.

    With "periodization" H' and W' are H and W rounded up to multiples of 2^level: other images are filled up with zeros
    at the right and the bottom, and the adjoint cuts these off. So |W x| = |x| and W.T undoes W at every size; where
    H' = H and W' = W the transform is orthonormal, and W undoes W.T as well.

    A problem in coefficients c is `A @ Wavelet("sym4", 3).T`. How much to cut off is known from A where it is made for
    one size (Inpainting, Fourier, Radon), from `size` of the adjoint, or from `size` here: needed for Blur and
    BlockSensing of images that are filled up. Unless it is known, nothing is cut off.

    In the other modes H' and W' are larger, the adjoint must know the size, and W keeps norms, so that W.T undoes it,
    only for an orthonormal wavelet with "zero".

    Args:
        name: haar, db1 to db38, sym2 to sym20, coif1 to coif17; in the other modes any discrete wavelet of PyWavelets.
        level: levels, 0 to 30; an image has more than 2^level / 2 pixels a side, at least.
        size: (H, W) of the images; None for any.
        mode: how images go on beyond their edges, see `fastrecon.ops.dwt2`.

    Raises:
        ValueError: the wavelet is unknown or not orthonormal, or an image's size does not fit.
    """

    isometry = True

    def __init__(
        self, name: str = "sym4", level: int = 3, size: Sequence[int] | None = None, *, mode: str = PERIODIC
    ):  # fmt: skip
        super().__init__()
        op = "Wavelet"
        expect(isinstance(name, str), op, "name", f"an orthonormal wavelet ({FAMILIES})", name)
        expect(an_integer(level, 0) and level <= DEEPEST, op, "level", f"an integer in [0, {DEEPEST}]", level)
        if size is not None:
            a_size(size, op)
            size = int(size[0]), int(size[1])
        self.name, self.level, self.size = name, int(level), size
        self.mode = choice(mode, modes.MODES, op, "mode")
        if mode == PERIODIC:
            lowpass(name)
            self.unitary = size is None or tuple(size) == self._filled(size, "size")
        else:
            self.isometry = modes.bank(name).orthonormal and mode == "zero"

    def _filled(self, size: Sequence[int], argument: str) -> tuple[int, int]:
        """(H', W')."""
        if self.mode != PERIODIC:
            return modes.array_shape(size, self.name, self.level, self.mode)
        step = 1 << self.level
        if 2 * min(size) <= step and step > 1:
            least = f"images of more than {step // 2} pixels a side for {self.level} levels"
            expect(False, "Wavelet", argument, least, f"{size[0]}x{size[1]}")
        return size[0] + -size[0] % step, size[1] + -size[1] % step

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients of images."""
        if x.ndim != 4:
            expect(False, "Wavelet", "x", "images [B, C, H, W]", x)
        h, w = x.shape[2:]
        own = self.size
        if own is not None and (h, w) != own:
            expect(False, "Wavelet", "x", f"images of {own}", x)
        if self.mode != PERIODIC:
            return dwt2(x, self.name, self.level, self.mode)
        height, width = self._filled((h, w), "x")
        if (height, width) != (h, w):
            x = pad(x, (0, width - w, 0, height - h))
        return dwt2(x, self.name, self.level)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The image with these coefficients, what was filled up cut off."""
        if self.mode != PERIODIC:
            return self._transposed(y, self.size if size is None else size)
        x = idwt2(y, self.name, self.level)
        size = self.size if size is None else size
        if size is None:
            return x
        filled = self._filled(size, "size")
        if self.size is not None and tuple(size) != self.size:
            expect(False, "Wavelet", "size", f"{self.size} or None", size)
        if filled != x.shape[2:]:
            expect(False, "Wavelet", "y", f"coefficients [B, C, {filled[0]}, {filled[1]}]", y)
        return x if filled == tuple(size) else x[..., : size[0], : size[1]].contiguous()

    def _transposed(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        """The adjoint in the other modes, whose coefficients tell no size."""
        check("Wavelet", "y", y, self.level, self.mode)
        if size is None:
            expect(False, "Wavelet", "size", f"(H, W) of the images, here or when it is made, with {self.mode}", None)
            raise AssertionError
        fitting("Wavelet", "y", y, size, self.name, self.level, self.mode)
        bands = modes.from_array(y, self.name, self.level, self.mode, size)
        return modes.transpose(bands, self.name, self.mode, size)

    def adjoint_stages(self) -> tuple[Synthesis] | None:
        """The synthesis; None in the other modes, and of a subclass, which may do something else."""
        known = type(self) is Wavelet and self.mode == PERIODIC
        return (Synthesis(self.name, self.level),) if known else None

    def _norm(self) -> float | None:
        return 1.0 if self.isometry else None

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """(H', W')."""
        size = self.size if size is None else size
        return None if size is None else self._filled(size, "size")

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """(H, W), where it was given."""
        return self.size
