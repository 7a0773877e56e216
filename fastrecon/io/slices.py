"""Stacks of images in .npz and .npy: slices of a scan, real or complex."""

import os
from pathlib import Path

import numpy as np

from fastrecon.io.arrays import is_npz, read_npy, read_npz
from fastrecon.io.limits import refuse
from fastrecon.io.reading import reading

SUFFIXES = (".npz", ".npy")


def read_slices(path: str | Path) -> list[np.ndarray]:
    """The images [H, W] of every array [H, W] or [N, H, W] in a file, float32 or complex64; others are left out.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, holds no such array, or NaN or Inf.
    """
    with reading(path, "images") as file:
        if is_npz(file):
            arrays = read_npz(file)
        else:
            with file.open("rb") as opened:
                arrays = {"the array": read_npy(opened, os.fstat(opened.fileno()).st_size)}
        found: list[np.ndarray] = []
        for name, a in arrays.items():
            if not isinstance(a, np.ndarray) or a.ndim not in (2, 3) or a.dtype.kind not in "biufc":
                continue
            refuse(a.size == 0, "images with pixels", f"{a.shape}", name)
            a = a.astype(np.complex64 if a.dtype.kind == "c" else np.float32)
            refuse(not np.isfinite(a).all(), "finite pixels", "NaN or Inf", name)
            found += list(a.reshape(-1, *a.shape[-2:]))
        refuse(not found, "arrays [H, W] or [N, H, W]", ", ".join(sorted(arrays)) or "nothing")
        return found
