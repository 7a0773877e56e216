"""Measurements of one image in .npz, .safetensors or .npy (y alone): y, its size, and facts about their making."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon.io.arrays import read_npy, read_npz
from fastrecon.io.decoders import NPY_MAGIC
from fastrecon.io.files import atomic, encodable, shown, text_name
from fastrecon.io.limits import Refused, bounded, refuse
from fastrecon.io.reading import reading

TEXTS, NUMBERS = ("model", "operator", "source"), ("noise", "ratio")  # facts in use


@dataclass(frozen=True)
class Measurements:
    """y [rows, cols, m] of one image of `size` (H, W), None where unknown, and facts about their making.

    Facts in use: `model` (name or path), `operator` (fingerprint of A), `ratio`, `noise` (its deviation), `source`.
    What a file does not say is not among the facts: whoever assumes it tells so.
    """

    y: np.ndarray
    size: tuple[int, int] | None
    facts: dict[str, Any]


def write_measurements(path: str | Path, m: Measurements) -> None:
    """Writes measurements as .npz, or as .safetensors where `path` says so."""
    facts: dict[str, Any] = {k: encodable(str(v)) for k, v in m.facts.items()}
    if reserved := sorted(facts.keys() & {"y", "size", "file"}):
        raise ValueError(f"{shown(path)}: expected facts with names of their own, got {reserved[0]!r}")
    tensors: dict[str, Any] = {"y": np.ascontiguousarray(m.y)}
    if m.size is not None:
        tensors["size"] = np.array(m.size, np.int64)
    with atomic(path) as f:
        if Path(path).suffix.lower() == ".safetensors":
            from safetensors.numpy import save

            f.write(save(tensors, metadata=facts))
        else:
            np.savez(f, **(tensors | facts))


def read_measurements(path: str | Path) -> Measurements:
    """Reads .npz or .safetensors: `y` [rows, cols, m] or [1, rows, cols, m] and, if known, `size` (H, W) and facts; or
    .npy: y.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty or damaged, or an entry is not as expected; the
            message names file and entry.
    """
    with reading(path, "measurements") as file:
        contents = (_safetensors if file.suffix.lower() == ".safetensors" else _arrays)(file)
        y = _y(contents)
        return Measurements(y, _size(contents, y), _facts(contents))


def _arrays(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
            file.seek(0)
            return {"y": read_npy(file, os.fstat(file.fileno()).st_size)}
    return read_npz(path, ("y", "size", *TEXTS, *NUMBERS))


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with text_name(path) as readable, safe_open(readable, framework="numpy") as f:
        contents: dict[str, Any] = dict(f.metadata() or {})
        for name in f.keys():  # noqa: SIM118
            shape, kind = f.get_slice(name).get_shape(), f.get_slice(name).get_dtype()
            if name == "y":
                refuse(kind not in ("F32", "F64"), "float32 or float64", f"{kind} {tuple(shape)}", "y")
                bounded(*shape, what="numbers", entry="y")
            if name in ("y", "size"):
                contents[name] = f.get_tensor(name)
    return contents


def _y(contents: dict[str, Any]) -> np.ndarray:
    refuse("y" not in contents, "an array y [rows, cols, m]", f"only {sorted(contents) or 'nothing'}")
    y = np.asarray(contents.pop("y"))
    if y.ndim == 4 and y.shape[0] == 1:
        y = y[0]
    fits = y.ndim == 3 and y.size > 0 and y.dtype.name in ("float32", "float64")
    refuse(not fits, "float32 or float64 [rows, cols, m]", f"{y.dtype.name} {y.shape}", "y")
    if not np.isfinite(y).all():
        raise Refused("y: expected finite measurements, got NaN or Inf")
    return y


def _size(contents: dict[str, Any], y: np.ndarray) -> tuple[int, int] | None:
    if "size" not in contents:
        return None
    size = np.asarray(contents.pop("size"))
    fits = size.shape == (2,) and size.dtype.kind in "iu" and size.min() > 0
    refuse(not fits, "(height, width)", size.tolist() if size.size < 9 else f"shape {size.shape}", "size")
    height, width = map(int, size)
    bounded(height, width, entry="size")
    # some square block b must cut H into `rows` and W into `cols`: ceil(H / b) = rows and ceil(W / b) = cols; if any
    # does, the lowest that is not too small for either does
    lowest = max(-(-n // blocks) for n, blocks in zip((height, width), y.shape, strict=False))
    whole = all(-(-n // lowest) == blocks for n, blocks in zip((height, width), y.shape, strict=False))
    refuse(not whole, f"the size of an image of {y.shape[0]} x {y.shape[1]} square blocks", (height, width), "size")
    return height, width


def _facts(contents: dict[str, Any]) -> dict[str, Any]:
    facts = {}
    for name, value in contents.items():
        if isinstance(value, np.ndarray):
            value = value.item() if value.ndim == 0 else value
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if name in TEXTS:
            refuse(not isinstance(value, str), "a text", _short(value), name)
        if name == "operator":  # numbers in a row, by which A is known
            refuse(not all(_number(word, -math.inf) for word in str(value).split()), "numbers", _short(value), name)
        if name in NUMBERS and not (isinstance(value, str) and value == ""):
            refuse(not _number(value), "a finite number >= 0", _short(value), name)
        facts[name] = value
    return facts


def _number(value: Any, least: float = 0) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= least
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape}"
    text = shown(str(value))
    return repr(text if len(text) < 60 else text[:57] + "...")
