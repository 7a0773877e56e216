"""Set-up of all benches: exact products; what torch.compile says about itself is no error here."""

from pathlib import Path

import pytest
import torch

torch.backends.cudnn.allow_tf32 = False  # allowed by default: eager convolutions would have three digits in "float32"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets torch's own deprecations and its fallback for complex numbers pass."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"))
            item.add_marker(
                pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation:UserWarning")
            )
