"""Images that do not fit into memory: rows of numbers in a scratch file, read and written a few at a time."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Rows [rows, ...] of numbers that lie somewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them."""
        ...

    def read(self, begin: int, end: int) -> Tensor:
        """Rows begin <= r < end, as a tensor of their own."""
        ...


class Plane:
    """Rows in a scratch file without a name, which vanishes with the object, or with the process.

    Pages of the file are the system's to keep or to drop: nothing of them counts as memory of the process.

    Args:
        folder: where the scratch file lies.
        shape: [rows, ...].
        dtype: of the numbers.

    Raises:
        OSError: the disk is full.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32):
        self.shape, self.dtype = shape, dtype
        self._file, name = tempfile.mkstemp(dir=folder, prefix=".fastrecon-")
        os.unlink(name)
        weakref.finalize(self, os.close, self._file)
        self._row = int(np.prod(shape[1:])) * torch.empty((), dtype=dtype).element_size()
        if hasattr(os, "posix_fallocate"):  # a full disk is told now
            os.posix_fallocate(self._file, 0, max(1, shape[0] * self._row))

    def read(self, begin: int, end: int) -> Tensor:
        """Rows begin <= r < end."""
        found = torch.empty((end - begin, *self.shape[1:]), dtype=self.dtype)
        buffer, at = _bytes(found), begin * self._row
        done = 0
        while done < len(buffer):
            count = os.preadv(self._file, [buffer[done:]], at + done)
            if count == 0:
                raise OSError("a scratch file lost rows")
            done += count
        return found

    def write(self, begin: int, rows: Tensor) -> None:
        """Rows from `begin` on."""
        buffer, at = _bytes(rows.contiguous()), begin * self._row
        done = 0
        while done < len(buffer):
            done += os.pwrite(self._file, buffer[done:], at + done)


def _bytes(t: Tensor) -> memoryview:
    return memoryview(t.numpy()).cast("B")  # type: ignore[arg-type]


def strips(rows: int, each: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of strips of so many rows, the last perhaps of fewer."""
    for begin in range(0, rows, each):
        yield begin, min(begin + each, rows)
