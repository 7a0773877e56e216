"""Trained networks for SGP and the direct U-Net as files: safetensors with their settings as JSON."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.networks.unet import DirectNet, StepNet

FORMAT = "fastrecon network 1"
METHODS: dict[str, Any] = {"sgp-step": StepNet, "sgp-diag": StepNet, "unet": DirectNet}


def save(path: str | Path, network: StepNet | DirectNet, meta: dict[str, Any]) -> None:
    """Writes a network with `method`, `task` and what else is known; the file appears complete or not at all."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    text = json.dumps(meta | {"format": FORMAT, "settings": network.settings})
    with io.atomic(path) as file:
        file.write(to_bytes(tensors, {"fastrecon": text}))


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network in evaluation mode, on the CPU, and its facts.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is damaged or foreign.
    """
    path = io.existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("fastrecon", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as e:
        raise ValueError(f"load: {path}: expected a network, got a damaged file ({str(e).splitlines()[0]})") from e
    expect(meta.get("format") == FORMAT, "load", str(path), FORMAT, meta.get("format") or "another file")
    try:
        network = METHODS[meta["method"]](**meta.pop("settings"))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as e:
        raise ValueError(f"load: {path}: expected a whole network, got {str(e).splitlines()[0]}") from e
    return network.eval(), meta
