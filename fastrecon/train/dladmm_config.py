"""Settings of `fastrecon train dladmm`: what is stored in a checkpoint and named in the model's card."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastrecon.checks import expect
from fastrecon.options import check, option
from fastrecon.train.dladmm_loss import LOSSES

TASKS = ("synthetic", "denoise")
# What --task synthetic takes unless told otherwise: the error in dB of every layer, on new pairs of codes and errors.
SYNTHETIC = {"lam": 0.5, "recombine": True, "loss": "decibel", "deep": 1.0, "steps": 3000, "lr": 0.03, "clip": 1.0}


@dataclass(frozen=True)
class DladmmConfig:
    """What a run computes."""

    task: str = option("sparse codes of synthetic data, or salt-and-pepper denoising", choices=TASKS)
    data: Sequence[str] = option("denoise: folders (or files) of clean training images", (), nargs="+")
    validation_data: Sequence[str] = option(
        "denoise: folders (or files) of validation images; default: a share of --data", (), nargs="+"
    )
    validation: float = option(
        "denoise: share of the images of --data kept for validation", 0.05, within="[0, 1)", type=float
    )
    name: str = option("name of the model; default: dladmm-synthetic or dladmm-saltpepper", "")
    layers: int = option("learned layers K", 15, within="[1, 1000]", type=int)
    lam: float = option("weight of |Z|_1; synthetic: 0.5", 0.45, within="[1e-6, 1e6]", type=float)
    beta: float = option("penalty of the LADMM that the layers start from", 1.0, within="[1e-6, 1e6]", type=float)
    e_update: str = option("of E", "residual", choices=("general", "residual"))
    per_row: bool = option("a threshold for each component, not one for all", True)
    start_noise: float = option(
        "deviation of the start from the classical weights, relative to A", 1e-3, within="[0, 1000]", type=float
    )
    constrain: bool = option("project the weights onto a neighbourhood of the classical ones after each step", False)
    radius: float = option("of that neighbourhood, relative to |A|", 1.0, within="[1e-6, 1e6]", type=float)
    loss: str = option(
        "distance from the truth (squared, or in dB: of relative errors), the duality gap with consistent weights, or"
        " as in the authors' code; synthetic: decibel", "supervised",
        choices=LOSSES,
    )  # fmt: skip
    deep: float = option(
        "weight of each layer's loss relative to the next one's: 0 only the last counts, 1 all the same; synthetic: 1",
        0.0,
        within="[0, 1]",
        type=float,
    )
    steps: int = option("training steps of the whole run; synthetic: 3000", 2000, within="[1, 1e9]", type=int)
    batch: int = option("samples in a step, over all processes", 256, within="[1, 1e6]", type=int)
    lr: float = option("learning rate; synthetic: 0.03", 1e-3, within="(0, 1000]", type=float)
    optimiser: str = option("of the parameters", "adam", choices=("adam", "sgd"))
    decay: str = option("of the learning rate over the run", "cosine", choices=("cosine", "halving", "constant"))
    halve_every: int = option("steps, for --decay halving", 1000, within="[1, 1e9]", type=int)
    warmup: int = option("steps over which the learning rate rises", 50, within="[0, 1e9]", type=int)
    clip: float = option("largest norm of the gradient, 0 none; synthetic: 1", 0.0, within="[0, 1e6]", type=float)
    ema: float = option(
        "decay of averaged parameters, which are then validated and saved; 0: none", 0.0, within="[0, 1)", type=float
    )
    rows: int = option("synthetic: length m of the data", 500, within="[1, 1e5]", type=int)
    columns: int = option("synthetic: length d of the codes", 250, within="[1, 1e5]", type=int)
    samples: int = option("synthetic: training samples", 10_000, within="[1, 1e8]", type=int)
    recombine: bool = option(
        "train on codes of one sample with errors of another, signs at random; synthetic: yes", False
    )
    test_samples: int = option("synthetic: test samples", 1_000, within="[1, 1e8]", type=int)
    patch: int = option("denoise: side of the patches", 16, within="[1, 256]", type=int)
    atoms: int = option("denoise: atoms of the dictionary", 512, within="[2, 1e5]", type=int)
    sparsity: float = option(
        "denoise: sparsity with which the dictionary is learned", 0.1, within="(0, 1000]", type=float
    )
    dictionary_patches: int = option(
        "denoise: patches that the dictionary is learned from", 40_000, within="[1, 1e8]", type=int
    )
    noise: float = option("denoise: share of the pixels that become black or white", 0.1, within="(0, 1)", type=float)
    init: str = option("denoise: start from this model (name or file) and its dictionary", "")
    seed: int = option("of the network, the data and the noise", 0, within="[0, 2147483647]", type=int)
    dtype: str = option("of the arithmetic", "float32", choices=("float32", "float64"))
    validate_every: int = option(
        "steps between validations and checkpoints; default: a twentieth of the run", 0, within="[0, 1e9]", type=int
    )

    def __post_init__(self):
        check(self)
        expect(self.task == "synthetic" or bool(self.data), "train", "--data", "folders of training images", "none")
