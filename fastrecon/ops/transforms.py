"""Plans of Fourier transforms for the C++ kernels: of csrc/fft2.cpp, or of the MKL that is in torch.

Ours serve sides without prime factors above 7 where they are faster: beside the MKL only on processors for which it has
no code of its own. The MKL's functions and descriptors are called by address, once a plane, in the thread that asks;
what they give has the bits of torch.fft with one thread. Where there is neither there are no plans, and nothing fails.
Source: Intel, oneMKL Developer Reference for C, "DFT Functions"; numbers from mkl_dfti.h.
"""

import ctypes
import functools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon import registry
from fastrecon.ops.function import differentiated, past_dispatcher
from fastrecon.ops.layout import DTYPES, plain, real_dtype

FORWARD_SCALE, BACKWARD_SCALE, CONJUGATE_EVEN, PLACEMENT = 4, 5, 10, 11
INPUT_STRIDES, OUTPUT_STRIDES, THREAD_LIMIT = 12, 13, 27
COMPLEX, REAL, COMPLEX_COMPLEX, NOT_INPLACE = 32, 33, 39, 44
SMALL = 1 << 13  # numbers of a real plane
SINGLE = (torch.float32, torch.complex64)


@functools.cache
def library() -> Any | None:
    """The library, or None."""
    if not torch.backends.mkl.is_available():
        return None
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        for name in ("SetValue", "CommitDescriptor", "CreateDescriptor_s_md", "CreateDescriptor_d_md"):
            getattr(found, f"Dfti{name}").restype = ctypes.c_long
        return found if found.DftiComputeForward and found.DftiComputeBackward and found.DftiFreeDescriptor else None
    except (OSError, AttributeError):
        return None


def radices(n: int) -> list[int] | None:
    """The steps of a transform of n numbers, of 2 to 8 each, the largest last, which is fastest; None if n has a
    prime factor above 7."""
    odd: list[int] = []
    for prime in (3, 5, 7):
        while n % prime == 0:
            n //= prime
            odd.append(prime)
    twos = n.bit_length() - 1
    if n != 1 << twos:
        return None
    count = -(-twos // 3)
    return sorted(odd + [1 << (twos * (k + 1) // count - twos * k // count) for k in range(count)])


def axis(n: int, steps: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """What csrc/fft2.cpp knows of a side of n numbers: first the table, then the arrays whose addresses it holds."""
    kind = torch.complex64 if dtype in SINGLE else torch.complex128
    angles = torch.arange(n, dtype=torch.float64, device="cpu") * (-2 * torch.pi / n)
    roots = torch.polar(torch.ones_like(angles), angles).to(kind)
    # of the numbers as they lie after all steps: each step makes blocks, one for each remainder of the frequency
    order, stride = torch.zeros(1, dtype=torch.int64, device="cpu"), 1
    for radix in steps:
        order = (order[:, None] + stride * torch.arange(radix, device="cpu")).flatten()
        stride *= radix
    place = order.argsort()
    numbers = [n, roots.data_ptr(), order.data_ptr(), place.data_ptr(), len(steps), *steps]
    return [torch.tensor(numbers, dtype=torch.int64, device="cpu"), roots, order, place]


class OwnPlan:
    """Transforms of planes U x V of a dtype by csrc/fft2.cpp, otherwise as Plan.

    Attributes:
        table: int64 [6]: 0, 0, addresses of the axes of U and V; U, V.
    """

    def __init__(self, size: tuple[int, int], steps: Sequence[Sequence[int]], dtype: torch.dtype):
        self.axes = [axis(n, s, dtype) for n, s in zip(size, steps, strict=True)]
        addresses = [a[0].data_ptr() for a in self.axes]
        self.table = torch.tensor([0, 0, *addresses, *size], dtype=torch.int64, device="cpu")


class Plan:
    """Transforms of planes U x V of a dtype by the MKL: of a complex one unitary and in place, of a real one to half a
    spectrum and, divided by U V, back.

    Attributes:
        table: int64 [6]: addresses of the functions forward and backward, and of their descriptors; U, V.
    """

    def __init__(self, mkl: Any, size: tuple[int, int], dtype: torch.dtype):
        self.mkl, self.single = mkl, dtype in SINGLE
        count = size[0] * size[1]
        if dtype.is_complex:
            scale = count**-0.5
            one = self._descriptor(size, COMPLEX, {FORWARD_SCALE: scale, BACKWARD_SCALE: scale})
            both = [one, one]
        else:
            whole, half = (0, size[1], 1), (0, size[1] // 2 + 1, 1)
            both = [
                self._descriptor(size, REAL, {BACKWARD_SCALE: 1 / count}, strides)
                for strides in ((whole, half), (half, whole))
            ]
        functions = [ctypes.cast(f, ctypes.c_void_p).value for f in (mkl.DftiComputeForward, mkl.DftiComputeBackward)]
        self.table = torch.tensor([*functions, *both, *size], dtype=torch.int64, device="cpu")

    def _descriptor(
        self, size: tuple[int, int], domain: int, scales: dict[int, float],
        strides: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    ) -> int:  # fmt: skip
        handle, sides = ctypes.c_void_p(), (ctypes.c_long * 2)(*size)
        create = self.mkl.DftiCreateDescriptor_s_md if self.single else self.mkl.DftiCreateDescriptor_d_md
        status = create(ctypes.byref(handle), ctypes.c_int(domain), ctypes.c_long(2), sides)
        settings: list[tuple[int, Any]] = [(name, ctypes.c_double(scale)) for name, scale in scales.items()]
        settings.append((THREAD_LIMIT, ctypes.c_long(1)))
        if strides is not None:
            settings += [(CONJUGATE_EVEN, ctypes.c_int(COMPLEX_COMPLEX)), (PLACEMENT, ctypes.c_int(NOT_INPLACE))]
            both = [(ctypes.c_long * 3)(*s) for s in strides]
            settings += [(INPUT_STRIDES, both[0]), (OUTPUT_STRIDES, both[1])]
        status = status or next((s for name, v in settings if (s := self.mkl.DftiSetValue(handle, name, v))), 0)
        status = status or self.mkl.DftiCommitDescriptor(handle)
        if status:
            raise RuntimeError(f"no plan of transforms of {size[0]}x{size[1]}: status {status}")
        weakref.finalize(self, self.mkl.DftiFreeDescriptor, ctypes.byref(handle))
        assert handle.value is not None
        return handle.value


def ours_are_faster(size: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether csrc/fft2.cpp is faster than the MKL: where there is none, and where it takes its path for any processor,
    as on those of AMD, but for small real planes (bench/bench_fft2.py)."""
    if library() is None:
        return True
    large = dtype.is_complex or size[0] * size[1] >= SMALL
    return large and registry.compiled().build_info().get("vendor") == "amd"


@functools.lru_cache(maxsize=64)
def plan(size: tuple[int, int], dtype: torch.dtype) -> OwnPlan | Plan | None:
    """The plan of transforms of this size, kept for the next time; None without anything that makes them."""
    steps = [radices(n) for n in size]
    if None not in steps and ours_are_faster(size, dtype):
        return OwnPlan(size, cast(list[list[int]], steps), dtype)
    mkl = library()
    return None if mkl is None else Plan(mkl, size, dtype)


def frequencies(x: Tensor) -> Tensor:
    """The unitary transform of planes x [..., U, V], of real ones half of it [..., U, V / 2 + 1].

    The bits of torch.fft where autograd or torch.compile look, and where the MKL is faster.
    """
    if (own := _own(x, x.shape[-2:], x.dtype)) is None:
        return torch.fft.fft2(x, norm="ortho") if x.is_complex() else torch.fft.rfft2(x, norm="ortho")
    size, x = x.shape, plain(x)
    y = x.new_empty(*size[:-1], size[-1] if x.is_complex() else size[-1] // 2 + 1, dtype=x.dtype.to_complex())
    _call(own, x, y, False, x)
    return y if x.is_complex() else y.mul_((size[-2] * size[-1]) ** -0.5)


def planes(k: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Back from `frequencies`; of real planes of `size` (U, V)."""
    kind = k.dtype if size is None else real_dtype(k)  # Dynamo traces no dtype.to_real
    if (own := _own(k, size or k.shape[-2:], kind)) is None:
        return torch.fft.ifft2(k, norm="ortho") if size is None else torch.fft.irfft2(k, s=tuple(size), norm="ortho")
    if size is None:
        _call(own, k := plain(k), x := torch.empty_like(k), True, k)
        return x
    x = k.new_empty(*k.shape[:-2], *size, dtype=kind)
    _call(own, x, k.clone(memory_format=torch.contiguous_format), True, x)
    return x.mul_((size[0] * size[1]) ** 0.5)


def _own(x: Tensor, size: Sequence[int], dtype: torch.dtype) -> OwnPlan | None:
    """The plan of csrc/fft2.cpp that serves x, where it is the faster one and nobody looks."""
    if not x.is_cpu or dtype not in DTYPES or x.numel() == 0 or not past_dispatcher() or differentiated(x):
        return None
    found = plan((size[0], size[1]), dtype)
    return found if isinstance(found, OwnPlan) else None


def _call(own: OwnPlan, x: Tensor, y: Tensor, back: bool, like: Tensor) -> None:
    count = like.numel() // (like.shape[-2] * like.shape[-1])
    registry.compiled().fft2(DTYPES[like.dtype], back, x.data_ptr(), y.data_ptr(), own.table.data_ptr(), count)
