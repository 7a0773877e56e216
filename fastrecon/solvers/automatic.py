"""Which method an inverse problem gets unless one is named, by what is known of it, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastrecon.operators.base import keeps_norms
from fastrecon.solvers.linear import like_images
from fastrecon.solvers.methods import METHODS, Inverse, Method
from fastrecon.solvers.wiener import spectrum

ASKED = "asked for"  # why a method that was named was taken
RICIAN = "rician"  # a fact of measurements: the standard deviation of Rician noise in the image
CONTROLLED = "error-controlled"  # of the models as well: it knows that law
PRIOR = "prior"  # of the models, which lie above: there is a shipped one


@dataclass(frozen=True)
class Chosen:
    """A method by name, why it was chosen, and its options where they are not the usual ones."""

    method: str
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, own: Any) -> tuple[Method, Any]:
        """The method, and its options: `own`, if they are of that method, else the usual ones; but for the settings."""
        one = METHODS[self.method]
        return one, replace(own if type(own) is one.Options else one.Options(), **self.settings)


def automatic(inverse: Inverse) -> Chosen:
    """The method for a linear operator: in closed form where that loses nothing, by the learned prior where the noise
    is known, else by sparse patches, which need no noise level.
    """
    if RICIAN in inverse.facts and CONTROLLED in METHODS:
        return Chosen(CONTROLLED, f"the noise is Rician, of {inverse.facts[RICIAN]:.3g}")
    x = inverse.first()[:1]
    if x.ndim != 4:
        return Chosen("cg", "x is no batch of images [B, C, H, W]")
    unknown = "the noise is not known" if inverse.noise is None else "there is no noise"
    unit = " where white is 1" if inverse.problem else ""
    noise = f"the noise is {inverse.noise:.3g}{unit}" if inverse.noise else unknown
    if not inverse.noise and not keeps_norms(inverse.operator) and _invertible(inverse):
        return Chosen("tikhonov", f"the operator has an inverse by Fourier transforms, and {noise}")
    nothing_to_do = inverse.noise == 0 and keeps_norms(inverse.operator)
    if inverse.noise is not None and not nothing_to_do and PRIOR in METHODS:
        use = "which weighs a prior learned from pictures" if inverse.noise else "and pictures taught a prior the rest"
        return Chosen(PRIOR, f"{noise}, {use}")
    return Chosen("dct", f"{noise}: patches sparse in the cosine transform need no level")


def _invertible(inverse: Inverse) -> bool:
    """Whether A is diagonal in the Fourier transform, with no factor that is 0."""
    found = spectrum(inverse, like_images(inverse, inverse.first()))
    return found is not None and float(found.factors.abs().min()) > 0
