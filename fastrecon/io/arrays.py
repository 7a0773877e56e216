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


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in a .npz file.

    Raises:
        Refused: there are too many.
        zipfile.BadZipFile: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
    refuse(len(names) > MAX_MEMBERS, f"at most {MAX_MEMBERS} arrays", len(names))
    return names


def one_of(names: list[str], wanted: tuple[str, ...], others: tuple[str, ...], what: str) -> str:
    """The array meant: the first of `wanted` that is there, else the only one that is none of `others`.

    Raises:
        Refused: there is none, or several.
    """
    if found := [name for name in wanted if name in names]:
        return found[0]
    rest = [name for name in names if name not in others]
    got = "only " + (", ".join(map(repr, names[:9])) or "nothing")
    refuse(len(rest) != 1, f"{what} called {' or '.join(wanted)}, or a single array", got)
    return rest[0]


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
