"""Pictures that do not fit into memory: grey TIFF, .npy and zarr (extra `zarr`), read and written by rows.

A zarr array is a folder NAME.zarr; numbers of a type mean there what they mean in a TIFF or .npy file.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon.io import tiff
from fastrecon.io.encoders import numbers
from fastrecon.io.files import atomic, shown
from fastrecon.io.limits import Refused, bounded, refuse
from fastrecon.io.pictures import FAINT
from fastrecon.io.raster import beyond
from fastrecon.io.reading import package, reading

SUFFIXES = (".tif", ".tiff", ".npy", ".zarr")
KINDS = ("uint8", "uint16", "float32", "float64")
CHUNK = 1024  # rows and columns of a chunk of zarr


@dataclass(frozen=True)
class Pieces:
    """An array [rows, ...] in a file.

    Attributes:
        shape: of the array.
        dtype: of its numbers as they are stored: one of KINDS.
        suffix: .tif, .npy or .zarr.
        stored: (begin, end) to the rows begin <= r < end as they are stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    suffix: str
    stored: Callable[[int, int], np.ndarray]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Rows as float32: whole numbers over their full scale, floats as they are.

        Raises:
            Refused: NaN, Inf, or floats beyond the range of float32.
        """
        a = self.stored(begin, end)
        full = np.iinfo(a.dtype).max if a.dtype.kind == "u" else 1
        with np.errstate(over="ignore"):
            out = np.ascontiguousarray(a.astype(np.float64) / full, np.float32)
        refuse(not np.isfinite(out).all(), "finite numbers within the range of float32", "others")
        return out

    def scale(self, each: int) -> float:
        """What a picture is to be divided by to lie about in [0, 1]: 1 where it does; looked for `each` rows at once.

        As of `read_picture`: floats far below or beyond [0, 1] have a scale of their own, their largest modulus.
        """
        if self.dtype.kind == "u":
            return 1.0
        low, high = np.inf, -np.inf
        for begin in range(0, self.shape[0], each):
            a = self.read(begin, min(begin + each, self.shape[0]))
            low, high = min(low, float(a.min())), max(high, float(a.max()))
        return 1.0 if high > FAINT and not beyond(low, high) else max(-low, high) or 1.0


@contextlib.contextmanager
def pieces(path: str | Path) -> Iterator[Pieces]:
    """The array in a TIFF file with one grey picture, or in a .npy or .zarr file, open while the block lasts.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or of another kind.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{shown(path)}: expected {', '.join(SUFFIXES)}: other kinds are not read by rows")
    with contextlib.ExitStack() as stack:
        opened = {".zarr": _zarr, ".npy": _npy}.get(suffix, _tiff)
        head = path
        if suffix == ".zarr":  # what tells of the array, in its third version or its second
            head = next((p for p in (path / "zarr.json", path / ".zarray") if p.exists()), path / "zarr.json")
        with reading(head, "rows of numbers"):
            found = opened(path, stack)
            refuse(found.dtype.name not in KINDS, f"numbers of {', '.join(KINDS)}", found.dtype.name)
            refuse(len(found.shape) < 2 or min(found.shape) < 1, "an array [H, W]", f"shape {found.shape}")
        yield found


def _npy(path: Path, stack: contextlib.ExitStack) -> Pieces:
    a: Any = np.load(path, mmap_mode="r", allow_pickle=False)  # looks at the header, and that the file is long enough
    refuse(not a.flags.c_contiguous, "rows one after the other", "columns first")
    shape, dtype, offset = a.shape, a.dtype, a.offset
    file = stack.enter_context(path.open("rb"))
    return Pieces(shape, dtype, ".npy", lambda begin, end: _rows(file, shape, dtype, offset, begin, end))


def _zarr(path: Path, stack: contextlib.ExitStack) -> Pieces:
    zarr = package("zarr", "zarr", "arrays by chunks")
    a = zarr.open_array(str(path), mode="r")
    bounded(*a.chunks, what="numbers of a chunk")
    return Pieces(tuple(a.shape), np.dtype(a.dtype), ".zarr", lambda begin, end: np.asarray(a[begin:end]))


def _tiff(path: Path, stack: contextlib.ExitStack) -> Pieces:
    from tifffile import TiffFile

    file = stack.enter_context(TiffFile(path))
    page: Any = file.pages.first
    tiff.check_rows(file, page)
    shape, dtype = (page.imagelength, page.imagewidth), np.dtype(page.dtype)
    stored_as = dtype.newbyteorder(file.byteorder)
    begins, lengths = page.dataoffsets, page.databytecounts
    together = all(b + n == c for b, n, c in zip(begins, lengths, begins[1:], strict=False))
    if page.compression == 1 and not page.is_tiled and together and page.fillorder == 1 and page.predictor == 1:
        handle = stack.enter_context(path.open("rb"))
        return Pieces(shape, dtype, ".tif", lambda a, b: _rows(handle, shape, stored_as, begins[0], a, b).astype(dtype))
    high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    bounded(high, wide, what="pixels of a strip or tile")
    across = -(-shape[1] // wide)

    def stored(begin: int, end: int) -> np.ndarray:
        out = np.zeros((end - begin, shape[1]), dtype)
        for index in range(begin // high * across, -(-end // high) * across):
            file.filehandle.seek(begins[index])
            segment = page.decode(file.filehandle.read(lengths[index]), index)[0][0, ..., 0]
            top, left = index // across * high, index % across * wide
            first, last = max(begin, top), min(end, top + high, shape[0])
            columns = min(wide, shape[1] - left)
            out[first - begin : last - begin, left : left + columns] = segment[first - top : last - top, :columns]
        return out

    return Pieces(shape, dtype, ".tif", stored)


def _rows(file: Any, shape: tuple[int, ...], dtype: np.dtype, offset: int, begin: int, end: int) -> np.ndarray:
    """Rows of an array that lies in a file as it does in memory."""
    row = int(np.prod(shape[1:]))
    a = np.fromfile(file, dtype, (end - begin) * row, offset=offset + begin * row * dtype.itemsize - file.tell())
    if a.size < (end - begin) * row:
        raise Refused("expected more rows, got the end of the file")
    return a.reshape(end - begin, *shape[1:])


@contextlib.contextmanager
def written(path: str | Path, shape: tuple[int, int], dtype: str) -> Iterator[Callable[[int, np.ndarray], None]]:
    """write(begin, rows) of a picture [H, W] in a TIFF, .npy or .zarr file, which appears once the block ends.

    Whole numbers are clipped to [0, 1] and rounded, on their full scale; floats are as they are.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    name, kind = shown(path), np.dtype(dtype)
    if path.suffix == ".zarr":
        zarr = package("zarr", "zarr", "arrays by chunks")
        part = path.with_name(f".fastrecon-{os.getpid()}-{path.name}")
        try:
            a = zarr.create_array(str(part), shape=shape, chunks=tuple(min(n, CHUNK) for n in shape), dtype=kind)

            def write(begin: int, rows: np.ndarray) -> None:
                a[begin : begin + len(rows)] = numbers(rows, kind, name)

            yield write
            shutil.rmtree(path, ignore_errors=True)
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return
    with atomic(path) as file:
        offset = _head(file, path.suffix, shape, kind)
        row = shape[1] * kind.itemsize

        def put(begin: int, rows: np.ndarray) -> None:
            file.seek(offset + begin * row)
            file.write(np.ascontiguousarray(numbers(rows, kind, name)).data)

        yield put


def _head(file: Any, suffix: str, shape: tuple[int, int], dtype: np.dtype) -> int:
    """Writes all of a file but its pixels; where these begin."""
    if suffix == ".npy":
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        file.truncate(begin + shape[0] * shape[1] * dtype.itemsize)
        return begin
    import tifffile

    size = shape[0] * shape[1] * dtype.itemsize
    with tifffile.TiffWriter(file, bigtiff=size > 2**32 - 2**16) as out:
        begin, _ = out.write(shape=shape, dtype=dtype, photometric="minisblack", metadata=None, returnoffset=True)  # type: ignore[misc]
    return begin
