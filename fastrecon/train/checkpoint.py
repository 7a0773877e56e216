"""Checkpoints as safetensors: nested state with its tensors by name and the rest as JSON. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from fastrecon import io

FORMAT = "fastrecon checkpoint 1"


def _pack(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`node` as JSON; its tensors go into `tensors`."""
    if isinstance(node, Tensor):
        tensors[name] = node.detach().cpu().clone().contiguous()  # safetensors refuses views that share memory
        return {"tensor": name}
    if isinstance(node, dict):
        return {"dict": [[k, _pack(v, f"{name}/{k}", tensors)] for k, v in node.items()]}  # keys stay int or str
    if isinstance(node, list | tuple):
        return [_pack(v, f"{name}/{i}", tensors) for i, v in enumerate(node)]
    return node


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(v, tensors) for v in node]
    if not isinstance(node, dict):
        return node
    return tensors[node["tensor"]] if "tensor" in node else {k: _unpack(v, tensors) for k, v in node["dict"]}


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes nested dicts and lists of tensors, numbers, strings, None; the old file stays until the new is whole."""
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, "", tensors))
    with io.atomic(path) as file:
        file.write(to_bytes(tensors, metadata={"format": FORMAT, "tree": tree}))


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"train: resume: expected a checkpoint at {str(path)!r}, got none")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"format {metadata.get('format')!r}")
            return _unpack(json.loads(metadata["tree"]), {k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"train: resume: expected a whole {FORMAT!r} in {str(path)!r}, got {reason}") from None
