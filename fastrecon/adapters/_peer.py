"""The libraries on the other side: imported where they are needed, in versions that were tried."""

from importlib import import_module, metadata
from typing import Any


def peer(module: str, least: str, below: str, distribution: str = "") -> Any:
    """The module of another library.

    Args:
        module: its name.
        least, below: versions `least` <= v < `below` were tried, as "0.5".
        distribution: its name in the package index, where that differs.

    Raises:
        ModuleNotFoundError: the library is not there.
        ImportError: its version is another, or it does not import.
    """
    where, package = f"adapters.{module}", distribution or module
    expected = f"{package} >= {least}, < {below}"
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError as e:
        raise ModuleNotFoundError(f"{where}: {package}: expected {expected}, got none: pip install {package}") from e
    if not numbers(least) <= numbers(found) < numbers(below):
        age = "too old" if numbers(found) < numbers(least) else "newer than what was tried"
        raise ImportError(f"{where}: {package}: expected {expected}, got {found}, which is {age}")
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as e:  # a missing library of the system, an operator of torchvision
        reason = " ".join(str(e).split())
        raise ImportError(f"{where}: {package}: expected a package that imports, got {reason}") from e


def numbers(version: str) -> tuple[int, ...]:
    """(0, 5, 1) of "0.5.1rc2": the numbers that versions are ordered by."""
    found = []
    for part in version.split("."):
        digits = "".join(c for c in part if c.isdigit()) if part[:1].isdigit() else ""
        if not digits:
            break
        found.append(int(digits if digits == part else digits[: len(part) - len(part.lstrip("0123456789"))] or "0"))
    return tuple(found)
