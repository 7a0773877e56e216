"""Graphs of torch.export: any batch, and any size where the model takes any; the images are the model's own.

Packages of them run with libtorch and libfastrecon alone.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastrecon as fr
from fastrecon import export
from fastrecon.cli.main import main
from fastrecon.models import (
    BlockSensingModel,
    DescentModel,
    ISTANetModel,
    Model,
    PatchDenoiser,
    UnrolledModel,
    ista_net,
    unrolled,
)
from fastrecon.operators import BlockSensing, Dictionary, Fourier, Identity, Inpainting, random_phi
from fastrecon.operators.base import LinearOperator
from fastrecon.solvers import DLADMM, LDA, GDNet


def same_images(graph: nn.Module, model: Model, batches: list[Tensor], same: Callable, **options) -> None:
    for y in batches:
        with torch.no_grad():
            same(graph(y), model(y, **options).x)


def equal(a: Tensor, b: Tensor) -> None:
    assert torch.equal(a, b)


BLOCKS = [torch.rand(*size, 20) for size in ((3, 2, 4), (1, 1, 1), (5, 3, 2))]


def sensing(kind: type) -> BlockSensingModel:
    torch.manual_seed(0)
    phi = random_phi(20, 64).float()
    operator = BlockSensing(phi, 8)
    model = BlockSensingModel(operator, kind(operator, 2, 4, 2), phi.T.contiguous(), {}).eval()
    with torch.no_grad():
        model.solver.raw_alpha.copy_(torch.rand(2))  # whose softplus others may round otherwise
    return model


@pytest.fixture(scope="module")
def lda() -> tuple[BlockSensingModel, torch.export.ExportedProgram]:
    model = sensing(LDA)
    return model, export.exported(model)


def test_block_sensing_of_any_batch_and_size(lda):
    same_images(lda[1].module(), lda[0], BLOCKS, equal)


def test_gd_net_of_any_batch_and_size():
    model = sensing(GDNet)
    same_images(export.exported(model).module(), model, BLOCKS, equal)


def test_dladmm_of_any_batch_and_size():
    torch.manual_seed(0)
    model = PatchDenoiser(DLADMM(Dictionary(torch.randn(16, 24)), layers=3, e_update="residual"), {}).eval()
    graph = export.exported(model).module()
    same_images(graph, model, [torch.rand(3, 1, 8, 20), torch.rand(1, 1, 8, 8)], equal)


@pytest.mark.parametrize("features", [{"in_channels": 2}, {"separate": True}])
def test_lda_of_any_batch_with_an_operator(features):
    torch.manual_seed(0)
    mask = torch.rand(24, 32) > 0.5
    mask[:3], mask[-2:], mask[:, :3], mask[:, -2:] = True, True, True, True  # zero frequency in the corner, plainly
    operator, model = Fourier(mask), DescentModel(LDA(Identity(), 2, 4, 2, **features)).eval()
    batches = [operator((1 + 0.1 * torch.rand(b, 1, 24, 32)).to(torch.complex64)) for b in (2, 3, 1)]
    graph = export.exported(model, batches[0], operator=operator).module()
    # a graph holds transforms of PyTorch's, the model may use ours
    same_images(graph, model, batches, partial(torch.testing.assert_close, rtol=0, atol=2e-5), operator=operator)


OF_ANY_SIZE = {"lda-cs-10", "lda-cs-25", "lda-cs-50", "lda-joint-10", "lda-joint-30", "dladmm-saltpepper"}
WITH_AN_OPERATOR = {
    "learned-fista-ct",
    "learned-fista-inpaint",
    "learned-fista-mri",
    "sgp-step-inpaint",
    "sgp-diag-inpaint",
}
WITH_AN_OPERATOR |= {"sgp-step-fourier", "sgp-diag-fourier", "lda-mri-10", "lda-mri-20", "lda-mri-30"}
# no fixed iterations, or none
UNTIL_DONE = {
    "artefacts-mri", "padnet-gradient", "padnet-haze", "padnet-image", "prior-natural", "smoothing", "streaks",
}  # fmt: skip


def test_every_shipped_model_is_one_or_the_other():
    assert set(fr.pretrained()) == OF_ANY_SIZE | WITH_AN_OPERATOR | UNTIL_DONE


def measuring(complex_: bool) -> tuple[LinearOperator, list[Tensor]]:
    """An operator on 24 x 32 pixels, and measurements of batches of two, three and one."""
    torch.manual_seed(0)
    mask = torch.rand(24, 32) > 0.5
    mask[:3], mask[-2:], mask[:, :3], mask[:, -2:] = True, True, True, True  # zero frequency in the corner, plainly
    operator = Fourier(mask) if complex_ else Inpainting(mask.float())
    pictures = [1 + 0.1 * torch.rand(b, 1, 24, 32) for b in (2, 3, 1)]
    return operator, [operator(x.to(torch.complex64) if complex_ else x) for x in pictures]


def test_a_shipped_model_of_a_learned_matrix():
    model = fr.load("lda-joint-10")
    for raw in ("raw_alpha", "raw_tau"):  # all phases are alike
        setattr(model.solver, raw, nn.Parameter(getattr(model.solver, raw)[:1].detach().clone()))
    graph, m = export.exported(model).module(), model.operator.phi.shape[0]
    same_images(graph, model, [torch.rand(3, 2, 4, m), torch.rand(1, 1, 1, m)], equal)


@pytest.mark.parametrize("name", ["learned-fista-mri", "sgp-diag-inpaint", "sgp-step-fourier"])  # one of each kind
def test_shipped_models_with_an_operator(name):
    operator, batches = measuring(complex_="mri" in name or "fourier" in name)
    options = {"operator": operator, "iterations": 2, "lipschitz": 1.0, "lam": 0.01}
    model = fr.load(name)
    graph = export.exported(model, batches[0], **options).module()
    # a graph holds transforms of PyTorch's, the model may use ours
    near = partial(torch.testing.assert_close, rtol=0, atol=2e-5)
    same_images(graph, model, batches, near, **options)


@pytest.mark.parametrize("name", ["ista-net-plus", "lista"])
def test_networks_for_block_sensing(name):
    torch.manual_seed(0)
    phi = random_phi(20, 64).float()
    operator = BlockSensing(phi, 8)
    model = ISTANetModel(operator, ista_net.SOLVERS[name](operator, phases=1), phi.T.contiguous(), {}).eval()
    batches = [torch.rand(3, 2, 4, 20), torch.rand(1, 1, 1, 20)]
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    same_images(export.exported(model).module(), model, batches, near)


@pytest.mark.parametrize("name", ["ista-net-plus", "admm-net", "vn"])
def test_networks_for_mri(name):
    operator, batches = measuring(complex_=True)
    model = UnrolledModel(name, unrolled.SOLVERS[name](Identity(), phases=1), {}, real="ista" in name).eval()
    graph = export.exported(model, batches[0], operator=operator).module()
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    same_images(graph, model, batches, near, operator=operator)


# ---------------------------------------------------------------- packages: libtorch and libfastrecon

TORCH = Path(torch.__file__).parent
ABI = TORCH / "include" / "torch" / "csrc" / "stable" / "c" / "shim.h"
ROOT = Path(__file__).parents[1]
built = pytest.mark.skipif(
    not Path(fr.__file__).with_name(export.LIBRARY).is_file(), reason="the library is built with the extension on Linux"
)
compiler = pytest.mark.skipif(
    shutil.which("c++") is None or not ABI.is_file(), reason="no C++ compiler, or no headers of torch 2.10"
)
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def package(lda, tmp_path_factory) -> Path:
    """A folder with a package, the library and the example, and measurements and their images."""
    folder = tmp_path_factory.mktemp("package")
    files = export._packaged(*lda, folder)
    assert set(files) == {"package", "library", "example"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        for k, y in enumerate(BLOCKS):
            np.save(folder / f"y{k}.npy", y.numpy())
            np.save(folder / f"x{k}.npy", lda[0](y).x.numpy())
    torch.set_num_threads(threads)
    files["package"].rename(folder / "model.pt2")
    return folder


@built
@compiler
def test_a_package_runs_in_c_plus_plus(package):
    lib = TORCH / "lib"
    links = "-I.", f"-I{TORCH / 'include'}", "-L.", f"-L{lib}", "-lfastrecon", "-ltorch_cpu", "-lc10"
    found = f"-Wl,--disable-new-dtags,-rpath,$ORIGIN:{lib}"
    subprocess.run(
        ["c++", "-std=c++20", "-Wall", "example.cc", *links, found, "-o", "example"], cwd=package, check=True
    )
    for k, y in enumerate(BLOCKS):
        y.numpy().tofile(package / "y.f32")
        command = ["./example", "model.pt2", "y.f32", "x.f32", *map(str, y.shape)]
        subprocess.run(command, cwd=package, check=True, env=ALONE)
        x = np.load(package / f"x{k}.npy")
        assert np.array_equal(np.fromfile(package / "x.f32", "f4").reshape(x.shape), x)
    said = subprocess.run(["./example", "model.pt2", "x.f32", "none", "0"], cwd=package, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (2, "example: expected a file with all measurements\n")


@built
@compiler
def test_a_package_runs_without_fastrecon_in_python_and_with_it(package):
    code = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, torch
torch.ops.load_library("./libfastrecon.so")
try:
    torch.ops.fastrecon.block_product(torch.ones(1, 2, 3), torch.ones(4, 5))
except ValueError as e:
    assert "block_product: matrix: expected [k, l] like blocks" in str(e)
def same():
    run = torch._inductor.aoti_load_package("model.pt2")
    for k in range(3):
        x = torch.from_numpy(np.load(f"x{k}.npy"))
        assert torch.equal(run(torch.from_numpy(np.load(f"y{k}.npy"))), x)
same()
assert "fastrecon" not in sys.modules
import fastrecon as fr
same()
half = torch.ones(1, 2, 3, dtype=torch.bfloat16)
assert fr.ops.block_product(half, half[0].T.contiguous()).dtype == half.dtype
torch.ops.load_library(fr.__path__[0] + "/libfastrecon.so")
same()
"""
    subprocess.run([sys.executable, "-c", code], cwd=package, check=True, env=ALONE)


@compiler
def test_the_interface_of_torch_is_as_declared(tmp_path):
    (tmp_path / "abi.cpp").write_text(
        "#include <torch/csrc/stable/c/shim.h>\n"
        '#include "torch_abi.h"\n'
        "#include <type_traits>\n"
        "#define SAME(name, args) static_assert(std::is_same_v<decltype(&::name), std::int32_t(*) args>);\n"
        "FASTRECON_TORCH_ABI(SAME)\n"
        "#define CODE(name) SAME(name, ())\n"
        "FASTRECON_TORCH_CODES(CODE)\n"
    )
    folders = [f"-I{place}" for place in (TORCH / "include", ROOT / "capi", ROOT / "csrc")]
    subprocess.run(["c++", "-std=c++20", "-fsyntax-only", *folders, str(tmp_path / "abi.cpp")], check=True)


def test_what_has_no_operator_is_told(tmp_path, capsys):
    with pytest.raises(ValueError, match="exported: y: expected measurements of two images or more, got"):
        export.exported(fr.load("sgp-step-inpaint"))
    assert main(["export", "sgp-step-inpaint", "--to", "pt2", "--out", str(tmp_path)]) == 2
    assert "to_pt2: model: expected a model of block sensing, or D-LADMM for images" in capsys.readouterr().err
