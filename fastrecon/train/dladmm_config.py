"""Settings of `fastrecon train dladmm`: what is stored in a checkpoint and named in the model's card."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrecon.checks import expect
from fastrecon.train.config import _option
from fastrecon.train.dladmm_loss import LOSSES

TASKS = ("synthetic", "denoise")
# What --task synthetic takes unless told otherwise: the error in dB of every layer, on new pairs of codes and errors.
SYNTHETIC = {"lam": 0.5, "recombine": True, "loss": "decibel", "deep": 1.0, "steps": 3000, "lr": 0.03, "clip": 1.0}


@dataclass(frozen=True)
class DladmmConfig:
    """What a run computes."""

    task: str = _option("sparse codes of synthetic data, or salt-and-pepper denoising", choices=TASKS)
    data: Sequence[str] = _option("denoise: folders (or files) of clean training images", (), nargs="+")
    validation_data: Sequence[str] = _option(
        "denoise: folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = _option("denoise: share of the images of --data kept for validation", 0.05, type=float)
    name: str = _option("name of the model; default: dladmm-synthetic or dladmm-saltpepper", "")
    layers: int = _option("learned layers K", 15, type=int)
    lam: float = _option("weight of |Z|_1; synthetic: 0.5", 0.45, type=float)
    beta: float = _option("penalty of the LADMM that the layers start from", 1.0, type=float)
    e_update: str = _option("of E", "residual", choices=("general", "residual"))
    per_row: bool = _option("a threshold for each component, not one for all", True)
    start_noise: float = _option("deviation of the start from the classical weights, relative to A", 1e-3, type=float)
    constrain: bool = _option("project the weights onto a neighbourhood of the classical ones after each step", False)
    radius: float = _option("of that neighbourhood, relative to |A|", 1.0, type=float)
    loss: str = _option(
        "distance from the truth (squared, or in dB: of relative errors), the duality gap with consistent weights, or"
        " as in the authors' code; synthetic: decibel", "supervised",
        choices=LOSSES,
    )  # fmt: skip
    deep: float = _option(
        "weight of each layer's loss relative to the next one's: 0 only the last counts, 1 all the same; synthetic: 1",
        0.0,
        type=float,
    )
    steps: int = _option("training steps of the whole run; synthetic: 3000", 2000, type=int)
    batch: int = _option("samples in a step, over all processes", 256, type=int)
    lr: float = _option("learning rate; synthetic: 0.03", 1e-3, type=float)
    optimiser: str = _option("of the parameters", "adam", choices=("adam", "sgd"))
    decay: str = _option("of the learning rate over the run", "cosine", choices=("cosine", "halving", "constant"))
    halve_every: int = _option("steps, for --decay halving", 1000, type=int)
    warmup: int = _option("steps over which the learning rate rises", 50, type=int)
    clip: float = _option("largest norm of the gradient, 0 none; synthetic: 1", 0.0, type=float)
    ema: float = _option("decay of averaged parameters, which are then validated and saved; 0: none", 0.0, type=float)
    rows: int = _option("synthetic: length m of the data", 500, type=int)
    columns: int = _option("synthetic: length d of the codes", 250, type=int)
    samples: int = _option("synthetic: training samples", 10_000, type=int)
    recombine: bool = _option(
        "train on codes of one sample with errors of another, signs at random; synthetic: yes", False
    )
    test_samples: int = _option("synthetic: test samples", 1_000, type=int)
    patch: int = _option("denoise: side of the patches", 16, type=int)
    atoms: int = _option("denoise: atoms of the dictionary", 512, type=int)
    sparsity: float = _option("denoise: sparsity with which the dictionary is learned", 0.1, type=float)
    dictionary_patches: int = _option("denoise: patches that the dictionary is learned from", 40_000, type=int)
    noise: float = _option("denoise: share of the pixels that become black or white", 0.1, type=float)
    init: str = _option("denoise: start from this model (name or file) and its dictionary", "")
    seed: int = _option("of the network, the data and the noise", 0, type=int)
    dtype: str = _option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = _option(
        "steps between validations and checkpoints; default: a twentieth of the run", 0, type=int
    )

    def __post_init__(self):
        whole = (
            "layers", "steps", "batch", "rows", "columns", "samples", "test_samples", "patch", "halve_every",
            "dictionary_patches",
        )  # fmt: skip
        positive = ("lam", "beta", "radius", "lr", "sparsity")
        checks: list[tuple[str, bool, Any]] = [
            ("task", self.task in TASKS, f"one of {', '.join(TASKS)}"),
            *((name, getattr(self, name) >= 1, "an integer >= 1") for name in whole),
            *((name, getattr(self, name) > 0, "a number > 0") for name in positive),
            ("atoms", self.atoms >= 2, "an integer >= 2"),
            ("noise", 0 < self.noise < 1, "a share in (0, 1)"),
            ("validation", 0 <= self.validation < 1, "a share in [0, 1)"),
            ("deep", 0 <= self.deep <= 1, "a number in [0, 1]"),
            ("start_noise", self.start_noise >= 0, "a number >= 0"),
            ("ema", 0 <= self.ema < 1, "a number in [0, 1)"),
        ]
        for name, good, expected in checks:
            expect(good, "train", "--" + name.replace("_", "-"), expected, getattr(self, name))
        expect(self.task == "synthetic" or bool(self.data), "train", "--data", "folders of training images", "none")
