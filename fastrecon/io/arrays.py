""".npy files and members of .npz files, whose headers are checked against the file before anything is read."""

import os
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


def split_member(path: str | Path) -> tuple[Path, str | None]:
    """File and array that FILE.npz:ARRAY names; of any other name the file alone."""
    file, colon, name = str(path).rpartition(":")
    if colon and name and file.lower().endswith(".npz") and not os.path.exists(path):
        return Path(file), name
    return Path(path), None


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


def one_of(
    names: list[str], wanted: tuple[str, ...], others: tuple[str, ...], what: str, chosen: str | None = None
) -> str:
    """The array meant: the one that was chosen, else the first of `wanted`, else the only one none of `others`.

    Raises:
        Refused: there is none, or several.
    """
    listed = ", ".join(map(repr, names[:20])) or "nothing"
    if chosen is not None:
        refuse(chosen not in names, f"an array {chosen!r}", f"only {listed}")
        return chosen
    if found := [name for name in wanted if name in names]:
        return found[0]
    rest = [name for name in names if name not in others]
    more = " (FILE.npz:NAME takes one)" if rest else ""
    refuse(len(rest) != 1, f"{what} called {' or '.join(wanted)}, or a single array", f"{listed}{more}")
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


def is_npz(path: Path) -> bool:
    """Whether a file is an archive, by its contents."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def from_npz(
    path: Path, wanted: tuple[str, ...], what: str, chosen: str | None = None, others: tuple[str, ...] = ()
) -> np.ndarray:
    """One array of a .npz file; see `one_of`.

    Raises:
        Refused: there is none, or several.
        ValueError, zipfile.BadZipFile: the file is damaged.
    """
    name = one_of(npz_names(path), wanted, others, what, chosen)
    return read_npz(path, (name,))[name]
