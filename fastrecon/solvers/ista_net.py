"""ISTA-Net and ISTA-Net+: phases of ISTA whose transforms, steps and thresholds are learned.

z = x - rho A*(A x - y); ISTA-Net: x+ = Hb(soft(H z, theta)); ISTA-Net+: x+ = z + G Hb(soft(H D z, theta)).
H and Hb are two 3x3 convolutions with a ReLU between, D and G one, none with a bias. Of complex images kernels are
complex too, and ReLU and soft act on real and imaginary parts one by one.

Source: Zhang & Ghanem, ISTA-Net: Interpretable Optimization-Inspired Deep Network for Image Compressive Sensing, CVPR
2018 (arXiv:1706.07929).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrecon.checks import expect, flag, integer
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.by_image import each_image
from fastrecon.ops.layout import real_dtype
from fastrecon.solvers.unrolled import State, Unrolled, images, planes
from fastrecon.terms.complex_features import doubled

FIRST_STEP, FIRST_THRESHOLD = 0.5, 0.01


class Phase(nn.Module):
    """One phase.

    Args:
        channels: of the features.
        plus: ISTA-Net+, else ISTA-Net.
        complex_features: whether images and kernels are complex; a kernel is then [2, out, in, 3, 3].
    """

    def __init__(self, channels: int = 32, plus: bool = True, complex_features: bool = False):
        super().__init__()
        wide = channels if plus else 1
        shapes = {
            "h1": (channels, wide),
            "h2": (channels, channels),
            "b1": (channels, channels),
            "b2": (wide, channels),
        }
        shapes |= {"d": (channels, 1), "g": (1, channels)} if plus else {}
        parts = (2,) if complex_features else ()
        self.kernels = nn.ParameterDict()
        for name, shape in shapes.items():
            kernel = torch.empty(*parts, *shape, 3, 3)
            for part in kernel if complex_features else (kernel,):
                nn.init.xavier_normal_(part)
            self.kernels[name] = nn.Parameter(kernel * 0.5**0.5 if complex_features else kernel)
        self.rho = nn.Parameter(torch.tensor(FIRST_STEP))
        self.theta = nn.Parameter(torch.tensor(FIRST_THRESHOLD))
        self.plus = plus

    def forward(self, z: Tensor) -> Tensor:
        """x+ of z [B, 1, H, W]."""
        t = planes(z)
        return images(self._image(t, self.features(self.seen(t))), z)

    def both(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x+, and mean (Hb H t - t)^2 of what the transform sees of z, which the loss asks to vanish."""
        t = planes(z)
        seen = self.seen(t)
        features = self.features(seen)
        return images(self._image(t, features), z), (self._twice(features, "b1", "b2") - seen).square().mean()

    def seen(self, z: Tensor) -> Tensor:
        """What the transform is applied to: D z, or z."""
        return self._convolved(z, "d") if self.plus else z

    def features(self, seen: Tensor) -> Tensor:
        """H of it [B, C, H, W]."""
        return self._twice(seen, "h1", "h2")

    def _image(self, z: Tensor, features: Tensor) -> Tensor:
        # a learned threshold may be negative, as in published weights: then it is no proximal map
        kept = features.sign() * F.relu(features.abs() - self.theta)
        back = self._twice(kept, "b1", "b2")
        return z + self._convolved(back, "g") if self.plus else back

    def _twice(self, t: Tensor, first: str, second: str) -> Tensor:
        return self._convolved(F.relu(self._convolved(t, first)), second)

    def _convolved(self, t: Tensor, name: str) -> Tensor:
        kernel = self.kernels[name]
        return F.conv2d(t, kernel if kernel.ndim == 4 else doubled(*kernel), padding=1)


class ISTANet(Unrolled):
    """ISTA-Net or ISTA-Net+ for one operator.

    Args:
        operator: A, from images [B, 1, H, W]; as good as |A| <= 1. Where it has complex ones and the network has not,
            real images are sought.
        phases: K.
        channels: of the features.
        plus: ISTA-Net+, else ISTA-Net.
        shared: whether all phases share convolutions and threshold; steps are each phase's own.
        complex_features: whether images are complex, and so the convolutions.
        one_threshold: whether all phases share the threshold.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self, operator: LinearOperator, phases: int = 9, channels: int = 32, plus: bool = True, shared: bool = False,
        complex_features: bool = False, one_threshold: bool = False,
    ):  # fmt: skip
        super().__init__(operator)
        name = type(self).__name__
        self.phases, self.channels = (
            integer(phases, name, "phases", least=1),
            integer(channels, name, "channels", least=1),
        )
        self.plus, self.shared = flag(plus, name, "plus"), flag(shared, name, "shared")
        self.complex_features = flag(complex_features, name, "complex_features")
        self.one_threshold = flag(one_threshold, name, "one_threshold")
        self.layers = nn.ModuleList(Phase(self.channels, self.plus, self.complex_features) for _ in range(self.phases))
        first, *others = self._layers()
        for phase in others if self.shared else ():
            phase.kernels, phase.theta = first.kernels, first.theta
        for phase in others if self.one_threshold else ():
            phase.theta = first.theta

    def hyperparameters(self) -> dict[str, Any]:
        """What it is made with."""
        always = {name: getattr(self, name) for name in ("phases", "channels", "plus", "shared")}
        return always | {name: True for name in ("complex_features", "one_threshold") if getattr(self, name)}

    def phase(self, k: int, s: State, y: Tensor) -> State:
        """A gradient step, and the transform."""
        phase = self._layers()[k]
        return (each_image(phase, s[0] - phase.rho * self.gradient(s[0], y)),)

    def learn(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """For training: the image of the last phase, and the sum of what the phases' transforms lack of symmetry.

        Args:
            y: measurements [B, ...].
            x: start [B, 1, H, W].
        """
        total = torch.zeros((), dtype=real_dtype(x), device=x.device)
        for phase in self._layers():
            x, lack = phase.both(x - phase.rho * self.gradient(x, y))
            total = total + lack
        return x, total

    def _layers(self) -> list[Phase]:
        return list(self.layers)  # type: ignore[arg-type]

    @classmethod
    def from_state(cls, operator: LinearOperator, state: Mapping[str, Any]) -> "ISTANet":
        """The network of published weights of ISTA-Net-PyTorch.

        Args:
            operator: A.
            state: arrays or tensors by their names there, `fcs.K.lambda_step`, `fcs.K.conv1_forward`, ...: what
                `torch.load(path, weights_only=True)` or `numpy.load(path)` gives.

        Raises:
            ValueError: they are of another layout.
        """
        own = {k.removeprefix("module."): torch.as_tensor(v) for k, v in state.items()}
        steps = sorted(int(k.split(".")[1]) for k in own if k.startswith("fcs.") and k.endswith(".lambda_step"))
        plus = "fcs.0.conv_D" in own
        names = PUBLIC if plus else {k: v for k, v in PUBLIC.items() if k not in ("d", "g")}
        wanted = [f"fcs.{k}.{n}" for k in steps for n in (*names.values(), "lambda_step", "soft_thr")]
        fits = steps == list(range(len(steps))) and len(steps) > 0 and all(w in own for w in wanted)
        expect(fits, cls.__name__, "state", "fcs.K.lambda_step, soft_thr, conv1_forward, ...", sorted(state)[:3])
        first = own["fcs.0.conv1_forward"]
        net = cls(operator, len(steps), len(first), plus).to(first.dtype)
        with torch.no_grad():
            for k, phase in enumerate(net._layers()):
                for ours, theirs in names.items():
                    given, kernel = own[f"fcs.{k}.{theirs}"], phase.kernels[ours]
                    expect(
                        given.shape == kernel.shape, cls.__name__, f"fcs.{k}.{theirs}", f"{tuple(kernel.shape)}", given
                    )
                    kernel.copy_(given)
                phase.rho.copy_(own[f"fcs.{k}.lambda_step"].reshape(()))
                phase.theta.copy_(own[f"fcs.{k}.soft_thr"].reshape(()))
        return net


PUBLIC = {
    "d": "conv_D", "h1": "conv1_forward", "h2": "conv2_forward", "b1": "conv1_backward", "b2": "conv2_backward",
    "g": "conv_G",
}  # fmt: skip
