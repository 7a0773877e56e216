"""Operators as deepinv's physics: `as_physics`.

Masks, Fourier sampling and circular blurs are DecomposablePhysics, A = U diag(mask) V*, whose proximal maps and
pseudo-inverse are closed forms; all else is LinearPhysics around the operator.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.two_channel import TwoChannel, joined, parted
from fastrecon.checks import an_integer, expect
from fastrecon.operators import Blur, Fourier, Inpainting
from fastrecon.operators._given import of_parts
from fastrecon.operators._mask import each, mask_of
from fastrecon.operators.base import LinearOperator, with_tensors
from fastrecon.operators.blur import spectrum_of
from fastrecon.ops.by_image import each_image
from fastrecon.terms.least_squares import LeastSquares

VANISHES = 1e-5  # singular values that deepinv takes for 0 in a pseudo-inverse
NAMES = {"filter": "kernel", "coil_maps": "sensitivities"}  # deepinv's names of what operators hold


def as_physics(operator: LinearOperator, img_size: Sequence[int], noise_model: Any = None, **options: Any) -> Any:
    """The operator as a deepinv LinearPhysics, for images [B, *img_size].

    Masks (Inpainting, Fourier without sensitivities) and circular Blur become DecomposablePhysics with `mask`, and
    `filter` of a blur, as parameters; others keep theirs under deepinv's names: `physics.update(filter=...)`,
    `update(mask=..., coil_maps=...)`.

    Args:
        operator: A.
        img_size: (C, H, W). Of operators of complex images, C = 2 stands for real and imaginary part, as deepinv's MRI
            has them, C = 1 for complex tensors.
        noise_model: deepinv's; None: no noise.
        options: of deepinv.physics.LinearPhysics: max_iter, tol, solver, ...

    Raises:
        ValueError: the operator is none, or takes no images of that size.
    """
    op = "as_physics"
    expect(isinstance(operator, LinearOperator), op, "operator", "a LinearOperator", type(operator).__name__)
    fits = isinstance(img_size, Sequence) and len(img_size) == 3 and all(an_integer(n, 1) for n in img_size)
    expect(fits, op, "img_size", "(C, H, W)", img_size)
    size: tuple[int, ...] = tuple(int(n) for n in img_size)
    own = operator.input_size((size[1], size[2]))
    if own is not None and tuple(own) != size[1:]:
        expect(False, op, "img_size", f"(C, {own[0]}, {own[1]})", size)
    if noise_model is not None:
        options["noise_model"] = noise_model
    held = next(iter((*operator.parameters(), *operator.buffers())), None)
    options.setdefault("device", "cpu" if held is None else held.device)
    if type(operator) is Inpainting:
        return MaskPhysics(operator.mask, size, **options)
    if type(operator) is Blur and operator.boundary == "circular":
        return BlurPhysics(operator.kernel, size, **options)
    if type(operator) is Fourier and operator.sensitivities is None:
        expect(size[0] in (1, 2), op, "img_size", "(1, H, W), or (2, H, W) of two real channels", size)
        return FourierPhysics(operator.mask, size, operator.centred, **options)
    return OperatorPhysics(operator, size, **options)


class _Decomposed(dinv.physics.DecomposablePhysics):
    """A = U diag(mask) V* with real or complex `mask`."""

    mask: Tensor

    def __init__(self, mask: Tensor, img_size: tuple[int, ...], **options: Any):
        super().__init__(mask=mask.detach().clone(), img_size=img_size, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts the parameters: `.to(torch.float32)` is the precision of both parts of complex ones."""
        return super()._apply(of_parts(fn), recurse)

    def A_dagger(self, y: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The pseudo-inverse."""
        self.update_parameters(mask=mask)
        s = self.mask
        inverse = torch.where(s.abs() > VANISHES, 1 / torch.where(s.abs() > VANISHES, s, 1), 0)
        return self.V(inverse * self.U_adjoint(y))

    def compute_sqnorm(self, x0: Tensor, **kwargs: Any) -> Tensor:
        """The largest squared singular value."""
        return self.mask.abs().max().square()

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Noise where there are measurements."""
        return self.noise_model(x, **kwargs)


class MaskPhysics(_Decomposed):
    """y = mask x, of deepinv's Inpainting; the mask broadcasts to images."""

    def update_parameters(self, mask: Any = None, **kwargs: Any) -> None:
        """Takes another mask, [H, W], [C, H, W] or [B, 1 or C, H, W]."""
        super().update_parameters(mask=None if mask is None else _mask(mask, self.mask), **kwargs)

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Noise where something is known."""
        return torch.where(self.mask != 0, self.noise_model(x, **kwargs), 0)

    def operator(self) -> LinearOperator | None:
        """The operator, where all channels share the mask."""
        mask = one_channel(self.mask)
        return None if mask is None else Inpainting(mask)


class FourierPhysics(MaskPhysics):
    """y = mask F x, of deepinv's MRI for two channels, or of complex images."""

    def __init__(self, mask: Tensor, img_size: tuple[int, ...], centred: bool | str, **options: Any):
        super().__init__(mask, img_size, **options)
        self.fourier = Fourier(torch.ones(img_size[1:]), centred=centred)  # type: ignore[arg-type]
        self.fourier.mask = None  # type: ignore[assignment]
        self.two = img_size[0] == 2

    def V_adjoint(self, x: Tensor) -> Tensor:
        """F x."""
        return parted(self._to_k(joined(x))) if self.two else self._to_k(x)

    def V(self, x: Tensor, **kwargs: Any) -> Tensor:
        """F* x."""
        return parted(self._to_image(joined(x))) if self.two else self._to_image(x)

    def _to_k(self, x: Tensor) -> Tensor:
        return each_image(self.fourier._to_k, x)

    def _to_image(self, k: Tensor) -> Tensor:
        return each_image(self.fourier._to_image, k)

    def operator(self) -> LinearOperator | None:
        """The operator, where both channels share the mask."""
        mask = one_channel(self.mask)
        fourier = None if mask is None else Fourier(mask, centred=self.fourier.centred)  # type: ignore[arg-type]
        return TwoChannel(fourier) if fourier is not None and self.two else fourier


class BlurPhysics(_Decomposed):
    """y = filter * x on a circular boundary, of deepinv's BlurFFT: `mask` is the filter's transform."""

    filter: Tensor

    def __init__(self, kernel: Tensor, img_size: tuple[int, ...], **options: Any):
        kernel = kernel.detach().clone()
        super().__init__(spectrum_of(kernel, img_size[1:], kernel.dtype), img_size, **options)
        self.register_buffer("filter", kernel)
        self.size = img_size[1:]

    def update_parameters(self, filter: Any = None, **kwargs: Any) -> None:
        """Takes another filter [B or 1, C or 1, h, w] with odd sides."""
        if filter is not None:
            k = each(filter)
            odd = k.ndim == 4 and all(n % 2 == 1 and n <= m for n, m in zip(k.shape[-2:], self.size, strict=True))
            expect(odd, "update", "filter", "a filter [B, 1, h, w], odd and not larger than images", k)
            self.filter = k.to(self.filter)
            kwargs["mask"] = spectrum_of(self.filter, self.size, self.filter.dtype)
        super().update_parameters(**kwargs)

    def V_adjoint(self, x: Tensor) -> Tensor:
        """The unitary Fourier transform of real images."""
        return each_image(lambda t: torch.fft.rfft2(t, norm="ortho"), x)

    def V(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Back."""
        return each_image(lambda k: torch.fft.irfft2(k, s=self.size, norm="ortho"), x)

    U, U_adjoint = V, V_adjoint

    def operator(self) -> LinearOperator | None:
        """The operator, where all channels share the filter, and `mask` is still its transform."""
        kernel = one_channel(self.filter)
        own = torch.equal(self.mask, spectrum_of(self.filter, self.size, self.filter.dtype))
        return Blur(kernel) if kernel is not None and own else None


class OperatorPhysics(dinv.physics.LinearPhysics):
    """y = A x with any operator A, whose tensors are its parameters."""

    def __init__(self, operator: LinearOperator, img_size: tuple[int, ...], **options: Any):
        super().__init__(img_size=img_size, **options)
        two = operator.complex_input and img_size[0] == 2
        self.map = TwoChannel(operator) if two else operator
        self.size = img_size[1:]

    def operator(self) -> LinearOperator | None:
        """The operator."""
        return self.map

    def update_parameters(self, **kwargs: Any) -> None:
        """Takes other tensors of the operator, under its names or deepinv's."""
        inner = self.map.operator if isinstance(self.map, TwoChannel) else self.map
        new = {}
        for key, value in kwargs.items():
            name = key.rpartition(".")[2]
            name = NAMES.get(name, name)
            own = getattr(inner, name, None)
            if isinstance(value, Tensor) and isinstance(own, Tensor) and name in inner.per_image:
                new[name] = _mask(value, own) if name == "mask" else _stacked(value, own)
        if new:
            inner = inner._with(new) if isinstance(inner, Blur) else with_tensors(inner, new)
            self.map = TwoChannel(inner) if isinstance(self.map, TwoChannel) else inner
        rest = {k: v for k, v in kwargs.items() if "." not in k}
        super().update_parameters(**rest)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """A x."""
        self.update_parameters(**kwargs)
        return self.map.forward(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The adjoint of A at y."""
        self.update_parameters(**kwargs)
        return self.map.apply_adjoint(y, self.size)

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """The adjoint of A at A x, by one transform and its inverse where A is diagonal between them."""
        self.update_parameters(**kwargs)
        basis = self.map.diagonal(x)
        if basis is None:
            return self.map.apply_adjoint(self.map.forward(x), self.size)
        return basis.inverse(basis.factors.abs().square() * basis.transform(x))

    def compute_sqnorm(self, x0: Tensor, **kwargs: Any) -> Tensor:
        """|A|^2 in closed form, where there is one."""
        known = self.map._norm_of((1, *x0.shape[-3:]))
        if known is None:  # deepinv's power method takes x0 as it is, which its documentation calls unbatched
            return super().compute_sqnorm(x0 if x0.ndim > 3 else x0[None], **kwargs)
        return x0.new_tensor(known**2).real

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, *args: Any, **kwargs: Any) -> Tensor:
        """argmin_x gamma |A x - y|^2 / 2 + |x - z|^2 / 2: in closed form, where there is one."""
        if z is None or isinstance(z, int | float):
            z = torch.full_like(self.A_adjoint(y), 0.0 if z is None else float(z))
        if self.map.diagonal(z) is None and self.map.row_scale(self.size) is None:
            return super().prox_l2(z, y, gamma, *args, **kwargs)
        return LeastSquares(self.map).prox(z, weight_of(gamma), y)

    def A_dagger(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The pseudo-inverse: in closed form, where there is one."""
        x = self.A_adjoint(y)
        if (scale := self.map.row_scale(self.size)) is not None and scale > 0:
            return x / scale
        if (basis := self.map.diagonal(x)) is None:
            return super().A_dagger(y, *args, **kwargs)
        s, k = basis.factors, basis.measured(y)
        seen = s.abs() > VANISHES
        return basis.inverse(torch.where(seen, 1 / torch.where(seen, s, 1), 0) * k)


def weight_of(gamma: Any) -> Any:
    """deepinv's step sizes, numbers or tensors of one number an image, as weights of a term."""
    return (
        gamma.flatten()
        if isinstance(gamma, Tensor) and gamma.numel() > 1
        else (gamma.reshape(()) if isinstance(gamma, Tensor) else gamma)
    )


def one_channel(t: Tensor) -> Tensor | None:
    """t [B, C, h, w] as [B, 1, h, w], if all channels are the same."""
    return t[:, :1] if bool((t == t[:, :1]).all()) else None


def _stacked(value: Tensor, like: Tensor) -> Tensor:
    """`value` with as many dimensions as `like`."""
    return value.to(like).reshape(*[1] * (like.ndim - value.ndim), *value.shape)


def _mask(mask: Any, like: Tensor) -> Tensor:
    """A mask [H, W], [C, H, W] or [B, C, H, W] as [B, C, H, W], of the type and on the device of `like`."""
    m = mask if isinstance(mask, Tensor) else mask_of(mask, "update")
    fits = m.ndim in (2, 3, 4) and m.shape[-2:] == like.shape[-2:]
    expect(fits, "update", "mask", f"a mask of {tuple(like.shape[-2:])}", m)
    return _stacked(m, like)
