"""An operator given by two functions, of whatever kind."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrecon.checks import an_integer, as_tensor, expect, flag
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.function import differentiated, transformed
from fastrecon.ops.layout import real_dtype, wide_dtype

Map = Callable[[Any], Any]
SAME = 1e-3  # relative difference between an image alone and in a batch that is taken for rounding


class Callables(LinearOperator):
    """y = forward(x), with adjoint(y) for its adjoint: functions of tensors, or such that NumPy computes from a tensor.

    What they return, a tensor or an array with `__dlpack__`, is taken in the precision and on the device of what they
    were given. They need not be differentiable: the derivative of the one is the other. Whether they match is for
    `adjoint_test(shape)` to say: iterations with a pair that does not match converge to something else.

    Norm: by power iteration, once.

    Args:
        forward: x -> A x, linear, of a batch [B, C, H, W] or of one image of `shape`.
        adjoint: y -> A* y, of what `forward` returns.
        shape: of an image, (H, W) or (C, H, W): whether the functions take a batch or one image after the other is
            found out by the shape of y and by trying `forward` on noise. Or (B, C, H, W): they take a batch, of B = 1
            images or any number that they treat alike, or of these B.
        complex_input: whether images are complex.
        dtype: real type in which the norm is found out, and adjoints are tested: one that the functions take.

    Raises:
        ValueError: an argument is of another kind, or what a function returns has another shape than it must.
    """

    joins = False  # who knows what functions do to a batch

    def __init__(
        self, forward: Map, adjoint: Map, shape: Sequence[int], complex_input: bool = False,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        super().__init__()
        op = "Callables"
        for name, function in (("forward", forward), ("adjoint", adjoint)):
            expect(callable(function), op, name, "a function", type(function).__name__)
        fits = isinstance(shape, Sequence) and len(shape) in (2, 3, 4) and all(an_integer(n, 1) for n in shape)
        expect(fits, op, "shape", "(H, W), (C, H, W) or (B, C, H, W)", shape)
        expect(isinstance(dtype, torch.dtype) and dtype.is_floating_point, op, "dtype", "a real dtype", dtype)
        self.functions, self.shape, self.dtype = (forward, adjoint), tuple(int(n) for n in shape), dtype
        self.complex_input = flag(complex_input, op, "complex_input")
        self._known_norm: float | None = None
        self._outputs: tuple[torch.Size | None, torch.Size | None] | None = None  # of an image in a batch, and alone
        self._together = True if len(shape) == 4 else None  # whether the functions take a batch; None: not known yet

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = (1, *self.shape)[-3:]
        return c, h, w

    def forward(self, x: Tensor) -> Tensor:
        """What the first function makes of x [B, C, H, W]."""
        fits = x.ndim == 4 and tuple(x.shape[1:]) == self.image
        expect(fits, "Callables", "x", f"images [B, {', '.join(map(str, self.image))}]", x)
        return self._call(x, False)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """What the second function makes of y [B, ...]."""
        own = self.image[1:]
        expect(size is None or tuple(size) == own, "Callables", "size", f"{own} or None", size)
        return self._call(y, True)

    def _call(self, t: Tensor, back: bool) -> Tensor:
        if transformed() or differentiated(t):
            return _Pair.apply(t, self, back)
        return self.compute(t, back)

    def compute(self, t: Tensor, back: bool) -> Tensor:
        """A t, or its adjoint at t, without derivatives."""
        t = t.detach()
        if len(self.shape) < 4:
            self._find_out(t, back)
        inner = t.shape[1:] if back else self.shape
        if self._together:
            found = self._result(t, back)
        else:
            images = t.unbind() or (t.new_zeros(t.shape[1:]),)  # of no image the result has a shape all the same
            found = torch.stack([self._result(one.reshape(inner), back) for one in images])[: len(t)]
        if back and found.shape[1:].numel() == math.prod(self.image):
            found = found.reshape(-1, *self.image)  # (H, W) of an image
        fits = found.shape[:1] == t.shape[:1] and (not back or tuple(found.shape[1:]) == self.image)
        own = ", ".join(map(str, self.image)) if back else "..."
        expect(fits, "Callables", "adjoint" if back else "forward", f"[{len(t)}, {own}] of {tuple(t.shape)}", found)
        return found

    def _result(self, given: Tensor, back: bool = False) -> Tensor:
        """What a function returns, in the precision of what it is given."""
        found = as_tensor(self.functions[back](given), "Callables", "adjoint" if back else "forward").detach()
        kind = real_dtype(given)
        return found.to(given.device, kind.to_complex() if found.is_complex() else kind)

    def _find_out(self, t: Tensor, back: bool) -> None:
        """Whether the functions take a batch: by the shape of y, or else preferably."""
        if self._outputs is None:
            self._outputs = self._try(t)
        whole, alone = self._outputs
        if not back:
            self._together = whole is not None if self._together is None else self._together
            return
        fits = t.shape[1:] in (whole, alone)
        expected = " or ".join(str(["B", *s]).replace("'", "") for s in dict.fromkeys(self._outputs) if s is not None)
        expect(fits, "Callables", "y", expected, t)
        self._together = t.shape[1:] == whole

    def _try(self, like: Tensor) -> tuple[torch.Size | None, torch.Size | None]:
        """What `forward` makes of each image of a batch, which it must treat each on its own, and of an image alone."""
        kind, whole, alone, errors = real_dtype(like), None, None, []
        noise = torch.randn(3, *self.image, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noise = noise.to(like.device, kind.to_complex() if self.complex_input else kind)
        try:
            together, one = self._result(noise), self._result(noise[1:2])
            if together.shape[:1] == (3,) and one.shape == (1, *together.shape[1:]):
                near = (together[1:2] - one).abs().max() <= SAME * one.abs().max() if one.numel() else True
                whole = one.shape[1:] if near else None
        except Exception as e:
            errors.append(e)
        try:
            alone = self._result(noise[0].reshape(self.shape)).shape
        except Exception as e:
            errors.append(e)
        own = f"a function of images [B, {', '.join(map(str, self.image))}] or of one {self.shape}"
        got = f"{type(errors[-1]).__name__}: {errors[-1]}" if errors else "a function of neither"
        expect(whole is not None or alone is not None, "Callables", "forward", own, got)
        return whole, alone

    def take(self, which: Tensor) -> LinearOperator:
        """Of a batch of several images that are given together, each of which may be treated in its own way."""
        if len(self.shape) < 4 or self.shape[0] == 1:
            return self
        places = which.nonzero().flatten() if which.dtype == torch.bool else which
        expect(len(places) == len(places.unique()), "Callables.take", "which", "each image once", which)

        def within(function: Map, name: str) -> Map:
            def some(t: Tensor) -> Tensor:
                whole = t.new_zeros(self.shape[0], *t.shape[1:]).index_copy(0, places.to(t.device), t)
                return as_tensor(function(whole), "Callables", name)[places.to(t.device)]

            return some

        forward, adjoint = map(within, self.functions, ("forward", "adjoint"))
        shape = max(1, len(places)), *self.shape[1:]
        taken = Callables(forward, adjoint, shape, self.complex_input, self.dtype)
        taken._known_norm = self._known_norm  # an upper bound
        return taken

    def output_size(self, size: Sequence[int] | None) -> None:
        """None: measurements may be anything."""

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int]:
        """(H, W)."""
        return self.image[1:]

    def _norm(self) -> float:
        if self._known_norm is None:
            batch = self.shape[0] if len(self.shape) == 4 else 1
            self._known_norm = self.power_iteration((batch, *self.image), 1e-6, 1000)
        return self._known_norm

    def _noise(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        return super()._noise(shape, seed).to(self.dtype.to_complex() if self.complex_input else self.dtype)


class Widened(LinearOperator):
    """An operator that computes in its own precision, for iterations in float64."""

    def __init__(self, operator: LinearOperator, dtype: torch.dtype):
        super().__init__()
        self.operator, self.dtype = operator, dtype

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return self._wide(self.operator.forward(self._narrow(x)))

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint of A at y."""
        return self._wide(self.operator.apply_adjoint(self._narrow(y), size))

    def take(self, which: Tensor) -> LinearOperator:
        """Of the operator."""
        return Widened(self.operator.take(which), self.dtype)

    def _narrow(self, t: Tensor) -> Tensor:
        return t.to(self.dtype.to_complex() if t.is_complex() else self.dtype)

    def _wide(self, t: Tensor) -> Tensor:
        return t.to(wide_dtype(t))


class _Pair(torch.autograd.Function):
    """A, or its adjoint: each the derivative of the other, so that every order exists."""

    @staticmethod
    def forward(t, pair, back):
        return pair.compute(t, back)

    @staticmethod
    def setup_context(ctx, inputs, output):
        t, ctx.pair, ctx.back = inputs
        ctx.real = not t.is_complex()

    @staticmethod
    def backward(ctx, d):
        found = ctx.pair._call(d, not ctx.back)
        return found.real if ctx.real and found.is_complex() else found, None, None

    @staticmethod
    def jvp(ctx, d, *_):
        return ctx.pair._call(d, ctx.back)
