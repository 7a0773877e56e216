"""What tests of the command line share: a folder with models and pictures, and how a command is run."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastrecon as fr
from fastrecon import io
from fastrecon.cli import main as cli
from fastrecon.models import BlockSensingModel
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.problems.block_cs import fingerprint
from fastrecon.solvers import LDA, GDNet

BLOCK, SIZE = 8, (21, 30)
Answer = tuple[int, str, str]


def save_model(path: Path, m: int = 32, kind=LDA, seed: int = 0, told: bool = True) -> None:
    """Total variation as a model: two features, the forward differences. Its file tells the seed, or the matrix."""
    phi = random_phi(m, BLOCK**2, seed)
    operator = BlockSensing(phi.float(), BLOCK)
    solver = kind(operator, 3, 2, 1, alpha=0.9, eps0=0.002)
    kernel = torch.zeros(2, 1, 3, 3)
    kernel[:, 0, 1, 1], kernel[0, 0, 1, 2], kernel[1, 0, 2, 1] = -0.01, 0.01, 0.01
    solver.regulariser.weights[0].data = kernel
    i, j = np.mgrid[:BLOCK, :BLOCK].reshape(2, -1)
    covariance = torch.from_numpy(0.98 ** np.hypot(i[:, None] - i, j[:, None] - j))
    q = covariance @ phi.T @ torch.linalg.inv(phi @ covariance @ phi.T)
    meta = {"ratio": 100 * m / BLOCK**2, "name": path.stem} | ({"phi_seed": seed} if told else {})
    BlockSensingModel(operator, solver, q.float(), meta).save(path)


def first_version(path: Path, maker: Path, pixels: np.ndarray, **changes: object) -> None:
    """Measurements as the first version's `simulate` wrote them; changes to None leave entries out."""
    made = fr.load(maker)
    y = made.operator(torch.from_numpy(pixels)[None, None].float())[0].detach().numpy()
    facts = {"operator": fingerprint(made.operator), "noise": 0.0, "ratio": made.meta["ratio"], "model": str(maker)}
    contents = {"y": y, "size": np.array(pixels.shape), **{k: str(v) for k, v in facts.items()}} | changes
    np.savez(path, **{k: v for k, v in contents.items() if v is not None})


def disc() -> np.ndarray:
    """A picture of SIZE on [0, 1]."""
    i, j = np.mgrid[: SIZE[0], : SIZE[1]]
    return 0.2 + 0.6 * ((i - 10) ** 2 + (j - 12) ** 2 < 50)


def furnish(folder: Path) -> Path:
    """The folder with models and pictures."""
    save_model(folder / "tv.safetensors")
    save_model(folder / "other-ratio.safetensors", m=16)
    save_model(folder / "other-phi.safetensors", seed=1)
    save_model(folder / "own-phi.safetensors", seed=2, told=False)
    save_model(folder / "gd-net.safetensors", kind=GDNet)
    (folder / "images").mkdir()
    io.write_image(folder / "images" / "disc.png", disc(), 16)
    colour = np.stack([disc(), 1 - disc(), 0.5 + 0 * disc()], 2)
    Image.fromarray((255 * colour).astype(np.uint8)).save(folder / "images" / "colour.png")
    return folder


def runner(capsys: pytest.CaptureFixture[str], place: Path) -> Callable[..., Answer]:
    """Runs a command; returns its status, stdout and stderr. @ is `place`."""

    def call(command: str, *more: object) -> Answer:
        capsys.readouterr()
        status = cli.main([*command.replace("@", f"{place}/").split(), *map(str, more)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def failing(run: Callable[..., Answer]) -> Callable[..., str]:
    """Runs a command that must fail with status 2 and one line, which holds all of `words` and comes back."""

    def call(command: str, *more: object, words: tuple[str, ...]) -> str:
        status, out, err = run(command, *more)
        assert (status, out) == (2, "")
        assert err.startswith("fastrecon: ")
        assert err.count("\n") == 1
        for word in words:
            assert word in err, f"{word!r} in {err!r}"
        return err

    return call


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(os.listdir(folder))


def ok(result: Answer) -> str:
    """What a command that went well said."""
    status, out, err = result
    assert (status, err) == (0, "")
    return out
