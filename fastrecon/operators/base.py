"""Linear operators: A(x), A.adjoint(y), A.norm(), A @ B, A.T."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect, in_kind


def through(x: Any, function: Callable[[Tensor], Tensor], op: str = "operator", argument: str = "x") -> Any:
    """function(x) for anything with `__dlpack__`, answered in kind; errors name `op` and `argument`."""
    return function(x) if isinstance(x, Tensor) else in_kind(x, function, op, argument)


class LinearOperator(nn.Module):
    """A linear map between batches of images and of measurements.

    A subclass gives `_forward(x)` and `_adjoint(y, size)`, and `_norm` where the largest singular value has a closed
    form. Input and output are tensors [B, ...] or arrays with `__dlpack__`; the answer is of the same kind.

    Attributes:
        unitary: whether the adjoint is the inverse; then composing with it leaves norms as they are.
        complex_input: whether A is a map from complex images.
    """

    unitary: bool = False
    complex_input: bool = False

    def forward(self, x: Any) -> Any:
        """A x."""
        return through(x, self._forward, type(self).__name__)

    def adjoint(self, y: Any, size: Sequence[int] | None = None) -> Any:
        """The adjoint of A at y; `size` (H, W) of the image, where y alone does not tell it."""
        return through(y, lambda t: self._adjoint(t, size), f"{type(self).__name__}.adjoint", "y")

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        raise NotImplementedError

    def _norm(self) -> float | None:
        """The norm, where known without iterating."""
        return None

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Spatial size of A x for an image of this `size`; operators that keep it need not say so."""
        return size

    @torch.no_grad()
    def norm(self, shape: Sequence[int] | None = None, tol: float = 1e-6, max_iterations: int = 1000) -> float:
        """The largest singular value: in closed form where known, else by power iteration on the adjoint of A times A.

        Args:
            shape: shape of an input, (1, C, H, W) for images; needed only where there is no closed form.
            tol: relative change of the estimate at which the iteration stops.
            max_iterations: at most this many.

        Raises:
            ValueError: `shape` is needed and missing.
        """
        known = self._norm()
        if known is not None:
            return known
        expect(shape is not None, "norm", "shape", "the shape of an input, since this norm has no closed form", None)
        x, estimate = self._noise(shape or ()), 0.0
        for _ in range(max_iterations):
            x = x / torch.linalg.vector_norm(x)
            x = self.adjoint(self(x), x.shape[-2:])
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
            torch.vdot(self.adjoint(y, x.shape[-2:]).flatten(), x.flatten()),
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


class Composition(LinearOperator):
    """(outer @ inner)(x) = outer(inner(x))."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        super().__init__()
        self.outer, self.inner = outer, inner
        self.unitary = outer.unitary and inner.unitary
        self.complex_input = outer.complex_input or inner.complex_input

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y, self.inner.output_size(size)), size)

    def _norm(self) -> float | None:
        return self.outer._norm() if self.inner.unitary else self.inner._norm() if self.outer.unitary else None

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Of both, one after the other."""
        return self.outer.output_size(self.inner.output_size(size))


class Adjoint(LinearOperator):
    """The adjoint of an operator, as an operator."""

    def __init__(self, operator: LinearOperator):
        super().__init__()
        self.operator = operator
        self.unitary, self.complex_input = operator.unitary, operator.complex_input

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def _adjoint(self, y: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.operator(y)

    def _norm(self) -> float | None:
        return self.operator._norm()

    @property
    def T(self) -> LinearOperator:
        """The operator itself."""
        return self.operator
