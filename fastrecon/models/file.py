"""Model files: safetensors, with the settings and facts of the model as JSON. One layout, one reader, one writer."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect

FORMAT = 2
EVALUATED = "evaluated."  # before names of tensors for programs without torch, which follow from others: not read here
# format 1 named problems otherwise, and LDA's settings lay flat between its facts
TASKS = {
    "cs": "block-cs", "fourier": "mri", "salt-and-pepper": "impulse", "saltpepper": "impulse",
    "synthetic": "sparse-coding",
}  # fmt: skip
FLAT = (
    "phases", "channels", "layers", "delta", "final_activation", "sigma", "gamma", "eps_mode", "safeguard", "block",
    "blockwise", "phi_sample",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a model file says beside its tensors.

    Attributes:
        method: name of the method, by which `models.load` finds the model's family.
        problem: name of the problem that the model solves; "" where its family says that.
        name: of the model.
        hyperparameters: what its parts are made with.
        operator: facts of the measurements, such as `ratio` and `phi_seed`.
        training: facts of the training.
    """

    method: str
    problem: str = ""
    name: str = ""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    operator: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def meta(self) -> dict[str, Any]:
        """The facts that a model keeps: `name`, `training`, and those of the operator."""
        named = {"name": self.name, "training": self.training}
        return self.operator | {k: v for k, v in named.items() if v}


def header(method: str, problem: str, hyperparameters: dict[str, Any], meta: Mapping[str, Any]) -> Header:
    """The header of a model with these facts."""
    own = {k: v for k, v in meta.items() if k not in ("name", "training")}
    return Header(method, problem, meta.get("name", ""), hyperparameters, own, meta.get("training", {}))


def write(path: str | Path, head: Header, tensors: Mapping[str, Tensor]) -> None:
    """Writes a model; the file appears complete or not at all. Of names that share a tensor it has the first."""
    text, once = json.dumps({"format": FORMAT} | asdict(head)), {}
    for name, t in tensors.items():
        once.setdefault((t.data_ptr(), t.shape, t.stride()) if t.numel() else name, (name, t))
    data = to_bytes({k: v.detach().cpu().contiguous() for k, v in once.values()}, {"fastrecon": text})
    with io.atomic(path) as file:
        file.write(data)


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors, on the CPU.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged or foreign, or holds NaN or Inf.
    """
    meta, tensors = _contents(path)
    for key, tensor in tensors.items():
        finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        expect(finite, "load", f"{io.shown(path)}: {io.shown(key)}", "finite numbers", "NaN or Inf")
    return _header(meta, io.shown(path)), tensors


def read_header(path: Path) -> Header:
    """The header alone. Raises as `read`."""
    return _header(_contents(path, whole=False)[0], io.shown(path))


def _header(meta: dict[str, Any], name: str) -> Header:
    """The header that metadata are, of either format."""
    known = meta.get("format") in (1, FORMAT)
    expect(known, "load", name, f"format 1 or {FORMAT}", f"{meta.get('format')}")
    expect(isinstance(meta.get("method"), str), "load", name, "the name of a method", f"{meta.get('method')}")
    if meta["format"] == 1:
        meta = _upgraded(meta)
    found = {}
    for part in fields(Header):
        value = meta.get(part.name, {} if part.default_factory is dict else "")
        kind = dict if part.default_factory is dict else str
        what = {dict: "a JSON object", str: "a text"}[kind]
        expect(isinstance(value, kind), "load", f"{name}: {part.name}", what, type(value).__name__)
        found[part.name] = value
    return Header(**found)


def _contents(path: Path, whole: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON object of a file, and if `whole` its tensors."""
    io.existing(path)
    name = io.shown(path)
    try:
        with io.text_name(path) as readable, safe_open(readable, framework="pt") as file:
            text = (file.metadata() or {}).get("fastrecon")
            # copies start on 64 bytes, where vendor products round as they did before saving
            tensors = {
                k: file.get_tensor(k).clone() for k in (file.keys() if whole else ()) if not k.startswith(EVALUATED)
            }
    except Exception as e:  # readers raise whatever a damaged file makes them trip over
        raise ValueError(f"load: {name}: expected a model file, got a damaged or foreign one ({io.reason(e)})") from e
    expect(text is not None, "load", name, "a model file", "a safetensors file of another program")
    try:
        meta = json.loads(text or "")
    except (ValueError, RecursionError) as e:
        raise ValueError(f"load: {name}: expected JSON as metadata, got none ({io.reason(e)})") from e
    expect(isinstance(meta, dict), "load", name, "a JSON object as metadata", type(meta).__name__)
    return meta, tensors


def _upgraded(meta: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a file of format 1, laid out as today."""
    facts = {k: v for k, v in meta.items() if k not in ("format", "method")}
    task = facts.pop("task", "")
    settings = [facts.pop(k) for k in ("hyperparameters", "settings") if k in facts]
    known = settings[0] if settings else {k: facts.pop(k) for k in FLAT if k in facts}
    named = {k: facts.pop(k) for k in ("name", "training") if k in facts}
    if isinstance(known, dict):  # D-LADMM told its lam twice
        facts = {k: v for k, v in facts.items() if k not in known}
    problem = TASKS.get(task, task) if isinstance(task, str) else task
    return named | {"method": meta["method"], "problem": problem, "hyperparameters": known, "operator": facts}
