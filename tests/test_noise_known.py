"""Noise of photographs of which some pixels are known: its estimate, and what inpainting makes of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon import io, zoo
from fastrecon.noise import estimate_known
from fastrecon.problems.inpaint import Inpaint, InpaintOptions

SIZE = (128, 120)


def photo(sigma: float, count: int = 2) -> torch.Tensor:
    return zoo.scenes(count, *SIZE) + sigma * zoo.numbers(count, 1, *SIZE, seed=1)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_the_estimate_is_near(sigma, rate):
    known = (torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < rate).float()
    x = photo(sigma)
    found = estimate_known(torch.where(known > 0, x, 0), known)
    assert found.tolist() == pytest.approx([sigma] * 2, rel=0.12)
    assert found[1] == estimate_known(torch.where(known > 0, x, 0)[1:], known)[0]


def test_a_few_squares_tell_nothing():
    known = torch.zeros(SIZE)
    known[:8, :8] = 1
    assert estimate_known(photo(0.1), known).isnan().all()
    assert estimate_known(photo(0.1)[:0], known).shape == (0,)
    with pytest.raises(ValueError, match="estimate_known: x: expected real images"):
        estimate_known(torch.zeros(4, 4), known)


@pytest.mark.parametrize(("sigma", "told"), [(0.08, True), (0.0, False), (0.02, False)])
def test_inpainting_is_told_of_clear_noise(tmp_path: Path, sigma, told):
    x = 255 * photo(sigma, 1)[0, 0].clamp(0, 1).numpy()
    known = np.random.default_rng(0).random(SIZE) < 0.5
    io.write_image(tmp_path / "p.png", x / 255)
    io.write_image(tmp_path / "m.png", known.astype(np.float32))
    m = Inpaint().read(tmp_path / "p.png", InpaintOptions(mask=str(tmp_path / "m.png")))
    assert (m.noise > 0) is told
    assert any("texture" in note for note in m.notes) is not told
    assert any("noise estimated" in note for note in m.notes) is told
    if told:
        assert math.isclose(m.noise, sigma, rel_tol=0.15)
    given = InpaintOptions(mask=str(tmp_path / "m.png"), noise=2.55)
    assert Inpaint().read(tmp_path / "p.png", given).noise == pytest.approx(0.01 if m.scale == 255 else 2.55)
