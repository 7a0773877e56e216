"""Measurements with all that makes their operator, in one .npz or .safetensors file: what `fastrecon simulate` writes.

A text `fastrecon` holds JSON: problem, size, numbers and texts; every tensor is an array of its own.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastrecon import io
from fastrecon.io import Form, shown
from fastrecon.io.arrays import read_npz
from fastrecon.io.limits import Refused, refuse
from fastrecon.problems.base import PROBLEMS, Measurement, Problem

FORMAT = "fastrecon measurement 1"
O = TypeVar("O")  # noqa: E741
KEY = "fastrecon"  # of the JSON text
FACT = "fact."  # before the names of tensors among the facts
PLAIN = ("problem", "size", "noise", "scale", "window", "notes")


def write(path: str | Path, m: Measurement) -> None:
    """Writes measurements; the file appears complete or not at all. Of their form suffix and type are kept."""
    facts = {k: v for k, v in m.facts.items() if not isinstance(v, Tensor)}
    form = {"suffix": m.form.suffix, "dtype": m.form.dtype}
    text = json.dumps({k: getattr(m, k) for k in PLAIN} | {"format": FORMAT, "facts": facts, "form": form})
    tensors = {"y": m.y} | ({} if m.truth is None else {"truth": m.truth})
    tensors |= {FACT + k: v for k, v in m.facts.items() if isinstance(v, Tensor)}
    tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    with io.atomic(path) as file:
        if Path(path).suffix.lower() == ".safetensors":
            from safetensors.torch import save

            file.write(save(tensors, metadata={KEY: text}))
        else:
            arrays: dict[str, Any] = {k: t.numpy() for k, t in tensors.items()}
            arrays[KEY] = np.array(text)
            np.savez(file, allow_pickle=False, **arrays)


def problem_of(path: Path) -> str | None:
    """The problem that a file of measurements names; None for other files, also for such as cannot be read."""
    try:
        return facts_of(path).get("problem")
    except (OSError, ValueError):
        return None


def facts_of(path: Path) -> dict[str, Any]:
    """Problem, numbers and texts among the facts of a file of measurements; empty for files of other kinds.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged.
    """
    head = _header(path)
    facts = head.get("facts", {})
    return (facts if isinstance(facts, dict) else {}) | {k: head[k] for k in ("problem",) if k in head}


def measured(problem: Problem[O], path: Path, options: O) -> Measurement:
    """The measurements in a file, be it one of `write` or of the kinds that the problem reads.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, of another problem or of another kind.
    """
    found = read(path, problem.name) if path.suffix.lower() in io.MEASUREMENT_SUFFIXES else None
    return problem.read(path, options) if found is None else found


def read(path: Path, problem: str) -> Measurement | None:
    """The measurements that `write` wrote; None where the file is of another kind.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, or its measurements are of another problem.
    """
    head = _header(path)
    if head.get("format") != FORMAT:
        return None
    name = shown(path)
    try:
        refuse(head["problem"] != problem, f"measurements of {problem}", f"those of {head['problem']}")
        tensors = _tensors(path)
        size, window = head["size"], head["window"]
        refuse(not _integers(size, 2), "(height, width)", size, "size")
        refuse(window is not None and not _integers(window, 4), "(top, left, height, width)", window, "window")
        facts = head["facts"] | {k.removeprefix(FACT): t for k, t in tensors.items() if k.startswith(FACT)}
        for key, tensor in tensors.items():
            refuse(not bool(torch.isfinite(tensor).all()), "finite numbers", "NaN or Inf", key)
        return Measurement(
            problem, tensors["y"], tuple(size), facts, head["noise"], float(head["scale"]), tensors.get("truth"),
            None if window is None else tuple(window), Form(**head["form"]), tuple(head["notes"]),
        )  # fmt: skip
    except Refused as e:
        raise ValueError(f"{name}: {e}") from e
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f"{name}: expected measurements, got a damaged file ({io.reason(e)})") from e


def _integers(values: Any, count: int) -> bool:
    fits = isinstance(values, list) and len(values) == count
    return fits and all(isinstance(v, int) and 0 <= v < 2**31 for v in values)


def _header(path: Path) -> dict[str, Any]:
    """The JSON of a file; empty where it has none."""
    path = io.existing(path)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with io.text_name(path) as readable, safe_open(readable, framework="pt") as file:
                text = (file.metadata() or {}).get(KEY)
        elif path.suffix.lower() == ".npz":
            text = read_npz(path, (KEY,)).get(KEY)
        else:
            return {}
        head = json.loads(str(text)) if text is not None else {}
    except Exception as e:  # readers raise whatever a damaged file makes them trip over
        raise ValueError(f"{shown(path)}: expected measurements, got a damaged file ({io.reason(e)})") from e
    known = isinstance(head, dict) and (not head or head.get("problem") in PROBLEMS)
    if not known:
        raise ValueError(f"{shown(path)}: problem: expected one of {', '.join(PROBLEMS)}, got another")
    return head


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load

        return load(path.read_bytes())
    return {k: torch.from_numpy(v) for k, v in read_npz(path, None).items() if k != KEY}
