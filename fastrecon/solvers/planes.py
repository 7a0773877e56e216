"""Images that do not fit into memory: rows of numbers in a scratch file, read and written a few at a time."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fastrecon.io import shown, write_json


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
    """Rows in a scratch file without a name, which vanishes with the object, or with the process; or in one that stays.

    Pages of the file are the system's to keep or to drop: nothing of them counts as memory of the process.

    Args:
        folder: where the scratch file lies.
        shape: [rows, ...].
        dtype: of the numbers.
        name: of a file that stays, with the rows that it has; "": of none.

    Raises:
        OSError: the disk is full.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, name: str = ""):
        self.shape, self.dtype, self.name = shape, dtype, name
        if name:
            self._file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        else:
            self._file, unnamed = tempfile.mkstemp(dir=folder, prefix=".fastrecon-")
            os.unlink(unnamed)
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

    def sync(self) -> None:
        """Waits until the disk has all rows."""
        os.fsync(self._file)


class Kept:
    """A folder with the state of a long computation, for whoever begins the same one again; gone at its good end.

    Attributes:
        folder: of files that stay.
        state: what was kept last of this computation; empty if nothing.

    Args:
        folder: made if it is not there.
        key: what the computation is: the state of another is dropped.

    Raises:
        ValueError: another process has it.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]):
        self.folder, self.key = folder, json.loads(json.dumps(key, default=str))
        self.state: dict[str, Any] = {}

    def __enter__(self) -> "Kept":
        self.folder.mkdir(exist_ok=True)
        self._lock = FileLock(self.folder / "lock", blocking=False)
        try:
            self._lock.acquire()
        except Timeout as e:
            raise ValueError(f"{shown(self.folder)}: expected no other run at work there, got one") from e
        try:
            found = json.loads((self.folder / "state.json").read_text())
            self.state = found["state"] if found["key"] == self.key else {}
        except (OSError, ValueError, KeyError, TypeError):  # nothing, or what nobody can go on with
            self.state = {}
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None or not self.state:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def keep(self, *planes: Plane, **state: Any) -> None:
        """Keeps these numbers and texts, beside those kept before, once the disk has the rows of `planes`."""
        for plane in planes:
            plane.sync()
        self.state = self.state | state
        write_json(self.folder / "state.json", {"key": self.key, "state": self.state})


def _bytes(t: Tensor) -> memoryview:
    return memoryview(t.numpy()).cast("B")  # type: ignore[arg-type]


def strips(rows: int, each: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of strips of so many rows, the last perhaps of fewer."""
    for begin in range(0, rows, each):
        yield begin, min(begin + each, rows)
