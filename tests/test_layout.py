"""The shape of the code: imports point down, one op has one name, the C++ knows no torch, importing is light."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The layers, lowest first. A module may import modules of its own layer (in no circle) and of those below.
LAYERS = (
    {"checks", "kernels", "startup"},
    {"options", "products", "registry"},
    {"threads"},
    {"ops"},
    {"certificates", "io", "masks", "metrics", "networks", "nn", "noise", "operators"},
    {"terms"},
    {"modules"},
    {"sequential", "solvers"},
    {"problems"},
    {"models", "weights"},
    {"engine", "export", "figures", "reconstruction", "verification", "zoo"},
    {"adapters", "plugins", "train"},
    {"cli", "serving"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"cupy", "matplotlib", "scipy", "skimage", "tensorboard", "triton"}
IMPORT_TURNS = 3.0  # million turns of a loop, 0.3 s of a core that has nothing else to do; on top of torch


def modules() -> dict[str, Path]:
    """{"fastrecon.ops.prox_lp": path, ...} for every module of the package."""
    found = {}
    for folder, package in ((ROOT / "fastrecon", "fastrecon"), (ROOT / "kernels", "fastrecon.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """The fastrecon modules that `module` imports anywhere in its text, functions included."""
    tree = ast.parse(MODULES[module].read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides where it points"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {m if m in MODULES else str(node.module) for m in members}
    return {n for n in names if n.partition(".")[0] == "fastrecon"} - {module}


def unit(module: str) -> str:
    """The part of the package that decides a module's layer: "ops" for fastrecon.ops.prox_lp."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"fastrecon"}))
def test_imports_point_down(module):
    assert unit(module) in RANK, f"{module}: give it a place in LAYERS"
    for imported in imports(module) - {"fastrecon"}:
        assert RANK[unit(imported)] <= RANK[unit(module)], f"{module} imports {imported}, which is above it"


def test_no_circular_imports():
    done, open_ = set(), []

    def visit(module: str) -> None:
        assert module not in open_, " -> ".join([*open_[open_.index(module) :], module])
        if module in done:
            return
        open_.append(module)
        for imported in sorted(imports(module) & set(MODULES) - {"fastrecon"}):
            if not module.startswith(f"{imported}."):  # a package imports its parts, which may name the package
                visit(imported)
        open_.pop()
        done.add(module)

    for module in sorted(MODULES):
        visit(module)


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "tests").glob("*.py"), *(ROOT / "bench").glob("*.py")]),
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_no_test_module_is_imported(path):
    """What tests share lies in tests/zoo.py, interpreter.py and utils.py."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert not {n for n in names if re.match(r"(tests\.)?test_", n)}


@pytest.mark.parametrize("source", sorted((ROOT / "csrc").iterdir()), ids=lambda p: p.name)
def test_csrc_knows_no_torch(source):
    included = set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', source.read_text(), re.MULTILINE))
    assert not {i for i in included if re.match(r"(torch|ATen|c10|Python\.h)", i)}
    binding = {i for i in included if i.startswith("pybind11/")}
    bound = ("module.cpp", "outputs.h", "arrays.h")
    assert not binding or source.name in bound
    assert not included & {"outputs.h", "arrays.h"} or source.name in bound


def test_one_op_one_name():
    result = subprocess.run([sys.executable, ".ci/check_ops.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_kernel_objects_have_no_weak_symbols():
    if not list((ROOT / "build").glob("temp.*/*/csrc/*.o")):
        pytest.skip("no kernel objects in build/: run `python setup.py build_ext` to have them checked")
    command = [sys.executable, ".ci/check_symbols.py", "build"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


IMPORT_PROBE = """
import json, sys, time
import torch
before, start = set(sys.modules), time.process_time()
import fastrecon
between, turns = time.process_time(), 0
for k in range(10**6):
    turns += k
unit = time.process_time() - between
print(json.dumps([(between - start) / unit, sorted(set(sys.modules) - before)]))
"""


def test_import_is_light(tmp_path):
    # with compiled bytecode, as an installation has it, whatever the environment here says of writing it
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    runs = []
    for _ in range(6):  # processor time, in that of a loop, and a median: other work on the machine does not count
        out = subprocess.run(
            [sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, check=True, env=environment
        ).stdout
        runs.append(json.loads(out))
    runs = runs[1:]  # the first compiled
    loaded = {name.partition(".")[0] for name in runs[0][1]}
    assert not loaded & HEAVY
    assert median(turns for turns, _ in runs) < IMPORT_TURNS
