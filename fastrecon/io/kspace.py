"""k-space of magnetic resonance imaging, from files of several conventions, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastrecon.io import acquisitions, bart, hdf5
from fastrecon.io.arrays import from_npz, is_npz, npz_names, one_of, read_npy, read_npz, split_member
from fastrecon.io.decoders import NPY_MAGIC
from fastrecon.io.encoders import array_file
from fastrecon.io.files import atomic, encodable, shown
from fastrecon.io.limits import Refused, bounded, chosen, refuse
from fastrecon.io.masks import binary
from fastrecon.io.pictures import Form
from fastrecon.io.reading import reading

NAMES, MAPS = ("kspace", "y"), ("maps", "sensitivities", "sensitivity_maps")
NUMPY = Form(".npy", "complex64")
EXPECTED = "complex numbers [H, W] or [coils, H, W], or real pairs in a last axis of 2"


@dataclass(frozen=True)
class KSpace:
    """Samples of k-space of one slice.

    Attributes:
        data: [coils, H, W] complex64 or complex128 as stored, zeros where unsampled; one coil where there are no coils.
        mask: [H, W] bool, True where sampled; None where the file does not say.
        maps: coil sensitivities [coils, H, W] complex, None where the file has none.
        centred: whether k-space and image are centred, as in fastMRI, SigPy, BART, ISMRMRD:
            y = fftshift(fft2(ifftshift(x))); False for y = fft2(x); None where the file does not say.
        path: of the file.
        form: how images made of it are written.
        facts: what else the file says: `reconstruction_size` (H, W) of the image to be cropped, `max`, `acquisition`.
        notes: what was converted on the way.
    """

    data: np.ndarray
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    centred: bool | None = None
    path: Path | None = None
    form: Form = NUMPY
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_kspace(path: str | Path, slice: int | None = None) -> KSpace:
    """The k-space of a slice in .npy, .npz, HDF5 of fastMRI or ISMRMRD, or .cfl and .hdr of BART.

    - .npy: complex [H, W], [coils, H, W] or [slices, coils, H, W], or real pairs in a last axis of 2.
    - .npz: the same in `kspace`, `y`, the only array, or that of FILE.npz:NAME; `mask`; `maps`; `centred`.
    - fastMRI: `kspace` [slices, H, W] or [slices, coils, H, W], `mask` [W] or [H, W] as dataset or attribute.
    - ISMRMRD: Cartesian acquisitions; lines of calibration and noise are left aside.
    - BART: sizes x, y, z, coils, maps, ..., slice, one of x, y, z being 1.

    Args:
        path: of the file; of BART's pair either.
        slice: number of one of several, counted from 0; None where there is one.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged or too large, an array in it is not as expected or
            holds NaN or Inf, several slices are there and none is chosen, or a package is missing; one line names file
            and entry.
    """
    file, array = split_member(path)
    with reading(file, "k-space"):
        return _checked(_read(file, slice, array), file)


def _read(path: Path, slice: int | None, array: str | None) -> KSpace:
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith(NPY_MAGIC):
            return KSpace(_one_slice(as_complex(read_npy(file, path.stat().st_size)), slice))
    if is_npz(path):
        return _npz(path, slice, array)
    if start == hdf5.MAGIC:
        with hdf5.opened(path) as file:
            return _fastmri(file, slice) if "kspace" in file else _ismrmrd(file, slice)
    if path.suffix.lower() in bart.SUFFIXES:
        data = bart.by_coil(bart.read_cfl(path))
        return KSpace(_one_slice(data, slice), centred=True, form=Form(".cfl", "complex64"))
    raise ValueError("neither NPY, NPZ, HDF5 nor CFL")


def as_complex(a: np.ndarray, entry: str = "") -> np.ndarray:
    """Complex64 or complex128 from complex numbers, or from real pairs in a last axis of 2.

    Raises:
        Refused: it is neither.
    """
    if a.dtype.kind == "c":
        return a.astype(np.complex64 if a.itemsize <= 8 else np.complex128, copy=False)
    pairs = a.dtype.kind in "iuf" and a.ndim >= 3 and a.shape[-1] == 2
    refuse(not pairs, EXPECTED, f"{a.dtype.name} {a.shape}", entry)
    wide = np.float32 if a.dtype.kind == "f" and a.itemsize <= 4 else np.float64
    return np.ascontiguousarray(a, wide).view(np.complex64 if wide == np.float32 else np.complex128)[..., 0]


def _one_slice(a: np.ndarray, slice: int | None, entry: str = "") -> np.ndarray:
    """[coils, H, W] of [H, W], [coils, H, W] or [slices, coils, H, W]."""
    refuse(a.ndim not in (2, 3, 4) or a.size == 0, "[H, W], [coils, H, W] or [slices, coils, H, W]", a.shape, entry)
    if a.ndim == 4:
        return a[chosen(len(a), slice, entry)]
    chosen(1, slice, entry)
    return a.reshape(-1, *a.shape[-2:])


def _npz(path: Path, slice: int | None, array: str | None) -> KSpace:
    names = npz_names(path)
    name = one_of(names, NAMES, ("mask", "centred", *MAPS), "k-space", array)
    maps = next((m for m in MAPS if m in names), None)
    contents = read_npz(path, tuple(n for n in (name, maps, "mask", "centred") if n in names))
    data = _one_slice(as_complex(contents.pop(name), name), slice, name)
    found = contents.pop(maps, None) if maps else None
    found = None if found is None else as_complex(found, maps or "")
    mask, centred = contents.pop("mask", None), contents.pop("centred", None)
    refuse(centred is not None and centred.dtype != bool, "True or False", centred, "centred")
    facts = {k: v.item() for k, v in contents.items()}
    return KSpace(data, mask, found, None if centred is None else bool(centred), facts=facts)


def _fastmri(file: Any, slice: int | None) -> KSpace:
    dataset, facts = hdf5.member(file, "kspace"), {}
    shape: tuple[int, ...] = getattr(dataset, "shape", ())
    pairs = shape[-1:] == (2,) and dataset.dtype.kind == "f"
    refuse(len(shape) - pairs not in (2, 3, 4), "[slices, H, W] or [slices, coils, H, W]", shape, "kspace")
    if len(shape) - pairs == 2:
        chosen(1, slice, "kspace")
        data = hdf5.array(dataset, "kspace")
    else:
        data = hdf5.array(dataset, "kspace", chosen(len(dataset), slice, "kspace"))
    data = _one_slice(as_complex(data, "kspace"), None, "kspace")
    mask = hdf5.member(file, "mask")
    mask = hdf5.array(mask, "mask") if mask is not None else file.attrs.get("mask")
    maps = next((m for name in MAPS if (m := hdf5.member(file, name)) is not None), None)
    found = None if maps is None else as_complex(hdf5.array(maps, "maps"), "maps")
    for name in ("reconstruction_rss", "reconstruction_esc"):
        if len(size := getattr(hdf5.member(file, name), "shape", ())) >= 2:
            facts["reconstruction_size"] = tuple(map(int, size[-2:]))
    if "max" in file.attrs:
        facts["max"] = float(file.attrs["max"])
    if "acquisition" in file.attrs:
        facts["acquisition"] = encodable(str(file.attrs["acquisition"]))
    centred = bool(file.attrs.get("centred", True))
    form = Form(".h5", data.dtype.name)
    return KSpace(data, None if mask is None else np.asarray(mask), found, centred, form=form, facts=facts)


def _ismrmrd(file: Any, slice: int | None) -> KSpace:
    names = acquisitions.groups(file)
    got = ", ".join(map(repr, names or list(file)[:9])) or "nothing"
    refuse(len(names) != 1, "a dataset kspace (fastMRI), or one group with xml and data (ISMRMRD)", got)
    data, mask, facts, notes = acquisitions.sorted_lines(file[names[0]], slice)
    return KSpace(data, mask, None, True, form=Form(".h5", "complex64"), facts=facts, notes=tuple(notes))


def _checked(k: KSpace, path: Path) -> KSpace:
    data, size = k.data, k.data.shape[1:]
    bounded(*data.shape, what="numbers")
    got = f"shape {data.shape}, coils last?"
    refuse(len(data) > 1 and min(data.shape[:2]) >= 2 * data.shape[2], "the axes [coils, H, W]", got)
    if bad := int((~np.isfinite(data)).sum()):
        raise Refused(f"expected finite k-space, got {bad} NaN or Inf among {data.size} samples")
    refuse(not data.any(), "k-space", "zeros alone")
    mask = None if k.mask is None else binary(k.mask, size, "mask")
    maps = None if k.maps is None else _maps(k.maps, data.shape)
    return KSpace(data, mask, maps, k.centred, path, k.form, k.facts, k.notes)


def _maps(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    maps = maps[0] if maps.ndim == 4 and len(maps) == 1 else maps
    refuse(maps.shape != shape, f"maps of {shape} as the k-space", f"shape {maps.shape}", "maps")
    if not np.isfinite(maps).all():
        raise Refused("maps: expected finite numbers, got NaN or Inf")
    return maps


def read_maps(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Coil sensitivities [coils, H, W] of k-space of such a shape, from .npy, .npz (`maps`) or .cfl, the first set.

    Raises:
        FileNotFoundError, ValueError: as `read_kspace`, or the maps do not fit.
    """
    file, array = split_member(path)
    with reading(file, "coil sensitivities"):
        with open(file, "rb") as f:
            start = f.read(6)
            f.seek(0)
            if start.startswith(NPY_MAGIC):
                return _maps(as_complex(read_npy(f, file.stat().st_size)), shape)
        if is_npz(file):
            others = ("mask", "centred", *NAMES)
            return _maps(as_complex(from_npz(file, MAPS, "coil sensitivities", array, others)), shape)
        if file.suffix.lower() in bart.SUFFIXES:
            return _maps(bart.by_coil(bart.read_cfl(file)), shape)
        raise ValueError("neither NPY, NPZ nor CFL")


def mask_from_zeros(kspace: np.ndarray) -> np.ndarray:
    """The mask [H, W], bool, of k-space [coils, H, W] that is exactly 0 in all coils where it was not sampled."""
    return (kspace != 0).any(0)


def write_kspace(path: str | Path, k: KSpace) -> None:
    """Writes k-space as .npy (samples alone), .npz, .h5 like fastMRI, or .cfl with its .hdr (samples alone).

    Raises:
        ValueError: another suffix, or k-space that is not centred as .cfl.
        OSError: the file cannot be written.
    """
    name, suffix = shown(path), Path(path).suffix.lower()
    single = k.data[0] if len(k.data) == 1 else k.data
    if suffix == ".cfl":
        if k.centred is False:
            raise ValueError(f"{name}: expected centred k-space for BART, got the zero frequency at (0, 0)")
        ordered = np.moveaxis(k.data, 0, -1)[:, :, None]  # x, y, z, coils
        with atomic(Path(path).with_suffix(".hdr")) as f:
            f.write(bart.header(ordered.shape))
        content = bart.data(ordered)
    elif suffix == ".npy":
        content = array_file(single)
    elif suffix == ".npz":
        content = None
    elif suffix in (".h5", ".hdf5"):
        content = _like_fastmri(k)
    else:
        raise ValueError(f"{name}: expected a name that ends in .npy, .npz, .h5 or .cfl")
    with atomic(path) as f:
        if content is None:
            given = {"kspace": single, "mask": k.mask, "maps": k.maps, "centred": k.centred} | _named(k.facts)
            np.savez(f, allow_pickle=False, **{n: v for n, v in given.items() if v is not None})
        else:
            f.write(content)


def _like_fastmri(k: KSpace) -> bytes:
    datasets = {"kspace": k.data if len(k.data) == 1 else k.data[None]}
    if k.mask is not None:
        datasets["mask"] = k.mask[0] if (k.mask == k.mask[0]).all() else k.mask  # [W], where columns were sampled
    if k.maps is not None:
        datasets["maps"] = k.maps
    return hdf5.stored(datasets, _named(k.facts) | ({} if k.centred is None else {"centred": k.centred}))


def _named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Single numbers and texts among facts, as a file can hold them."""
    taken = {"kspace", "mask", "maps", "centred", "file", "allow_pickle"}
    single = {n: v for n, v in facts.items() if isinstance(v, str | int | float) and n not in taken}
    return {n: encodable(v) if isinstance(v, str) else v for n, v in single.items()}
