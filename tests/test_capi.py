"""The C interface: its example, built here, makes Python's images to the bit and at once; bad input is told."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import export
from fastrecon.cli.main import main
from fastrecon.models import BlockSensingModel
from fastrecon.operators import Wavelet
from fastrecon.solvers import FISTA
from fastrecon.solvers.wavelet_methods import FAINT, WaveletOptions

LIBRARY = Path(fr.__file__).with_name(export.LIBRARY)
pytestmark = [
    pytest.mark.skipif(not LIBRARY.is_file(), reason="the library is built with the extension on Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
SIZE = 70, 41
COLD = 0.2  # seconds of the processor from nothing to a small image


@pytest.fixture(autouse=True)
def one_thread():
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def lda() -> BlockSensingModel:
    model = fr.load("lda-cs-10")
    for name in ("raw_alpha", "raw_tau"):  # 15 phases, as the paper has: the shipped ones and more
        raw = getattr(model.solver, name).detach()
        setattr(model.solver, name, torch.nn.Parameter(torch.cat([raw, raw[-1:].expand(15 - len(raw))])))
    model.meta["name"] = "lda-15"
    return model.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory, lda) -> Path:
    """A folder with the library, three models and the example, built."""
    folder = tmp_path_factory.mktemp("there")
    export.to_c(lda, folder)
    export.to_c(lda, folder, "fista", WaveletOptions(iterations=20))
    export.to_c(fr.load("dladmm-saltpepper"), folder)
    strict = "-std=c99", "-Wall", "-Wextra", "-Werror"
    command = "cc", *strict, "example.c", "-I.", "-L.", "-lfastrecon", "-Wl,-rpath,$ORIGIN", "-o", "example"
    subprocess.run(command, cwd=folder, check=True)
    return folder


def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 1, 7, 6, generator=generator)
    return torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear")


def example(place: Path, model: str, y: torch.Tensor, size=SIZE) -> tuple[torch.Tensor, dict[str, float]]:
    """What the program makes of y: the image and its certificate."""
    y.contiguous().numpy().tofile(place / "y.f32")
    command = [str(place / "example"), model, *map(str, size), "y.f32", "x.f32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True, env=environment).stdout
    numbers = dict(line.split() for line in said.splitlines()[1:])
    return torch.from_numpy(np.fromfile(place / "x.f32", "f4").reshape(size)), {k: float(v) for k, v in numbers.items()}


def test_lda_has_the_bits_of_python(place, lda):
    y = lda.operator(picture())
    x, report = lda(y, size=SIZE)
    found, certificate = example(place, "lda-15.safetensors", y)
    assert torch.equal(found, x[0, 0])
    assert certificate["iterations"] == 15
    for name in ("phi", "grad_norm", "eps"):
        assert certificate[name] == pytest.approx(getattr(report, name).item(), rel=1e-6), name


def test_dladmm_has_the_bits_of_python(place):
    y, model = picture(), fr.load("dladmm-saltpepper")
    y[torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.1] = 1
    x, report = model(y)
    found, certificate = example(place, "dladmm-saltpepper.safetensors", y)
    assert torch.equal(found, x[0, 0])
    for name in ("objective", "gap"):
        assert certificate[name] == pytest.approx(getattr(report, name).item(), rel=1e-6), name


def test_fista_is_that_of_python(place, lda):
    y, wavelet = lda.operator(picture()), Wavelet("sym4", 3, SIZE)
    solver = FISTA(lda.operator @ wavelet.T, FAINT, lda.operator.norm() ** 2)
    c, report = solver(y, wavelet(lda.operator.adjoint(y, SIZE)), iterations=20)
    found, certificate = example(place, "fista-lda-15.safetensors", y)
    torch.testing.assert_close(found, wavelet.adjoint(c, SIZE)[0, 0], rtol=0, atol=1e-6)
    assert certificate["objective"] == pytest.approx(report.objective.item(), rel=1e-5)


def test_a_golden_image_is_reproduced(place):
    golden = np.load(Path(__file__).with_name("golden_lda.npz"))  # of one day, and one instruction set
    found, _ = example(place, "lda-15.safetensors", torch.from_numpy(golden["y"]), (33, 33))
    np.testing.assert_allclose(found.numpy(), golden["x"], rtol=0, atol=1e-5)


def test_it_starts_at_once(place, lda):
    size = 33, 33
    lda.operator(picture()[..., :33, :33]).numpy().tofile(place / "cold.f32")
    probe = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    command = [str(place / "example"), "lda-15.safetensors", *map(str, size), "cold.f32", "x.f32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    spent = [
        float(subprocess.check_output([sys.executable, "-c", probe, *command], cwd=place, env=environment))
        for _ in range(3)
    ]
    assert min(spent) < COLD


def test_the_file_is_still_a_model(place, lda):
    again = fr.load(place / "lda-15.safetensors")
    y = lda.operator(picture())
    assert torch.equal(again(y, size=SIZE).x, lda(y, size=SIZE).x)
    assert fr.load(place / "dladmm-saltpepper.safetensors").method == "d-ladmm"


# ---------------------------------------------------------------- what it refuses


@pytest.fixture(scope="module")
def library(place) -> ctypes.CDLL:
    found = ctypes.CDLL(str(place / export.LIBRARY))
    found.fr_error.restype = ctypes.c_char_p
    return found


def loaded(library: ctypes.CDLL, path: Path) -> tuple[int, ctypes.c_void_p]:
    model = ctypes.c_void_p()
    return library.fr_load(str(path).encode(), ctypes.byref(model)), model


def test_damaged_files_are_told(place, library, tmp_path):
    good, path = (place / "fista-lda-15.safetensors").read_bytes(), tmp_path / "m.safetensors"
    length = int.from_bytes(good[:8], "little")
    rng = np.random.default_rng(0)
    for k in range(300):
        data = bytearray(good)
        if k % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:  # in the header, where damage is not just another number
            for at in rng.integers(0, 8 + length, 1 + k % 5):
                data[at] = rng.integers(256)
        path.write_bytes(data)
        status, model = loaded(library, path)
        assert status in (0, 1)
        assert (status == 0) == bool(model)
        if status:
            assert library.fr_error()
        library.fr_free(model)


def test_wrong_arguments_are_told(place, library, tmp_path):
    assert loaded(library, tmp_path / "none.safetensors")[0] == 1
    assert b"No such file" in library.fr_error()
    status, model = loaded(library, place / "lda-15.safetensors")
    assert status == 0
    count, value = ctypes.c_int64(), ctypes.c_double()
    size = [ctypes.c_int64(n) for n in (33, 33)]
    for wrong in ((0, 33), (33, -1), (2**40, 2**40), (2**20, 2**20)):
        assert library.fr_measurements(model, *map(ctypes.c_int64, wrong), ctypes.byref(count)) == 1
        assert b"height, width" in library.fr_error()
    assert library.fr_measurements(model, *size, ctypes.byref(count)) == 0
    assert count.value == 109
    assert library.fr_certificate(model, b"phi", ctypes.byref(value)) == 1  # of no picture yet
    y, x = np.full(109, np.nan, "f4"), np.zeros(33 * 33, "f4")
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (y, x)]
    assert library.fr_reconstruct(model, *size, *pointers) == 1
    assert b"NaN" in library.fr_error()
    assert library.fr_reconstruct(model, *size, None, None) == 1
    assert library.fr_reconstruct(None, *size, *pointers) == 1
    y[:] = 0.1
    assert library.fr_reconstruct(model, *size, *pointers) == 0
    assert library.fr_certificate(model, b"phi", ctypes.byref(value)) == 0
    assert library.fr_certificate(model, b"no such", ctypes.byref(value)) == 1
    library.fr_free(model)
    library.fr_free(None)


def test_what_it_does_not_know_is_told(library, tmp_path):
    path = tmp_path / "m.safetensors"
    fr.load("sgp-step-inpaint").save(path)
    assert loaded(library, path)[0] == 1
    assert b"int64" in library.fr_error() or b"method" in library.fr_error() or b"float32" in library.fr_error()
    fr.load("lda-cs-10").save(path)  # without the sampling matrix
    assert loaded(library, path)[0] == 1
    assert b"fastrecon export --to c" in library.fr_error()
    with pytest.raises(ValueError, match="to_c: model: expected LDA for block-cs, or D-LADMM for images, got sgp-step"):
        export.to_c(fr.load("sgp-step-inpaint"), tmp_path)


def test_the_header_is_c_plus_plus_too(place):
    command = "c++", "-x", "c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "fastrecon.h"
    subprocess.run(command, cwd=place, check=True)


def test_the_command_exports(tmp_path, capsys):
    words = ["export", "dladmm-saltpepper", "--to", "c", "--out", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert set(files) == {"library", "header", "example", "model"}
    assert all(Path(f).is_file() for f in files.values())
    assert main(words) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert main(["export", "padnet-image", "--to", "c", "--out", str(tmp_path)]) == 2
    assert "to_c: model: expected LDA for block-cs" in capsys.readouterr().err
