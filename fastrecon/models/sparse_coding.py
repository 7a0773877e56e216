"""Trained D-LADMM as a model: sparse codes of vectors, or images freed from salt-and-pepper noise patch by patch.

Source: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM, arXiv:1905.06179.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrecon import products
from fastrecon.certificates import SplittingReport
from fastrecon.checks import choice, expect, expect_finite
from fastrecon.models import card
from fastrecon.models import file as model_file
from fastrecon.models.base import Model, register, trained
from fastrecon.operators import Dictionary
from fastrecon.operators.base import LinearOperator
from fastrecon.options import check, option
from fastrecon.solvers import DLADMM, LADMM
from fastrecon.solvers.ladmm import Splitting
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method


@register("d-ladmm")
class SparseCoder(Model):
    """D-LADMM: codes [B, d] of data [B, m] that are A z + sparse errors, with the certificate of every sample.

    Args:
        solver: D-LADMM with B = I.
        meta: facts to keep with the model: `name`, `training`.
    """

    problem = "sparse-coding"
    method = "d-ladmm"

    def __init__(self, solver: DLADMM, meta: Mapping[str, Any]):
        super().__init__(meta)
        expect(solver.b is None, type(self).__name__, "solver", "a DLADMM with B = I", "a general B")
        self.solver, self.precision = solver, "float32"

    @property
    def operator(self) -> Dictionary:  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody sets it
        """A."""
        return self.solver.a

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, rigorous: bool = False, **options: Any
    ) -> tuple[Tensor, SplittingReport]:
        """Codes z of data y. Unless rigorous, the host never waits for the device.

        Args:
            y: data [B, m] that passed `check`.
            operator: None; the model has its own.
            rigorous: whether to continue from the learned layers, each safeguarded, until the duality gap is small
                (DLADMM.solve).
            options: of DLADMM.forward, or of DLADMM.solve.
        """
        s, report = self._solve(y.to(self.operator.atoms.dtype), operator, rigorous, options)
        return s.z, report

    def _solve(
        self, x: Tensor, operator: LinearOperator | None, rigorous: bool, options: dict[str, Any]
    ) -> tuple[Splitting, SplittingReport]:
        expect(operator is None, "restore", "operator", "none: the model has its own", type(operator).__name__)
        with products.tf32() if self.precision == "tf32" else contextlib.nullcontext():
            return self.solver.solve(x, **options) if rigorous else self.solver(x, **options)

    @property
    def independent(self) -> bool:
        """True."""
        return True

    def capturable(self, rigorous: bool = False, **options: Any) -> bool:
        """Whether the learned layers alone are computed."""
        return not rigorous

    def set_precision(self, precision: str) -> None:
        """Of the products with dictionaries: float32, or tf32 on a GPU."""
        self.precision = choice(precision, ("float32", "tf32"), type(self).__name__, "precision")

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at data, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """
        shape = self._shape()
        expect(y.ndim == len(shape.split(",")) and y.is_floating_point(), "restore", "y", f"real {shape}", y)
        device = self.operator.atoms.device
        expect(anywhere or y.device == device, "restore", "y", f"a tensor on {device}", f"one on {y.device}")
        expect_finite(y, "restore", "finite values", "sample")

    def _shape(self) -> str:
        return f"[B, {self.operator.atoms.shape[0]}]"

    def hyperparameters(self) -> dict[str, Any]:
        """Of the solver."""
        return self.solver.hyperparameters()

    def tensors(self) -> dict[str, Tensor]:
        """Of the solver, but for the classical weights that follow from A."""
        return {k: v for k, v in self.solver.state_dict().items() if not k.startswith("classical.")}

    def save(self, path: str | Path, half: bool = False) -> None:
        """As of Model; `half`: matrices are stored as float16."""
        tensors = self.tensors()
        if half:
            tensors = {k: v.half() if min(v.shape) > self.solver.layers else v for k, v in tensors.items()}
        model_file.write(path, self.header(), tensors)

    @classmethod
    def from_file(cls, head: model_file.Header, tensors: dict[str, Tensor]) -> "SparseCoder":
        """The model of what a file holds: a PatchDenoiser, where it was trained for images."""
        tensors = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
        solver = DLADMM(Dictionary(tensors["a.atoms"]), **head.hyperparameters)
        solver = solver.to(tensors["a.atoms"].dtype)
        found = solver.load_state_dict(tensors, strict=False)
        missing = [k for k in found.missing_keys if not k.startswith("classical.")]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"parameters missing: {missing}, unknown: {found.unexpected_keys}")
        kinds = {kind.problem: kind for kind in (SparseCoder, PatchDenoiser)}
        return kinds[head.problem](solver, head.meta)

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        quality = training.get("validation_psnr")  # minus the NMSE, once
        quality = training["validation_nmse"] if quality is None else -quality
        data = f"{settings['samples']} samples, drawn with seed {settings['seed']}"
        size = f"{settings['rows']}x{settings['columns']}"
        what, code = f"finds sparse codes of data with sparse errors, {size}", "result = model(x)  # x [B, m]"
        return self._page(what, code, data, "none" if quality is None else f"NMSE {quality} dB")

    def _page(self, what: str, code: str, data: str, validation: str) -> str:
        training, settings = card.training_of(self.meta)
        page = [
            f"D-LADMM with {settings['layers']} layers {what}: min {self.solver.lam:g} |Z|_1 + |X - A Z|_1.",
            "Method: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM, arXiv:1905.06179.",
        ]
        layers = f"each layer {settings['deep']:g} of the next" if settings["deep"] else "last layer"
        facts = {
            "training data": data,
            "validation": validation,
            "loss": f"{settings['loss']}, {layers}",
            "steps": f"{training['steps']} of {settings['steps']}, batch {settings['batch']}",
            "seed": f"{settings['seed']}",
        }
        return card.page(self.meta, page, [code], facts)


class PatchDenoiser(SparseCoder):
    """Removes salt-and-pepper noise from images by non-overlapping patches: x = A z, where y = A z + e, both sparse.

    Args:
        solver: D-LADMM of a dictionary of patches with side * side pixels, row-major.
        meta: see SparseCoder.
    """

    problem = "impulse"

    def __init__(self, solver: DLADMM, meta: Mapping[str, Any]):
        super().__init__(solver, meta)
        pixels = self.operator.atoms.shape[0]
        self.side = round(pixels**0.5)
        expect(self.side**2 == pixels, "PatchDenoiser", "solver", "a dictionary of square patches", f"{pixels} pixels")

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, rigorous: bool = False, **options: Any
    ) -> tuple[Tensor, SplittingReport]:
        """Images like the noisy ones y [B, 1, H, W], of any size; arguments as of SparseCoder."""
        patches = self.to_patches(y.to(self.operator.atoms.dtype))
        s, report = self._solve(patches, operator, rigorous, options)
        return self.to_image(s.az, y.shape[-2:]), report.merged(len(patches) // len(y))

    def to_patches(self, y: Tensor) -> Tensor:
        """Patches [B * count, side * side] of images [B, 1, H, W], edges repeated up to whole patches."""
        b, (h, w) = self.side, y.shape[-2:]
        y = pad(y, (0, -w % b, 0, -h % b), mode="replicate")
        return y.reshape(-1, y.shape[-2] // b, b, y.shape[-1] // b, b).transpose(2, 3).reshape(-1, b * b)

    def to_image(self, patches: Tensor, size: Sequence[int]) -> Tensor:
        """Images [B, 1, H, W] of this size from their patches."""
        b, (h, w) = self.side, size
        rows, cols = -(-h // b), -(-w // b)
        image = patches.reshape(-1, rows, cols, b, b).transpose(2, 3).reshape(-1, 1, rows * b, cols * b)
        return image[..., :h, :w].contiguous()

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """As of SparseCoder."""
        super().check(y, anywhere)
        fits = y.shape[1] == 1 and all(n > 0 for n in y.shape[1:])
        expect(fits, "restore", "y", f"images {self._shape()}", y)

    def _shape(self) -> str:
        return "[B, 1, H, W]"

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        side, quality = settings["patch"], training.get("validation_psnr")
        share = settings["share"] if "share" in settings else settings["noise"]  # as it was called once
        what = f"removes salt-and-pepper noise from images by {side}x{side} patches, with a dictionary of"
        data = f"{', '.join(training['data'])}: luminance, {training['images']['training']} images"
        return self._page(
            f"{what} {settings['atoms']} atoms", "result = model(noisy)  # noisy [B, 1, H, W] on [0, 1]",
            f"{data}, {100 * share:g}% of the pixels black or white",
            "none" if quality is None else f"PSNR {quality} dB",
        )  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options of D-LADMM."""

    model: str = option("shipped model, or path of a .safetensors file; default: the shipped one", "")
    rigorous: bool = option("iterate to convergence after the learned layers", False)
    tol: float = option(
        "rigorous: a patch is done once its duality gap is below TOL times the objective", 1e-2, within="(0, 1]",
        type=float, of="rigorous",
    )  # fmt: skip
    iterations: int = option("rigorous: at most so many", 50_000, within="[0, 1e9]", type=int, of="rigorous")

    def __post_init__(self):
        check(self, "reconstruct")


@dataclass(frozen=True)
class ClassicalOptions:
    """Options of LADMM with the dictionary of a model."""

    model: str = option("whose dictionary: shipped model, or path of a file; default: the shipped one", "")
    iterations: int = option("of LADMM", 1500, within="[1, 1e9]", type=int)

    def __post_init__(self):
        check(self, "reconstruct")


@method("ladmm", ClassicalOptions, "sparse coding of patches by LADMM", (PatchDenoiser.problem,))
def _prepare_classical(options: ClassicalOptions, device: torch.device) -> Runner:
    model = trained(PatchDenoiser.method, PatchDenoiser.problem, options.model).to(device)
    assert isinstance(model, PatchDenoiser)
    solver = LADMM(model.operator, model.solver.lam)

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        model.check(inverse.y)
        y = inverse.y.to(model.operator.atoms.dtype)
        patches = model.to_patches(y)
        s, report = solver(patches, iterations=options.iterations)
        return Outcome(model.to_image(s.az, y.shape[-2:]), report.merged(len(patches) // len(y)))

    return run


@method("d-ladmm", Options, "learned sparse coding of patches", (PatchDenoiser.problem,))
def _prepare(options: Options, device: torch.device) -> Runner:
    model = trained(PatchDenoiser.method, PatchDenoiser.problem, options.model).to(device)
    assert isinstance(model, PatchDenoiser)

    def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
        def tell(k: int, s: Splitting) -> None:
            if watch is not None:
                watch(k, options.iterations, lambda: model.to_image(s.az, inverse.y.shape[-2:]))

        told: dict[str, Any] = {"tol": options.tol, "iterations": options.iterations} if options.rigorous else {}
        if options.rigorous and watch is not None:
            told["callback"] = tell
        x, report = model(inverse.y, rigorous=options.rigorous, **told)
        return Outcome(x, report, model=options.model or model.name)

    return run
