"""The learned regulariser r(x) = sum_i |g_i(x)|, smoothed with radius eps: value, gradient, feature maps."""

import itertools

import torch
from torch import Tensor, nn

from fastrecon import ops
from fastrecon.checks import behind, expect, flag, integer, number
from fastrecon.ops.by_image import each_image
from fastrecon.ops.feature_gradient import PRECISIONS, bfloat16_here, features
from fastrecon.ops.layout import real_dtype
from fastrecon.terms.base import Evaluation, Term

feature_gradient, feature_value = behind(ops.feature_gradient), behind(ops.feature_value)

TINY = 1e-18  # r_eps at this radius is r to rounding, and TINY^2 is still a normal float32
NO_RADIUS = "a radius > 0: r itself has no gradient"
# Ten times the relative errors that `feature_gradient` states for bfloat16, of its value and of its gradient.
VALUE_ERROR, GRADIENT_ERROR = 1e-2, 1e-1


class FeatureNorm(Term):
    """r_eps(x) = sum_i h_eps(|g_i(x)|) with features g of a chain of 3x3 convolutions and smoothed ReLUs.

    Args:
        channels: features of every layer.
        layers: convolutions.
        in_channels: channels of the image; complex images [B, C, H, W] are taken as their 2 C real and imaginary parts.
        delta: radius of the smoothed ReLU, > 0.
        final_activation: whether the last convolution is activated too.
        precision: of the products in steps, see `feature_gradient`: "bfloat16" is faster where the processor has it,
            "tf32" on a GPU.
            Everything in float64 and what is reported is computed in full precision. What decides is too, except that
            LDA on a processor decides by bfloat16 where the two sides differ by ten times its error.
        eps: radius of `value` and `grad` where they are given none; None: r itself, which has no gradient.

    Source: Chen, Liu, Ye & Zhang, arXiv:2007.11245, eqs. (8)-(10), (33).
    """

    def __init__(
        self,
        channels: int = 32,
        layers: int = 4,
        in_channels: int = 1,
        delta: float = 0.01,
        final_activation: bool = False,
        precision: str = "float32",
        eps: float | None = None,
    ):
        super().__init__()
        expect(precision in PRECISIONS, "FeatureNorm", "precision", f"one of {', '.join(PRECISIONS)}", repr(precision))
        counts = (("channels", channels), ("layers", layers), ("in_channels", in_channels))
        channels, layers, in_channels = (integer(v, "FeatureNorm", k, least=1) for k, v in counts)
        self.delta, self.precision = float(number(delta, "FeatureNorm", "delta", above=0)), precision
        self.final_activation = flag(final_activation, "FeatureNorm", "final_activation")
        self.set_eps(eps)
        widths = [in_channels] + [channels] * layers
        kernels = [torch.empty(o, i, 3, 3) for i, o in itertools.pairwise(widths)]
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(w) for w in kernels)

    def set_eps(self, eps: float | None) -> None:
        """Sets the radius of `value` and `grad` where they are given none."""
        self.eps = None if eps is None else float(number(eps, "FeatureNorm", "eps", above=0))
        self.smooth = eps is not None

    def extra_repr(self) -> str:
        """What it is made with."""
        shapes = ", ".join(str(tuple(w.shape)) for w in self.weights)
        return f"norms of features of convolutions {shapes}, delta {self.delta:g}, eps {self.eps or 0:g}"

    @property
    def channels(self) -> int:
        """Features of a layer."""
        return self.weights[0].shape[-4]

    @property
    def in_channels(self) -> int:
        """Channels that the first convolution takes."""
        return self.weights[0].shape[-3]

    def channels_of(self, x: Tensor) -> int:
        """Channels of the images that it takes, if they are real or complex as x is."""
        return self.in_channels // 2 if x.is_complex() else self.in_channels

    def norms(self, x: Tensor) -> int:
        """How many norms r sums for an image like these: one a pixel."""
        return x.shape[-2] * x.shape[-1]

    def kernels(self) -> list[Tensor]:
        """Kernels [out, in, 3, 3] of the convolutions as they are applied to `_real(x)`."""
        return list(self.weights)

    def value(self, x: Tensor, eps: float | Tensor | None = None) -> Tensor:
        """r_eps(x) [B]; r(x) without eps, here and when the term is made."""
        eps = self.eps if eps is None else eps
        return self.nonsmooth_value(x) if eps is None else self._value(x, eps, "float32")

    def grad(self, x: Tensor, eps: float | Tensor | None = None) -> Tensor:
        """The gradient of r_eps at x, like x, for a step: float32 images in `precision`."""
        eps = self.eps if eps is None else eps
        if eps is None:
            expect(False, "FeatureNorm", "eps", NO_RADIUS, None)
        return self._both(x, eps, self.precision if real_dtype(x) == torch.float32 else "float32")[1]  # type: ignore[arg-type]

    def value_and_grad(self, x: Tensor, eps: float | Tensor, precision: str = "float32") -> tuple[Tensor, Tensor]:
        """r_eps(x) [B] and its gradient like x, differentiable in x, eps and the weights."""
        return self._both(x, eps, precision)

    def _value(self, x: Tensor, eps: float | Tensor, precision: str) -> Tensor:
        return feature_value(_real(x), self.kernels(), eps, self.delta, self.final_activation, precision=precision)

    def _both(self, x: Tensor, eps: float | Tensor, precision: str) -> tuple[Tensor, Tensor]:
        value, grad = feature_gradient(
            _real(x), self.kernels(), eps, self.delta, self.final_activation, precision=precision
        )
        return value, torch.complex(*grad.chunk(2, 1)) if x.is_complex() else grad

    @torch.no_grad()
    def nonsmooth_value(self, x: Tensor) -> Tensor:
        """r(x) = sum_i |g_i(x)| [B], the limit of r_eps for eps to 0."""
        return self._value(x, max(TINY, torch.finfo(x.dtype).tiny), "float32")

    @torch.no_grad()
    def feature_norms(self, x: Tensor) -> Tensor:
        """Maps |g_i(x)| [B, H, W] of images [B, C, H, W]."""
        options = self.kernels(), self.delta, self.final_activation
        return torch.linalg.vector_norm(each_image(lambda one: features(one, *options)[-1], _real(x)), dim=1)

    # What an iteration of a solver needs, and what of it may come from products in bfloat16.

    @torch.no_grad()
    def evaluate(self, x: Tensor, eps: Tensor | None = None) -> Evaluation:
        """Value and gradient at x [B, C, H, W] with radii eps [B], or that of the term."""
        radius = self.eps if eps is None else eps
        if radius is None:
            expect(False, "FeatureNorm", "eps", NO_RADIUS, None)
        return Evaluation(*self.value_and_grad(x, radius))  # type: ignore[arg-type]

    def can_estimate(self, x: Tensor) -> bool:
        """Whether `estimate` saves time at images x: bfloat16 is asked for, is another arithmetic here, and the host
        may look at results."""
        asked = self.precision == "bfloat16" and real_dtype(x) == torch.float32 and x.device.type == "cpu"
        return asked and not torch.compiler.is_compiling() and bfloat16_here()

    @torch.no_grad()
    def estimate(self, x: Tensor, eps: Tensor) -> Evaluation:
        """Value and gradient at x with products in `precision`, to decide by where they are clear."""
        return Evaluation(*self._both(x, eps, self.precision), torch.ones(len(x), dtype=torch.bool, device=x.device))

    @torch.no_grad()
    def estimate_value(self, x: Tensor, eps: Tensor) -> Tensor:
        """The value of `estimate` alone, at half the cost."""
        return self._value(x, eps, self.precision)

    @torch.no_grad()
    def confirm_order(
        self, at_u: Evaluation, r_v: Tensor, gap: Tensor, u: Tensor, v: Tensor, eps: Tensor
    ) -> tuple[Evaluation, Tensor]:
        """Estimates at u and v [B] as they are where r(u) - r(v) + gap [B] is clearly not 0, and computed in full
        precision for the other images."""
        clear = (at_u.value - r_v + gap).abs() > VALUE_ERROR * (at_u.value + r_v)  # false for NaN
        which = (~clear).nonzero().flatten()
        if len(which):
            r_v = r_v.index_copy(0, which, self.value(v[which], eps[which]))
        return self.refresh(at_u, u, eps, ~clear), r_v

    @torch.no_grad()
    def confirm_norm(self, r: Evaluation, grad_f: Tensor, x: Tensor, eps: Tensor, bound: Tensor) -> Evaluation:
        """An estimate at x as it is where |grad_f + grad r| is clearly not `bound` [B], else in full precision."""
        if r.estimated is None:
            return r
        norm, error = (g.flatten(1).norm(dim=1) for g in (grad_f + r.grad, GRADIENT_ERROR * r.grad))
        return self.refresh(r, x, eps, r.estimated & ~((norm - bound).abs() > error))

    def refresh(self, evaluation: Evaluation, x: Tensor, eps: Tensor, changed: Tensor) -> Evaluation:
        """`evaluation` with that at x and eps in its place where `changed` [B] holds."""
        if x.is_cuda or torch.compiler.is_compiling():  # a captured graph cannot ask which images changed
            new = self.evaluate(x, eps)
            value = torch.where(changed, new.value, evaluation.value)
            return Evaluation(value, torch.where(changed[:, None, None, None], new.grad, evaluation.grad))
        which = changed.nonzero().flatten()
        if len(which) in (0, len(x)):
            return self.evaluate(x, eps) if len(which) else evaluation
        part = self.evaluate(x[which], eps[which])
        return Evaluation(
            evaluation.value.index_copy(0, which, part.value),
            evaluation.grad.index_copy(0, which, part.grad),
            None if evaluation.estimated is None else evaluation.estimated & ~changed,
        )


def _real(x: Tensor) -> Tensor:
    """Complex images [B, C, H, W] as real ones [B, 2 C, H, W], their real parts first."""
    return torch.cat((x.real, x.imag), 1) if x.is_complex() else x
