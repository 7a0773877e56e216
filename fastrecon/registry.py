"""The ops: their schemas, their implementations, and the choice between them.

Each raw op is defined once with torch.library. Its definition (`ref`) is the fallback on every device and the fake
kernel. The C++ adapter (`cpu`) lives beside it in fastrecon/ops; Triton and CUDA C++ implementations are looked up by
name in fastrecon/kernels when first needed, so importing fastrecon loads neither triton nor cupy.

The environment variable FASTRECON_BACKEND forces one of reference, cpu, triton, cuda for all ops.
"""

import importlib
import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch  # before _C: both then share torch's OpenMP runtime and its threads
from torch.autograd import forward_ad

BACKENDS = ("reference", "cpu", "triton", "cuda")
# Raw ops whose kernels/<op>.cu goes before Triton: those measured to be faster. Nothing has been measured yet.
CUDA_OPS: frozenset[str] = frozenset()

_library = torch.library.Library("fastrecon", "DEF")


@dataclass(frozen=True)
class Op:
    """One raw op `fastrecon::<name>`, part of the public op `family` (the file name in ops/, kernels/, csrc/)."""

    name: str
    family: str
    implementations: dict[str, Callable[..., Any]] = field(default_factory=dict)


OPS: dict[str, Op] = {}
_chosen: list[list[Callable[..., Any]]] = []  # what each op has settled on, on each device


@cache
def extension() -> Any | None:
    """The compiled module fastrecon._C, or None where it was not built."""
    if importlib.util.find_spec("fastrecon._C") is None:
        return None
    return importlib.import_module("fastrecon._C")


@cache
def compiled() -> Any:
    """The compiled module, for adapters, which are only called where it exists."""
    module = extension()
    assert module is not None
    return module


@cache
def _available(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def interpreting() -> bool:
    """Whether Triton kernels run in the interpreter, on CPU tensors (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def usable(device: str) -> dict[str, str]:
    """The backends that can serve tensors on `device` ("cpu" or "cuda"), best first, each with the reason."""
    found: dict[str, str] = {}
    if device == "cpu":
        if extension() is not None:
            found["cpu"] = f"C++ kernels, {extension().build_info()['isa']}"  # type: ignore[union-attr]
    else:
        if _available("triton"):
            found["triton"] = "Triton kernels"
        if _available("cupy"):
            found["cuda"] = "CUDA C++ kernels through CuPy"
    found["reference"] = "plain PyTorch definitions"
    if device == "cpu" and interpreting() and _available("triton"):
        found["triton"] = "Triton kernels in the interpreter, for tests"  # last: thousands of times slower
    return found


def forced() -> str | None:
    """The backend that FASTRECON_BACKEND asks for.

    Raises:
        RuntimeError: it is unknown, or cannot serve any device of this machine.
    """
    name = os.environ.get("FASTRECON_BACKEND", "")
    if not name:
        return None
    valid = [*usable("cpu")]
    if torch.cuda.is_available():
        valid += [b for b in usable("cuda") if b not in valid]
    if name not in valid:
        raise RuntimeError(f"FASTRECON_BACKEND: expected one of {', '.join(valid)} on this machine, got {name!r}")
    return name


@cache
def kernels() -> bool:
    """Whether C++ kernels serve the CPU: there are some, and nothing else is asked for."""
    return extension() is not None and forced() in (None, "cpu")


@cache
def looking() -> Any | None:
    """The compiled module, where it serves the CPU and looks at tensors itself (csrc/arrays.h): since PyTorch 2.10."""
    module = extension() if kernels() else None
    watching = (
        torch._C._are_functorch_transforms_active, torch._C._len_torch_dispatch_stack, torch._C._is_tracing
    )  # fmt: skip
    if module is None or not module.tensors(torch.Tensor, torch.is_grad_enabled, forward_ad, watching):
        return None
    return module


def _forget() -> None:
    """What was settled by FASTRECON_BACKEND."""
    kernels.cache_clear()
    looking.cache_clear()
    for choice in _chosen:
        choice.clear()


@contextmanager
def using(backend: str) -> Iterator[None]:
    """All ops on `backend` meanwhile, as FASTRECON_BACKEND asks for: for verification and tests, in one thread.

    Raises:
        RuntimeError: no device of this machine has it.
    """
    before = os.environ.get("FASTRECON_BACKEND")
    os.environ["FASTRECON_BACKEND"] = backend
    try:
        forced()
        _forget()
        yield
    finally:
        if before is None:
            del os.environ["FASTRECON_BACKEND"]
        else:
            os.environ["FASTRECON_BACKEND"] = before
        _forget()


def _choices(op: Op, device: str) -> list[tuple[str, Callable[..., Any]]]:
    """The backends that have the op, best first: what one lacks, the next serves, in the end the definition."""
    valid, found = usable(device), []
    first = [forced(), "cuda" if op.name in CUDA_OPS else None]
    for name in dict.fromkeys([*(f for f in first if f in valid), *valid]):
        implementation = _from_kernels(op, name) if name in ("triton", "cuda") else op.implementations.get(name)
        if implementation is not None:
            found.append((name, implementation))
        if name == "reference":
            break
    return found


def _from_kernels(op: Op, backend: str) -> Callable[..., Any] | None:
    module = f"fastrecon.kernels.{op.family}" + ("_cuda" if backend == "cuda" else "")
    if importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), op.name, None)


def implementation(name: str, backend: str) -> Callable[..., Any] | None:
    """The implementation of raw op `name` on `backend`, or None if it has none: for tests and benches."""
    op = OPS[name]
    if backend in ("triton", "cuda"):
        return _from_kernels(op, backend) if _available({"triton": "triton", "cuda": "cupy"}[backend]) else None
    if backend == "cpu" and extension() is None:
        return None
    return op.implementations.get(backend)


def _in_library(name: str, schema: str) -> bool:
    """Whether libfastrecon.so has brought the op into this process (capi/torch_ops.cpp), with its kernel.

    Raises:
        RuntimeError: the library is that of another version.
    """
    op = getattr(torch.ops.fastrecon, name, None)
    if op is None:
        return False
    if op.default._schema != torch._C.parse_schema(f"fastrecon::{schema}"):
        raise RuntimeError(f"libfastrecon.so: expected fastrecon::{schema}, got {op.default._schema}")
    return True


def define(
    schema: str,
    family: str,
    *,
    ref: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    fake: Callable[..., Any] | None = None,
) -> torch._ops.OpOverloadPacket:
    """Defines raw op `fastrecon::<schema>` and binds its implementations.

    `fake` allocates outputs of the right shapes, which may be symbolic; without it the definition does, which then must
    neither loop over a dimension nor ask for its length.

    An implementation may return NotImplemented for arguments it has no kernel for (a rare dtype, say): the next one
    answers then, in the end the definition.
    """
    name = schema.partition("(")[0]
    op = OPS[name] = Op(name, family, {"reference": ref} | ({"cpu": cpu} if cpu else {}))
    brought = _in_library(name, schema)
    if not brought:
        _library.define(schema)

    def dispatch(device: str) -> Callable[..., Any]:
        chosen: list[Callable[..., Any]] = []
        _chosen.append(chosen)

        def call(*args: Any) -> Any:
            if forward_ad._current_level >= 0:  # kernels know nothing of tangents; the definition carries them on
                return ref(*args)
            if not chosen:  # on first use: by then the environment is settled and nothing is loaded in vain
                chosen.extend(implementation for _, implementation in _choices(op, device))
            for implementation in chosen:
                result = implementation(*args)
                if result is not NotImplemented:
                    return result
            raise NotImplementedError(name)  # never: the definition comes last

        return call

    with warnings.catch_warnings():
        if brought:  # torch tells that another kernel was there
            warnings.simplefilter("ignore", UserWarning)
        _library.impl(name, dispatch("cpu"), "CPU")
    _library.impl(name, dispatch("cuda"), "CUDA")
    torch.library.register_fake(f"fastrecon::{name}", fake or inspect.unwrap(ref), lib=_library)
    return getattr(torch.ops.fastrecon, name)


def backends() -> dict[str, dict[str, str]]:
    """What each op uses on each device of this machine, and why.

    Returns:
        `{raw op: {device: "backend: reason"}}`.

    Raises:
        RuntimeError: FASTRECON_BACKEND names a backend that this machine does not have.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    table: dict[str, dict[str, str]] = {}
    for name, op in OPS.items():
        table[name] = {}
        for device in devices:
            backend = _choices(op, device)[0][0]
            reason = usable(device).get(backend, "")
            if forced() == backend:
                reason += ", forced by FASTRECON_BACKEND"
            elif backend == "reference" and len(usable(device)) > 1:
                reason += "; no kernel for this op"
            elif backend == "reference" and device == "cpu":
                reason += "; the compiled extension is missing"
            table[name][device] = f"{backend}: {reason}"
    return table
