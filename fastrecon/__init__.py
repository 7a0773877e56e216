"""fastrecon: the fast engine for learned image reconstruction that provably converges."""

# guard comes first: run as a program, an interruption of the imports below is one line and no traceback
from fastrecon import startup

startup.guard()

with startup.without_collection():
    from importlib import import_module
    from importlib.metadata import version
    from typing import TYPE_CHECKING, Any

    from fastrecon import (
        adapters,
        masks,
        metrics,
        models,
        modules,
        nn,
        operators,
        ops,
        problems,
        solvers,
        terms,
    )
    from fastrecon.certificates import Result
    from fastrecon.engine import Engine
    from fastrecon.models import load, pretrained
    from fastrecon.reconstruction import reconstruct
    from fastrecon.registry import backends
    from fastrecon.sequential import from_sequential

if TYPE_CHECKING:
    from fastrecon import serving

__version__ = version("fastrecon")


def __getattr__(name: str) -> Any:
    if name == "serving":  # imported when it is first asked for: few need it
        return import_module("fastrecon.serving")
    raise AttributeError(f"module 'fastrecon' has no attribute {name!r}")


__all__ = [
    "Engine",
    "Result",
    "__version__",
    "adapters",
    "backends",
    "from_sequential",
    "load",
    "masks",
    "metrics",
    "models",
    "modules",
    "nn",
    "operators",
    "ops",
    "pretrained",
    "problems",
    "reconstruct",
    "serving",
    "solvers",
    "terms",
]
