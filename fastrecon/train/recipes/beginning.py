"""What an unrolled descent begins as: a trained one, or the descent of a learned prior.

Gradient steps on |A x - y|^2 / 2 + lam(sigma) r(x) of a prior, sigma falling from phase to phase as the artefacts do,
are a network already: that far ahead of random kernels training takes days to come.
"""

import copy

import torch

from fastrecon import models
from fastrecon.checks import expect
from fastrecon.models import Model, PriorModel
from fastrecon.operators import Identity
from fastrecon.solvers import LDA
from fastrecon.solvers.descent import UnrolledDescent, raw_from
from fastrecon.terms.feature_norm import FeatureNorm

FIRST, LAST = 0.03, 0.01  # sigma in the first and the last phase
LONG = 1.6  # step of the data term, of a norm of A of 1
CONSTANT = 0.01  # sigma where one weight serves in all phases


def begin_as(name: str, target: UnrolledDescent) -> Model:
    """Copies the network of a model (name or file) or of a prior into `target`; the model.

    Raises:
        ValueError: it is neither, or its network does not fit.
    """
    source = models.load(name)
    if isinstance(source, PriorModel):
        copy_network(descent_of(source, target), target)
        return source
    solver = getattr(source, "solver", None)
    known = "a model of lda, gd-net or agd-net, or a prior"
    expect(isinstance(solver, UnrolledDescent), "train", "--init", known, f"one of {source.method}")
    assert isinstance(solver, UnrolledDescent)
    copy_network(solver, target)
    return source


@torch.no_grad()
def descent_of(prior: PriorModel, like: UnrolledDescent) -> UnrolledDescent:
    """A network of the kind and phases of `like`, for real images, that descends a prior's objective.

    LDA's learned steps have a step size of r in each phase, which takes sigma along; the others have one weight.

    Raises:
        ValueError: the prior is no single chain of convolutions with a radius.
    """
    r = prior.regulariser
    expect(
        isinstance(r, FeatureNorm) and r.eps is not None, "train", "--init", "a prior of one chain of convolutions",
        prior.name,
    )  # fmt: skip
    assert isinstance(r, FeatureNorm)
    own = type(like)(
        Identity(), like.phases, r.channels, len(r.weights), in_channels=r.in_channels, delta=r.delta,
        final_activation=r.final_activation, sigma=like.sigma, gamma=like.gamma, eps_mode=like.eps_mode,
    )  # fmt: skip
    own.regulariser.load_state_dict(r.state_dict())
    sigmas = torch.linspace(FIRST, LAST, own.phases, dtype=torch.float64)
    lams = prior.lam(sigmas if isinstance(own, LDA) else torch.full_like(sigmas, CONSTANT))
    own.regulariser.weights[-1].mul_(lams[0])
    own.raw_eps0.copy_(raw_from((r.eps or 0.0) * lams[0]))
    if isinstance(own, LDA):
        own.raw_alpha.copy_(raw_from(torch.full_like(lams, LONG)))
        own.raw_tau.copy_(raw_from(lams / lams[0]))
    return own


def copy_network(source: UnrolledDescent, target: UnrolledDescent) -> None:
    """Copies trained parameters but those of operators; phases that the source does not have copy its last one.

    Complex kernels begin as the real ones of a source of real images: real and imaginary part are then images of their
    own, but for the norm of their features.

    Raises:
        ValueError: the source has more phases, or is of another shape.
    """
    solver = copy.deepcopy(source)
    expect(
        solver.phases <= target.phases, "train", "--init", f"a model of at most {target.phases} phases", solver.phases
    )
    if solver.phases < target.phases:
        solver.grow(target.phases)
    theirs = dict(solver.named_parameters())
    for name, p in target.named_parameters():
        if name.startswith("fidelity."):
            continue
        found = theirs[name].detach() if name in theirs else None
        if found is not None and found.ndim == 4 and p.shape == (2, *found.shape):  # real kernels as complex ones
            found = torch.stack((found, torch.zeros_like(found)))
        fits = found is not None and found.shape == p.shape
        expect(fits, "train", "--init", f"a model with {name} of shape {tuple(p.shape)}", "another network")
        assert found is not None
        p.data.copy_(found)
