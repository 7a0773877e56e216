"""Settings of `fastrecon train sgp` and `fastrecon train unet`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrecon.checks import expect
from fastrecon.networks.unet import GROUP, LEVELS
from fastrecon.options import check, option
from fastrecon.problems import wavelet_l1 as problems


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = option("folders (or files) of training images", nargs="+")
    method: str = option("sgp or unet", "sgp", choices=("sgp", "unet"))
    task: str = option("inverse problem", "inpaint", choices=tuple(problems.LAM))
    variant: str = option("one step size per image, or one per coefficient", "step", choices=("step", "diag"))
    name: str = option("name of the model; default: sgp-VARIANT-TASK or unet-TASK", "")
    rate: Sequence[float] = option(
        "shares of known pixels or sampled frequencies; each image is given one of them",
        (0.5,),
        nargs="+",
        within="(0, 1]",
        type=float,
    )
    noise: Sequence[float] = option(
        "deviations of noise on the scale [0, 255], likewise", (0.0,), nargs="+", within="[0, 1000]", type=float
    )
    lam_factor: Sequence[float] = option(
        "weights of |c|_1 relative to the paper's, likewise", (1.0,), nargs="+", within="[1e-4, 1e4]", type=float
    )
    views: int = option("of ct", problems.VIEWS, within="[1, 1e4]", type=int)
    side: int = option(
        "side of the central squares that are cut out, a multiple of 8", 256, within="[8, 4096]", type=int
    )
    images: int = option("at most so many", 450, within="[1, 1e6]", type=int)
    held: int = option("images kept for validation", 4, within="[0, 1e6]", type=int)
    unroll: int = option(
        "train end to end through so many iterations, towards the true images; 0: the paper's greedy stages, towards"
        " the minimisers", 0, within="[0, 1000]", type=int,
    )  # fmt: skip
    first_step: float = option(
        "step size that training starts from, in units of 1 / L; with --unroll times mean |x| / lam",
        1.0,
        within="(0, 1e6]",
        type=float,
    )
    rise: float = option(
        "--unroll: penalty in dB for each doubling of the objective, which SGP would refuse",
        30.0,
        within="[0, 1e6]",
        type=float,
    )
    stages: int = option("greedy stages K", 10, within="[1, 1000]", type=int)
    steps: int = option("training steps: of each greedy stage, else of the run", 300, within="[1, 1e9]", type=int)
    batch: int = option("images in a step", 8, within="[1, 1e6]", type=int)
    lr: float = option("learning rate, falling to 0 as a cosine", 1e-4, within="(0, 1000]", type=float)
    clip: float = option("largest norm of the gradient; 0: none", 1.0, within="[0, 1e6]", type=float)
    width: int = option("channels of the U-Net's first level", 64, within="[1, 1024]", type=int)
    norm: str = option("normalisation; default: none for sgp, group for unet", "", choices=("batch", "group", "none"))
    target_iterations: int = option("of FISTA, for the minimisers that are fitted", 1200, within="[1, 1e6]", type=int)
    validate_every: int = option(
        "steps between validations and checkpoints; default: a tenth of the run", 0, within="[0, 1e9]", type=int
    )
    seed: int = option("of network, images, masks and batches", 0, within="[0, 2147483647]", type=int)

    def __post_init__(self):
        check(self)
        expect(self.side % 8 == 0, "train", "--side", "a multiple of 8", self.side)
        widths = [self.width << k for k in range(LEVELS)]
        whole = self.normalisation != "group" or all(w % max(1, w // GROUP) == 0 for w in widths)
        expect(whole, "train", "--width", f"a multiple of {GROUP}, or of equal groups at every level", self.width)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * (self.stages if self.greedy else 1)

    @property
    def greedy(self) -> bool:
        """Whether training is the paper's."""
        return self.method == "sgp" and self.unroll == 0

    @property
    def normalisation(self) -> str:
        """Of the U-Net."""
        return self.norm or ("none" if self.method == "sgp" else "group")

    @property
    def kind(self) -> str:
        """sgp-step, sgp-diag or unet: the method of the model."""
        return f"sgp-{self.variant}" if self.method == "sgp" else "unet"

    def schedule(self) -> dict[str, Any]:
        """Arguments of the trainer's schedule."""
        every = self.validate_every or (self.steps if self.greedy else max(1, self.steps // 10))
        return {
            "steps": self.total, "rate": self.lr, "decay": "cosine", "warmup": 20, "clip": self.clip,
            "validate_every": every,
        }  # fmt: skip
