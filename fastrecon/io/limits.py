"""What readers refuse by name: files that promise too much, and kinds of contents that have no one right reading."""

import os

MAX_PIXELS = 2**26  # 8192 x 8192: in float32 256 MiB


class Refused(ValueError):
    """Contents that are sound but not what is read here; every other exception of a decoder means damage."""


class TooLarge(Refused):
    """More pixels or numbers than are read: `bounded` raises it."""


def refuse(condition: bool, expected: str, got: object, entry: str = "") -> None:
    """Raises Refused "expected ..., got ..." if `condition` holds, of an `entry` of the file if one is named."""
    if condition:
        raise Refused((entry and f"{entry}: ") + f"expected {expected}, got {got}")


def max_pixels() -> int:
    """Most pixels, or numbers of an array, that a file may hold: FASTRECON_MAX_PIXELS, else 2^26 (8192 x 8192).

    Raises:
        ValueError: FASTRECON_MAX_PIXELS is no whole number > 0.
    """
    text = os.environ.get("FASTRECON_MAX_PIXELS") or str(MAX_PIXELS)
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text) > 0):
        raise Refused(f"expected FASTRECON_MAX_PIXELS to be a whole number > 0, got {text!r}")
    return int(text)


def bounded(*shape: int, what: str = "pixels", entry: str = "") -> None:
    """Refuses a size that a header promises, before anything of that size is made.

    Raises:
        Refused: it has no elements.
        TooLarge: it has more than `max_pixels()`.
    """
    count = 1
    for n in shape:
        count *= n
    size = " x ".join(map(str, shape))
    refuse(count < 1 or min(shape, default=1) < 1, f"at least 1 x 1 {what}", f"{size} (shape {tuple(shape)})", entry)
    if count > (most := max_pixels()):
        expected = f"expected at most {most} {what} (set FASTRECON_MAX_PIXELS for more), got {size}"
        raise TooLarge((entry and f"{entry}: ") + expected)


def chosen(count: int, slice: int | None, entry: str = "") -> int:
    """The number of the slice to be read, of `count`.

    Raises:
        Refused: there are several and none is chosen, or there is no such slice.
    """
    choose = "slice to be 0" if count == 1 else f"slice to be one of 0 to {count - 1}"
    refuse(slice is None and count > 1, choose, f"none chosen of {count} slices", entry)
    refuse(slice is not None and slice not in range(count), choose, slice, entry)
    return slice or 0
