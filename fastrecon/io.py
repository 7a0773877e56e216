"""Files in and out: grey images on [0, 1], measurements, reports. Every failure is one line that names the file.

Nothing is half-written: each file is made under a temporary name in its folder and renamed once it is complete.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".pgm", ".npy")
MEASUREMENT_SUFFIXES = (".npz", ".safetensors")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, full range

_FULL_SCALE = {"bool": 1, "uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


@dataclass(frozen=True)
class GreyImage:
    """pixels [H, W] float32 on the [0, 1] scale, the path they came from, and what was converted on the way."""

    pixels: np.ndarray
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurements:
    """y [rows, cols, m] of one image of `size` (H, W), None where unknown, and facts about their making.

    Facts in use: `model` (name or path), `operator` (fingerprint of A), `ratio`, `noise` (its deviation), `source`.
    """

    y: np.ndarray
    size: tuple[int, int] | None
    facts: dict[str, Any]


def existing(path: str | Path) -> Path:
    """`path` if it is a file with contents.

    Raises:
        FileNotFoundError, ValueError: it is missing, a folder, or empty.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    return path


def expand(inputs: Iterable[str | Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files that `inputs` name: files as they are, and of each folder those with a known suffix, sorted.

    Raises:
        FileNotFoundError, ValueError: an input is missing or empty, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if not path.is_dir():
            files.append(existing(path))
            continue
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
        if not found:
            raise ValueError(f"{path}: expected a folder with files of type {', '.join(suffixes)}, found none")
        files += found
    return files


def output_folder(path: str | Path) -> Path:
    """`path` as a folder that exists and can be written to, created if necessary.

    Raises:
        ValueError: it cannot be created or written to.
    """
    path = Path(path)
    probe = path / f".fastrecon-{os.getpid()}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()  # permission bits do not tell: root, read-only mounts, full quotas
        probe.unlink()
    except OSError as e:
        raise ValueError(f"{path}: expected a writable output folder ({e.strerror or e})") from e
    return path


def output_file(path: str | Path) -> Path:
    """`path` as a file that can be written, its folder created if necessary: to be asked before long work.

    Raises:
        ValueError: it is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected the name of a file to write, got a folder")
    output_folder(path.parent)
    return path


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends, and vanishes if the block raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_image(path: str | Path) -> GreyImage:
    """Reads PNG, TIFF, JPEG, BMP, PGM (1, 8, 16 bits; float TIFF) or .npy as a grey image on [0, 1].

    Integers are divided by their full scale. Colour becomes BT.601 luma, palettes are looked up, an opaque alpha
    channel is dropped; `notes` says so. Floats are taken as they are: on the [0, 1] scale, overshoot allowed.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty, damaged, or not one such image.
    """
    path = existing(path)
    notes: list[str] = []
    try:
        array = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _decode(path, notes)
    except Exception as e:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"{path}: expected a readable image, got a damaged or unknown file ({_line(e)})") from e
    try:
        return GreyImage(_grey(np.asarray(array), notes), path, tuple(notes))
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def _line(e: BaseException) -> str:
    return " ".join(str(e).split()) or type(e).__name__


def _decode(path: Path, notes: list[str]) -> np.ndarray:
    from PIL import Image, ImageOps

    if path.suffix.lower() in (".tif", ".tiff") and (array := _decode_deep_tiff(path)) is not None:
        return array
    with Image.open(path, formats=("PNG", "TIFF", "JPEG", "BMP", "PPM")) as im:
        if getattr(im, "n_frames", 1) > 1:
            raise ValueError(f"{getattr(im, 'n_frames', 1)} frames, expected one image")
        if im.format == "PNG" and im.mode.startswith("RGB") and "16" in str(im.tile[0][3]):
            notes.append("16-bit colour PNG read at 8 bits per channel")
        is_png = im.format == "PNG"
        im = ImageOps.exif_transpose(im)
        if im.mode in ("P", "PA"):
            im = im.convert("RGBA" if im.mode == "PA" or "transparency" in im.info else "RGB")
            notes.append("palette looked up")
        elif im.mode not in ("1", "L", "LA", "RGB", "RGBA", "F", "I") and not im.mode.startswith("I;16"):
            notes.append(f"{im.mode} converted to RGB")
            im = im.convert("RGB")
        array = np.asarray(im)
    # older Pillow opens 16-bit grey PNGs as 32-bit integers
    return array.astype(np.uint16) if is_png and array.dtype == np.int32 else array


def _decode_deep_tiff(path: Path) -> np.ndarray | None:
    """The pixels of a TIFF that Pillow reads with loss or not at all (deep colour, double floats), else None."""
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        if len(tiff.pages) > 1:
            raise ValueError(f"{len(tiff.pages)} pages, expected one image")
        page = tiff.pages.first
        kind, deep = np.dtype(page.dtype).name, page.samplesperpixel > 1
        if kind in ("bool", "uint8") or (kind in ("uint16", "float32") and not deep):
            return None
        array = page.asarray()
        return np.moveaxis(array, 0, -1) if deep and page.planarconfig == 2 else array


def _grey(a: np.ndarray, notes: list[str]) -> np.ndarray:
    """[H, W] float32 from [H, W] or [H, W, C], C in 1..4 as grey, grey + alpha, RGB, RGB + alpha."""
    kind = a.dtype.name
    if kind not in _FULL_SCALE:
        raise ValueError(f"expected 1, 8 or 16-bit unsigned or floating-point pixels, got {kind}")
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] not in (1, 2, 3, 4)) or a.size == 0:
        raise ValueError(f"expected a non-empty image [H, W] or [H, W, channels], got shape {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError("expected finite pixels, got NaN or Inf")
    full = _FULL_SCALE[kind]
    if a.ndim == 3 and a.shape[2] in (2, 4):
        if a[..., -1].min() < full:
            raise ValueError("expected an opaque image, got transparent pixels: flatten it on a background first")
        notes.append("opaque alpha channel dropped")
        a = a[..., :-1]
    if a.ndim == 3 and (a == a[..., :1]).all():
        notes.extend(["equal colour channels read as grey"] if a.shape[2] == 3 else [])
        a = a[..., 0]
    elif a.ndim == 3:
        notes.append("RGB converted to grey (BT.601 luma)")
        a = a.astype(np.float64) @ np.array(LUMA)
    grey = (a.astype(np.float64) / full).astype(np.float32)
    if grey.min() < -1 or grey.max() > 2:  # far outside: another scale, not overshoot
        raise ValueError(
            f"expected floating-point pixels on the [0, 1] scale, got [{grey.min():.3g}, {grey.max():.3g}]"
        )
    return grey


def write_image(path: str | Path, pixels: np.ndarray, bits: int = 8) -> None:
    """Writes [H, W] on the [0, 1] scale: 8 or 16 bits clipped and rounded (PNG, TIFF), or 32 as float32 (TIFF)."""
    from PIL import Image

    if bits == 32:
        im = Image.fromarray(pixels.astype(np.float32))
    else:
        kind = {8: np.uint8, 16: np.uint16}[bits]
        im = Image.fromarray((pixels.astype(np.float64).clip(0, 1) * (2**bits - 1)).round().astype(kind))
    with atomic(path) as f:
        im.save(f, format="TIFF" if Path(path).suffix.lower() in (".tif", ".tiff") else "PNG")


def write_measurements(path: str | Path, m: Measurements) -> None:
    """Writes measurements as .npz, or as .safetensors where `path` says so."""
    facts: dict[str, Any] = {k: str(v) for k, v in m.facts.items()}
    tensors: dict[str, Any] = {"y": np.ascontiguousarray(m.y)}
    if m.size is not None:
        tensors["size"] = np.array(m.size, np.int64)
    with atomic(path) as f:
        if Path(path).suffix == ".safetensors":
            from safetensors.numpy import save

            f.write(save(tensors, metadata=facts))
        else:
            np.savez(f, **(tensors | facts))


def read_measurements(path: str | Path) -> Measurements:
    """Reads .npz or .safetensors: `y` [rows, cols, m] or [1, rows, cols, m] and, if known, `size` (H, W) and facts.

    Raises:
        FileNotFoundError, ValueError: the file is missing, empty or damaged, or `y` or `size` is not as expected.
    """
    path = existing(path)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as f:
                contents: dict[str, Any] = dict(f.metadata() or {}) | {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        else:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as f:
                contents = dict(f.items())
    except Exception as e:  # as in read_image
        raise ValueError(f"{path}: expected measurements, got a damaged or unknown file ({_line(e)})") from e
    if "y" not in contents:
        raise ValueError(f"{path}: expected an array y [rows, cols, m], found only {sorted(contents) or 'nothing'}")
    y, size = np.asarray(contents.pop("y")), contents.pop("size", None)
    if y.ndim == 4 and y.shape[0] == 1:
        y = y[0]
    if y.ndim != 3 or y.size == 0 or y.dtype.name not in ("float32", "float64"):
        raise ValueError(f"{path}: y: expected float32 or float64 [rows, cols, m], got {y.dtype.name} {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError(f"{path}: y: expected finite measurements, got NaN or Inf")
    facts = {k: v.item() if isinstance(v, np.ndarray) and v.ndim == 0 else v for k, v in contents.items()}
    if size is None:
        return Measurements(y, None, facts)
    size = np.asarray(size)
    if size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1:
        raise ValueError(f"{path}: size: expected (height, width), got {size.tolist()}")
    return Measurements(y, (int(size[0]), int(size[1])), facts)


def finite(value: Any) -> Any:
    """`value` with every NaN and Inf replaced by None, which JSON can say, and paths by their names."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as JSON, numbers that JSON cannot say as null."""
    with atomic(path) as f:
        f.write((json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows with the same keys as CSV."""
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as f:
        f.write(text.getvalue().encode())


def write_figure(path: str | Path, figure: Any, dpi: int = 150) -> None:
    """Writes a matplotlib Figure as PNG."""
    with atomic(path) as f:
        figure.savefig(f, format="png", dpi=dpi)
