"""fastrecon under the code of other libraries: one module for each, imported when it is first asked for."""

from importlib import import_module
from types import ModuleType

MODULES = ("astra", "deepinv", "pylops", "pywt", "sigpy", "skimage")


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: expected one of {', '.join(MODULES)}")


def __dir__() -> list[str]:
    return [*globals(), *MODULES]
