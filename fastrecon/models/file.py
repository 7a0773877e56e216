"""Model files: safetensors with the settings and facts of the model as JSON. One reader, one writer."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from fastrecon import io
from fastrecon.checks import expect

FORMAT = 1


def write(path: str | Path, method: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes a model of a `method` that `models.load` knows; the file appears complete or not at all."""
    text = json.dumps(meta | {"format": FORMAT, "method": method})
    data = to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"fastrecon": text})
    with io.atomic(path) as file:
        file.write(data)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata, `method` among them, and tensors on the CPU.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged or foreign, or holds NaN or Inf.
    """
    io.existing(path)
    name = io.shown(path)
    try:
        with io.text_name(path) as readable, safe_open(readable, framework="pt") as file:
            text = (file.metadata() or {}).get("fastrecon")
            # copies start on 64 bytes, where vendor products round as they did before saving
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
    except Exception as e:  # readers raise whatever a damaged file makes them trip over
        raise ValueError(f"load: {name}: expected a model file, got a damaged or foreign one ({io.reason(e)})") from e
    expect(text is not None, "load", name, "a model file", "a safetensors file of another program")
    try:
        meta = json.loads(text or "")
    except (ValueError, RecursionError) as e:
        raise ValueError(f"load: {name}: expected JSON as metadata, got none ({io.reason(e)})") from e
    expect(isinstance(meta, dict), "load", name, "a JSON object as metadata", type(meta).__name__)
    expect(meta.get("format") == FORMAT, "load", name, f"format {FORMAT}", f"{meta.get('format')}")
    expect(isinstance(meta.get("method"), str), "load", name, "the name of a method", f"{meta.get('method')}")
    for key, tensor in tensors.items():
        finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        expect(finite, "load", f"{name}: {io.shown(key)}", "finite numbers", "NaN or Inf")
    return {k: v for k, v in meta.items() if k != "format"}, tensors
