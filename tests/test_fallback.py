"""The same answers whatever the machine has: no extension, no triton, no cupy, any backend, any instruction set."""

import os
import subprocess
import sys

import pytest
import torch

from fastrecon import registry

PROGRAM = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None  # as if it were not installed
import torch
import fastrecon as fr

def numbers(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)

results = {"backends": fr.backends()}
for dtype in (torch.float32, torch.float64):
    generator = torch.Generator().manual_seed(0)
    g = numbers(2, 5, 7, 9).to(dtype)
    x = numbers(2, 1, 12, 11).to(dtype)
    w = [numbers(8, 1, 3, 3).to(dtype) / 3, numbers(8, 8, 3, 3).to(dtype) / 9]
    z = torch.complex(g[:, :2], g[:, 2:4])
    sensing = fr.operators.BlockSensing(fr.operators.random_phi(20, 81, seed=1).to(dtype), block=9)
    y = sensing(x)
    torch.manual_seed(0)
    solver = fr.solvers.LDA(sensing, phases=2, channels=8, layers=2).to(dtype)
    with torch.no_grad():
        image, report = solver(y, sensing.adjoint(y, size=(12, 11)))
    leaf = g.clone().requires_grad_()
    value, dual = fr.ops.smoothed_l21(leaf, 2.0)
    (value.sum() + dual.square().sum()).backward()
    results[str(dtype)] = [
        value.detach(), dual.detach(), leaf.grad,
        *fr.ops.feature_gradient(x, w, 0.5),
        fr.ops.soft_threshold(g, 0.4), fr.ops.soft_threshold(z, 0.4),
        fr.ops.group_soft_threshold(g, 1.5),
        *(fr.ops.prox_lp(g, 0.3, p) for p in (0.0, 0.5, 1.0)),
        fr.ops.prox_tv(x, 0.3, iterations=8, tol=0.0).x,
        fr.operators.Radon((12, 11), 5)(x), fr.operators.Radon((12, 11), 5, 9).adjoint(x[..., :5, :9]),
        y, image, report.phi,
    ]
torch.save(results, sys.argv[1])
"""


def start(path, *, missing=(), **environment):
    """Runs PROGRAM in a process of its own, without the modules in `missing`, with the given environment variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTRECON_", "TRITON_INTERPRET"))}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path), " ".join(missing)]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


def answers(path, **kwargs):
    result = start(path, **kwargs)
    assert result.returncode == 0, result.stderr
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    return answers(tmp_path_factory.mktemp("definitions") / "results.pt", FASTRECON_BACKEND="reference")


def assert_same(got, expected):
    for dtype, tolerance in (("torch.float32", 1e-5), ("torch.float64", 1e-13)):
        for a, b in zip(got[dtype], expected[dtype], strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def backends_used(results):
    return {device["cpu"].partition(":")[0] for device in results["backends"].values()}


def isas():
    extension = registry.extension()
    return extension.build_info()["isa_supported"] if extension else []


def test_nothing_but_torch(tmp_path, definitions):
    got = answers(tmp_path / "results.pt", missing=("fastrecon._C", "triton", "cupy"))
    assert backends_used(got) == {"reference"}
    assert all("extension is missing" in device["cpu"] for device in got["backends"].values())
    assert_same(got, definitions)


@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set(tmp_path, definitions, isa):
    got = answers(tmp_path / "results.pt", FASTRECON_ISA=isa)
    assert backends_used(got) == {"cpu"}
    assert all(device["cpu"].endswith(f" {isa}") for device in got["backends"].values())
    assert_same(got, definitions)


def test_triton_in_the_interpreter(tmp_path, definitions):
    pytest.importorskip("triton")
    got = answers(tmp_path / "results.pt", FASTRECON_BACKEND="triton", TRITON_INTERPRET="1")
    assert backends_used(got) == {"triton"}
    assert_same(got, definitions)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_forced_backend_is_used_and_reported(tmp_path, definitions, backend):
    if backend == "cpu" and registry.extension() is None:
        pytest.skip("the extension was not built")
    got = answers(tmp_path / "results.pt", FASTRECON_BACKEND=backend)
    assert backends_used(got) == {backend}
    assert all("forced by FASTRECON_BACKEND" in device["cpu"] for device in got["backends"].values())
    assert_same(got, definitions)


def test_unknown_backend_names_the_valid_ones(tmp_path):
    result = start(tmp_path / "results.pt", FASTRECON_BACKEND="fpga")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: FASTRECON_BACKEND: expected one of ")
    assert all(name in last for name in ("reference", *(["cpu"] if registry.extension() else []), "'fpga'"))
    assert not (tmp_path / "results.pt").exists()


def test_backend_this_machine_lacks(tmp_path):
    result = start(tmp_path / "results.pt", FASTRECON_BACKEND="cpu", missing=("fastrecon._C",))
    last = result.stderr.strip().splitlines()[-1]
    assert last == "RuntimeError: FASTRECON_BACKEND: expected one of reference on this machine, got 'cpu'" or (
        torch.cuda.is_available() and last.startswith("RuntimeError: FASTRECON_BACKEND: expected one of ")
    )


@pytest.mark.skipif(not isas(), reason="the extension was not built")
def test_unknown_instruction_set_names_the_valid_ones(tmp_path):
    result = start(tmp_path / "results.pt", FASTRECON_ISA="avx1024")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert f"FASTRECON_ISA: expected one of {', '.join(isas())} on this machine, got avx1024" in last
