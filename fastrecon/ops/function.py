"""Autograd Functions that cost little where nothing is differentiated, and less than PyTorch's where something is."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastrecon.registry import kernels, looking

_in_transform = torch._C._are_functorch_transforms_active
_functorch: Any = torch._C._functorch  # type: ignore[attr-defined]


def transformed() -> bool:
    """Whether forward-mode differentiation, or a transform of torch.func, is going on."""
    return forward_ad._current_level >= 0 or _in_transform()


# what torch.compiler.assume_constant_result does: dynamo guards on levels and transforms itself
transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _has_tangent(t: Tensor) -> bool:
    """Whether t carries a forward-mode tangent, at whatever level of torch.func."""
    while True:
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None:
            return True
        if not _functorch.is_functorch_wrapped_tensor(t):
            return False
        t = _functorch.get_unwrapped(t)


def differentiated(*arguments: Any) -> bool:
    """Whether autograd, in reverse or forward mode, must see an op of these arguments."""
    if torch.is_grad_enabled():
        for t in arguments:
            if isinstance(t, Tensor) and t.requires_grad:
                return True
    return transformed() and any(isinstance(t, Tensor) and _has_tangent(t) for t in arguments)


_modes, _tracing = torch._C._len_torch_dispatch_stack, torch._C._is_tracing


def past_dispatcher() -> bool:
    """Whether a C++ kernel may be called as it is: there is one, and nobody traces, transforms or intercepts calls."""
    if torch.compiler.is_compiling() or transformed() or _modes() or _tracing():
        return False
    return kernels()


def unwatched(*arguments: Any) -> bool:
    """Whether nobody looks at what happens to the tensors among these, contiguous ones on the CPU with numbers in them,
    and there is a C++ kernel: then it may be called as it is. The way there through Functions and PyTorch's dispatcher
    takes several times as long as a kernel on some thousands of numbers.
    """
    if torch.compiler.is_compiling():
        return False
    if (module := looking()) is not None:
        return module.all_plain(*arguments)
    if not past_dispatcher():
        return False
    recording = torch.is_grad_enabled()
    for t in arguments:
        if type(t) is not Tensor:
            if isinstance(t, Tensor):
                return False
            continue
        if not t.is_cpu or not t.is_contiguous() or t.is_neg() or t.is_conj():
            return False
        if t.numel() == 0 or (recording and t.requires_grad):
            return False
    return True


class Function(torch.autograd.Function):
    """A Function whose forward takes no context (`setup_context` does).

    Attributes:
        definition: forward in plain PyTorch, which all its transforms differentiate and batch: kernels know nothing of
            tangents and levels. Where it has a kink, its derivative is the one that `backward` takes.
        kernel: the C++ adapter of `forward`, which is called as it is where nobody looks.
    """

    definition: ClassVar[Callable[..., Any]]
    kernel: ClassVar[Callable[..., Any] | None] = None

    def __init_subclass__(cls) -> None:
        """Keeps forward's signature, which `apply` would work out at every call, for longer than a small op lasts."""
        super().__init_subclass__()
        forward: Any = cls.forward
        forward.__signature__ = inspect.signature(forward)

    @classmethod
    def call(cls, *arguments: Any) -> Any:
        """`apply`, or forward or its kernel alone where nothing is differentiated: that saves tens of microseconds."""
        if cls.kernel is not None and unwatched(*arguments):
            found = cls.kernel(*arguments)
            if found is not NotImplemented:
                return found
        if transformed():
            return cls.definition(*arguments)
        if torch.is_grad_enabled() and differentiated(*arguments):
            return cls.apply(*arguments)
        return cls.forward(*arguments)


def with_derivative(forward: Any, derivative: Any) -> Any:
    """forward(x, tau, *options) in plain PyTorch, with derivative(d_y, x, tau, *options) -> d_x, d_tau for its own.

    All transforms of torch.func take it. Its tangent is the transpose of the derivative, which is linear in d_y: they
    agree at every kink, and where autograd would find 0 / 0 in `forward`.
    """

    class Defined(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, tau, options):
            return forward(x, tau, *options)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, tau, ctx.options = inputs
            ctx.save_for_backward(x, tau)
            ctx.save_for_forward(x, tau)

        @staticmethod
        def backward(ctx, d_y):
            return *derivative(d_y, *ctx.saved_tensors, *ctx.options), None

        @staticmethod
        def jvp(ctx, *tangents):
            inputs = ctx.saved_tensors
            given = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(inputs, tangents, strict=False))

            def pulled_back(d_y: Tensor) -> Any:
                return derivative(d_y, *inputs, *ctx.options)

            transpose = torch.func.vjp(pulled_back, torch.zeros_like(inputs[0]))[1]
            return transpose(given)[0]

    return lambda x, tau, *options: Defined.apply(x, tau, options)
