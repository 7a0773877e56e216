"""Plans of Fourier transforms for the C++ kernels: functions and descriptors of the MKL that is in torch.

The kernels call them by address, once a plane, in the thread they run in; what they give has the bits of torch.fft with
one thread. Where torch has no such library there are no plans, and nothing here fails.
Source: Intel, oneMKL Developer Reference for C, "DFT Functions"; numbers from mkl_dfti.h.
"""

import ctypes
import functools
import weakref
from pathlib import Path
from typing import Any

import torch

FORWARD_SCALE, BACKWARD_SCALE, CONJUGATE_EVEN, PLACEMENT = 4, 5, 10, 11
INPUT_STRIDES, OUTPUT_STRIDES, THREAD_LIMIT = 12, 13, 27
COMPLEX, REAL, COMPLEX_COMPLEX, NOT_INPLACE = 32, 33, 39, 44
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


class Plan:
    """Transforms of planes U x V of a dtype: of a complex one unitary and in place, of a real one to half a spectrum
    and, divided by U V, back.

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


@functools.lru_cache(maxsize=64)
def plan(size: tuple[int, int], dtype: torch.dtype) -> Plan | None:
    """The plan of transforms of this size, kept for the next time; None without a library for them."""
    mkl = library()
    return None if mkl is None else Plan(mkl, size, dtype)
