"""Linear operators: A(x), A.adjoint(y), A.norm(), A @ B, A.T."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import an_integer, expect, finite_number, in_kind
from fastrecon.operators.given import a_size


def through(x: Any, function: Callable[[Tensor], Tensor], op: str = "operator", argument: str = "x") -> Any:
    """function(x) for anything with `__dlpack__`, answered in kind; errors name `op` and `argument`."""
    return function(x) if isinstance(x, Tensor) else in_kind(x, function, op, argument)


class LinearOperator(nn.Module):
    """A linear map between batches of images and of measurements.

    A subclass gives `_forward(x)` and `_adjoint(y, size)`, and `_norm` where the largest singular value has a closed
    form. Input and output are tensors [B, ...] or arrays with `__dlpack__`; the answer is of the same kind.

    An image of a batch has the bits that it has alone, on the CPU; on a GPU where the arithmetic is ours, and to
    rounding where it is the vendor's (Fourier transforms).

    Attributes:
        unitary: whether the adjoint is the inverse.
        isometry: whether the adjoint undoes A, so that A keeps norms, and A @ B has the norm of B.
        coisometry: whether A undoes the adjoint, so that B @ A has the norm of B.
        complex_input: whether A is a map from complex images.
    """

    unitary: bool = False
    isometry: bool = False
    coisometry: bool = False
    complex_input: bool = False

    def forward(self, x: Any) -> Any:
        """A x."""
        return through(x, self._forward, type(self).__name__, "x")

    def adjoint(self, y: Any, size: Sequence[int] | None = None) -> Any:
        """The adjoint of A at y; `size` (H, W) of the image, where y alone does not tell it."""
        if size is not None:
            a_size(size, type(self).__name__)
        return through(y, lambda t: self._adjoint(t, size), type(self).__name__, "y")

    def hold(self, name: str, given: Any, tensor: Tensor) -> None:
        """Keeps an nn.Parameter as it is, to be learned, and of anything else a copy of `tensor`, made of it, as a
        buffer: what its owner writes later is theirs alone.
        """
        if isinstance(given, nn.Parameter):
            self.register_parameter(name, given)
            return
        with torch.inference_mode(False):  # the operator may be trained with later
            self.register_buffer(name, tensor.clone(memory_format=torch.contiguous_format))

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        raise NotImplementedError

    def _same_size(self, size: Sequence[int] | None, y: Tensor) -> None:
        """For adjoints that keep the size of y: raises ValueError unless `size` is that."""
        own = tuple(y.shape[-2:])
        expect(size is None or tuple(size) == own, type(self).__name__, "size", f"{own} or None", size)

    def _norm(self) -> float | None:
        """The norm, where known without iterating."""
        return None

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        """The norm for inputs of this shape, where known without iterating."""
        return self._norm()

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Spatial size of A x for an image of this `size`; operators that keep it need not say so."""
        return size

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """Spatial size that images must have, or have where A x has this `size`; None where that is not known."""
        return size

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        """A x of spatial `size`, for the operators that can give several: adjoints of those that pad."""
        return self(x)

    @torch.no_grad()
    def norm(self, shape: Sequence[int] | None = None, tol: float = 1e-6, max_iterations: int = 1000) -> float:
        """The largest singular value: in closed form where known, else by power iteration on the adjoint of A times A.

        Args:
            shape: shape of an input, (1, C, H, W) for images; needed only where there is no closed form.
            tol: relative change of the estimate at which the iteration stops.
            max_iterations: at most this many.

        Raises:
            ValueError: `shape` is needed and missing, or an argument is out of range.
        """
        expect(finite_number(tol) and tol >= 0, "norm", "tol", "a number >= 0", tol)
        expect(an_integer(max_iterations, 1), "norm", "max_iterations", "an integer >= 1", max_iterations)
        fits = shape is None or (isinstance(shape, Sequence) and all(an_integer(n, 0) for n in shape))
        expect(fits, "norm", "shape", "the shape of an input, integers >= 0", shape)
        known = self._norm() if shape is None else self._norm_of(shape)
        if known is not None:
            return known
        expect(shape is not None, "norm", "shape", "the shape of an input, since this norm has no closed form", None)
        if shape is not None and len(shape) > 0 and shape[0] == 0:
            shape = (1, *shape[1:])  # of an empty batch: that of the operator
        x, estimate = self._noise(shape or ()), 0.0
        for _ in range(max_iterations):
            x = x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)  # 0 for an operator that is 0
            x = self.adjoint(self(x), _size(x))
            previous, estimate = estimate, torch.linalg.vector_norm(x).item() ** 0.5
            if abs(estimate - previous) <= tol * estimate:
                break
        return estimate

    @torch.no_grad()
    def adjoint_test(self, shape: Sequence[int], seed: int = 0) -> float:
        """|<A x, y> - <x, A* y>| / (|A x| |y|) for random x of `shape` and y: rounding if the pair is matched."""
        x = self._noise(shape, seed)
        ax = self(x)
        y = torch.randn(ax.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=ax.dtype).to(ax.device)
        left, right = (
            torch.vdot(y.flatten(), ax.flatten()),
            torch.vdot(self.adjoint(y, _size(x)).flatten(), x.flatten()),
        )
        scale = torch.linalg.vector_norm(ax) * torch.linalg.vector_norm(y)
        return ((left - right).abs() / scale).item()

    def _noise(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        own = next((t for t in [*self.parameters(), *self.buffers()] if t.is_floating_point() or t.is_complex()), None)
        like = torch.empty(0, dtype=torch.float64) if own is None else own
        generator = torch.Generator().manual_seed(seed)
        kind = like.dtype.to_complex() if self.complex_input and not like.is_complex() else like.dtype
        return torch.randn(tuple(shape), generator=generator, dtype=kind).to(like.device)

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        return Composition(self, other)

    @property
    def T(self) -> "LinearOperator":
        """The adjoint as an operator."""
        return Adjoint(self)


def _size(x: Tensor) -> Sequence[int] | None:
    """(H, W) of images; None for codes of one dimension."""
    return x.shape[-2:] if x.ndim > 2 else None


class Composition(LinearOperator):
    """(outer @ inner)(x) = outer(inner(x))."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        super().__init__()
        for name, part in (("outer", outer), ("inner", inner)):
            expect(isinstance(part, LinearOperator), "A @ B", name, "an operator", type(part).__name__)
        self.outer, self.inner = outer, inner
        self.unitary = outer.unitary and inner.unitary
        self.isometry = keeps_norms(outer) and keeps_norms(inner)
        self.coisometry = keeps_norms(outer, True) and keeps_norms(inner, True)
        self.complex_input = outer.complex_input or inner.complex_input

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner._to_size(x, self.outer.input_size()))

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.outer._to_size(self.inner._to_size(x, self.outer.input_size(size)), size)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        between = self.outer.input_size()
        if between is None:
            between = self.inner.output_size(size)
        return self.inner.adjoint(self.outer.adjoint(y, between), size)

    def _norm(self) -> float | None:
        if keeps_norms(self.inner, True):
            return self.outer._norm()
        return self.inner._norm() if keeps_norms(self.outer) else None

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Of both, one after the other."""
        return self.outer.output_size(self.inner.output_size(size))

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """Of both, the other way."""
        return self.inner.input_size(self.outer.input_size(size))


class Adjoint(LinearOperator):
    """The adjoint of an operator, as an operator."""

    def __init__(self, operator: LinearOperator):
        super().__init__()
        self.operator = operator
        self.unitary, self.complex_input = operator.unitary, operator.complex_input
        self.isometry, self.coisometry = operator.coisometry, operator.isometry

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.operator.adjoint(x, size)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.operator(y)

    def _norm(self) -> float | None:
        return self.operator._norm()

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Of the images of the operator."""
        return self.operator.input_size(size)

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """Of what the operator makes of such images."""
        return self.operator.output_size(size)

    @property
    def T(self) -> LinearOperator:
        """The operator itself."""
        return self.operator


def keeps_norms(a: LinearOperator, adjoint: bool = False) -> bool:
    """Whether A, or its adjoint, is an isometry."""
    return a.unitary or (a.coisometry if adjoint else a.isometry)
