"""Pixels as the bytes of a file: PNG, TIFF, .npy, and more by packages of their own."""

from io import BytesIO

import numpy as np

from fastrecon.io import bart, hdf5, nifti


def encoded(pixels: np.ndarray, suffix: str, dtype: str, name: str, affine: nifti.Affine | None = None) -> bytes:
    """The file `name` with pixels [H, W] or [H, W, 3], as a format and numbers of a `dtype`.

    Unsigned numbers are clipped to [0, 1] and rounded, on their full scale; floats and complex numbers as they are.

    Raises:
        ValueError: the format cannot hold such numbers, or NaN or Inf are to be rounded.
    """
    a = numbers(pixels, np.dtype(dtype), name)
    if suffix == ".png":
        if a.dtype.kind != "u":
            raise ValueError(f"{name}: expected 8 or 16 bits for PNG, got {a.dtype.name}")
        import imagecodecs

        return bytes(imagecodecs.png_encode(a, level=6))
    if suffix in (".tif", ".tiff"):
        if a.dtype.kind == "c":
            raise ValueError(f"{name}: expected real pixels for TIFF, got {a.dtype.name}")
        import tifffile

        file = BytesIO()
        tifffile.imwrite(file, a, photometric="rgb" if a.ndim == 3 else "minisblack", metadata=None)
        return file.getvalue()
    if suffix == ".npy":
        return array_file(a)
    if suffix == ".h5":
        return hdf5.stored({"reconstruction": a}, {})
    if suffix in (".nii", ".nii.gz", ".cfl") and a.ndim == 3:
        raise ValueError(f"{name}: expected grey pixels for {suffix}, got colours")
    if suffix in (".nii", ".nii.gz"):
        return nifti.encode(a, affine, suffix == ".nii.gz")
    if suffix == ".cfl":
        return bart.data(a)
    raise ValueError(f"{name}: expected a name that ends in .png, .tif, .npy, .nii, .nii.gz, .h5 or .cfl")


def companion(pixels: np.ndarray, suffix: str) -> tuple[str, bytes] | None:
    """Suffix and bytes of a second file that a format needs beside the first."""
    return (".hdr", bart.header(pixels.shape)) if suffix == ".cfl" else None


def array_file(a: np.ndarray) -> bytes:
    """A .npy file."""
    file = BytesIO()
    np.save(file, a, allow_pickle=False)
    return file.getvalue()


def numbers(pixels: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Pixels as numbers of a type; see `encoded`."""
    fits = pixels.size > 0 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
    if not fits:
        raise ValueError(f"{name}: expected pixels [H, W] or [H, W, 3] to write, got shape {pixels.shape}")
    if pixels.dtype.kind == "c":
        if dtype.kind == "c":
            return np.ascontiguousarray(pixels, dtype)
        raise ValueError(f"{name}: expected real pixels to write as {dtype.name}, got {pixels.dtype.name}")
    if dtype.kind == "c":  # real pixels stay real where the format says which they are
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if dtype.kind != "u":
        return np.ascontiguousarray(pixels, dtype)
    if not np.isfinite(pixels).all():
        bits = 8 * dtype.itemsize
        raise ValueError(f"{name}: expected finite pixels to write in {bits} bits, got NaN or Inf")
    full = np.iinfo(dtype).max
    return (pixels.astype(np.float64).clip(0, 1) * full).round().astype(dtype)
