"""What trainings of LDA, GD-Net and AGD-Net begin as: another network, or the descent of a learned prior."""

import pytest
import torch
from torch.nn.functional import interpolate

import fastrecon as fr
from fastrecon import masks
from fastrecon.metrics import psnr
from fastrecon.operators import Fourier, Identity
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.train.recipes.beginning import CONSTANT, FIRST, LAST, LONG, begin_as, descent_of
from fastrecon.zoo import scenes


@pytest.fixture(scope="module")
def pictures():
    """Smooth scenes [2, 1, 66, 66]."""
    return interpolate(scenes(2, 16, 16), (66, 66), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("kind", [LDA, GDNet, AGDNet])
def test_the_descent_of_a_prior_is_a_network_already(pictures, kind):
    shipped = fr.load("lda-cs-25")
    a = shipped.operator
    y = a(pictures)
    x0 = shipped.start(y, (66, 66))
    net = kind(a, phases=7)
    begin_as("prior-natural", net)
    with torch.no_grad():
        found = psnr(net(y, x0, select=False)[0], pictures)
    assert (found > psnr(x0, pictures) + 0.5).all()


def test_its_steps_are_those_of_the_objective():
    prior, like = fr.load("prior-natural"), LDA(Identity(), phases=3)
    net, lams = descent_of(prior, like), prior.lam(torch.linspace(FIRST, LAST, 3, dtype=torch.float64))
    x = scenes(1, 24, 24)
    torch.testing.assert_close(net.alpha.double(), torch.full_like(lams, LONG))
    for k in range(3):  # tau_k r' = lam(sigma_k) r'
        ours = net.tau[k] * net.regulariser.grad(x, net.eps0)
        torch.testing.assert_close(ours, lams[k].float() * prior.regulariser.grad(x), rtol=1e-4, atol=1e-6)
    other = descent_of(prior, GDNet(Identity(), phases=3))
    weight = prior.lam(torch.tensor([CONSTANT], dtype=torch.float64)).float()
    torch.testing.assert_close(
        other.regulariser.grad(x, other.eps0), weight * prior.regulariser.grad(x), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"separate": True}, {"complex_features": True}])
def test_networks_of_complex_images_begin_so_too(pictures, options):
    a = Fourier(masks.variable_density((66, 66), 0.3, 1))
    y = a(pictures.to(torch.complex64))
    net = LDA(a, phases=7, **options)
    begin_as("prior-natural", net)
    with torch.no_grad():
        found = net(y, torch.zeros_like(y), select=False)[0]
    assert (psnr(found.real, pictures) > psnr(a.apply_adjoint(y).real, pictures) + 1).all()


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"--init: expected a model of lda, gd-net or agd-net, or a prior, got one of"):
        begin_as("learned-fista-mri", LDA(Identity()))
    with pytest.raises(ValueError, match=r"--init: expected a model with regulariser.weights.0 of shape"):
        begin_as("prior-natural", LDA(Identity(), channels=8))
    with pytest.raises(ValueError, match=r"--init: expected a model of at most 3 phases, got 11"):
        begin_as("lda-cs-10", LDA(Identity(), phases=3))
