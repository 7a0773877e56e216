"""Method "error-controlled": any denoiser proposes, an objective with sparse wavelets disposes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.models.base import load, pretrained, trained
from fastrecon.models.error_controlled import METHOD, SETTINGS, ErrorControlledModel, Settings, changed, run
from fastrecon.models.padnet import PADNetModel
from fastrecon.modules import Cleaned, GuidedFilter, TVDenoiser, WaveletDenoiser, checkpoints
from fastrecon.networks import ResidualCNN
from fastrecon.options import check, option
from fastrecon.solvers.correction import RULES
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method

LIBRARY: dict[str, Callable[[], nn.Module]] = {
    "wavelet": WaveletDenoiser, "tv": TVDenoiser, "guided": GuidedFilter
}  # fmt: skip
NONE = "none"
PROBLEMS = ("", "block-cs", "ct", "deblur", "denoise", "inpaint", "mri")  # "": of an operator of the caller's
GENERAL = "padnet-image"  # the shipped network that knows noise of any level


@dataclass(frozen=True)
class ControlledOptions:
    """Options of error-controlled iterations."""

    module: str = option(
        "what proposes: cnn, the network for the problem; wavelet, tv or guided, classical denoisers; none; a shipped"
        " model; or a file: a model, or a .pth, .npz or .safetensors file of convolutions such as DnCNN or FFDNet",
        "cnn",
    )  # fmt: skip
    model: str = option("trained model, shipped or a .safetensors file, whose network and settings are used", "")
    iterations: int | None = option("at most so many; default: the model's, or 24", None, within="[1, 1e6]", type=int)
    tol: float | None = option(
        "an image is done once its relative change is at most TOL; 0: never", None, within="[0, 1]", type=float
    )
    lam: float = option("times the weight of the objective's penalty", 1.0, within="[1e-9, 1e9]", type=float)
    p: float | None = option("its exponent; default: 0.8", None, within="[0, 1]", type=float)
    rule: str = option(
        "what a proposal must do: monotone, not raise the objective; descent, lower it by as much as its error allows;"
        " paper: have a small error, and the objective may rise; default: monotone", "", choices=("", *RULES),
    )  # fmt: skip
    check_step: float | None = option(
        "step of the check in units of 1 / |A|^2: a long one fits noise, a short one takes more iterations to a"
        " stationary point; default: the model's, or 0.1", None, within="(0, 1)", type=float,
    )  # fmt: skip
    pull: float | None = option(
        "trust in the data beside the module; default: the model's", None, within="[1e-3, 1e6]", type=float
    )
    precision: str = option(
        "of networks, which only propose: bfloat16 is quick where the processor has it", "float32",
        choices=("float32", "bfloat16"),
    )  # fmt: skip

    def __post_init__(self):
        check(self, METHOD)

    def changes(self) -> dict[str, Any]:
        """The settings that differ from the model's."""
        given = {k: getattr(self, k) for k in ("iterations", "tol", "p", "rule", "pull")} | {"step": self.check_step}
        return {k: v for k, v in given.items() if v not in ("", None)}


@dataclass(frozen=True)
class Chosen:
    """A module, how it is used, and the name of its model."""

    module: nn.Module | None
    settings: Settings
    name: str = ""


def chosen(options: ControlledOptions, problem: str) -> Chosen:
    """What the options say for a problem.

    Raises:
        FileNotFoundError, ValueError: there is no such module.
    """
    half = options.precision == "bfloat16"
    if options.model:
        model = trained(METHOD, "", options.model)
        assert isinstance(model, ErrorControlledModel)
        return Chosen(model.module(half), model.settings, options.model)
    usual = _usual(problem)
    text = options.module
    if text == NONE:
        return Chosen(None, usual.settings if usual else SETTINGS.get(problem, Settings()))
    if text in LIBRARY:
        return Chosen(LIBRARY[text](), usual.settings if usual else SETTINGS.get(problem, Settings()))
    if text == "cnn":
        if usual is not None:
            return Chosen(usual.module(half), usual.settings, usual.name)
        text = GENERAL
    if text in pretrained() or _ours(text):
        model = load(text)
        if isinstance(model, ErrorControlledModel):
            return Chosen(model.module(half), model.settings, text)
        unit = model.rows[0][0] if isinstance(model, PADNetModel) else None
        fits = isinstance(unit, ResidualCNN) and unit.levels
        expect(fits, METHOD, "--module", "a model with a network for noise of any level", f"{text}, of {model.method}")
        assert isinstance(unit, ResidualCNN)
        return Chosen(Cleaned(unit, half), usual.settings if usual else SETTINGS.get(problem, Settings()), text)
    stack = checkpoints.read(Path(text))
    expect(stack.channels == 1, METHOD, "--module", "a network of grey images", f"one of {stack.channels} channels")
    return Chosen(stack, usual.settings if usual else SETTINGS.get(problem, Settings()), text)


def _usual(problem: str) -> ErrorControlledModel | None:
    """The shipped model for a problem."""
    try:
        model = trained(METHOD, problem) if problem else None
    except ValueError:
        return None
    return model if isinstance(model, ErrorControlledModel) else None


def _ours(text: str) -> bool:
    """Whether this is a model file of this package."""
    if not text.endswith(".safetensors") or not Path(text).is_file():
        return False
    try:
        load(text)
    except ValueError:
        return False
    return True


@method(METHOD, ControlledOptions, "any denoiser proposes, an objective that never rises disposes", PROBLEMS)
def error_controlled(options: ControlledOptions, device: torch.device) -> Runner:
    """Images [B, C, H, W], real or complex as y is."""
    found: dict[str, Chosen] = {}

    def runner(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        if inverse.problem not in found:
            one = chosen(options, inverse.problem)
            module = None if one.module is None else one.module.to(device)
            found[inverse.problem] = Chosen(module, changed(one.settings, options.changes()), one.name)
        one = found[inverse.problem]
        x = inverse.first()
        x = x.to(inverse.y.dtype) if inverse.y.is_complex() else x
        total = one.settings.iterations

        def tell(k: int, images: Callable[[], Tensor]) -> None:
            if watch is not None:
                watch(k, total, images)

        x, report = run(
            one.module, one.settings, inverse.y, inverse.operator, x, inverse.noise, options.lam, inverse.norm,
            callback=tell,
        )  # fmt: skip
        return Outcome(x, report, model=one.name)

    return runner
