"""The CUDA C++ kernels against the definitions: on the CPU, compiled with tests/cuda_on_host.h, and on a GPU by CuPy.

nvcc, where there is one, compiles them for sm_80 and sm_90.
"""

import ctypes
import re
import shutil
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from test_radon import GEOMETRIES, rays_of
from test_triton import aligned, double, flatten, numbers, relative
from torch import Tensor

import fastrecon as fr
from fastrecon import registry
from fastrecon.kernels import nvrtc
from fastrecon.operators.base import through
from fastrecon.ops import armijo as armijo_op

SOURCES = sorted(path.stem for path in nvrtc.FOLDER.glob("*.cu"))
KERNEL = re.compile(r'extern "C" __global__ (?:__launch_bounds__\(\w+\) )?void (\w+)\(([^)]*)\)')
HERE = Path(__file__).parent
C_TYPES = {"double": ctypes.c_double, "long long": ctypes.c_longlong}


def signature(source, kernel):
    """[(C type, name)] of a kernel's parameters."""
    found = dict(KERNEL.findall((nvrtc.FOLDER / f"{source}.cu").read_text()))
    return [
        tuple(p.strip() for p in re.match(r"(.*\W)(\w+)$", part.strip()).groups()) for part in found[kernel].split(",")
    ]


class Host:
    """Stands in for CuPy: launches on CPU tensors, with threads and blocks in both orders, which must agree."""

    def __init__(self, folder):
        self.folder = folder
        self.library = cache(self._build)

    def _build(self, source, macros):
        """The source as a shared library, with a function run_<kernel>(blocks, reversed, ...) for each kernel."""
        text = [f'#include "{HERE}/cuda_on_host.h"', f'#include "{nvrtc.FOLDER}/{source}.cu"']
        for kernel, _ in KERNEL.findall((nvrtc.FOLDER / f"{source}.cu").read_text()):
            parameters = signature(source, kernel)
            declared, names = ", ".join(f"{t} {n}" for t, n in parameters), ", ".join(n for _, n in parameters)
            text.append(
                f'extern "C" bool run_{kernel}(long long blocks_, bool reversed_, {declared}) {{ return cuda_on_host::'
                f"launch(blocks_, {nvrtc.threads_of(dict(macros))}, reversed_, [=] {{ {kernel}({names}); }}); }}"
            )
        name = self.folder / re.sub(r"\W", "_", f"{source}{macros}")
        name.with_suffix(".cpp").write_text("\n".join(text))
        command = ["g++", "-O1", "-shared", "-fPIC", *nvrtc.flags(dict(macros)), f"{name}.cpp", "-o", f"{name}.so"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return ctypes.CDLL(f"{name}.so")

    def launch(self, source, kernel, blocks, macros, *arguments):
        run = getattr(self.library(source, tuple(macros.items())), f"run_{kernel}")
        run.restype = ctypes.c_bool
        parameters, tensors = signature(source, kernel), [t for t in arguments if isinstance(t, Tensor)]
        assert len(parameters) == len(arguments), f"{kernel}: {len(arguments)} arguments"
        before, results = [t.clone() for t in tensors], []
        for reverse in (True, False):
            for t, old in zip(tensors, before, strict=True):
                t.copy_(old)
            packed = []
            for (kind, name), value in zip(parameters, arguments, strict=True):
                assert kind.endswith("*") == isinstance(value, Tensor), f"{kernel}: {name}"
                assert isinstance(value, Tensor) or (kind == "double") == isinstance(value, float), f"{kernel}: {name}"
                packed.append(ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else C_TYPES[kind](value))
            assert run(ctypes.c_longlong(blocks), reverse, *packed), f"{kernel}: threads wait in vain"
            results.append([t.clone() for t in tensors])
        for (_, name), first, second in zip(parameters, *results, strict=False):
            same = first.numpy().tobytes() == second.numpy().tobytes()
            assert same, f"{kernel}: {name} depends on the order of threads"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels for the CPU")
    return Host(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Where the kernels run: on the CPU, or on a GPU through CuPy."""
    if request.param == "cuda":
        pytest.importorskip("cupy", reason="CuPy is not installed")
        yield "cuda"
        return
    launch = request.getfixturevalue("host").launch
    for source in SOURCES:
        monkeypatch.setattr(import_module(f"fastrecon.kernels.{source}_cuda"), "launch", launch)
    torch.use_deterministic_algorithms(True)  # torch.empty then holds NaN: what a kernel does not write is seen
    yield "cpu"
    torch.use_deterministic_algorithms(False)


def kernel(name):
    return getattr(import_module(f"fastrecon.kernels.{registry.OPS[name].family}_cuda"), name)


def check(name, *arguments):
    """The kernel's error is at most twice the definition's in the same dtype, both against float64."""
    definition = registry.OPS[name].implementations["reference"]
    got, eager = flatten(kernel(name)(*arguments)), flatten(definition(*arguments))
    exact = flatten(definition(*(double(t) if isinstance(t, Tensor) else t for t in arguments)))
    for i, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        assert (g.shape, g.dtype, g.device) == (e.shape, e.dtype, e.device), f"{name}: output {i}"
        if g.dtype == torch.bool:
            assert torch.equal(g, e), f"{name}: output {i}"
        else:
            slack = 2e-14 if e.dtype in (torch.float64, torch.complex128) else 3e-7
            assert relative(g, x) <= 2 * relative(e, x) + slack, f"{name}: output {i}"


def real(dtype):
    return dtype.to_real() if dtype.is_complex else dtype


WIDE = [torch.float64, torch.float32, torch.complex128, torch.complex64]


@pytest.mark.parametrize("composite", [True, False], ids=["composite", "paper"])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("count", "size", "trials"), [(3, 1100, 12), (1, 1, 1), (2, 300, 64)])
def test_armijo(device, count, size, trials, dtype, composite):
    x, grad = (numbers(count, size, dtype=dtype, seed=s).to(device) for s in (0, 1))
    lam = numbers(1 if size == 1 else count, 1 if size == 300 else size).abs().to(device, real(dtype))
    square = double(grad).abs().square().sum(1)
    curvature = square * torch.tensor([0.5, 40.0, 1e9])[:count].to(device)  # the full step, some rungs down, none
    check("armijo", x, -grad, grad, lam, curvature, torch.zeros_like(square), 1e-4, 0.5, trials, composite)
    slack = torch.full_like(square, 1e6)
    check("armijo", x, -grad, grad, lam, curvature, slack, 1e-4, 0.7, trials, composite)
    accepted = kernel("armijo")(x * float("nan"), -grad, grad, lam, curvature, slack, 1e-4, 0.5, trials, True)[2]
    assert not accepted.any()


@pytest.mark.parametrize("dtype", [*WIDE, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 1), (5, 1031), (5, 4100)], ids=str)
def test_select_descent(device, shape, dtype):
    u, v = (numbers(*shape, dtype=dtype, seed=s).to(device) for s in (0, 1))
    nan = float("nan")
    phi_u, phi_v = torch.tensor([[1.0, 2.0, nan, 1.0, nan], [1.0, 1.0, 1.0, nan, nan]]).to(device)
    check("select_descent", u, v, phi_u, phi_v.double())
    check("select_descent_bwd", aligned(u[:, None])[:, 0] if device == "cpu" else u, phi_u > 0)
    shifted = torch.zeros(u.numel() + 1, dtype=dtype, device=device)[1:].view(shape).copy_(u)  # at an odd address
    check("select_descent", shifted, v, phi_u, phi_v)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("shape", [(4, 1), (4, 3000)], ids=str)
def test_shrink_eps(device, shape, dtype):
    grad_f, grad_r = (numbers(*shape, dtype=dtype, seed=s).to(device) for s in (0, 1))
    norm = torch.linalg.vector_norm(double(grad_f + grad_r), dim=1)
    eps = (norm / 900 * torch.tensor([0.5, 0.99, 1.01, 2.0]).to(norm)).to(real(dtype))
    check("shrink_eps", grad_f, grad_r, eps, 1e3, 0.9)
    assert kernel("shrink_eps")(grad_f, grad_r, eps, 1e3, 0.9)[3].tolist() == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("size", "views", "detectors", "spacing"), [((19, 31), 5, 60, 1.0), ((17, 20), 130, 9, 3.7), ((1, 1), 3, 3, 1.0)]
)
def test_radon(device, size, views, detectors, spacing, geometry, dtype):
    rays = rays_of(geometry, size, views, detectors, spacing).to(torch.device(device))
    x, y = numbers(2, *size, dtype=dtype).to(device), numbers(2, views, detectors, dtype=dtype).to(device)
    check("radon", x, rays.lines, rays.axis)
    check("radon_adjoint", y, rays.lines, rays.axis, *size)


def test_no_kernel_for_what_it_cannot_do():
    half, eps = torch.zeros(2, 3, dtype=torch.float16), torch.ones(2, dtype=torch.float16)
    assert kernel("shrink_eps")(half, half, eps, 1e3, 0.9) is NotImplemented
    assert kernel("radon")(half[None], torch.zeros(3, 1, 1), torch.ones(1, 1)) is NotImplemented
    assert kernel("armijo")(*[half] * 6, 1e-4, 0.5, 3, True) is NotImplemented


def test_cuda_goes_first_where_it_is_asked_for_or_faster(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(registry, "usable", lambda device: dict.fromkeys(("triton", "cuda", "reference"), ""))

    def chosen():
        return {name: registry._choose(registry.OPS[name], "cuda")[0] for name in ("armijo", "shrink_eps", "dwt2")}

    monkeypatch.setattr(registry, "forced", lambda: None)
    assert chosen() == {"armijo": "triton", "shrink_eps": "triton", "dwt2": "triton"}
    monkeypatch.setattr(registry, "CUDA_OPS", frozenset({"armijo"}))
    assert chosen() == {"armijo": "cuda", "shrink_eps": "triton", "dwt2": "triton"}
    monkeypatch.setattr(registry, "forced", lambda: "cuda")
    assert chosen() == {"armijo": "cuda", "shrink_eps": "cuda", "dwt2": "triton"}
    monkeypatch.setattr(registry, "forced", lambda: "reference")
    assert set(chosen().values()) == {"reference"}


@pytest.mark.parametrize("missing", ["barrier", "exchange"])
def test_the_stand_in_notices_races_and_lost_threads(host, tmp_path, monkeypatch, missing):
    body = {
        "barrier": "__shared__ double s[256]; s[threadIdx.x] = x[threadIdx.x]; x[threadIdx.x] = s[255 - threadIdx.x];",
        "exchange": "if (threadIdx.x < 7) x[0] = __shfl_xor_sync(~0u, x[0], 1); else __syncthreads();",
    }[missing]
    (tmp_path / "wrong.cu").write_text(f'extern "C" __global__ void wrong(double* x) {{ {body} }}')
    monkeypatch.setattr(nvrtc, "FOLDER", tmp_path)
    message = {"barrier": "depends on the order of threads", "exchange": "wait in vain"}[missing]
    with pytest.raises(AssertionError, match=message):
        host.launch("wrong", "wrong", 1, {"CASE": missing}, torch.arange(256.0, dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["armijo"])
def test_torch_and_cupy_share_a_stream(name):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    x, grad = (torch.randn(4, 300_000, device="cuda") for _ in range(2))
    curvature = torch.linspace(0.1, 100, 4, device="cuda").double() * grad.double().square().sum(1)
    expected = armijo_op(x, -grad, grad, 0.1, curvature)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        later = x * 1.0  # must be done before the kernel reads it
        found = kernel(name)(later, -grad, grad, x.new_full((1, 1), 0.1), curvature, curvature * 0, 1e-4, 0.5, 20, True)
    stream.synchronize()
    assert torch.equal(found[0], expected.gamma)


@pytest.mark.gpu
def test_cupy_arrays_go_straight_into_public_ops():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    x = cupy.random.default_rng(0).standard_normal((2, 1, 16, 16), dtype=cupy.float32)
    y = fr.ops.soft_threshold(x, 0.4)
    assert isinstance(y, cupy.ndarray)
    cupy.testing.assert_allclose(y, cupy.sign(x) * cupy.maximum(cupy.abs(x) - 0.4, 0), atol=1e-6)
    same = through(x, lambda t: t)
    assert same.data.ptr == x.data.ptr  # no copies
    weights = [cupy.ones((4, 1, 3, 3), dtype=cupy.float32) / 9, cupy.ones((4, 4, 3, 3), dtype=cupy.float32) / 36]
    value, grad = fr.ops.feature_gradient(x, weights, 0.5)
    assert isinstance(value, cupy.ndarray)
    expected = fr.ops.feature_gradient(torch.from_dlpack(x), [torch.from_dlpack(w) for w in weights], 0.5)
    assert torch.equal(torch.from_dlpack(grad), expected[1])


MACROS = {
    "armijo": [{"REAL": real, "PARTS": parts} for real in ("float", "double") for parts in ("1", "2")],
    "radon": [{"REAL": "float"}, {"REAL": "double"}],
    "select_descent": [{"REAL": "float", "WORD": "uint4"}, {"REAL": "double", "WORD": "char"}],
}


@pytest.mark.parametrize("source", SOURCES)
def test_nvcc_compiles_without_spills(source, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc on this machine; NVRTC compiles the kernels where they run")
    architectures = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90)]
    for macros in MACROS[source]:
        command = ["nvcc", "-fatbin", *architectures, "-Xptxas=-v", *nvrtc.flags(macros), f"{source}.cu"]
        result = subprocess.run(
            [*command, "-o", tmp_path / "out"], cwd=nvrtc.FOLDER, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        found = re.findall(
            r"function '(\w+)' for '(sm_\d+)'(?s:.*?)(\d+) bytes stack(?s:.*?)Used (\d+) reg", result.stderr
        )
        kernels = KERNEL.findall((nvrtc.FOLDER / f"{source}.cu").read_text())
        assert len(found) == 2 * len(kernels), result.stderr
        for name, sm, stack, registers in found:
            print(f"{sm} {name:20s} {' '.join(macros.values()):20s}", registers, stack)
            assert int(stack) == 0, f"{name} spills on {sm}"
