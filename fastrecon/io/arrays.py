""".npy files and members of .npz files, whose headers are checked against the file before anything is read."""

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fastrecon.io.limits import Refused, bounded, refuse

MAX_MEMBERS = 1000
SMALL = 4096  # bytes: larger members of an archive that nobody asked for are not read, nor long texts


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """The array of an open .npy file, or member of a .npz, of `size` bytes, in native byte order.

    Raises:
        Refused: an array of objects, without elements or with too many.
        ValueError: the file is damaged.
    """
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = readers[version](file)
    refuse(dtype.hasobject, "an array of numbers", "one of Python objects, which would run code when read")
    if shape:
        bounded(*shape, what="numbers")
    count = int(np.prod(shape, dtype=np.int64))
    refuse(dtype.kind not in "biufc" and count * dtype.itemsize > SMALL, "an array of numbers", f"one of {dtype.name}")
    left = size - file.tell()
    if left != count * dtype.itemsize:
        raise ValueError(f"{left} bytes of data where shape {shape} of {dtype.name} needs {count * dtype.itemsize}")
    data = bytearray(left)
    read, view = 0, memoryview(data)
    while read < left:
        chunk = file.read(min(left - read, 2**20))
        if not chunk:
            raise ValueError(f"{read} bytes of data where {left} were promised")
        view[read : read + len(chunk)] = chunk
        read += len(chunk)
    array = np.frombuffer(data, dtype, count) if count and dtype.itemsize else np.zeros(count, dtype)
    array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npz(path: Path, wanted: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The arrays called `wanted` of a .npz file (None: all), and its single numbers and texts; others are left unread.

    Raises:
        Refused: a wanted array is none of numbers, or too large; the message names it.
        ValueError, zipfile.BadZipFile: the file is damaged.
    """
    contents: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        refuse(len(members) > MAX_MEMBERS, f"at most {MAX_MEMBERS} arrays", len(members))
        for member in members:
            name = member.filename.removesuffix(".npy")
            refuse(name in contents, f"one array {name!r}", "two")
            chosen = wanted is None or name in wanted
            if not chosen and member.file_size > SMALL:
                continue
            try:
                with archive.open(member) as file:
                    array = read_npy(file, member.file_size)
            except Refused as e:
                if chosen:
                    raise Refused(f"{name}: {e}") from e
                continue
            except Exception as e:
                raise ValueError(f"{name}: {e}") from e
            if chosen or array.ndim == 0:
                contents[name] = array
    return contents
