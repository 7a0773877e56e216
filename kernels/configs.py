"""kernels/configs.py: measured tiles of the convolutions, one JSON file for each model of GPU.

  {"<channels> <dtype> <products> <accumulators>": {"pixels": ..., "depth": ..., "warps": ..., "stages": ...}, ...}
Files that come with the package lie in kernels/configs/ (no GPU has been measured yet); those of `fastrecon tune` lie
in $FASTRECON_CONFIGS, or else in fastrecon/configs of the user's cache, and go first. Where nothing is known about a
GPU the safe defaults of kernels/launch.py serve: nothing is ever measured unasked.
"""

import json
import os
from functools import cache as cached
from pathlib import Path

import torch

SHIPPED = Path(__file__).parent / "configs"
FIELDS = ("pixels", "depth", "warps", "stages")
Config = dict[str, int]


def key(channels: int, dtype: torch.dtype, products: str, pair: bool) -> str:
    """What a configuration is for."""
    return f"{channels} {str(dtype).removeprefix('torch.')} {products} {2 if pair else 1}"


def own_folder() -> Path:
    """Where `fastrecon tune` writes."""
    given, cache = os.environ.get("FASTRECON_CONFIGS"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given) if given else Path(cache).expanduser() / "fastrecon" / "configs"


def file_name(gpu: str) -> str:
    """The name of the file for a model of GPU."""
    return "".join(c if c.isalnum() else "-" for c in gpu) + ".json"


@cached
def of_gpu(gpu: str) -> dict[str, Config]:
    """All configurations known for a model of GPU.

    Raises:
        ValueError: a file is damaged.
    """
    found: dict[str, Config] = {}
    for folder in (SHIPPED, own_folder()):
        path = folder / file_name(gpu)
        if path.is_file():
            try:
                found |= {k: {f: int(c[f]) for f in FIELDS} for k, c in json.loads(path.read_text()).items()}
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                raise ValueError(f"{path}: expected a file by `fastrecon tune`, got a damaged one ({e})") from e
    return found


def lookup(channels: int, dtype: torch.dtype, products: str, pair: bool, device: torch.device) -> Config | None:
    """The configuration measured on this model of GPU, if any."""
    if device.type != "cuda":
        return None
    return of_gpu(torch.cuda.get_device_name(device)).get(key(channels, dtype, products, pair))
