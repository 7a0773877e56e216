"""Angles of the views of a scanner."""

import math
import re
from pathlib import Path

import numpy as np

from fastrecon.io.arrays import from_npz, is_npz, read_npy, split_member
from fastrecon.io.decoders import NPY_MAGIC
from fastrecon.io.files import shown
from fastrecon.io.limits import Refused, bounded, refuse
from fastrecon.io.reading import reading

UNITS = ("deg", "rad")
TURN = 2 * math.pi
# spans of angles in radians reach from a limited view to a full turn, in degrees from 30: neither is told between
RADIANS, DEGREES = (1.5, 1.02 * TURN), 30.0
TURNS = 4  # more of them, in radians, are taken for degrees
LONGEST = 2**22  # bytes of a text
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER}):({NUMBER}):(\d{{1,9}})\s*(deg|rad)?\s*")


def read_angles(text: str | Path, unit: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Angles in radians, float64 [views], and notes: of a file, or START:STOP:COUNT with STOP left out (0:180:60).

    Args:
        text: a file (.npy, .npz with `angles` or `theta`, .txt, .csv: numbers, after at most one line of text), or a
            range, whose unit may follow it (0:180:60deg).
        unit: deg or rad; None: told by the span where it is clear: 1.5 to a full turn, radians; 30 and more, degrees.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it has other contents, or the unit is not clear or cannot
            be right; one line says so.
    """
    name = shown(text)
    if unit not in (None, *UNITS):
        raise ValueError(f"angles: expected the unit deg or rad, got {unit!r}")
    if found := RANGE.fullmatch(str(text)):
        start, stop, count, own = float(found[1]), float(found[2]), int(found[3]), found[4]
        if own and unit and own != unit:
            raise ValueError(f"angles: {name}: expected one unit, got {own} and {unit}")
        try:
            refuse(not math.isfinite(start - stop), "finite angles", f"{start:g} and {stop:g}")
            bounded(count, what="angles")
            return _radians(np.linspace(start, stop, count, endpoint=False), abs(stop - start), own or unit)
        except Refused as e:
            raise ValueError(f"angles: {name}: {e}") from e
    if str(text).count(":") == 2 and not Path(text).exists():
        raise ValueError(f"angles: expected a file or START:STOP:COUNT, got {name!r}")
    file, array = split_member(text)
    with reading(file, "angles"):
        a = _values(file, array)
        refuse(a.dtype.kind not in "iuf", "real angles", a.dtype.name)
        refuse(a.size == 0 or a.size != max(a.shape, default=1), "one angle for each view", f"shape {a.shape}")
        a = a.astype(np.float64).ravel()
        if not np.isfinite(a).all():
            raise Refused("expected finite angles, got NaN or Inf")
        return _radians(a, float(np.ptp(a)) * len(a) / max(len(a) - 1, 1), unit)


def _values(path: Path, array: str | None) -> np.ndarray:
    if is_npz(path):
        return from_npz(path, ("angles", "theta"), "angles", array)
    with open(path, "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(NPY_MAGIC):
            return read_npy(file, path.stat().st_size)
        data = file.read(LONGEST + 1)
    refuse(len(data) > LONGEST, f"a text of at most {LONGEST} bytes", "more")
    return _numbers(data.decode("utf-8-sig"))


def _numbers(text: str) -> np.ndarray:
    """[rows, columns] of a text, or [n] where rows differ."""
    lines = [line.partition("#")[0].replace(",", " ").replace(";", " ").split() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and not all(re.fullmatch(NUMBER, word) for word in lines[0]):
        lines = lines[1:]  # the name of the column
    for line in lines:
        for word in line:
            if not re.fullmatch(NUMBER, word):
                raise Refused(f"expected numbers, got {shown(word)[:40]!r}")
    lengths = {len(line) for line in lines}
    rows = [[float(word) for word in line] for line in lines]
    return np.array(rows if len(lengths) == 1 else [number for row in rows for number in row], np.float64)


def _radians(a: np.ndarray, span: float, unit: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Angles in radians; `span` is what the views cover, the step after the last among it."""
    notes: tuple[str, ...] = ()
    if unit is None:
        degrees, radians = span >= DEGREES, RADIANS[0] <= span <= RADIANS[1]
        refuse(not (degrees or radians), "the unit of the angles, deg or rad", f"none, and a span of {span:.4g}")
        unit = "deg" if degrees else "rad"
        notes = (f"angles span {span:.4g}: taken as {'degrees' if degrees else 'radians'}",)
    elif unit == "rad":
        refuse(span > TURNS * TURN, f"angles in radians within {TURNS} turns", f"a span of {span:.4g}: degrees?")
    else:
        suspect = len(a) > 1 and span <= RADIANS[1]  # whoever means so few degrees can say so in radians
        refuse(suspect, "angles in degrees", f"a span of {span:.4g}: radians?")
    return (np.deg2rad(a) if unit == "deg" else a), notes
