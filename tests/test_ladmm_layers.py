"""Layers of D-LADMM as one node of the graph against their half steps."""

import pytest
import torch
from zoo import dladmm_problem, spoil


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("e_update", ["general", "residual"])
def test_layers_as_one_node_differentiate_as_their_half_steps(e_update, per_row, last):
    network, _, x = dladmm_problem(e_update, layers=3, per_row=per_row)
    spoil(network, 0.02)
    x.requires_grad_()
    inputs = [x, network.a.atoms.requires_grad_(), *network.parameters()]
    half_steps = list(network.chain(x, network.weights()))
    found, grads = [], []
    for states in (network.states(x, last=last), half_steps[-1:] if last else half_steps):
        values = [t for s in states for t in (s.z, s.e, s.dual, s.az)]
        loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in values)
        found.append(values)
        grads.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-11)


def test_layers_that_no_loss_looks_at_take_part():
    """Only the dual variable of the second of three layers counts: nothing of the third does."""
    network, _, x = dladmm_problem("residual", layers=3, per_row=True)
    network.states(x)[1].dual.square().sum().backward()
    assert [p.grad.abs().max() > 0 for p in network.scaled_w1] == [True, True, False]
