"""The CUDA C++ kernels against the definitions: on the CPU, compiled with tests/cuda_on_host.h, and on a GPU by CuPy.

nvcc, where there is one, compiles them for sm_80 and sm_90.
"""

import ctypes
import re
import shutil
import subprocess
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from interpreter import aligned, flatten, numbers
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from utils import double, relative_error
from zoo import GEOMETRIES, rays_of

import fastrecon as fr
from fastrecon import registry
from fastrecon.checks import in_kind
from fastrecon.kernels import feature_gradient_cuda, nvrtc
from fastrecon.ops import armijo as armijo_op
from fastrecon.ops.feature_gradient import feature_gradient_fwd_ref, smoothed_relu

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
        own = ["-shared", "-fPIC", "-fno-gnu-unique"]  # or libraries share the static arrays of the first one loaded
        command = ["g++", "-O1", *own, *nvrtc.flags(dict(macros)), f"{name}.cpp", "-o", f"{name}.so"]
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
            assert relative_error(g, x) <= 2 * relative_error(e, x) + slack, f"{name}: output {i}"


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


def chain(count, height, width, layers):
    """Images, kernels that keep the variance, and radii with pixels on both sides."""
    weights = [numbers(32, 32 if k else 1, 3, 3, dtype=torch.float32, seed=k).cpu() for k in range(layers)]
    x = numbers(count, 1, height, width, dtype=torch.float32).abs().cpu()
    return x, [w * (2 / (9 * w.shape[1])) ** 0.5 for w in weights], torch.linspace(0.5, 5, count)


def rounded_chain(x, weights, eps, delta, final_activation):
    """Value and gradient in float64, what tensor cores multiply and what is kept rounded to bfloat16."""
    half = lambda t: t.to(torch.bfloat16).double()  # noqa: E731
    first, *others = (w.double() if k == 0 else half(w) for k, w in enumerate(weights))
    t, slopes = conv2d(x.double(), first, padding=1), []
    for w in others:
        slopes.append(half(((t + delta) / (2 * delta)).clamp(0, 1)))
        t = conv2d(half(smoothed_relu(t, delta)), w, padding=1)
    g = smoothed_relu(t, delta) if final_activation else t
    slope = ((t + delta) / (2 * delta)).clamp(0, 1) if final_activation else 1
    norm, e = g.norm(dim=1), eps.double()[:, None, None]
    z = half(slope * g / torch.maximum(norm, e)[:, None])
    for w, slope in zip(others[::-1], slopes[::-1], strict=True):
        z = half(slope * conv_transpose2d(z, w, padding=1))
    value = torch.where(norm <= e, norm.square() / (2 * e), norm - e / 2).sum((1, 2))
    return value, conv_transpose2d(z, first, padding=1)


@pytest.mark.parametrize("final_activation", [False, True])
@pytest.mark.parametrize(  # widths of 1, 2 and 3 tiles, one strip and several
    ("size", "layers"),
    [((3, 1, 1), 4), ((2, 5, 7), 3), ((1, 23, 40), 4), ((1, 9, 130), 4), ((1, 7, 40), 5), ((1, 17, 60), 2)],
)
def test_feature_gradient(device, size, layers, final_activation):
    x, weights, eps = chain(*size, layers)
    arguments = (x.to(device), [w.to(device) for w in weights], eps.to(device), 0.1, final_activation, "bfloat16")
    value, grad = kernel("feature_gradient_fwd")(*arguments)
    assert torch.equal(kernel("feature_gradient_value")(*arguments), value)
    exact = feature_gradient_fwd_ref(x.double(), [w.double() for w in weights], eps.double(), 0.1, final_activation)
    for found, same, truth, allowed in zip(
        (value, grad), rounded_chain(x, weights, eps, 0.1, final_activation), exact, (3e-3, 3e-2), strict=True
    ):
        assert relative_error(found.cpu(), truth) < allowed
        assert relative_error(found.cpu(), same) < 1e-3  # rounded alike, but for sums between two numbers of bfloat16


def test_feature_gradient_has_the_same_bits_in_any_batch_and_any_bands(device, monkeypatch):
    x, weights, eps = chain(2, 23, 40, 4)
    x[0, 0, 11, 20] = float("nan")

    def run(some):
        rest = ([w.to(device) for w in weights], eps[some].to(device), 0.1, False, "bfloat16")
        return kernel("feature_gradient_fwd")(x[some].to(device), *rest)

    together, alone = run(slice(None)), run(slice(1, 2))
    monkeypatch.setattr(feature_gradient_cuda, "_processors", lambda x: 1000)
    bands = run(slice(1, 2))
    for k in range(2):
        assert torch.equal(alone[k], together[k][1:])
        assert torch.equal(alone[k], bands[k])
    assert together[0].isnan().tolist() == [True, False]  # and NaN is not hidden
    assert together[1][0, 0, 11, 20].isnan()
    assert not together[1][0, 0, 11 - 9].isnan().any()


@pytest.mark.parametrize(
    "change", [{"precision": "tf32"}, {"layers": 6}, {"width": 16}, {"channels": 2}, {"dtype": torch.float64}], ids=str
)
def test_tensor_cores_leave_other_chains_to_triton(change):
    case = {"precision": "bfloat16", "layers": 3, "width": 32, "channels": 1, "dtype": torch.float32} | change
    widths = [case["channels"], *[case["width"]] * case["layers"]]
    weights = [torch.zeros(o, i, 3, 3, dtype=case["dtype"]) for i, o in pairwise(widths)]
    x, eps = torch.zeros(1, case["channels"], 4, 4, dtype=case["dtype"]), torch.ones(1, dtype=case["dtype"])
    for name in ("feature_gradient_value", "feature_gradient_fwd"):
        assert kernel(name)(x, weights, eps, 0.1, False, case["precision"]) is NotImplemented


@pytest.mark.parametrize(("width", "layers"), [(1, 4), (33, 4), (256, 4), (256, 2), (1000, 3)])
def test_strips_and_bands_cover_the_image(width, layers):
    for halo in (layers - 1, layers):
        tiles, strips = feature_gradient_cuda._strips(width, layers, halo)
        net = 32 * tiles - 2 * halo
        assert (strips - 1) * net < width <= strips * net
        for processors in (1, 132):
            assert 1 <= feature_gradient_cuda._band(width, strips, processors) <= width


PRODUCT = """
#include "tensor_core.h"
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* c, const unsigned* rows,
                                   unsigned* loaded) {
  using namespace fastrecon;
  __shared__ uint4 memory[48];  // 32 rows in any order
  unsigned words[4], right[2];
  float sums[4];
  if (threadIdx.x < 32) {
    memory[threadIdx.x * 7 % 48] = {rows[4 * threadIdx.x], rows[4 * threadIdx.x + 1], rows[4 * threadIdx.x + 2],
                                    rows[4 * threadIdx.x + 3]};
    __syncwarp();
    load_matrices(words, shared(&memory[threadIdx.x * 7 % 48]));
    for (int i = 0; i < 4; ++i) loaded[4 * threadIdx.x + i] = words[i];
    for (int i = 0; i < 4; ++i) words[i] = a[4 * threadIdx.x + i], sums[i] = c[4 * threadIdx.x + i];
    for (int i = 0; i < 2; ++i) right[i] = b[2 * threadIdx.x + i];
    multiply(sums, words, right);
    for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sums[i];
  }
}
"""


@pytest.mark.parametrize("where", ["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensor_core_layouts(where, request, tmp_path, monkeypatch):
    """Fragments as the PTX ISA lays them out, element by element, against a plain product."""
    (tmp_path / "product.cu").write_text(PRODUCT)
    monkeypatch.setattr(nvrtc, "FOLDER", tmp_path)
    launch = request.getfixturevalue("host").launch if where == "host" else nvrtc.launch
    sizes = ((16, 16), (16, 8), (16, 8), (32, 8))
    a, b, c, rows = (numbers(*size, dtype=torch.bfloat16, seed=k).cpu() for k, size in enumerate(sizes))
    group, inside = torch.arange(32) // 4, torch.arange(32) % 4
    row = [group + 8 * (i % 4 // 2) for i in range(8)]
    column = [inside * 2 + i % 2 + 8 * (i // 4) for i in range(8)]
    a_words = torch.stack([a[row[i], column[i]] for i in range(8)], 1).view(torch.int32)
    b_words = torch.stack([b[inside * 2 + i % 2 + 8 * (i // 2), group] for i in range(4)], 1).view(torch.int32)
    sums = torch.stack([c[group + 8 * (i // 2), inside * 2 + i % 2] for i in range(4)], 1).float()
    loaded = torch.zeros(32, 4, dtype=torch.int32)
    tensors = (a_words, b_words, sums, rows.view(torch.int32), loaded)
    if where == "cuda":
        tensors = tuple(t.cuda() for t in tensors)
    launch("product", "product", 1, {}, *tensors)
    sums, loaded = tensors[2].cpu(), tensors[4].cpu()
    exact = a.double() @ b.double() + c.double()
    expected = torch.stack([exact[group + 8 * (i // 2), inside * 2 + i % 2] for i in range(4)], 1)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
    matrices = rows.view(4, 8, 8)
    expected = torch.stack([matrices[i // 2, group, inside * 2 + i % 2] for i in range(8)], 1)
    assert torch.equal(loaded.view(torch.bfloat16), expected)


def test_no_kernel_for_what_it_cannot_do():
    half, eps = torch.zeros(2, 3, dtype=torch.float16), torch.ones(2, dtype=torch.float16)
    assert kernel("shrink_eps")(half, half, eps, 1e3, 0.9) is NotImplemented
    assert kernel("radon")(half[None], torch.zeros(3, 1, 1), torch.ones(1, 1)) is NotImplemented
    assert kernel("armijo")(*[half] * 6, 1e-4, 0.5, 3, True) is NotImplemented


def test_cuda_goes_first_where_it_is_asked_for_or_faster(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(registry, "usable", lambda device: dict.fromkeys(("triton", "cuda", "reference"), ""))

    def chosen():
        return {name: registry._choices(registry.OPS[name], "cuda")[0][0] for name in ("armijo", "shrink_eps", "dwt2")}

    monkeypatch.setattr(registry, "forced", lambda: None)
    assert chosen() == {"armijo": "triton", "shrink_eps": "triton", "dwt2": "triton"}
    monkeypatch.setattr(registry, "CUDA_OPS", frozenset({"armijo"}))
    assert chosen() == {"armijo": "cuda", "shrink_eps": "triton", "dwt2": "triton"}
    monkeypatch.setattr(registry, "forced", lambda: "cuda")
    assert chosen() == {"armijo": "cuda", "shrink_eps": "cuda", "dwt2": "triton"}
    monkeypatch.setattr(registry, "forced", lambda: "reference")
    assert set(chosen().values()) == {"reference"}


def test_what_one_backend_lacks_the_next_serves(monkeypatch):
    asked = []

    def serve(backend, answer):
        return lambda x: (asked.append(backend), answer)[1]

    monkeypatch.setattr(registry, "usable", lambda device: dict.fromkeys(("cuda", "cpu", "triton", "reference"), ""))
    monkeypatch.setattr(registry, "forced", lambda: None)
    found = {"cuda": serve("cuda", NotImplemented), "triton": serve("triton", torch.ones(2))}
    monkeypatch.setattr(registry, "_from_kernels", lambda op, backend: found.pop(backend))  # each is looked up once
    op = registry.define(
        "passed_on(Tensor x) -> Tensor", "passed_on", ref=lambda x: x * 3, cpu=serve("cpu", NotImplemented)
    )
    monkeypatch.delitem(registry.OPS, "passed_on")
    for _ in range(2):
        assert torch.equal(op(torch.zeros(2)), torch.ones(2))
    assert asked == ["cuda", "cpu", "triton"] * 2


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
    same = in_kind(x, lambda t: t, "kind", "x")
    assert same.data.ptr == x.data.ptr  # no copies
    weights = [cupy.ones((4, 1, 3, 3), dtype=cupy.float32) / 9, cupy.ones((4, 4, 3, 3), dtype=cupy.float32) / 36]
    value, grad = fr.ops.feature_gradient(x, weights, 0.5)
    assert isinstance(value, cupy.ndarray)
    expected = fr.ops.feature_gradient(torch.from_dlpack(x), [torch.from_dlpack(w) for w in weights], 0.5)
    assert torch.equal(torch.from_dlpack(grad), expected[1])


MACROS = {
    "armijo": [{"REAL": real, "PARTS": parts} for real in ("float", "double") for parts in ("1", "2")],
    "feature_gradient": [
        feature_gradient_cuda.macros(layers, max(feature_gradient_cuda.TILES[layers]), back)
        for layers, back in ((4, True), (4, False), (5, True), (3, True), (2, True))
    ],
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
