"""Other libraries in tests: they are optional, and skipped with the reason why they are not there."""

import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_schemas: list[Any] = []


def deepinv() -> Any:
    """deepinv, or a skip. torchvision's compiled operators, which its wheel has for CUDA alone, are not needed: their
    schemas are."""
    if util.find_spec("deepinv") is None or util.find_spec("torchvision") is None:
        pytest.skip("needs deepinv 0.5 and torchvision, which are optional", allow_module_level=True)
    schemas()
    import deepinv as found

    return found


def schemas() -> None:
    """Declares what torchvision looks up when it is imported, unless its own library is there."""
    if not _schemas and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}{NMS}")
        _schemas.append(library)  # a library that is collected takes its schemas with it


def own_tests(folder: Path, module: str, changes: dict[str, str], appended: str, *options: str) -> str:
    """The output of deepinv's own tests `module` in `folder`, their text changed, in a process of their own.

    Args:
        folder: empty; where they run.
        module: test_physics, ...
        changes: what of the text becomes what, everywhere; each must be there.
        appended: Python after it.
        options: of pytest.
    """
    spec = util.find_spec("deepinv")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    tests = Path(spec.submodule_search_locations[0]) / "tests"
    if not (tests / f"{module}.py").is_file():
        pytest.skip("this deepinv comes without its tests")
    text = (tests / f"{module}.py").read_text()
    for old, new in changes.items():
        assert old in text, f"deepinv's {module} has changed: {old!r}"
        text = text.replace(old, new)
    (folder / f"{module}.py").write_text(f"{text}\n\n{appended}\n")
    (folder / "dummy.py").write_text((tests / "dummy.py").read_text())
    here = str(Path(__file__).parent)
    conftest = f"import sys\nsys.path.insert(0, {here!r})\nimport peers\npeers.schemas()\n"
    start, future, rest = (tests / "conftest.py").read_text().partition("from __future__ import annotations\n")
    (folder / "conftest.py").write_text(f"{start}{future}{conftest}{rest}" if future else f"{conftest}{start}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{module}.py", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
