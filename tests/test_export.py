"""Graphs of torch.export: any batch, and any size where the model takes any; the images are the model's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastrecon as fr
from fastrecon import export
from fastrecon.cli.main import main
from fastrecon.models import BlockSensingModel, DescentModel, Model, PatchDenoiser
from fastrecon.operators import BlockSensing, Dictionary, Fourier, Identity, Inpainting, random_phi
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


def test_lda_of_any_batch_with_an_operator():
    torch.manual_seed(0)
    mask = torch.rand(24, 32) > 0.5
    mask[:3], mask[-2:], mask[:, :3], mask[:, -2:] = True, True, True, True  # zero frequency in the corner, plainly
    operator, model = Fourier(mask), DescentModel(LDA(Identity(), 2, 4, 2, in_channels=2)).eval()
    batches = [operator((1 + 0.1 * torch.rand(b, 1, 24, 32)).to(torch.complex64)) for b in (2, 3, 1)]
    graph = export.exported(model, batches[0], operator=operator).module()
    same_images(graph, model, batches, equal, operator=operator)


def test_sgp_of_any_batch_with_an_operator():
    torch.manual_seed(0)
    operator, model = Inpainting((torch.rand(24, 32) > 0.5).float()), fr.load("sgp-step-inpaint")
    batches = [operator(torch.rand(b, 1, 24, 32)) for b in (2, 3)]
    options = {"operator": operator, "iterations": 2, "lipschitz": 1.0, "lam": 0.01}
    graph = export.exported(model, batches[0], **options).module()
    same_images(graph, model, batches, lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-5), **options)


def test_what_has_no_operator_is_told(tmp_path, capsys):
    with pytest.raises(ValueError, match="exported: y: expected measurements of two images or more, got"):
        export.exported(fr.load("sgp-step-inpaint"))
    assert main(["export", "sgp-step-inpaint", "--to", "pt2", "--out", str(tmp_path)]) == 2
    assert "to_pt2: model: expected a model of block sensing, or D-LADMM for images" in capsys.readouterr().err
