"""A model and its card: two files that belong together."""

import os
from collections.abc import Callable
from pathlib import Path

from fastrecon import io, models


def write_pair(weights: Path, save: Callable[[Path], object], card: Path, text: str) -> None:
    """Writes the weights with `save`, and the card: both files are whole before the first takes its name.

    A crash between the two names leaves new weights with an old card, which `mend` finds.
    """
    with io.atomic(card) as file:
        file.write(_bytes(text))
        file.flush()
        os.fsync(file.fileno())
        save(weights)


def mend(weights: Path, card: Path) -> bool:
    """Writes the card anew unless it is that of the weights; false if they cannot be read."""
    try:
        text = models.load(weights).card()
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError):
        return False
    if not card.is_file() or card.read_bytes() != _bytes(text):
        with io.atomic(card) as file:
            file.write(_bytes(text))
    return True


def _bytes(text: str) -> bytes:
    """UTF-8; names of folders that are not are written as escapes."""
    return text.encode(errors="backslashreplace")
