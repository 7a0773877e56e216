"""kernels/nvrtc.py: how the CUDA C++ kernels (kernels/<op>.cu) are compiled and launched: CuPy, on torch's memory and
stream.

A kernel takes tensors as addresses, integers as long long, floats as double. Types are macros of the source: REAL, the
type of real numbers; PARTS, how many of them make a number; WORD, what is only copied. THREADS is the size of a block,
SHARED the bytes of shared memory that it takes when it is launched.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
INCLUDES = (FOLDER, FOLDER.parent / "csrc")  # our headers; scalar_math.h, in the checkout and in the wheel
THREADS = 256  # kThreads of the sources, where the macro THREADS does not say otherwise
ITEMS = 4  # kItems: numbers of a thread of kernels that go through an image in tiles
REALS = {torch.float32: "float", torch.float64: "double", torch.complex64: "float", torch.complex128: "double"}


def defines(x: Tensor) -> dict[str, str]:
    """REAL and PARTS for numbers like those of x."""
    return {"REAL": REALS[x.dtype], "PARTS": "2" if x.is_complex() else "1"}


def tiles_of(count: int, tile: int = THREADS * ITEMS) -> int:
    """How many tiles cover `count` numbers."""
    return -(-count // tile)


def threads_of(macros: dict[str, str]) -> int:
    """How many threads a block has."""
    return int(macros.get("THREADS", THREADS))


def flags(macros: dict[str, str]) -> list[str]:
    """Options of the compiler, NVRTC or nvcc."""
    return ["-std=c++17", *(f"-I{folder}" for folder in INCLUDES), *(f"-D{k}={v}" for k, v in macros.items())]


@cache
def _function(source: str, kernel: str, options: tuple[str, ...]) -> Any:
    cupy: Any = import_module("cupy")
    return cupy.RawModule(code=(FOLDER / f"{source}.cu").read_text(), options=options).get_function(kernel)


def _packed(argument: Any) -> Any:
    """As CuPy passes it by value: 8 bytes each."""
    if isinstance(argument, Tensor):
        return np.uint64(argument.data_ptr())
    return np.float64(argument) if isinstance(argument, float) else np.int64(argument)


class _Stream:
    """Torch's current stream, in the form that CuPy takes."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream


def _stream(cupy: Any) -> Any:
    if hasattr(cupy.cuda.Stream, "from_external"):  # from CuPy 14 on
        return cupy.cuda.Stream.from_external(_Stream())
    return cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)


def launch(source: str, kernel: str, blocks: int, macros: dict[str, str], *arguments: Any) -> None:
    """Runs `kernel` of `source`.cu in so many blocks, on the device of its first argument, a tensor, and its stream."""
    if blocks == 0:
        return
    cupy: Any = import_module("cupy")
    with torch.cuda.device(arguments[0].device), _stream(cupy):
        function, shared = _function(source, kernel, tuple(flags(macros))), int(macros.get("SHARED", 0))
        if shared:
            function.max_dynamic_shared_size_bytes = shared
        function((blocks,), (threads_of(macros),), tuple(map(_packed, arguments)), shared_mem=shared)
