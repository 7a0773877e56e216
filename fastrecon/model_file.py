"""Model files: safetensors with the settings and facts of the model as JSON. One reader, one writer."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
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
        ValueError: the file is damaged or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fastrecon")
            # copies start on 64 bytes, where vendor products round as they did before saving
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise ValueError(f"load: {path}: expected a model file, got a damaged or foreign one ({e})") from e
    expect(text is not None, "load", str(path), "a model file", "a safetensors file of another program")
    meta = json.loads(text or "")
    expect(meta.get("format") == FORMAT, "load", str(path), f"format {FORMAT}", f"{meta.get('format')}")
    return {k: v for k, v in meta.items() if k != "format"}, tensors
