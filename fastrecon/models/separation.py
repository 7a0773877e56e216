"""Networks that separate: x = y - G(y), what is to be taken off a picture by one residual network.

They stand behind no objective; as a module of the error-controlled iteration one proposes, and a test disposes.
Source: Zhang, Zuo, Chen, Meng & Zhang, Beyond a Gaussian Denoiser, IEEE Trans. Image Process. 26 (2017); of rain: Fu,
Huang, Zeng, Huang, Ding & Paisley, Removing Rain from Single Images via a Deep Detail Network, CVPR 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import MisfitReport
from fastrecon.checks import expect, expect_finite
from fastrecon.models import card
from fastrecon.models.base import Model, register, trained
from fastrecon.models.file import Header
from fastrecon.networks import UNITS, described, made
from fastrecon.operators import LinearOperator
from fastrecon.options import check, option
from fastrecon.solvers.haze_methods import apart
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method

METHOD = "separation"
PROBLEMS = ("derain", "smooth")


@register(METHOD)
class Separation(Model):
    """x = y - G(y), on [0, 1].

    Args:
        network: G, of a kind in `networks.UNITS`.
        problem: name of the problem.
        meta: facts to keep with the model: `name`, `training`.
        level: what G is told, where it is told anything; `None` of those that are not.

    Raises:
        ValueError: the network is of an unknown kind, or a level is missing or one too many.
    """

    method, operator = METHOD, None

    def __init__(
        self, network: nn.Module, problem: str, meta: Mapping[str, Any] | None = None, level: float | None = None
    ):  # fmt: skip
        super().__init__(meta)
        fits = isinstance(network, tuple(UNITS.values()))
        expect(fits, type(self).__name__, "network", f"one of {', '.join(UNITS)}", type(network).__name__)
        told = bool(getattr(network, "levels", False))
        fits = (level is not None) == told
        expect(fits, type(self).__name__, "level", "a number" if told else "None", level)
        self.problem, self.network, self.level = problem, network, level

    @property
    def independent(self) -> bool:
        """Always: nothing is shared by the images of a batch."""
        return True

    @property
    def like(self) -> Tensor:
        """A tensor of the network, whose type and device are the model's."""
        return next(self.network.parameters())

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at pictures.

        Raises:
            ValueError: they are not real, on another device, or hold NaN or Inf.
        """
        expect(y.ndim == 4 and y.is_floating_point(), METHOD, "y", "real pictures [B, C, H, W]", y)
        here = anywhere or y.device == self.like.device
        expect(here, METHOD, "y", f"a tensor on {self.like.device}", f"one on {y.device}")
        expect_finite(y, METHOD, "finite pictures", "image")

    @torch.no_grad()
    def clean(self, v: Tensor) -> Tensor:
        """v - G(v) of pictures [B, C, H, W]; a grey one is as good as three equal colours."""
        network: Any = self.network
        c, kind = int(network.settings.get("in_channels", 1)), self.like.dtype
        expect(v.shape[1] in (1, c), METHOD, "y", f"pictures with {c} channels, or 1", v)
        x = v.to(kind).expand(-1, c, -1, -1).contiguous()
        found = x - (network(x) if self.level is None else network(x, self.level))
        return (found.mean(1, keepdim=True) if v.shape[1] < c else found).to(v)

    @torch.no_grad()
    def compute(self, y: Tensor, operator: LinearOperator | None = None, **options: Any) -> tuple[Tensor, MisfitReport]:
        """Pictures on [0, 1], and how far they are from y.

        Args:
            y: pictures that passed `check`.
            operator: the identity; what it is makes no difference.
            options: none.

        Raises:
            ValueError: there is an option.
        """
        expect(not options, METHOD, "options", "none", sorted(options))
        x = self.clean(y).clamp(0, 1)
        return x, apart(x, y, "one pass of a network")

    def hyperparameters(self) -> dict[str, Any]:
        """Of the network, and what it is told."""
        return described(self.network) | ({} if self.level is None else {"level": self.level})

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "Separation":
        """The model of what a file holds."""
        settings = dict(head.hyperparameters)
        level = settings.pop("level", None)
        model = cls(made(settings), head.problem, head.meta, level)
        model.to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
        model.load_state_dict(tensors)
        return model

    def card(self) -> str:
        """As of Model."""
        training, _ = card.training_of(self.meta)
        count = sum(p.numel() for p in self.parameters())
        what = [
            f"What a residual network of {count:,} numbers takes off a picture, for the problem {self.problem}:"
            " x = y - G(y). No objective stands behind it; inside `--method error-controlled` it proposes, and a test"
            " disposes."
        ]
        code = ["result = model(y)  # y [B, 3, H, W] on [0, 1]"]
        return card.page(self.meta, what, code, {k: str(v) for k, v in training.get("facts", {}).items()})


@dataclass(frozen=True)
class SeparationOptions:
    """Options of a network that separates."""

    model: str = option("shipped model, or path of a .safetensors file; default: the shipped one of the problem", "")

    def __post_init__(self):
        check(self, METHOD)


@method(METHOD, SeparationOptions, "a network alone, no objective behind it", PROBLEMS)
def separation(options: SeparationOptions, device: torch.device) -> Runner:
    """Pictures [B, C, H, W]."""
    models: dict[str, Model] = {}

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        model = models.setdefault(inverse.problem, trained(METHOD, inverse.problem, options.model).to(device))
        model.check(inverse.y)
        x, report = model.compute(inverse.y, inverse.operator)
        if watch is not None:
            watch(1, 1, lambda: x)
        return Outcome(x, report, model=options.model or model.name)

    return run
