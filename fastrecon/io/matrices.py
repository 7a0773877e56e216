"""Matrices: sampling matrices and dictionaries as people keep them."""

from pathlib import Path

import numpy as np

from fastrecon.io.arrays import read_npy, read_npz
from fastrecon.io.files import existing, reason, shown
from fastrecon.io.limits import Refused, bounded, refuse

KEYS = ("phi", "Phi", "A", "matrix")  # asked for where a file holds several arrays


def read_matrix(path: str | Path) -> np.ndarray:
    """A real matrix [m, n] from .npy, .npz or MATLAB's .mat (version 5), float64.

    Of several arrays that of the name phi, A or matrix is taken, else the only one of two dimensions.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, or holds no such matrix.
    """
    path = existing(path)
    name = shown(path)
    try:
        found = _arrays(path)
        known = [found[k] for k in KEYS if k in found] or [a for a in found.values() if a.ndim == 2]
        refuse(len(known) != 1, "one matrix [m, n]", f"{len(known)} in {', '.join(found) or 'an empty file'}")
        matrix = known[0]
        fits = matrix.ndim == 2 and matrix.dtype.kind in "biuf" and matrix.size > 0
        refuse(not fits, "a real matrix [m, n]", f"{matrix.dtype.name} {matrix.shape}")
        refuse(not bool(np.isfinite(matrix).all()), "finite numbers", "NaN or Inf")
        return matrix.astype(np.float64)
    except Refused as e:
        raise ValueError(f"{name}: {e}") from e
    except Exception as e:  # readers raise whatever a damaged file makes them trip over
        raise ValueError(f"{name}: expected a matrix, got a damaged or unknown file ({reason(e)})") from e


def _arrays(path: Path) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open(path, "rb") as file:
            return {path.stem: read_npy(file, path.stat().st_size)}
    if suffix == ".npz":
        return {k: np.asarray(a) for k, a in read_npz(path).items()}
    if suffix == ".mat":
        from scipy.io import loadmat, whosmat

        for _, shape, _ in whosmat(str(path)):
            bounded(*shape, what="numbers")
        return {k: a for k, a in loadmat(str(path)).items() if isinstance(a, np.ndarray)}
    raise Refused(f"expected a name that ends in .npy, .npz or .mat, got {suffix or 'none'}")
