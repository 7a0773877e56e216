"""Trained networks for SGP and the direct U-Net as models."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fastrecon.models import file as model_file
from fastrecon.networks.unet import DirectNet, StepNet

METHODS: dict[str, Any] = {"sgp-step": StepNet, "sgp-diag": StepNet, "unet": DirectNet}


def save(path: str | Path, network: StepNet | DirectNet) -> None:
    """Writes a network whose `meta` names at least `method` and `task`; the file appears complete or not at all."""
    meta = network.meta | {"settings": network.settings}
    model_file.write(path, network.meta["method"], network.state_dict(), meta)


def rebuild(meta: dict[str, Any], tensors: dict[str, Tensor]) -> StepNet | DirectNet:
    """The network of a file's metadata and tensors, in evaluation mode, its facts as `meta`.

    Raises:
        KeyError, TypeError, RuntimeError: something is missing or does not fit.
    """
    network = METHODS[meta["method"]](**meta["settings"])
    network.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))  # made in torch's default dtype
    network.load_state_dict(tensors)
    network.meta = {k: v for k, v in meta.items() if k != "settings"}
    return network.eval()
