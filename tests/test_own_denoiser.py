"""docs/own-denoiser.md: its text runs, and its denoiser helps."""

import re
from pathlib import Path

import torch
from zoo import scene

from fastrecon.metrics import psnr

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "own-denoiser.md").read_text()


def test_the_text_runs(capsys):
    torch.manual_seed(0)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    photograph = scene(64, 2, torch.float32)
    names = {"photograph": photograph}
    exec(compile(code, "own-denoiser.md", "exec"), names)
    x, report, y = names["x"], names["report"], names["y"]
    assert (psnr(x, photograph) > psnr(y, photograph) + 1).all()
    assert (report.accepted > 5).all()
    assert (report.failed == 0).all()
    assert "tensor" in capsys.readouterr().out
