"""What all readers share: one line for every failure, and packages that only some formats need."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from fastrecon.io.files import existing, reason, shown
from fastrecon.io.limits import Refused


@contextlib.contextmanager
def reading(path: str | Path, what: str) -> Iterator[Path]:
    """The existing file `path`; whatever goes wrong in the block becomes one line: its name and `what` was expected.

    Raises:
        FileNotFoundError, ValueError: as said.
    """
    path = existing(path)
    try:
        yield path
    except Refused as e:
        raise ValueError(f"{shown(path)}: {e}") from e
    except FileNotFoundError as e:
        if e.errno is not None:
            raise ValueError(f"{shown(path)}: expected a readable file ({reason(e)})") from e
        raise  # of a second file, with its name
    except MemoryError as e:
        raise ValueError(f"{shown(path)}: expected {what} that fits into memory ({reason(e)})") from e
    except Exception as e:  # decoders raise whatever a damaged file makes them trip over
        if isinstance(e, OSError) and e.errno is not None:
            raise ValueError(f"{shown(path)}: expected a readable file ({reason(e)})") from e
        text = f"expected {what}, got a damaged or unknown file ({reason(e)})"
        raise ValueError(f"{shown(path)}: {text}") from e


def package(name: str, extra: str, what: str) -> ModuleType:
    """The module of a package of an `extra`, which `what` needs.

    Raises:
        Refused: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        missing = f"no package {name}: pip install 'fastrecon[{extra}]'"
        raise Refused(f"expected {name} to be installed for {what}, got {missing}") from e
