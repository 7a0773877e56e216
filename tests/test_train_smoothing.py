"""The recipe of a network that smooths as method "l0" does."""

import numpy as np
from commands import ok

import fastrecon as fr
from fastrecon import io


def test_train_resume_and_use(run, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for k in range(3):
        a = generator.uniform(0, 1, (4, 5, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32)
        io.write_picture(tmp_path / f"data/{k}", a, io.Form())
    options = "--scales 4 4 --blocks 1 --patch 16 --batch 2 --validate-every 1 --precision float32"
    assert run(f"train smoothing --data {tmp_path}/data {options} --steps 2 --out {tmp_path}/run")[0] == 0
    model = fr.load(tmp_path / "run/model.safetensors")
    assert model.problem == "smooth"
    assert "PSNR" in (tmp_path / "run/smoothing.md").read_text()
    for method in ("separation --model", "error-controlled --module"):
        out = tmp_path / method.split()[0]
        ok(run(f"reconstruct {tmp_path}/data/0.png --problem smooth --method {method} {tmp_path}/run/model.safetensors"
               f" --out {out}"))  # fmt: skip
        assert (out / "0_texture.png").is_file()
