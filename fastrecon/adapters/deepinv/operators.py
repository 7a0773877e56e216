"""deepinv's physics as operators: `from_physics`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.physics import BlurPhysics, MaskPhysics, OperatorPhysics, one_channel
from fastrecon.adapters.deepinv.two_channel import TwoChannel
from fastrecon.checks import expect
from fastrecon.operators import Blur, Fourier, Identity, Inpainting
from fastrecon.operators.base import LinearOperator


def from_physics(physics: Any, img_size: Sequence[int] | None = None) -> LinearOperator:
    """A deepinv LinearPhysics as an operator: that of fastrecon which is the same map, or one that calls the physics.

    Recognised are what `as_physics` gave, Denoising, Inpainting, MRI, MultiCoilMRI, BlurFFT, and Blur with padding
    "circular" or "constant", as long as all channels share mask or filter; images of MRI stay [B, 2, H, W]. Their
    Tomography turns the image instead of following rays, which is another map: it is called, not replaced; see `Radon`.

    Args:
        physics: its parameters are read now; what it is told later is not seen by a recognised operator.
        img_size: (C, H, W) of images, where the physics has none and is not recognised: to find |A|.

    Raises:
        ValueError: the physics is not linear.
    """
    linear = isinstance(physics, dinv.physics.LinearPhysics)
    expect(linear, "from_physics", "physics", "a deepinv LinearPhysics", type(physics).__name__)
    known = recognised(physics)
    return PhysicsOperator(physics, img_size) if known is None else known


def recognised(physics: Any) -> LinearOperator | None:
    """The operator of fastrecon that is the same map, or None."""
    if isinstance(physics, MaskPhysics | BlurPhysics | OperatorPhysics):
        return physics.operator()
    read = READERS.get(type(physics))
    return None if read is None else read(physics)


def _mask(physics: Any) -> Tensor | None:
    mask = physics.mask
    usable = isinstance(mask, Tensor) and not mask.is_complex() and bool((mask >= 0).all())
    return one_channel(mask) if usable and mask.ndim == 4 else None


def _inpainting(physics: Any) -> LinearOperator | None:
    mask = _mask(physics)
    return None if mask is None else Inpainting(mask)


def _mri(physics: Any) -> LinearOperator | None:
    mask = None if physics.three_d else _mask(physics)
    return None if mask is None else TwoChannel(Fourier(mask, centred="both"))


def _multi_coil(physics: Any) -> LinearOperator | None:
    mask = None if physics.three_d else _mask(physics)
    if mask is None or physics.coil_maps.ndim != 4:
        return None
    return TwoChannel(Fourier(mask, centred="both", sensitivities=physics.coil_maps))


def _kernel(physics: Any) -> Tensor | None:
    k = physics.filter
    usable = isinstance(k, Tensor) and k.ndim == 4 and not k.is_complex() and all(n % 2 for n in k.shape[-2:])
    return one_channel(k) if usable else None


def _blur_fft(physics: Any) -> LinearOperator | None:
    kernel = _kernel(physics)
    return None if kernel is None else Blur(kernel)


def _blur(physics: Any) -> LinearOperator | None:
    kernel, boundary = _kernel(physics), {"circular": "circular", "constant": "zero"}.get(physics.padding)
    return None if kernel is None or boundary is None else Blur(kernel, boundary)


READERS: dict[type, Callable[[Any], LinearOperator | None]] = {  # classes themselves: subclasses may do other things
    dinv.physics.Denoising: lambda physics: Identity(),
    dinv.physics.Inpainting: _inpainting,
    dinv.physics.MRI: _mri,
    dinv.physics.MultiCoilMRI: _multi_coil,
    dinv.physics.BlurFFT: _blur_fft,
    dinv.physics.Blur: _blur,
}


class PhysicsOperator(LinearOperator):
    """A of any deepinv LinearPhysics, which computes it and its adjoint.

    Norm: by power iteration for the shape asked for, or for `img_size`, once.
    """

    def __init__(self, physics: Any, img_size: Sequence[int] | None = None):
        super().__init__()
        size = img_size if img_size is not None else getattr(physics, "img_size", None)
        self.physics, self.size = physics, None if size is None else tuple(size)
        self._known_norm: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return self.physics.A(x)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint of A at y."""
        return self.physics.A_adjoint(y)

    def output_size(self, size: Sequence[int] | None) -> None:
        """None: measurements may be anything."""

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """(H, W), where the physics says so."""
        return None if self.size is None else self.size[-2:]

    def _norm(self) -> float | None:
        if self._known_norm is None and self.size is not None:
            self._known_norm = self.power_iteration((1, *self.size), 1e-6, 1000)
        return self._known_norm

    def _noise(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        tensors = [*self.physics.parameters(), *self.physics.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        return super()._noise(shape, seed).to(device, torch.float32)
