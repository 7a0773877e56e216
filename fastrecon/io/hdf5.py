"""HDF5 files, by h5py (extra `mri`): sizes are checked before anything is read, and nothing outside is followed."""

import contextlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon.io.limits import Refused, bounded, chosen, refuse
from fastrecon.io.raster import Raster
from fastrecon.io.reading import package

MAGIC = b"\x89HDF\r\n\x1a\n"
IMAGES = ("reconstruction", "reconstruction_rss", "reconstruction_esc", "image")
PARTS = (("r", "i"), ("real", "imag"))  # how complex numbers are stored as records


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The h5py File of a file, to be read.

    Raises:
        Refused: h5py is not installed.
        OSError: the file is damaged.
    """
    with package("h5py", "mri", "HDF5").File(path, "r") as file:
        yield file


def member(group: Any, name: str) -> Any:
    """A dataset or group inside of a group, None where there is none.

    Raises:
        Refused: it lies in another file.
    """
    h5py = package("h5py", "mri", "HDF5")
    link = group.get(name, getlink=True)
    refuse(isinstance(link, h5py.ExternalLink), "data within the file", "a link to another", name)
    found = group.get(name)
    if isinstance(found, h5py.Dataset):
        refuse(bool(found.external) or found.is_virtual, "data within the file", "data in another", name)
    return found


def array(dataset: Any, name: str, index: Any = ()) -> np.ndarray:
    """The numbers of a dataset, or of `index` along its first axis; records of two floats as complex numbers.

    Raises:
        Refused: it is no array of numbers, or too large.
    """
    shape = getattr(dataset, "shape", None)
    if shape is None:
        raise Refused(f"{name}: expected an array of numbers, got a group or nothing")
    refuse(index != () and not shape, "an array", "a single number", name)
    bounded(*(shape if index == () else shape[1:]), what="numbers", entry=name)
    refuse(dataset.dtype.hasobject, "an array of numbers", "one of texts or references", name)
    return plain(np.asarray(dataset[index]), name)


def plain(a: np.ndarray, name: str) -> np.ndarray:
    """Numbers in native byte order; records of two floats as complex numbers.

    Raises:
        Refused: other records, or no numbers.
    """
    if a.dtype.names in PARTS:
        re, im = (a[part] for part in a.dtype.names or ())
        refuse(re.dtype.kind != "f" or im.dtype != re.dtype, "complex numbers", a.dtype, name)
        a = re + 1j * im
    refuse(a.dtype.kind not in "biufc", "an array of numbers", a.dtype.name, name)
    return a.astype(a.dtype.newbyteorder("="), copy=False)


def decode(path: Path, slice: int | None = None) -> Raster:
    """The image [H, W] in a file of results or of fastMRI, or one of [slices, H, W], on a scale of its own.

    Raises:
        Refused: there is none, several slices and none is chosen, or h5py is not installed.
        OSError: the file is damaged.
    """
    with opened(path) as file:
        found = [name for name in IMAGES if name in file]
        got = ", ".join(map(repr, list(file)[:9])) or "nothing"
        refuse(not found, f"a dataset {' or '.join(IMAGES)}", got)
        dataset = member(file, found[0])
        shape = getattr(dataset, "shape", ())
        if len(shape) != 3:
            chosen(1, slice, found[0])
            return Raster(array(dataset, found[0]), None, suffix=".h5")
        k = chosen(shape[0], slice, found[0])
        notes = [f"slice {k} of {shape[0]}"] if shape[0] > 1 else []
        return Raster(array(dataset, found[0], k), None, notes=notes, suffix=".h5")


def stored(datasets: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """An HDF5 file with such datasets and attributes.

    Raises:
        Refused: h5py is not installed.
    """
    buffer = BytesIO()
    with package("h5py", "mri", "HDF5").File(buffer, "w") as file:
        for name, a in datasets.items():
            file.create_dataset(name, data=a)
        for name, value in attributes.items():
            file.attrs[name] = value
    return buffer.getvalue()
