"""Method "error-controlled": any module proposes, an objective that never rises disposes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.checks import expect
from fastrecon.models import error_controlled_photographs as photographs
from fastrecon.models.base import is_model, load, pretrained, trained
from fastrecon.models.error_controlled import METHOD, SETTINGS, ErrorControlledModel, Settings, changed, run
from fastrecon.models.error_controlled_rician import SWEEPS, run_rician
from fastrecon.models.padnet import PADNetModel
from fastrecon.modules import Cleaned, GuidedFilter, TVDenoiser, WaveletDenoiser, checkpoints
from fastrecon.operators import BlockSensing, Blur, Fourier, Inpainting, LinearOperator, Radon
from fastrecon.operators.base import Composition, keeps_norms
from fastrecon.options import check, flag_of, option
from fastrecon.solvers.automatic import RICIAN
from fastrecon.solvers.correction import RULES
from fastrecon.solvers.linear import smooth
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method

LIBRARY: dict[str, Callable[[], nn.Module]] = {
    "wavelet": WaveletDenoiser, "tv": TVDenoiser, "guided": GuidedFilter
}  # fmt: skip
SIGNALS = ("", "block-cs", "ct", "deblur", "denoise", "inpaint", "mri")  # "": of an operator of the caller's
PHOTOGRAPHS = tuple(photographs.LAM)
COLOURS = 3
GENERAL = "padnet-image"  # the shipped network that knows noise of any level
# of operators, by the problem that they are known from; and where the adjoint at y is nearly a picture already
KINDS = {Fourier: "mri", Blur: "deblur", Inpainting: "inpaint", Radon: "ct", BlockSensing: "block-cs"}
PICTURES = ("denoise", "mri", "deblur")


@dataclass(frozen=True)
class ErrorControlledOptions:
    """Options of error-controlled iterations."""

    module: str = option(
        "what proposes: cnn, the network for the problem; wavelet, tv or guided, classical denoisers; of photographs a"
        " method without training (rain: two-layer; others: l0, lp, wls, guided); none; a shipped model; or a file: a"
        " model, or a .pth, .npz or .safetensors file of convolutions such as DnCNN or FFDNet, grey or colour; default:"
        " cnn; of photographs the first of these methods, of rain it and the shipped model together", "",
    )  # fmt: skip
    model: str = option("trained model, shipped or a .safetensors file, whose network and settings are used", "")
    iterations: int | None = option(
        "at most so many; default: the model's, or 24; 8 of deblur, 28 of mri, 10 of photographs", None,
        within="[1, 1e6]", type=int,
    )  # fmt: skip
    tol: float | None = option(
        "an image is done once its relative change is at most TOL; 0: never", None, within="[0, 1]", type=float
    )
    lam: float = option("times the weight of the objective's penalty", 1.0, within="[1e-9, 1e9]", type=float)
    p: float | None = option("its exponent, not of smooth; default: 0.8", None, within="[0, 1]", type=float)
    rule: str = option(
        "what a proposal must do: monotone, not raise the objective; descent, lower it by as much as its error allows;"
        " paper: have a small error, and the objective may rise; default: monotone", "", choices=("", *RULES),
    )  # fmt: skip
    check_step: float | None = option(
        "step of the check in units of 1 / |A|^2: a long one fits noise, a short one takes more iterations to a"
        " stationary point; default: the model's, or 0.1, 0.99 of photographs", None, within="(0, 1)", type=float,
    )  # fmt: skip
    pull: float | None = option(
        "trust in the data beside the module; default: the model's, of deblur by noise and blur", None,
        within="[1e-3, 1e6]", type=float,
    )  # fmt: skip
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


def chosen(options: ErrorControlledOptions, problem: str) -> Chosen:
    """What the options say for a problem.

    Raises:
        FileNotFoundError, ValueError: there is no such module.
    """
    half = options.precision == "bfloat16"
    if options.model:
        model = trained(METHOD, "", options.model)
        assert isinstance(model, ErrorControlledModel)
        return Chosen(model.module(half), model.settings, options.model)
    settings = SETTINGS.get(problem, Settings())
    text = options.module or "cnn"
    if text == photographs.NONE:
        return Chosen(None, settings)
    if text in LIBRARY:
        return Chosen(LIBRARY[text](), settings)
    if text == "cnn":
        usual = _usual(problem)
        if usual is not None:
            return Chosen(usual.module(half), usual.settings, usual.name)
        text = GENERAL
    if text in pretrained() or is_model(text):
        model = load(text)
        if isinstance(model, ErrorControlledModel):
            return Chosen(model.module(half), model.settings, text)
        unit = model.rows[0][0] if isinstance(model, PADNetModel) else None
        fits = bool(getattr(unit, "levels", False))
        expect(fits, METHOD, "--module", "a model with a network for noise of any level", f"{text}, of {model.method}")
        assert unit is not None
        return Chosen(Cleaned(unit, half), settings, text)
    stack = checkpoints.read(Path(text))
    return Chosen(stack, settings, text)


def _usual(problem: str) -> ErrorControlledModel | None:
    """The shipped model for a problem."""
    try:
        model = trained(METHOD, problem) if problem else None
    except ValueError:
        return None
    return model if isinstance(model, ErrorControlledModel) else None


def refused(options: ErrorControlledOptions, names: tuple[str, ...], problem: str) -> None:
    """Raises ValueError where one of these options is given, which mean nothing for the problem."""
    for name in names:
        value = getattr(options, name)
        expect(value == getattr(ErrorControlledOptions, name), METHOD, flag_of(name), f"none for {problem}", value)


class Together(nn.Module):
    """A module of colour images for images [3 B, 1, H, W], three consecutive ones of which are a picture's colours."""

    range = (0.0, 1.0)

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Cleaned images."""
        return self.module(x.view(-1, COLOURS, *x.shape[2:]), sigma).view(x.shape)


@method(
    METHOD,
    ErrorControlledOptions,
    "any module proposes, an objective that never rises disposes",
    (*SIGNALS, *PHOTOGRAPHS),
)
def error_controlled(options: ErrorControlledOptions, device: torch.device) -> Runner:
    """Images [B, 1, H, W], real or complex as y is; of photographs pictures [B, C, H, W], or the light in them."""
    signals, pictures = _of_signals(options, device), _of_photographs(options, device)

    def runner(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        return (pictures if inverse.problem in PHOTOGRAPHS else signals)(inverse, watch)

    return runner


def _of_photographs(options: ErrorControlledOptions, device: torch.device) -> Runner:
    found: dict[str, tuple[list[photographs.Pictures], str]] = {}
    given: dict[str, Any] = {n: getattr(options, n) for n in ("iterations", "tol", "p", "rule")} | {
        "step": options.check_step
    }
    given = {k: v for k, v in given.items() if v not in ("", None)}

    def runner(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        problem = inverse.problem
        if problem not in found:
            others = ("p",) if problem in photographs.COUNTED else ()
            refused(options, ("model", "pull", "precision", *others), problem)
            found[problem] = photographs.modules_of(options.module, problem, options.lam, device)
        modules, name = found[problem]

        def tell(k: int, x: Callable[[], Tensor]) -> None:
            if watch is not None:
                watch(k, options.iterations or 10, x)

        x, report = photographs.run(
            problem, inverse.y, modules, options.lam, history=watch is not None, callback=tell, **given
        )
        return Outcome(x, report, model=name)

    return runner


def _of_signals(options: ErrorControlledOptions, device: torch.device) -> Runner:
    found: dict[str, Chosen] = {}

    def runner(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        problem = inverse.problem or _like(inverse.operator)
        if problem not in found:
            one = chosen(options, problem)
            module = None if one.module is None else one.module.to(device)
            found[problem] = Chosen(module, changed(one.settings, options.changes()), one.name)
        one = found[problem]
        # what is missing is filled first, by what is around it: to a module black would be a picture
        given = inverse.start is not None and (not inverse.problem or problem == "ct")
        x = inverse.first() if given or problem in PICTURES else smooth(inverse)
        x = x.to(inverse.y.dtype) if inverse.y.is_complex() else x
        module, settings = _for_colours(one, x)

        def tell(k: int, images: Callable[[], Tensor]) -> None:
            if watch is not None:
                watch(k, settings.iterations + (SWEEPS if RICIAN in inverse.facts else 0), images)

        sigma = inverse.facts.get(RICIAN)
        if sigma is not None:
            found_x, report = run_rician(
                module, settings, inverse.y, inverse.operator, x, float(sigma), options.lam, inverse.norm, tell
            )
            return Outcome(found_x, report, model=one.name)
        x, report = run(
            module, settings, inverse.y, inverse.operator, x, inverse.noise, options.lam, inverse.norm, callback=tell
        )
        return Outcome(x, report, model=one.name)

    return runner


def _like(a: LinearOperator) -> str:
    """The problem that an operator is known from."""
    inner = a.inner if isinstance(a, Composition) else a
    if keeps_norms(a):
        return "denoise"
    return next((name for kind, name in KINDS.items() if isinstance(inner, kind)), "")


def _for_colours(one: Chosen, x: Tensor) -> tuple[nn.Module | None, Settings]:
    """The module for images x [B, C, H, W], and how it is used.

    Raises:
        ValueError: it is one of colour images, and these are not.
    """
    count = getattr(one.module, "channels", 1)
    if one.module is None or x.shape[1] % count == 0:
        return one.module, one.settings
    fits = count == COLOURS and x.shape[1] == 1 and len(x) % COLOURS == 0
    expect(fits, METHOD, "--module", "a network of grey images for such a picture", f"one of {count} channels")
    return Together(one.module), replace(one.settings, tol=0.0)  # colours stay together: none is done before the others
