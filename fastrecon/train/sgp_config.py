"""Settings of `fastrecon train sgp` and `fastrecon train unet`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrecon import problems
from fastrecon.checks import expect
from fastrecon.train.config import _option


@dataclass(frozen=True)
class Config:
    """What a run computes."""

    data: Sequence[str] = _option("folders (or files) of training images", nargs="+")
    method: str = _option("sgp or unet", "sgp")
    task: str = _option("inverse problem", "inpaint", choices=tuple(problems.LAM))
    variant: str = _option("one step size per image, or one per coefficient", "step", choices=("step", "diag"))
    name: str = _option("name of the model; default: sgp-VARIANT-TASK or unet-TASK", "")
    rate: Sequence[float] = _option(
        "shares of known pixels or sampled frequencies; each image is given one of them", (0.5,), nargs="+", type=float
    )
    noise: Sequence[float] = _option(
        "deviations of noise on the scale [0, 255], likewise", (0.0,), nargs="+", type=float
    )
    lam_factor: Sequence[float] = _option(
        "weights of |c|_1 relative to the paper's, likewise", (1.0,), nargs="+", type=float
    )
    views: int = _option("of ct", problems.VIEWS, type=int)
    side: int = _option("side of the central squares that are cut out, a multiple of 8", 256, type=int)
    images: int = _option("at most so many", 450, type=int)
    held: int = _option("images kept for validation", 4, type=int)
    unroll: int = _option(
        "train end to end through so many iterations, towards the true images; 0: the paper's greedy stages, towards"
        " the minimisers", 0, type=int,
    )  # fmt: skip
    first_step: float = _option(
        "step size that training starts from, in units of 1 / L; with --unroll times mean |x| / lam", 1.0, type=float
    )
    rise: float = _option(
        "--unroll: penalty in dB for each doubling of the objective, which SGP would refuse", 30.0, type=float
    )
    stages: int = _option("greedy stages K", 10, type=int)
    steps: int = _option("training steps: of each greedy stage, else of the run", 300, type=int)
    batch: int = _option("images in a step", 8, type=int)
    lr: float = _option("learning rate, falling to 0 as a cosine", 1e-4, type=float)
    clip: float = _option("largest norm of the gradient; 0: none", 1.0, type=float)
    width: int = _option("channels of the U-Net's first level", 64, type=int)
    norm: str = _option("normalisation; default: none for sgp, group for unet", "", choices=("batch", "group", "none"))
    target_iterations: int = _option("of FISTA, for the minimisers that are fitted", 1200, type=int)
    validate_every: int = _option("steps between validations and checkpoints; default: a tenth of the run", 0, type=int)
    seed: int = _option("of network, images, masks and batches", 0, type=int)

    def __post_init__(self):
        whole = ("images", "stages", "steps", "batch", "width", "target_iterations", "views")
        checks: list[tuple[str, bool, str]] = [
            *((name, getattr(self, name) >= 1, "an integer >= 1") for name in whole),
            ("side", self.side >= 8 and self.side % 8 == 0, "a multiple of 8"),
            ("held", self.held >= 0, "an integer >= 0"),
            ("unroll", self.unroll >= 0, "an integer >= 0"),
            ("rate", all(0 < r <= 1 for r in self.rate), "shares in (0, 1]"),
            ("noise", all(n >= 0 for n in self.noise), "numbers >= 0"),
            ("lam_factor", all(f > 0 for f in self.lam_factor), "numbers > 0"),
            ("first_step", self.first_step > 0, "a number > 0"),
            ("rise", self.rise >= 0, "a number >= 0"),
            ("lr", self.lr > 0, "a number > 0"),
        ]
        for name, good, expected in checks:
            expect(good, "train", "--" + name.replace("_", "-"), expected, getattr(self, name))

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
