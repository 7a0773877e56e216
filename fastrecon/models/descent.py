"""LDA for magnetic resonance imaging: from x0 = 0, with any mask and any coils.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,
arXiv:2007.11245, section 4.2.3.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import Report
from fastrecon.checks import expect, expect_finite, flag, number
from fastrecon.models import card
from fastrecon.models.base import Model, in_precision, register
from fastrecon.models.blocks import restore
from fastrecon.models.file import Header
from fastrecon.models.sampling import aligned, tell_other_rate
from fastrecon.operators import Identity
from fastrecon.operators.base import LinearOperator
from fastrecon.solvers import LDA
from fastrecon.solvers.base import column, with_parts
from fastrecon.solvers.minimiser import Minimiser
from fastrecon.terms.least_squares import LeastSquares


@register("lda", problem="mri")
class DescentModel(Model):
    """LDA for any Fourier sampling.

    A, whose norm must be about 1, comes with each call. Images are divided by the largest modulus of A* y first and
    multiplied by it in the end: what the network sees is always about 1, and other units change nothing.

    Args:
        solver: the network, of complex images: with complex features, with real and imaginary part as two channels, or
            with an image for each. What it was made for stands in for A.
        meta: facts to keep with the model: `name`, `training`.

    Raises:
        ValueError: the network takes real images.
    """

    method, problem, operator = "lda", "mri", None

    def __init__(self, solver: LDA, meta: Mapping[str, Any] | None = None):
        super().__init__(meta)
        takes = solver.regulariser.channels_of(torch.zeros((), dtype=torch.complex64))
        expect(takes == 1, type(self).__name__, "solver", "a network of one complex channel", f"one of {takes}")
        minimiser = solver.minimiser
        fits = minimiser is None or (isinstance(minimiser, Minimiser) and minimiser.regulariser.in_channels == 1)
        expect(fits, type(self).__name__, "solver", "a minimiser of one real channel, for each part", minimiser)
        self.solver = with_parts(solver, fidelity=LeastSquares(Identity()))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the phases."""
        return self.solver.raw_alpha.dtype

    @property
    def independent(self) -> bool:
        """Whether each image decides about its own eps."""
        return self.solver.eps_mode != "batch"

    def for_operator(self, operator: LinearOperator) -> LDA:
        """The network with an operator, whose parameters are those of this one."""
        return with_parts(self.solver, fidelity=LeastSquares(operator))

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements; their shape is the operator's to judge.

        Raises:
            ValueError: they are not complex, on another device, or hold NaN or Inf.
        """
        expect(y.ndim == 4 and y.is_complex(), "lda", "y", "complex measurements [B, coils, H, W]", y)
        device = self.solver.raw_alpha.device
        expect(anywhere or y.device == device, "lda", "y", f"a tensor on {device}", f"one on {y.device}")
        expect_finite(y, "lda", "finite measurements", "image")

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, size: tuple[int, int] | None = None,
        rigorous: bool = False, *, scale: float | None = None, **options: Any,
    ) -> tuple[Tensor, Report]:  # fmt: skip
        """Images [B, 1, H, W], complex, of measurements [B, coils, H, W].

        Args:
            y: measurements that passed `check`.
            operator: A. A mask or k-space of the other convention is turned, and that is told by a warning; so is a
                mask of another share of the frequencies than the model has learned.
            size: (H, W) of the images, where y and A alone do not tell.
            rigorous: whether to continue from the trained phases to convergence (`solve` of the solver; balanced, if it
                has no minimiser).
            scale: what images are divided by, > 0; None: the largest modulus of A* y.
            options: of the solver's `solve`, or `history` and `callback` of the trained phases.

        Returns:
            The images and their report, which is that of images and measurements divided by its `scale`.

        Raises:
            ValueError: an argument does not fit.
        """
        expect(isinstance(operator, LinearOperator), "lda", "operator", "a LinearOperator", type(operator).__name__)
        assert operator is not None
        y = y.to(self.dtype.to_complex())
        if not torch.compiler.is_compiling():  # a graph cannot look at numbers
            operator = aligned(operator, y, "lda")
            tell_other_rate(self, operator)
        operator = in_precision(operator, self.dtype)
        filled = operator.apply_adjoint(y, size)
        if scale is None:
            white = filled.abs().flatten(1).amax(1).double()
            white = torch.where(white > 0, white, 1.0)
        else:
            white = torch.full((len(y),), float(number(scale, "lda", "scale", above=0)), dtype=torch.float64)
        white = white.to(y.device)
        net, y, x0 = self.for_operator(operator), y / column(white, y), torch.zeros_like(filled)
        if flag(rigorous, "lda", "rigorous"):
            balance = net.minimiser is None and not net.regulariser.final_activation
            chosen: dict[str, Any] = {"balance": balance} | options
            x, report = net.solve(y, x0, **chosen)
        else:
            x, report = net(y, x0, **options)
        return x * column(white, x), replace(report, scale=white)

    def hyperparameters(self) -> dict[str, Any]:
        """Of the solver."""
        return self.solver.hyperparameters()

    def tensors(self) -> dict[str, Tensor]:
        """Its weights."""
        return self.solver.state_dict()

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "DescentModel":
        """The model of what a file holds."""
        settings = dict(head.hyperparameters)
        minimiser = settings.pop("minimiser", None)
        solver = LDA(Identity(), **settings)
        if minimiser is not None:
            solver.minimiser = Minimiser(**minimiser)
        solver = solver.to(tensors["raw_alpha"].dtype)
        restore(solver, tensors)
        return cls(solver, head.meta)

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        own, images = self.solver.hyperparameters(), training["images"]
        kind = "complex" if own.get("complex_features") else "real"
        kind += " channels of real and imaginary part each" if own.get("separate") else " channels"
        what = [
            f"LDA for magnetic resonance imaging, {100 * settings['rate']:g}% of the frequencies"
            f" ({settings['sampling']}): {own['phases']} phases, {own['channels']} {kind}, {own['layers']}"
            " convolutions. Other masks and several coils are taken too.",
            "Method: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,"
            " arXiv:2007.11245.",
        ]
        code = ["result = model(y, operator)  # y = operator(image), operator = fr.operators.Fourier(mask)"]
        quality = training.get("validation_psnr")
        facts = {
            "training data": f"{', '.join(training['data'])}, {images['training']} images",
            "validation": "none" if quality is None else f"{images['validation']} images, PSNR {quality} dB",
            "optimiser": f", batch {settings['batch']} of {settings['patch']}x{settings['patch']} pixels",
        }
        page = card.page(self.meta, what, code, facts)
        second = getattr(self.solver.minimiser, "patches", None) is not None
        return page + card.of_minimiser(training["minimiser"], second) if "minimiser" in training else page
