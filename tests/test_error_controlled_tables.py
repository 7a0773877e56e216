"""Tables of error-controlled iterations, and the recipe of denoisers: small, to the end."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from commands import ok
from PIL import Image

from fastrecon import models
from fastrecon.networks import ResidualCNN
from fastrecon.train.recipes.padnet_image import Config, Units
from fastrecon.train.world import World


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


@pytest.mark.parametrize(
    "network", ["--scales 4 6 --blocks 1", "--network cnn --layers 2 --no-dilated --channels 2"], ids=["scales", "cnn"]
)
def test_recipe_of_denoisers(run, tmp_path, network):
    Image.fromarray((np.random.default_rng(0).random((40, 40)) * 255).astype("u1")).save(tmp_path / "a.png")
    command = f"train denoiser --data {tmp_path}/a.png --validation-data {tmp_path}/a.png --steps 2 --validate-every 1"
    command += " --batch 2 --patch 16"
    assert run(f"{command} {network} --out {tmp_path}/run")[0] == 0
    assert models.load(tmp_path / "run" / "model.safetensors").problem == "deblur"
    assert "PSNR" in (tmp_path / "run" / "denoiser.md").read_text()
    more = f"{command} --init {tmp_path}/run/model.safetensors"  # of its kind and size, whatever the usual ones are
    assert run(f"{more} --out {tmp_path}/more")[0] == 0
    unit = models.load(tmp_path / "more" / "model.safetensors").unit
    assert {k: v.shape for k, v in unit.state_dict().items()} == {
        k: v.shape for k, v in models.load(tmp_path / "run" / "model.safetensors").unit.state_dict().items()
    }
    assert run(f"{more} --lr 1e-12 --out {tmp_path}/same")[0] == 0
    again = models.load(tmp_path / "same" / "model.safetensors").unit.state_dict()
    first = models.load(tmp_path / "run" / "model.safetensors").unit.state_dict()
    for name, t in first.items():
        torch.testing.assert_close(again[name], t, rtol=1e-4, atol=1e-7)


def test_a_unit_of_before_the_kinds_goes_on(tmp_path):
    """Its state says nothing of the network."""
    Image.fromarray((np.random.default_rng(0).random((40, 40)) * 255).astype("u1")).save(tmp_path / "a.png")
    options = {"data": [str(tmp_path / "a.png")], "validation": 0.0, "layers": 2, "dilated": False, "channels": 2}
    former = Units(Config(**options, patch=16, network="cnn"), World(), tmp_path)
    state = former.state_dict()
    del state["network"]
    units = Units(Config(**options, patch=16), World(), tmp_path, fresh=False)
    units.load_state_dict(state)
    assert isinstance(units.module, ResidualCNN)
    assert all(torch.equal(v, units.module.state_dict()[k]) for k, v in former.module.state_dict().items())
