"""Linear operators: A(x), A.adjoint(y), A.norm(), A @ B, A.T."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon.checks import an_integer, expect, finite_number, in_kind
from fastrecon.operators._given import a_size
from fastrecon.ops.image_operator import Parts
from fastrecon.ops.layout import real_dtype


@dataclass(frozen=True)
class Diagonal:
    """A = U diag(factors) T with T unitary and |U z| = |z|: so A* A = T* diag(|factors|^2) T.

    Attributes:
        transform: T, from images to where A is diagonal.
        inverse: T*, back.
        factors: real or complex, broadcastable to T x.
        measured: U*, from measurements to where A is diagonal: T A* y = conj(factors) U* y.
    """

    transform: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    factors: Tensor
    measured: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Convolved:
    """Real x to its convolution, circular in images that are filled up to `size(H, W)` with zeros; `transfer` of such a
    size in a dtype [1 or B, 1, U, V / 2 + 1].
    """

    size: Callable[[int, int], tuple[int, int]]
    transfer: Callable[[Sequence[int], torch.dtype], Tensor]


@dataclass(frozen=True)
class Synthesis:
    """Wavelet coefficients to images, of which the next stage takes what fits its size, at the top left."""

    wavelet: str
    level: int


Stage = Parts | Convolved | Synthesis
M = TypeVar("M", bound=nn.Module)


def with_tensors(module: M, tensors: dict[str, Tensor]) -> M:
    """A copy of a module that holds these tensors, by name, and shares the others."""
    new = copy.copy(module)
    new._parameters = {k: v for k, v in module._parameters.items() if k not in tensors}
    new._buffers = module._buffers | tensors
    return new


class LinearOperator(nn.Module):
    """A linear map between batches of images and of measurements.

    A(x) and A.adjoint(y, size) are its border: they take tensors [B, ...] or arrays with `__dlpack__`, and answer in
    kind. `forward(x)` and `apply_adjoint(y, size)` are the same for tensors alone: a subclass gives them, and all that
    applies A many times calls them. `_norm` is the largest singular value, where that has a closed form.

    An image of a batch has the bits that it has alone, on the CPU; on a GPU where the arithmetic is ours, and to
    rounding where it is the vendor's (Fourier transforms).

    Attributes:
        unitary: whether the adjoint is the inverse.
        isometry: whether the adjoint undoes A, so that A keeps norms, and A @ B has the norm of B.
        coisometry: whether A undoes the adjoint, so that B @ A has the norm of B.
        complex_input: whether A is a map from complex images.
        per_image: names of the tensors that may belong to an image each, as [B, ., ., .].
        joins: whether an image has its bits in any batch, so that batches may be put together; see `joining`.
    """

    unitary: bool = False
    isometry: bool = False
    coisometry: bool = False
    complex_input: bool = False
    per_image: tuple[str, ...] = ()
    joins: bool = True

    def __call__(self, x: Any) -> Any:
        """A x."""
        return in_kind(x, super().__call__, type(self).__name__, "x")

    def adjoint(self, y: Any, size: Sequence[int] | None = None) -> Any:
        """The adjoint of A at y; `size` (H, W) of the image, where y alone does not tell it."""
        if size is not None:
            a_size(size, type(self).__name__)
        return in_kind(y, lambda t: self.apply_adjoint(t, size), type(self).__name__, "y")

    def forward(self, x: Tensor) -> Tensor:
        """A x of a tensor."""
        raise NotImplementedError

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The adjoint of A at a tensor."""
        raise NotImplementedError

    def take(self, which: Tensor) -> "LinearOperator":
        """The operator of the images `which` of the batch: indices, or [B] bool. Itself if all images share it."""
        own = {n: t for n in self.per_image if (t := getattr(self, n)) is not None and t.ndim == 4 and len(t) > 1}
        return self._with({n: t[which] for n, t in own.items()}) if own else self

    def _with(self, tensors: dict[str, Tensor]) -> "LinearOperator":
        return with_tensors(self, tensors)

    def diagonal(self, like: Tensor) -> Diagonal | None:
        """A = U diag(s) T for images `like` these, where known: it makes (I + w A* A)^-1 two transforms."""
        if not keeps_norms(self):
            return None
        size, one = _size(like), torch.ones((), dtype=real_dtype(like), device=like.device)
        return Diagonal(itself, itself, one, lambda y: self.apply_adjoint(y, size))

    def spectrum(self, like: Tensor) -> Tensor | None:
        """Eigenvalues of A* A, where that is known to be a circular convolution of images `like` these.

        Real [1 or B, 1, H, W'] (or [1, 1, 1, 1] if all are one), in the order of fft2 with W' = W, of real images of
        rfft2 with W' = W // 2 + 1. Sums of such operators are inverted by two transforms.
        """
        return torch.ones(1, 1, 1, 1, dtype=real_dtype(like), device=like.device) if keeps_norms(self) else None

    def row_scale(self, size: Sequence[int]) -> float | None:
        """c with A A* = c I for images of this size; None if there is none, or it is not known."""
        return 1.0 if keeps_norms(self, adjoint=True) else None

    def resolvent(self, v: Tensor, weight: Tensor) -> Tensor | None:
        """(1 + w A* A)^-1 v with numbers w > 0 [B], or what a symmetric positive definite map near it makes of v: a
        metric for iterations that decide by other means. None: none is known.
        """
        return None

    def stages(self) -> tuple[Stage, ...] | None:
        """What A does, one after the other, where all of it is known to compiled iterations; None elsewhere."""
        return None

    def adjoint_stages(self) -> tuple[Stage, ...] | None:
        """The same of its adjoint."""
        return None

    def hold(self, name: str, given: Any, tensor: Tensor) -> None:
        """Keeps an nn.Parameter as it is, to be learned, and of anything else a copy of `tensor`, made of it, as a
        buffer: what its owner writes later is theirs alone.
        """
        if isinstance(given, nn.Parameter):
            self.register_parameter(name, given)
            return
        with torch.inference_mode(False):  # the operator may be trained with later
            self.register_buffer(name, tensor.clone(memory_format=torch.contiguous_format))

    def _same_size(self, size: Sequence[int] | None, y: Tensor) -> None:
        """For adjoints that keep the size of y: raises ValueError unless `size` is that."""
        if size is not None and tuple(size) != (own := tuple(y.shape[-2:])):
            expect(False, type(self).__name__, "size", f"{own} or None", size)

    def _norm(self) -> float | None:
        """The norm, where known without iterating."""
        return None

    def _norm_of(self, shape: Sequence[int]) -> float | None:
        """The norm for inputs of this shape, where known without iterating."""
        return self._norm()

    def bound(self, shape: Sequence[int]) -> float | Tensor | None:
        """A number >= |A| for inputs of this shape, or one for each image [B]; None where none is known without
        iterating.
        """
        return self._norm_of(shape)

    def output_size(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Spatial size of A x for an image of this `size`; operators that keep it need not say so."""
        return size

    def input_size(self, size: Sequence[int] | None = None) -> Sequence[int] | None:
        """Spatial size that images must have, or have where A x has this `size`; None where that is not known."""
        return size

    def shape_of(self, x: Tensor) -> Sequence[int]:
        """The shape of A x; an operator that knows it need not be applied.

        Raises:
            ValueError: as `forward`.
        """
        return self.forward(x).shape

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        """A x of spatial `size`, for the operators that can give several: adjoints of those that pad."""
        return self.forward(x)

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
        return self.power_iteration(shape or (), tol, max_iterations)

    @torch.no_grad()
    def power_iteration(self, shape: Sequence[int], tol: float, max_iterations: int) -> float:
        """The norm for inputs of this shape by power iteration, to the relative change `tol`."""
        return self.counted_norm(shape, tol, max_iterations)[0]

    @torch.no_grad()
    def counted_norm(self, shape: Sequence[int], tol: float, max_iterations: int) -> tuple[float, int]:
        """The same, and how often A and its adjoint were applied."""
        x, estimate, count = self._noise(shape), 0.0, 0
        for _ in range(max_iterations):
            count += 1
            x = x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)  # 0 for an operator that is 0
            x = self.apply_adjoint(self.forward(x), _size(x))
            previous, estimate = estimate, torch.linalg.vector_norm(x).item() ** 0.5
            if abs(estimate - previous) <= tol * estimate:
                break
        return estimate, count

    @torch.no_grad()
    def adjoint_test(self, shape: Sequence[int], seed: int = 0) -> float:
        """|<A x, y> - <x, A* y>| / (|A x| |y|) for random x of `shape` and y: rounding if the pair is matched."""
        x = self._noise(shape, seed)
        ax = self.forward(x)
        y = torch.randn(ax.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=ax.dtype).to(ax.device)
        left, right = (
            torch.vdot(y.flatten(), ax.flatten()),
            torch.vdot(self.apply_adjoint(y, _size(x)).flatten(), x.flatten()),
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


def itself(x: Tensor) -> Tensor:
    """x."""
    return x


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

    def forward(self, x: Tensor) -> Tensor:
        """outer(inner(x))."""
        return self.outer.forward(self.inner._to_size(x, self.outer.input_size()))

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.outer._to_size(self.inner._to_size(x, self.outer.input_size(size)), size)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Of the outer, then of the inner."""
        return self.inner.apply_adjoint(self.outer.apply_adjoint(y, self._between(size)), size)

    def _between(self, size: Sequence[int] | None) -> Sequence[int] | None:
        """Spatial size of what the inner operator makes of images of this size."""
        known = self.outer.input_size()
        return self.inner.output_size(size) if known is None else known

    def take(self, which: Tensor) -> LinearOperator:
        """Of both."""
        outer, inner = self.outer.take(which), self.inner.take(which)
        return self if outer is self.outer and inner is self.inner else outer @ inner

    def diagonal(self, like: Tensor) -> Diagonal | None:
        """Of one of them, if the other is unitary, or to the left keeps norms."""
        size = like.shape[-2:]
        if like.ndim == 4 and keeps_norms(self.outer):
            of, between = self.inner.diagonal(like), self._between(size)
            return of and replace(of, measured=lambda y: of.measured(self.outer.apply_adjoint(y, between)))
        if not self._turns(like):
            return None
        of, turn = self.outer.diagonal(like), self.inner
        return of and replace(
            of,
            transform=lambda x: of.transform(turn.forward(x)),
            inverse=lambda k: turn.apply_adjoint(of.inverse(k), size),
        )

    def spectrum(self, like: Tensor) -> Tensor | None:
        """Of the inner operator, if the outer keeps norms."""
        return self.inner.spectrum(like) if keeps_norms(self.outer) else None

    def row_scale(self, size: Sequence[int]) -> float | None:
        """Of the outer operator, if the adjoint of the inner keeps norms."""
        return self.outer.row_scale(self._between(size) or size) if keeps_norms(self.inner, adjoint=True) else None

    def resolvent(self, v: Tensor, weight: Tensor) -> Tensor | None:
        """Of the inner operator, where it is known and the outer measures part of what comes out of that, as a window
        does: near it, as the part is large."""
        found = self.inner.diagonal(v) if self.outer.coisometry and v.ndim == 4 else None
        if found is None:
            return None
        powers = weight.to(real_dtype(v)).view(-1, 1, 1, 1) * found.factors.abs().square()
        return found.inverse(found.transform(v) / (1 + powers))

    def stages(self) -> tuple[Stage, ...] | None:
        """Of both, one after the other."""
        first, second = self.inner.stages(), self.outer.stages()
        return None if first is None or second is None else first + second

    def _turns(self, like: Tensor) -> bool:
        """Whether the inner operator is unitary for images `like` these, of whose size nothing is cut off."""
        size = tuple(like.shape[-2:])
        return like.ndim == 4 and self.inner.unitary and tuple(self._between(size) or size) == size

    def _norm(self) -> float | None:
        if keeps_norms(self.inner, True):
            return self.outer._norm()
        return self.inner._norm() if keeps_norms(self.outer) else None

    def bound(self, shape: Sequence[int]) -> float | Tensor | None:
        """Of one of them, if the norm of the other is at most 1."""
        known, size = self._norm_of(shape), self._between(shape[2:])
        if known is not None:
            return known
        if keeps_norms(self.inner, True) or keeps_norms(self.inner):
            return self.outer.bound((*shape[:2], *(shape[2:] if size is None else size)))
        return self.inner.bound(shape) if keeps_norms(self.outer) else None

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

    def forward(self, x: Tensor) -> Tensor:
        """The adjoint at x."""
        return self.operator.apply_adjoint(x)

    def _to_size(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        return self.operator.apply_adjoint(x, size)

    def apply_adjoint(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """A y."""
        return self.operator.forward(y)

    def take(self, which: Tensor) -> LinearOperator:
        """Of the operator."""
        taken = self.operator.take(which)
        return self if taken is self.operator else taken.T

    def stages(self) -> tuple[Stage, ...] | None:
        """Of the adjoint."""
        return self.operator.adjoint_stages()

    def adjoint_stages(self) -> tuple[Stage, ...] | None:
        """Of the operator."""
        return self.operator.stages()

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
