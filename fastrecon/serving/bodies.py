"""Bodies of requests and of answers: files of known kinds, told apart by their contents, never by what a client says.

The readers of `fastrecon.io` take files, so a body lies for a moment in a folder that its request alone has, in memory
where the system has such a place, and is gone before the answer is.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon.io import hdf5, jpeg, png, tiff
from fastrecon.io.arrays import npz_names, read_npz
from fastrecon.io.decoders import NPY_MAGIC
from fastrecon.io.encoders import array_file, encoded
from fastrecon.io.limits import bounded, refuse

ZIP_MAGIC = b"PK\x03\x04"
PLACE = "/dev/shm"  # memory, on Linux
MEASURED = "y"  # the array in .npz and .safetensors that was measured
CERTIFICATE = "certificate"


@dataclass(frozen=True)
class Kind:
    """A kind of file: the end of its name, and what HTTP calls it, the first in answers."""

    suffix: str
    types: tuple[str, ...]


KINDS = (
    Kind(".npy", ("application/x-npy", "application/npy")),
    Kind(".npz", ("application/x-npz", "application/npz", "application/zip")),
    Kind(".safetensors", ("application/x-safetensors", "application/safetensors")),
    Kind(".png", ("image/png",)),
    Kind(".tif", ("image/tiff",)),
    Kind(".h5", ("application/x-hdf5", "application/x-hdf")),
    Kind(".jpg", ("image/jpeg",)),
)
ANY = ("", "application/octet-stream", "*/*", "application/x-www-form-urlencoded")  # the last curl sends unasked
ANSWERS = tuple(kind for kind in KINDS if kind.suffix != ".jpg")


def kind_of(start: bytes) -> Kind | None:
    """The kind of a file from its first bytes; None: of none that is taken here."""
    known = {
        ".npy": (NPY_MAGIC,), ".npz": (ZIP_MAGIC,), ".png": (png.MAGIC,), ".tif": tuple(tiff.MAGICS),
        ".h5": (hdf5.MAGIC,), ".jpg": (jpeg.JPEG_MAGIC,),
    }  # fmt: skip
    for kind in KINDS:
        if start.startswith(known.get(kind.suffix, ())) if kind.suffix in known else start[8:9] == b"{":
            return kind
    return None


def kind_named(media_type: str, among: tuple[Kind, ...] = KINDS) -> Kind | None:
    """The kind that HTTP calls so."""
    name = media_type.partition(";")[0].strip().lower()
    return next((kind for kind in among if name in kind.types), None)


@contextmanager
def spooled(body: bytes, kind: Kind) -> Iterator[Path]:
    """A file with this body in a folder of its own, until the block ends."""
    place = PLACE if os.access(PLACE, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fastrecon-", dir=place) as folder:
        path = Path(folder) / f"body{kind.suffix}"
        path.write_bytes(body)
        yield path


def unpacked(path: Path, names: tuple[str, ...]) -> tuple[Path, dict[str, str]]:
    """The file of what was measured and those of the other arrays of an archive, by the `names` that they may have.

    An archive without others is what was measured, as a whole.

    Raises:
        Refused: an array has another name, is too large, or none of numbers.
        Exception: the archive is damaged.
    """
    suffix = path.suffix
    if suffix not in (".npz", ".safetensors"):
        return path, {}
    found = npz_names(path) if suffix == ".npz" else _tensor_names(path)
    others = [name for name in found if name in names]
    if not others:
        return path, {}
    refuse(MEASURED not in found, f"an array {MEASURED}", ", ".join(found)[:200])
    arrays = read_npz(path, (MEASURED, *others)) if suffix == ".npz" else _tensors(path, (MEASURED, *others))
    files = {}
    for name in (MEASURED, *others):
        files[name] = path.with_name(f"{name}.npy")
        files[name].write_bytes(array_file(np.asarray(arrays[name])))
    return files.pop(MEASURED), {name: str(file) for name, file in files.items()}


def _tensor_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return list(file.keys())


def _tensors(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    found = {}
    with safe_open(path, framework="numpy") as file:
        for name in names:
            bounded(*file.get_slice(name).get_shape(), what="numbers", entry=name)
            found[name] = file.get_tensor(name)
    return found


def packed(pixels: np.ndarray, kind: Kind, dtype: str, certificate: Mapping[str, Any]) -> bytes:
    """A file of pixels [H, W] or [H, W, 3]; archives hold the certificate too.

    Raises:
        ValueError: the kind cannot hold such pixels.
    """
    text = json.dumps(certificate)
    if kind.suffix == ".npz":
        file = BytesIO()
        np.savez(file, allow_pickle=False, reconstruction=pixels, **{CERTIFICATE: np.array(text)})
        return file.getvalue()
    if kind.suffix == ".safetensors":
        from safetensors.numpy import save

        return save({"reconstruction": np.ascontiguousarray(pixels)}, metadata={CERTIFICATE: text})
    if kind.suffix == ".h5":
        return hdf5.stored({"reconstruction": np.ascontiguousarray(pixels)}, {CERTIFICATE: text})
    return encoded(pixels, kind.suffix, dtype, f"format {kind.suffix[1:]}")
