"""`fastrecon info`: versions, devices, backends, shipped models."""

import argparse
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

import fastrecon
from fastrecon import models, registry
from fastrecon.cli.arguments import add_json, answer, facts

EPILOG = """examples:
  fastrecon info
  fastrecon info --json
  FASTRECON_BACKEND=reference fastrecon info"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """--json."""
    parser.epilog = EPILOG
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Prints them."""
    found = information()
    rows = [
        (k, ", ".join(v) if isinstance(v, list) else str(v))
        for k, v in found.items()
        if v and k not in ("backends", "models")
    ]
    ops = [(op, "; ".join(f"{d}: {how}" for d, how in table.items())) for op, table in found["backends"].items()]
    shipped = [(name, _describe(meta)) for name, meta in found["models"].items()] or [("none", "")]
    sections = [facts(rows), "backends\n" + _indent(facts(ops)), "shipped models\n" + _indent(facts(shipped))]
    answer(args, found, "\n\n".join(sections))


def information() -> dict[str, Any]:
    """All of it, ready for JSON."""
    extension = registry.extension()
    build = extension.build_info() if extension is not None else {}
    return {
        "fastrecon": fastrecon.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "devices": ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))],
        "threads": torch.get_num_threads(),
        "instruction set": build.get("isa", "the compiled extension is missing"),
        "forced": [f"{k}={os.environ[k]}" for k in ("FASTRECON_BACKEND", "FASTRECON_ISA") if k in os.environ],
        "backends": registry.backends(),
        "models": {name: _facts(models.load(name)) for name in models.pretrained()},
    }


def _facts(model: models.Model) -> dict[str, Any]:
    return {"method": model.method, "problem": model.problem} | model.meta


def _describe(meta: dict[str, Any]) -> str:
    known = (f"{key} {meta[key]}" for key in ("method", "problem", "ratio") if key in meta)
    return ", ".join(known)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
