"""How exact torch's own products are: in float32, or in TF32 where a model was told to."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_backends: Any = torch.backends
if hasattr(_backends.cuda.matmul, "fp32_precision"):  # from torch 2.9 on; mixing it with the older switch raises
    _places = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.mkldnn.matmul, _backends.mkldnn.conv)
    EXACT = [(place, "fp32_precision", "ieee") for place in _places]
    MATMUL_TF32 = (_backends.cuda.matmul, "fp32_precision", "tf32")
else:
    EXACT = [(_backends.cuda.matmul, "allow_tf32", False), (_backends.cudnn, "allow_tf32", False)]
    MATMUL_TF32 = (_backends.cuda.matmul, "allow_tf32", True)


@contextlib.contextmanager
def _set(settings: list[tuple[Any, str, Any]]) -> Iterator[None]:
    kept = [(place, name, getattr(place, name)) for place, name, _ in settings]
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in kept:
            setattr(place, name, value)


def exact() -> contextlib.AbstractContextManager[None]:
    """Products are those of float32; afterwards as the caller had them."""
    return _set(EXACT)


def tf32() -> contextlib.AbstractContextManager[None]:
    """A GPU's matrix products are those of TF32; afterwards as the caller had them."""
    return _set([MATMUL_TF32])
