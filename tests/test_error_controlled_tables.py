"""Tables of error-controlled iterations, and the recipe of denoisers: small, to the end."""

import json

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import ok
from PIL import Image

from fastrecon import models


@pytest.fixture
def slices(tmp_path):
    """Two complex slices."""
    path = tmp_path / "slices.npy"
    t = np.linspace(-1, 1, 40)
    disc = (np.hypot(t[:, None], t[None]) < 0.8).astype(np.complex64)
    np.save(path, np.stack([disc, disc * np.exp(1j * t).astype(np.complex64)]))
    return path


def test_deblurring(run, tmp_path):
    command = f"reproduce ol-fig2 --data skimage:camera --side 32 --rows 0.02 --out {tmp_path} --json --methods"
    found = json.loads(ok(run(
        f"{command} error-controlled:module=tv,iterations=4 start", "module alone",
    )))  # fmt: skip
    assert found["failed"] == []
    assert len(found["rows"]) == 6
    assert {row["line"] for row in found["rows"]} == {"noise 0.02", "Gaussian blur, noise 0.02"}


def test_k_space(run, tmp_path, slices):
    command = f"reproduce ol-fig6 --data {slices} --side 32 --rows radial --limit 1 --out {tmp_path}/t --json --methods"
    found = json.loads(ok(run(f"{command} error-controlled:module=tv,iterations=4 error-controlled:module=none start")))
    assert found["failed"] == []
    assert {row["line"] for row in found["rows"]} == {"radial 10%", "radial 20%", "radial 30%"}


def test_recipe_of_denoisers(run, tmp_path):
    Image.fromarray((np.random.default_rng(0).random((40, 40)) * 255).astype("u1")).save(tmp_path / "a.png")
    command = f"train denoiser --data {tmp_path}/a.png --validation-data {tmp_path}/a.png --steps 2 --validate-every 1"
    command += " --layers 2 --no-dilated --channels 2 --batch 2 --patch 16"
    assert run(f"{command} --out {tmp_path}/run")[0] == 0
    assert models.load(tmp_path / "run" / "model.safetensors").problem == "deblur"
    assert "PSNR" in (tmp_path / "run" / "denoiser.md").read_text()
    assert run(f"{command} --init {tmp_path}/run/model.safetensors --out {tmp_path}/more")[0] == 0
