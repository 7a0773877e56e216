"""Tiles of the convolutions: measured ones go first, damaged files are named, nothing is measured unasked."""

import json

import pytest
import torch
from interpreter import DEVICE

from fastrecon.cli import tune
from fastrecon.kernels import configs, feature_gradient, launch

GPU = torch.device("cuda")
MEASURED = {"pixels": 64, "depth": 32, "warps": 8, "stages": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU/80GB")
    monkeypatch.setenv("FASTRECON_CONFIGS", str(tmp_path))
    configs.of_gpu.cache_clear()
    yield tmp_path
    configs.of_gpu.cache_clear()


def test_measured_tiles_go_first(folder, monkeypatch):
    usual = launch.convolution_tile(32, torch.float32, False)
    assert launch.convolution_tile(32, torch.float32, False, "bf16", GPU) == usual  # nothing is known
    configs.of_gpu.cache_clear()
    (folder / "Some-GPU-80GB.json").write_text(json.dumps({"32 float32 bf16 1": MEASURED}))
    tile = launch.convolution_tile(32, torch.float32, False, "bf16", GPU)
    assert tile._asdict() == MEASURED | {"channels": 32, "registers": None}
    for other in ((48, torch.float32, False), (32, torch.float64, False), (32, torch.float32, True)):
        assert launch.convolution_tile(*other, "bf16", GPU) == launch.convolution_tile(*other)
    assert launch.convolution_tile(32, torch.float32, False, "tf32", GPU) == usual
    assert launch.convolution_tile(32, torch.float32, False, "bf16") == usual  # the CPU's interpreter


@pytest.mark.parametrize("text", ["{", "[]", '{"32 float32 bf16 1": {"pixels": 64}}'])
def test_a_damaged_file_is_named(folder, text):
    (folder / "Some-GPU-80GB.json").write_text(text)
    with pytest.raises(ValueError, match=r"Some-GPU-80GB.json: expected a file by `fastrecon tune`, got a damaged one"):
        configs.lookup(32, torch.float32, "bf16", False, GPU)


def test_the_fastest_right_tile_wins(folder, monkeypatch):
    monkeypatch.setattr(tune, "SHAPE", (1, 1, 5, 7))
    monkeypatch.setattr(tune, "LAYERS", 2)
    monkeypatch.setattr(tune, "CANDIDATES", {"pixels": (16, 32, 64), "depth": (16,), "warps": (4,), "stages": (2,)})
    forward, tried = feature_gradient.feature_gradient_fwd, []

    def run(*arguments):
        tried.append(feature_gradient.convolution_tile(32, torch.float32, False).pixels)
        value, grad = forward(*arguments)
        return value, grad * 1.01 if tried[-1] == 64 else grad

    def milliseconds(work):
        work()
        return [float(1000 - tried[-1])] if tried[-1] <= 64 else [5000.0]

    monkeypatch.setattr(feature_gradient, "feature_gradient_fwd", run)
    monkeypatch.setattr(tune, "milliseconds", milliseconds)
    winner, line = tune.fastest(32, "float32", torch.device(DEVICE))
    assert winner == {"pixels": 32, "depth": 16, "warps": 4, "stages": 2}  # 64 is faster and wrong
    assert set(tried) >= {16, 32, 64}
    assert feature_gradient.convolution_tile is launch.convolution_tile
    assert "-> 968.000 ms" in line


def test_candidates_fit_their_registers():
    usual = launch.convolution_tile(128, torch.float32, False)
    found = list(tune.candidates(usual))
    assert len(found) > 10
    assert all(t.channels == 128 and t.pixels * 128 <= 64 * 32 * t.warps for t in found)


@pytest.mark.gpu
def test_tuning_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRECON_CONFIGS", str(tmp_path))
    monkeypatch.setattr(tune, "CANDIDATES", {"pixels": (64, 128), "depth": (16,), "warps": (4,), "stages": (3,)})
    winner, _ = tune.fastest(32, "bfloat16", torch.device("cuda"))
    assert set(winner) == set(configs.FIELDS)
