"""What is installed: versions, metadata, files that go with the code, and the documents beside it."""

import importlib
import os
import re
from importlib.metadata import entry_points, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("skimage")

from skimage import data

import fastrecon as fr
from fastrecon import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(fr.__file__).parent
KERNELS = Path(importlib.import_module("fastrecon.kernels").__path__[0])


def test_one_version_everywhere():
    assert fr.__version__ == version("fastrecon")
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [fr.__version__]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(h for h in headings if h != "Unreleased") == fr.__version__


def test_metadata():
    assert metadata("fastrecon")["License-Expression"] == "Apache-2.0"
    (command,) = entry_points(group="console_scripts", name="fastrecon")
    assert callable(command.load())


def test_public_names_exist():
    assert {name for name in fr.__all__ if not hasattr(fr, name)} == set()


def test_files_that_go_with_the_code():
    assert (PACKAGE / "py.typed").is_file()
    assert (KERNELS.parent / "csrc" / "scalar_math.h").is_file()  # where run-time compilation looks for it
    for pattern in ("*.py", "*.cu", "*.h"):
        assert {p.name for p in KERNELS.glob(pattern)} == {p.name for p in (ROOT / "kernels").glob(pattern)}


@pytest.mark.parametrize("name", fr.pretrained())
def test_weights_have_a_card(name):
    card = (PACKAGE / "weights" / f"{name}.md").read_text()
    assert "PSNR" in card
    assert "fastrecon train" in card  # the command that reproduces them


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        re.sub(r"[-_.]+", "-", name).lower(): pin
        for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#"))
    }


@pytest.mark.parametrize("requirement", [Requirement(r) for r in requires("fastrecon") or []], ids=str)
def test_constraints_pin_what_the_package_accepts(requirement):
    optional = requirement.marker and "extra" in str(requirement.marker) and "dev" not in str(requirement.marker)
    pin = pins().get(re.sub(r"[-_.]+", "-", requirement.name).lower())
    assert optional or pin is not None
    assert pin is None or requirement.specifier.contains(pin)


def test_readme_commands_are_constrained():
    commands = re.findall(r"^.*pip install .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) >= 2
    assert all("-c constraints.txt" in c for c in commands)


@pytest.mark.skipif(registry.extension() is None, reason="the extension was not built")
def test_extension_uses_the_best_instruction_set():
    info = registry.extension().build_info()  # type: ignore[union-attr]
    assert info["isa"] == (os.environ.get("FASTRECON_ISA") or info["isa_supported"][-1])
    assert set(info["isa_supported"]) <= set(info["isa_built"])


@pytest.mark.skipif(registry.extension() is None, reason="the extension was not built")
def test_kernels_name_their_arguments():
    kernels, sizes = registry.compiled(), {"R": 1, "M": 1, "S": 1}
    with pytest.raises(ValueError, match=r"^soft_threshold_fwd: tau: expected the address of an array, got 0$"):
        kernels.soft_threshold_fwd(0, 64, 0, 64, 1, 1, 1)
    with pytest.raises(ValueError, match=r"^soft_threshold_fwd: M: expected a number >= 0, got -2$"):
        kernels.soft_threshold_fwd(dtype=0, x=64, tau=64, y=64, **sizes | {"M": -2})
    with pytest.raises(ValueError, match="dtype: expected"):
        kernels.soft_threshold_fwd(dtype=4, x=64, tau=64, y=64, **sizes)


@pytest.mark.skipif(registry.extension() is None, reason="the extension was not built")
def test_memory_that_is_not_to_be_had_is_an_error():
    with pytest.raises(MemoryError):
        registry.compiled().squares(dtype=0, x=64, minus=64, out=64, differ=False, B=1 << 55, N=1)


def test_the_ten_lines_of_the_readme_run(monkeypatch):
    whole = data.camera
    monkeypatch.setattr(data, "camera", lambda: whole()[200:233, 200:233])  # one block: rigorous mode takes a while
    text = (ROOT / "README.md").read_text()
    program = next(p for p in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "fr.load" in p)
    names: dict = {}
    exec(program, names)
    assert names["x"].shape == (1, 1, 33, 33)
    assert names["report"].converged.all()
