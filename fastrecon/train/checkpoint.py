"""Checkpoints as safetensors: nested state with its tensors by name and the rest as JSON. Nothing is unpickled.

A SHA-256 of the whole file stands in its header, computed with zeros in its place: no changed byte goes unnoticed. The
checkpoint before the last is kept, and a new one takes its name only once it is on the disk.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from fastrecon import io
from fastrecon.io import reason

NAME, PREVIOUS, DAMAGED = (f"checkpoint{middle}.safetensors" for middle in ("", ".prev", ".damaged"))
FORMAT = "fastrecon checkpoint 2"
OLDER = "fastrecon checkpoint 1"  # without a checksum
BLANK = 64 * b"0"
FIELD = b'"sha256":"'  # in other strings of the header the quotes are escaped


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


def save(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Writes nested dicts and lists of tensors, numbers, strings, None; the old file stays until the new is whole.

    Args:
        path: of the file.
        state: what to write.
        previous: the name that the old file has afterwards; None: it is gone.

    Raises:
        OSError: one line that names the file; the old file is as it was.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, "", tensors))
    data = bytearray(to_bytes(tensors, metadata={"format": FORMAT, "sha256": BLANK.decode(), "tree": tree}))
    place = data.index(FIELD) + len(FIELD)
    data[place : place + len(BLANK)] = hashlib.sha256(data).hexdigest().encode()
    try:
        with io.atomic(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave the new name with no contents
            if previous is not None and path.exists():
                _second_name(path, previous)
    except OSError as error:
        raise OSError(f"train: {path}: cannot be written ({reason(error)})") from error


def _second_name(path: Path, previous: Path) -> None:
    """Gives a file another name too, so that at no moment there is none."""
    temporary = previous.with_name(f".{previous.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
        os.replace(temporary, previous)
    except PermissionError:  # file systems without hard links
        os.replace(path, previous)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or not a checkpoint.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise FileNotFoundError(f"train: resume: expected a checkpoint at {str(path)!r}, got none")
    try:
        state = _read(path.read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"train: resume: expected a whole {FORMAT!r} in {str(path)!r}, got {reason}") from None
    return state


def _read(data: bytes) -> dict[str, Any]:
    from safetensors.torch import load as from_bytes

    end = 8 + int.from_bytes(data[:8], "little")
    if not 8 < end <= len(data):
        raise ValueError(f"{len(data)} bytes that end before the header does")
    try:
        metadata = json.loads(data[8:end])["__metadata__"]
        kind = metadata.get("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("a damaged header") from None
    if kind != FORMAT and (kind != OLDER or "sha256" in metadata):
        raise ValueError(f"format {kind!r}")
    if kind == FORMAT:
        place, view = data.find(FIELD, 8, end) + len(FIELD), memoryview(data)
        found = hashlib.sha256(view[:place])
        found.update(BLANK)
        found.update(view[place + len(BLANK) :])
        if found.hexdigest().encode() != data[place : place + len(BLANK)]:
            raise ValueError("other contents than its checksum (SHA-256) says")
    state = _unpack(json.loads(metadata["tree"]), from_bytes(data))
    if not isinstance(state, dict):
        raise ValueError("no table of names")
    return state


def latest(folder: Path) -> tuple[dict[str, Any], Path, str]:
    """The checkpoint of a run, or the one before if that is missing or damaged: state, its file, what was wrong.

    Raises:
        FileNotFoundError, ValueError: neither can be read.
    """
    path, before = folder / NAME, folder / PREVIOUS
    try:
        return load(path), path, ""
    except (FileNotFoundError, ValueError) as error:
        if not before.is_file():
            raise
        try:
            return load(before), before, str(error)
        except ValueError as second:
            raise ValueError(f"{error}; {second}") from None


def need(path: Path, state: dict[str, Any], keys: dict[str, type | tuple[type, ...]]) -> None:
    """Raises ValueError naming the file and the first of `keys` that `state` lacks or has of another kind."""
    for key, kind in keys.items():
        if not isinstance(state.get(key), kind):
            got = type(state[key]).__name__ if key in state else "none"
            raise ValueError(f"train: resume: {str(path)!r}: expected the key {key!r} of a run's checkpoint, got {got}")
