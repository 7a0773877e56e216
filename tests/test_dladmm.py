"""D-LADMM: untrained it is LADMM, trained it is differentiable, safeguarded it converges whatever the weights are."""

import pytest
import torch
from zoo import LAM, dictionary, dladmm_problem, spoil

from fastrecon.solvers import DLADMM, LADMM

CASES = [("general", False), ("residual", False), ("general", True)]


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("e_update", "with_b"), CASES)
def test_with_classical_weights_a_layer_is_an_iteration(e_update, with_b, per_row):
    network, classical, x = dladmm_problem(e_update, with_b, per_row=per_row)
    expected = list(classical.chain(x, [classical.weights] * 6))
    for mine, theirs in zip(network.states(x), expected, strict=True):
        for name in ("z", "e", "dual"):
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(network(x)[0].z, expected[-1].z, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("e_update", "with_b"), CASES)
def test_training_path_and_inference_path_agree(e_update, with_b):
    network, _, x = dladmm_problem(e_update, with_b, per_row=True)
    spoil(network, 0.05)
    *_, last = network.states(x)
    found, report = network(x)
    for name in ("z", "e", "dual", "az", "be"):
        torch.testing.assert_close(getattr(found, name), getattr(last, name).detach())
    assert not found.z.requires_grad
    again, longer = network(x, history=True)
    torch.testing.assert_close(again.z, found.z)
    torch.testing.assert_close(longer.history["objective"][-1], report.objective)
    assert report.accepted.tolist() == [6] * 4


@pytest.mark.parametrize(("e_update", "with_b"), CASES)
def test_gradient_of_every_parameter(e_update, with_b):
    network, _, x = dladmm_problem(e_update, with_b, layers=2, per_row=True)
    spoil(network, 0.02)
    names, values = zip(*network.named_parameters(), strict=True)

    def loss(*values):
        states = torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)
        return sum(s.z.square().sum() + s.e.square().sum() + (s.dual * x).sum() for s in states)

    network.forward = network.states
    some = [v.detach().requires_grad_() for v in values]
    grads = torch.autograd.grad(loss(*some), some)
    assert all(g.abs().max() > 0 for g in grads)
    for name, v, g in zip(names, some, grads, strict=True):
        direction = torch.randn_like(v)
        step = 1e-6
        ends = [[o.detach() + s * step * direction if o is v else o.detach() for o in some] for s in (1, -1)]
        slope = (loss(*ends[0]) - loss(*ends[1])) / (2 * step)
        torch.testing.assert_close((g * direction).sum(), slope, rtol=1e-5, atol=1e-6, msg=name)


def test_learns():
    network, _, x = dladmm_problem(layers=4)
    target = LADMM(dictionary(), LAM, e_update="residual")(x, 200)[0]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        *_, s = network.states(x)
        loss = (s.z - target.z).square().sum() + (s.e - target.e).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_samples_do_not_depend_on_the_batch():
    network, _, x = dladmm_problem()
    spoil(network, 0.05)
    together = network(x, safeguard=True)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network(x[order], safeguard=True)
    torch.testing.assert_close(shuffled[0].z, together[0].z[order])
    assert torch.equal(shuffled[1].accepted, together[1].accepted[order])
    torch.testing.assert_close(network(x[1:2])[0].z[0], network(x)[0].z[1])


@pytest.mark.parametrize("amount", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("e_update", "with_b"), CASES)
def test_converges_with_any_weights(e_update, with_b, amount):
    network, classical, x = dladmm_problem(e_update, with_b, per_row=True)
    spoil(network, amount)
    _, best = classical.solve(x, tol=1e-7, iterations=5000)
    _, report = network.solve(x, tol=1e-7, iterations=5000)
    assert report.status == ["converged"] * 4
    torch.testing.assert_close(report.objective, best.objective, rtol=1e-6, atol=0)
    assert (report.accepted <= 6).all()
    assert (report.iterations >= 6).all()


def test_safeguard_refuses_weights_that_are_not_finite():
    network, _, x = dladmm_problem()
    with torch.no_grad():
        network.scaled_w1[2].fill_(float("nan"))
    assert network(x)[1].status == ["the iterate is not finite"] * 4
    _, report = network.solve(x, tol=1e-6)
    assert report.converged.all()
    assert (report.accepted < 6).all()


def test_safeguard_takes_good_layers_and_refuses_bad_ones():
    """Layers that jump to the solution are accepted; layers that move away are not."""
    network, classical, x = dladmm_problem(layers=3)
    spoil(network, 3.0)
    bad = network(x, safeguard=True)
    iterations = classical(x, 3)[0]
    torch.testing.assert_close(bad[0].z, iterations.z)
    assert bad[1].accepted.tolist() == [0] * 4
    network.solved = classical.solve(x, tol=1e-9, iterations=5000)[0]
    network.iteration = lambda s, x, arg, w, beta: (network.solved, arg)
    good = network(x, safeguard=True)
    assert good[1].accepted.tolist()[0] >= 1
    torch.testing.assert_close(good[0].z, network.solved.z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_b", [False, True])
def test_projection(with_b):
    network, _, _ = dladmm_problem("general", with_b, radius=0.5)
    before = [p.clone() for p in network.parameters()]
    network.project()
    for p, q in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(p, q)  # the classical weights are inside
    spoil(network, 1.0)
    network.project()
    w = network.classical.weights
    for own in network.weights():
        assert torch.linalg.matrix_norm(own.w1 - w.w1, 2) <= 0.5 * torch.linalg.matrix_norm(w.w1, 2) * (1 + 1e-9)
        assert torch.linalg.matrix_norm(own.w1.T @ (own.beta[:, None] * network.a.atoms), 2) < 1
        if with_b:
            assert torch.linalg.matrix_norm(own.w2 - w.w2, 2) <= 0.5 * torch.linalg.matrix_norm(w.w2, 2) * (1 + 1e-9)


def test_can_be_built_anew():
    network, _, x = dladmm_problem("general", per_row=True)
    spoil(network, 0.05)
    again = DLADMM(network.a, **network.hyperparameters())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x)[0].z, network(x)[0].z)


def test_float32_follows_float64():
    network, _, x = dladmm_problem()
    single, _, y = dladmm_problem(dtype=torch.float32)
    torch.testing.assert_close(single(y)[0].z.double(), network(x)[0].z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arguments", [{"layers": 0}, {"radius": 0.0}, {"lam": -1.0}])
def test_says_what_is_wrong(arguments):
    with pytest.raises(ValueError, match=f"DLADMM: {next(iter(arguments))}: expected"):
        DLADMM(dictionary(), **arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("layers", 0), ("layers", 1.5), ("layers", True), ("radius", 0.0), ("radius", float("nan")), ("noise", -1.0),
     ("per_row", 2), ("lam", 0.0), ("a", torch.zeros(4, 6))],
)  # fmt: skip
def test_refuses_numbers_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"DLADMM: {argument}: expected "):
        DLADMM(**{"a": torch.eye(4, 6), "layers": 2} | {argument: value})


@pytest.mark.parametrize("options", [{"delta": 1.0}, {"tol": 0.0}, {"iterations": -1}, {"safeguard": 2}], ids=str)
def test_solve_refuses_numbers_out_of_range(options):
    with pytest.raises(ValueError, match=f"DLADMM: {next(iter(options))}: expected "):
        DLADMM(torch.eye(4, 6), layers=2).solve(torch.ones(2, 4), **options)
