"""Autograd Functions that cost little where nothing is differentiated, and less than PyTorch's where something is."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_in_transform = torch._C._are_functorch_transforms_active
_functorch = torch._C._functorch


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
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
        return True
    return transformed() and any(isinstance(t, Tensor) and _has_tangent(t) for t in arguments)


class Function(torch.autograd.Function):
    """A Function whose forward takes no context (`setup_context` does)."""

    def __init_subclass__(cls) -> None:
        """Keeps forward's signature, which `apply` would work out at every call, for longer than a small op lasts."""
        super().__init_subclass__()
        forward: Any = cls.forward
        forward.__signature__ = inspect.signature(forward)

    @staticmethod
    def definition(*arguments: Any) -> Any:
        """Forward in plain PyTorch, differentiable by all its transforms: kernels know nothing of tangents and levels.

        Where it has a kink, PyTorch's derivative of it is the one that `backward` takes.
        """
        raise NotImplementedError

    @classmethod
    def call(cls, *arguments: Any) -> Any:
        """`apply`, or forward alone where nothing is differentiated: that saves tens of microseconds."""
        if transformed():
            return cls.definition(*arguments)
        return (cls.apply if differentiated(*arguments) else cls.forward)(*arguments)
