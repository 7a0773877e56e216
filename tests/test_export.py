"""Graphs of torch.export: any batch, and any size where the model takes any; the images are the model's own."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fastrecon as fr
from fastrecon import export
from fastrecon.cli.main import main
from fastrecon.models import (
    BlockSensingModel,
    DescentModel,
    ISTANetModel,
    Model,
    PatchDenoiser,
    UnrolledModel,
    ista_net,
    unrolled,
)
from fastrecon.operators import BlockSensing, Dictionary, Fourier, Identity, Inpainting, random_phi
from fastrecon.operators.base import LinearOperator
from fastrecon.solvers import DLADMM, LDA, GDNet


def same_images(graph: nn.Module, model: Model, batches: list[Tensor], same: Callable, **options) -> None:
    for y in batches:
        with torch.no_grad():
            same(graph(y), model(y, **options).x)


def equal(a: Tensor, b: Tensor) -> None:
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [LDA, GDNet])
def test_block_sensing_of_any_batch_and_size(kind):
    torch.manual_seed(0)
    phi = random_phi(20, 64).float()
    operator = BlockSensing(phi, 8)
    model = BlockSensingModel(operator, kind(operator, 2, 4, 2), phi.T.contiguous(), {}).eval()
    graph = export.exported(model).module()
    same_images(graph, model, [torch.rand(3, 2, 4, 20), torch.rand(1, 1, 1, 20), torch.rand(5, 3, 2, 20)], equal)


def test_dladmm_of_any_batch_and_size():
    torch.manual_seed(0)
    model = PatchDenoiser(DLADMM(Dictionary(torch.randn(16, 24)), layers=3, e_update="residual"), {}).eval()
    graph = export.exported(model).module()
    same_images(graph, model, [torch.rand(3, 1, 8, 20), torch.rand(1, 1, 8, 8)], equal)


@pytest.mark.parametrize("features", [{"in_channels": 2}, {"separate": True}])
def test_lda_of_any_batch_with_an_operator(features):
    torch.manual_seed(0)
    mask = torch.rand(24, 32) > 0.5
    mask[:3], mask[-2:], mask[:, :3], mask[:, -2:] = True, True, True, True  # zero frequency in the corner, plainly
    operator, model = Fourier(mask), DescentModel(LDA(Identity(), 2, 4, 2, **features)).eval()
    batches = [operator((1 + 0.1 * torch.rand(b, 1, 24, 32)).to(torch.complex64)) for b in (2, 3, 1)]
    graph = export.exported(model, batches[0], operator=operator).module()
    same_images(graph, model, batches, equal, operator=operator)


OF_ANY_SIZE = {"lda-cs-10", "lda-cs-25", "lda-cs-50", "lda-joint-10", "lda-joint-30", "dladmm-saltpepper"}
WITH_AN_OPERATOR = {"learned-fista-inpaint", "learned-fista-mri", "sgp-step-inpaint", "sgp-diag-inpaint"}
WITH_AN_OPERATOR |= {"sgp-step-fourier", "sgp-diag-fourier", "lda-mri-10", "lda-mri-20", "lda-mri-30"}
UNTIL_DONE = {"padnet-gradient", "padnet-haze", "padnet-image", "prior-natural", "streaks"}  # no fixed iterations


def test_every_shipped_model_is_one_or_the_other():
    assert set(fr.pretrained()) == OF_ANY_SIZE | WITH_AN_OPERATOR | UNTIL_DONE


def measuring(complex_: bool) -> tuple[LinearOperator, list[Tensor]]:
    """An operator on 24 x 32 pixels, and measurements of batches of two, three and one."""
    torch.manual_seed(0)
    mask = torch.rand(24, 32) > 0.5
    mask[:3], mask[-2:], mask[:, :3], mask[:, -2:] = True, True, True, True  # zero frequency in the corner, plainly
    operator = Fourier(mask) if complex_ else Inpainting(mask.float())
    pictures = [1 + 0.1 * torch.rand(b, 1, 24, 32) for b in (2, 3, 1)]
    return operator, [operator(x.to(torch.complex64) if complex_ else x) for x in pictures]


def test_a_shipped_model_of_a_learned_matrix():
    model = fr.load("lda-joint-10")
    for raw in ("raw_alpha", "raw_tau"):  # all phases are alike
        setattr(model.solver, raw, nn.Parameter(getattr(model.solver, raw)[:1].detach().clone()))
    graph, m = export.exported(model).module(), model.operator.phi.shape[0]
    same_images(graph, model, [torch.rand(3, 2, 4, m), torch.rand(1, 1, 1, m)], equal)


@pytest.mark.parametrize("name", ["learned-fista-mri", "sgp-diag-inpaint", "sgp-step-fourier"])  # one of each kind
def test_shipped_models_with_an_operator(name):
    operator, batches = measuring(complex_="mri" in name or "fourier" in name)
    options = {"operator": operator, "iterations": 2, "lipschitz": 1.0, "lam": 0.01}
    model = fr.load(name)
    graph = export.exported(model, batches[0], **options).module()
    near = equal if "fista" in name else partial(torch.testing.assert_close, rtol=0, atol=2e-5)
    same_images(graph, model, batches, near, **options)


@pytest.mark.parametrize("name", ["ista-net-plus", "lista"])
def test_networks_for_block_sensing(name):
    torch.manual_seed(0)
    phi = random_phi(20, 64).float()
    operator = BlockSensing(phi, 8)
    model = ISTANetModel(operator, ista_net.SOLVERS[name](operator, phases=1), phi.T.contiguous(), {}).eval()
    batches = [torch.rand(3, 2, 4, 20), torch.rand(1, 1, 1, 20)]
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    same_images(export.exported(model).module(), model, batches, near)


@pytest.mark.parametrize("name", ["ista-net-plus", "admm-net", "vn"])
def test_networks_for_mri(name):
    operator, batches = measuring(complex_=True)
    model = UnrolledModel(name, unrolled.SOLVERS[name](Identity(), phases=1), {}, real="ista" in name).eval()
    graph = export.exported(model, batches[0], operator=operator).module()
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    same_images(graph, model, batches, near, operator=operator)


def test_what_has_no_operator_is_told(tmp_path, capsys):
    with pytest.raises(ValueError, match="exported: y: expected measurements of two images or more, got"):
        export.exported(fr.load("sgp-step-inpaint"))
    assert main(["export", "sgp-step-inpaint", "--to", "pt2", "--out", str(tmp_path)]) == 2
    assert "to_pt2: model: expected a model of block sensing, or D-LADMM for images" in capsys.readouterr().err
