import copy
import itertools
import math

import pytest
import torch
from torch import Tensor
from utils import compiles
from zoo import printed_feature_norm

from fastrecon.certificates import Report, Status
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.registry import backends
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.solvers.rigorous import reductions_left
from fastrecon.solvers.search import FIXED_TRIALS, backtrack
from fastrecon.terms import feature_norm as regulariser
from fastrecon.terms.base import Evaluation

BLOCK = 4
COMPILED = backends()["feature_gradient_fwd"]["cpu"].startswith("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Images of a few pixels gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(kind=LDA, phases=3, m=8, scale=1.0, seed=0, **options):
    torch.manual_seed(seed)
    net = kind(BlockSensing(random_phi(m, BLOCK**2), BLOCK), phases, channels=6, layers=3, **options).double()
    with torch.no_grad():
        for w in net.regulariser.weights:
            w.mul_(scale)
    return net


def problem(net, count=3, size=(10, 8), seed=1):
    x = torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * torch.tensor([1.0, 0.1, 10.0, 0.5, 2.0])[:count, None, None, None]  # images that decide differently
    y = net.fidelity.operator(x)
    return y, net.fidelity.operator.adjoint(y, size)


def algorithm_1(net: LDA, y: Tensor, x: Tensor, **options) -> tuple[Tensor, Tensor, list[bool]]:
    """Algorithm 1 of the paper for one image, as printed, by autograd: x, eps, and whether u was taken."""
    a, eps, took = net.fidelity.operator, net.eps0, []

    def f(x):
        return 0.5 * ((a(x) - y) ** 2).sum()

    def r(x, eps):
        return printed_feature_norm(net.regulariser, x, eps[None]).sum()

    def grad(function, x, **graph):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, **graph)[0]

    for alpha, tau in zip(net.alpha, net.tau, strict=True):
        z = x - alpha * grad(f, x, create_graph=True)
        u = z - tau * grad(lambda t, e=eps: r(t, e), z, create_graph=True)
        v = z - alpha * grad(lambda t, e=eps: r(t, e), x, create_graph=True)
        took.append(bool(f(u) + r(u, eps) <= f(v) + r(v, eps)))
        x = u if took[-1] else v
        if grad(lambda t, e=eps: f(t) + r(t, e), x.detach()).norm() < net.sigma * net.gamma * eps:
            eps = net.gamma * eps
    return x, eps, took


def steps_in_bfloat16(monkeypatch, **options):
    """A network of float32 whose kernels run in bfloat16 where they can, on every machine, and a problem for it."""
    monkeypatch.setattr(regulariser, "bfloat16_here", lambda: True)
    torch.manual_seed(0)
    net = LDA(BlockSensing(random_phi(8, BLOCK**2), BLOCK), 4, channels=32, layers=3, **options).float()
    net.regulariser.precision = "bfloat16"
    return net, *(t.float() for t in problem(copy.deepcopy(net).double()))


@pytest.mark.parametrize("options", [{"sigma": 1e4, "eps0": 0.3}, {"sigma": 1e-3, "tau": 2.0}], ids=str)
@pytest.mark.parametrize("margin", [1, 1e6, 0], ids=["clear", "never clear", "always clear"])
@torch.no_grad()
def test_what_bfloat16_decides_is_reported_in_full_precision(options, margin, monkeypatch):
    net, y, x0 = steps_in_bfloat16(monkeypatch, **options)
    monkeypatch.setattr(regulariser, "VALUE_ERROR", margin * regulariser.VALUE_ERROR)
    monkeypatch.setattr(regulariser, "GRADIENT_ERROR", margin * regulariser.GRADIENT_ERROR)
    x, report = net(y, x0, history=True)
    r, f = net.regulariser, net.fidelity
    at_x = r.evaluate(x, report.eps.float())
    assert torch.allclose(report.phi_eps, f.value(x, y) + at_x.value.double(), rtol=1e-6)
    assert torch.allclose(report.grad_norm, (f.grad(x, y) + at_x.grad).double().flatten(1).norm(dim=1), rtol=1e-5)
    assert report.history is not None
    assert torch.allclose(report.history["phi_eps"][-1], report.phi_eps, rtol=1e-12)
    assert torch.equal(net(y, x0)[0], x)  # who asks for the history gets the same image
    for i in range(len(x)):  # an image that is not clear changes nothing for the others
        alone, its = net(y[i : i + 1], x0[i : i + 1])
        assert torch.equal(alone, x[i : i + 1])
        assert torch.equal(its.phi_eps, report.phi_eps[i : i + 1])
    if margin == 0:  # then bfloat16 may err
        return
    net.regulariser.precision = "float32"
    exact = net(y, x0)[1]
    assert torch.equal(report.took_u, exact.took_u)
    assert torch.equal(report.reductions, exact.reductions)


@torch.no_grad()
def test_what_bfloat16_leaves_unclear_is_computed_again(monkeypatch):
    """Two candidates as good as equal: the smaller objective wins, whatever bfloat16 says."""
    net, _, x0 = steps_in_bfloat16(monkeypatch)
    r, eps = net.regulariser, torch.full((3,), 0.01)
    u, v = x0, x0 * torch.tensor([1 + 1e-5, 3.0, 1 - 1e-5])[:, None, None, None]
    off = Evaluation(1.005 * r.value(u, eps), r.evaluate(u, eps).grad, torch.ones(3, dtype=torch.bool))
    at_u, r_v = r.confirm_order(off, 0.995 * r.value(v, eps), torch.zeros(3), u, v, eps)
    assert at_u.estimated is not None
    assert at_u.estimated.tolist() == [False, True, False]
    assert torch.equal(at_u.value, torch.where(at_u.estimated, off.value, r.value(u, eps)))
    assert torch.equal(at_u.value <= r_v, r.value(u, eps) <= r.value(v, eps))


@pytest.mark.parametrize("sigma", [1e3, 4.0, 1e-3], ids=["eps shrinks", "some shrink", "none shrinks"])
def test_phases_and_their_gradients_are_those_of_algorithm_1(sigma):
    net = network(sigma=sigma, tau=1.0, eps0=0.3)
    y, x0 = problem(net)
    x, report = net(y, x0)
    parameters = list(net.parameters())
    ours = torch.autograd.grad(x.square().sum(), parameters)
    expected = [algorithm_1(net, y[i : i + 1], x0[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(x, torch.cat([e[0] for e in expected]))
    assert report.took_u.tolist() == [sum(e[2]) for e in expected]
    assert {t for e in expected for t in e[2]} == {True, False}  # both branches are taken
    theirs = torch.autograd.grad(sum(e[0].square().sum() for e in expected), parameters)
    for name, p, q in zip(dict(net.named_parameters()), ours, theirs, strict=True):
        torch.testing.assert_close(p, q, msg=lambda text, name=name: f"{name}: {text}")
        assert p.abs().max() > 0, name


def test_inference_equals_training():
    net = network(tau=1.0, eps0=0.3, sigma=4.0)
    y, x0 = problem(net)
    x, _ = net(y, x0)
    with torch.no_grad():
        torch.testing.assert_close(net(y, x0)[0], x.detach())


def test_u_only_mode_takes_the_learned_step_and_the_schedule():
    net = network(tau=3.0)
    y, x0 = problem(net)
    x = x0
    eps = net.eps0.expand(3)
    for alpha, tau in zip(net.alpha, net.tau, strict=True):
        z = x - alpha * net.fidelity.grad(x, y)
        x, eps = z - tau * net.regulariser.grad(z, eps), net.gamma * eps
    ours, report = net(y, x0, select=False)
    torch.testing.assert_close(ours, x)
    assert report.took_u.tolist() == [3, 3, 3]
    assert report.phi.isnan().all()
    for p, q in zip(*(torch.autograd.grad(t.square().sum(), list(net.parameters())) for t in (ours, x)), strict=True):
        torch.testing.assert_close(p, q)


def test_phases_are_iterations_of_step():
    net = network(phases=4, eps0=0.3, sigma=30.0)
    y, x0 = problem(net)
    with torch.no_grad():
        s = net.start(y, x0)
        for sizes in zip(*net.step_sizes(), strict=True):
            s = net.step(s, y, True, *sizes)
        assert torch.equal(s.x, net(y, x0)[0])


def test_safeguarded_phases_equal_free_ones_where_these_descend():
    net = network(alpha=0.05, tau=0.05)
    y, x0 = problem(net)
    safe = copy.deepcopy(net)
    safe.safeguard = True
    with torch.no_grad():
        (x, free), (guarded, report) = net(y, x0), safe(y, x0)
    assert report.trials.tolist() == [3, 3, 3]  # every first step was accepted
    assert free.trials.tolist() == [0, 0, 0]
    torch.testing.assert_close(guarded, x)


def test_safeguard_makes_bad_steps_descend():
    net = network(alpha=20.0, tau=20.0, sigma=30.0)
    y, x0 = problem(net)
    with torch.no_grad():
        free = net(y, x0, history=True)[1].history["merit"]
        net.safeguard = True
        safe = net(y, x0, history=True)[1].history["merit"]
    assert (free.diff(dim=0) > 0).any()
    assert (safe.diff(dim=0) <= 0).all()


def test_search_of_a_gpu_finds_the_same_steps(monkeypatch):
    """All trials for all images, nothing asked: the bits are those of the search that asks."""
    net = network(alpha=20.0, tau=20.0, sigma=30.0, safeguard=True)
    y, x0 = problem(net)
    with torch.no_grad():
        x, report = net(y, x0)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        blind, found = net(y, x0)
    assert report.trials.max() > 2 * net.phases
    assert torch.equal(blind, x)
    assert torch.equal(found.trials, report.trials)
    assert torch.equal(found.merit, report.merit)


def test_an_image_without_a_good_step_keeps_its_place():
    net = network(alpha=2.0**20, tau=1.0, phases=1, safeguard=True)
    y, x0 = problem(net)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert torch.equal(net(y, x0)[0], x0)
    with torch.no_grad():
        x, report = net(y, x0)
    assert report.trials.min() > FIXED_TRIALS
    assert (x != x0).flatten(1).any(1).all()


@compiles
def test_tangents_through_the_phases():
    net = network()
    y, x0 = problem(net)
    u = torch.randn(y.shape, dtype=y.dtype)
    with torch.no_grad():
        x, tangent = torch.func.jvp(lambda y: net(y, x0)[0], (y,), (u,))
        h = 1e-7
        difference = (net(y + h * u, x0)[0] - net(y - h * u, x0)[0]) / (2 * h)
        torch.testing.assert_close(x, net(y, x0)[0])
    torch.testing.assert_close(tangent, difference, rtol=1e-4, atol=1e-6)
    assert tangent.abs().max() > 0.01


@compiles
def test_phases_export_with_any_batch():
    class Images(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, y: Tensor, x0: Tensor) -> Tensor:
            return self.net(y, x0)[0]

    images, batch = Images(), torch.export.Dim("B")
    with torch.no_grad():
        shapes = ({0: batch}, {0: batch})
        exported = torch.export.export(images, problem(images.net, 3), dynamic_shapes=shapes).module()
        for count in (3, 5):
            inputs = problem(images.net, count)
            torch.testing.assert_close(exported(*inputs), images(*inputs))


def phi_eps_and_gradient(net: LDA, y: Tensor, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = net.fidelity.value(x, y) + net.regulariser.value(x, eps)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0].flatten(1).norm(dim=1)


def test_rigorous_mode_descends_and_terminates():
    net = network(scale=0.35, eps0=1.4e-2, phases=2)
    y, x0 = problem(net, 2)
    tol, states = 1.5e-5, []
    x, report = net.solve(y, x0, tol=tol, callback=lambda k, s: states.append((k, s)))

    assert report.status == ["converged"] * 2
    assert report.converged.all()
    assert report.iterations.max() >= 500
    assert (report.reductions == 131).all()  # 14 * 0.9^131 < 1.5e-5 <= 14 * 0.9^130
    assert (1e3 * report.eps < tol).all()
    assert (report.grad_norm < 0.9 * 1e3 * report.eps).all()

    merit = report.history["merit"][net.phases :]
    assert (merit.diff(dim=0) <= 0).all()
    assert (merit[0] - merit[-1] > 1e-3).all()
    assert (report.history["eps"].diff(dim=0) <= 0).all()

    # the certificate, and the history on the way, recomputed from x, y and eps alone
    value, norm = phi_eps_and_gradient(net, y, x, report.eps)
    torch.testing.assert_close(report.phi_eps, value, rtol=1e-13, atol=0)
    torch.testing.assert_close(report.grad_norm, norm, rtol=1e-8, atol=0)
    torch.testing.assert_close(report.phi, net.fidelity.value(x, y) + net.regulariser.feature_norms(x).sum((1, 2)))
    assert ((report.phi_eps <= report.phi) & (report.phi <= report.merit)).all()
    assert [k for k, _ in states] == list(range(1, len(states) + 1))
    for k, s in states[::97]:
        value, _ = phi_eps_and_gradient(net, y, s.x, s.eps)
        torch.testing.assert_close(report.history["phi_eps"][net.phases + k], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", ["barzilai-borwein", "grow"])
def test_every_iteration_decreases_the_fresh_objective(steps):
    net = network(eps0=0.3, sigma=30.0, phases=1)
    y, x0 = problem(net)
    states = []
    net.solve(y, x0, tol=1e-2, iterations=60, steps=steps, callback=lambda k, s: states.append(s))
    reduced = 0
    for a, b in itertools.pairwise(states):
        # Lemma 3.4: phi_eps(x) + m eps / 2 across an iteration and, before it, a reduction of eps
        before, after = (phi_eps_and_gradient(net, y, s.x, s.eps)[0] + 40 * s.eps for s in (a, b))
        assert (after <= before * (1 + 1e-14)).all()
        reduced += int((b.eps < a.eps).sum())
    assert reduced > 10


def test_iteration_limit_is_reported():
    net = network(phases=2)
    y, x0 = problem(net)
    _, report = net.solve(y, x0, iterations=3)
    assert report.status == ["iteration limit"] * 3
    assert report.iterations.tolist() == [5, 5, 5]
    assert not report.converged.any()
    assert len(report.history["merit"]) == 6
    torch.testing.assert_close(net.solve(y, x0, iterations=0)[0], net(y, x0)[0].detach())


def test_rigorous_mode_keeps_the_kind_and_the_network():
    net = network(phases=1).float()
    y, x0 = (t.float() for t in problem(net.double()))
    net.float()
    before = copy.deepcopy(net.state_dict())
    x, report = net.solve(y, x0, iterations=2)
    assert x.dtype == torch.float32
    assert report.phi.dtype == torch.float64
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.skipif(not COMPILED, reason="bits are promised with the compiled kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_image_has_the_same_bits_alone_and_in_any_batch(dtype):
    net = network(sigma=4.0, tau=1.0, eps0=0.3).to(dtype)
    y, x0 = (t.to(dtype) for t in problem(net.double(), 5))
    net.to(dtype)
    for run in (net.forward, lambda y, x0: net.solve(y, x0, tol=1.0, iterations=20)):
        with torch.no_grad():
            x, report = run(y, x0)
            for which in ([0], [3], [4, 1], [2, 2, 2, 0]):
                part, partial = run(y[which], x0[which])
                assert torch.equal(part, x[which])
                assert [partial.to_dict(k) for k in range(len(which))] == [report.to_dict(i) for i in which]


@pytest.mark.parametrize(("mode", "expected"), [("sample", [0, 3, 0]), ("batch", [0, 0, 0]), ("schedule", [3, 3, 3])])
def test_who_decides_on_eps(mode, expected):
    net = network(phases=4, eps_mode=mode, sigma=4.0, eps0=0.3, tau=0.05, alpha=0.05)
    y, x0 = problem(net)
    with torch.no_grad():
        assert net(y, x0)[1].reductions.tolist() == expected


@pytest.mark.parametrize(
    ("kind", "phases", "channels", "layers", "count"),
    [
        (LDA, 15, 32, 4, 27967), (LDA, 7, 32, 4, 27951), (LDA, 7, 8, 4, 1815), (LDA, 7, 16, 4, 7071),
        (LDA, 7, 48, 4, 62655), (LDA, 7, 32, 2, 9519), (LDA, 7, 32, 6, 46383),
        (GDNet, 7, 32, 4, 27944), (AGDNet, 7, 32, 4, 27951),
    ],
)  # fmt: skip
def test_number_of_parameters(kind, phases, channels, layers, count):
    net = kind(BlockSensing(random_phi(2, 4), 2), phases, channels, layers)
    assert sum(p.numel() for p in net.parameters()) == count


def test_initial_values():
    net = network(phases=2)
    assert net.alpha.tolist() == pytest.approx([1.0, 1.0])
    assert net.tau.tolist() == pytest.approx([0.1, 0.1])
    assert net.eps0.item() == pytest.approx(0.01)
    with torch.no_grad():
        net.raw_eps0.fill_(-1e3)
    assert net.eps0.item() == pytest.approx(1e-6)  # the floor


@pytest.mark.parametrize("kind", [LDA, GDNet, AGDNet])
def test_growing_copies_the_last_phase(kind):
    net = network(kind)
    with torch.no_grad():
        net.raw_alpha.copy_(torch.tensor([0.1, 0.2, 0.3]))
    first = [t.detach().clone() for t in net.step_sizes()]
    net.grow(5)
    assert net.phases == 5
    for old, new in zip(first, net.step_sizes(), strict=True):
        assert torch.equal(new, torch.cat((old, old[-1:], old[-1:])))
    y, x0 = problem(net)
    net(y, x0)[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ValueError, match="grow: phases: expected at least the present 5, got 4"):
        net.grow(4)


@pytest.mark.parametrize("training", [True, False])
def test_gd_net_and_agd_net_are_their_formulas(training):
    gd, agd = network(GDNet, eps0=0.3), network(AGDNet, eps0=0.3)
    with torch.no_grad():
        agd.raw_theta.copy_(torch.tensor([0.5, -0.2, 0.7]))
    for net, thetas in ((gd, torch.zeros(3)), (agd, agd.raw_theta)):
        y, x0 = problem(net)
        x, previous, eps = x0, x0, net.eps0.expand(3)
        for alpha, theta in zip(net.alpha, thetas, strict=True):
            gradient = net.fidelity.grad(x, y) + net.regulariser.grad(x, eps)
            x, previous = x - alpha * gradient + theta * (x - previous), x
            eps = net.gamma * eps  # sigma = 1e3: every image passes the test
        with torch.set_grad_enabled(training):
            ours, report = net(y, x0)
        torch.testing.assert_close(ours, x)
        assert report.took_u.tolist() == [0, 0, 0]
        if training:
            pair = [torch.autograd.grad(t.square().sum(), list(net.parameters())) for t in (ours, x)]
            for p, q in zip(*pair, strict=True):
                torch.testing.assert_close(p, q)


def test_report_of_one_image_is_plain():
    net = network()
    y, x0 = problem(net)
    with torch.no_grad():
        one = net(y, x0, history=True)[1].to_dict(1)
    assert one["status"] == "trained phases only"
    assert one["converged"] is False
    assert one["iterations"] == 3
    assert isinstance(one["phi"], float)
    assert net(y, x0)[1].to_dict(0)["phi"] is None  # nobody evaluated it in training


def test_backtracking_is_per_image():
    bound = torch.tensor([3.0, 0.3, 1.0, 0.0])
    asked = []

    def accept(step, which):
        asked.append(which.tolist())
        return step <= bound[which]

    search = backtrack(accept, torch.ones(4), max_trials=4)
    assert search.step.tolist() == [1.0, 0.25, 1.0, 0.125]
    assert search.trials.tolist() == [1, 3, 1, 4]
    assert search.accepted.tolist() == [True, True, True, False]
    assert asked == [[0, 1, 2, 3], [1, 3], [1, 3], [3]]


def test_reductions_left():
    eps = torch.tensor([1.4e-3, 1.4e-3 * 0.9**108, 1e-9])
    assert reductions_left(eps, 1e3, 0.9, 1.5e-5).tolist() == [109, 1, 0]  # 1.4 * 0.9^109 < 1.5e-5 <= 1.4 * 0.9^108


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: network(phases=0), "LDA: phases: expected an integer >= 1, got 0"),
        (lambda: network(gamma=1.0), r"LDA: gamma: expected a number in \(0, 1\)"),
        (lambda: network(eps_mode="mean"), "LDA: eps_mode: expected one of sample, batch, schedule, got 'mean'"),
        (
            lambda: network()(torch.rand(2, 1, 1, 8).double(), torch.rand(1, 1, 4, 4).double()),
            r"LDA: x0: expected images \[2,",
        ),
        (lambda: network()(torch.rand(1, 1, 1, 8), torch.rand(1, 1, 4, 4)), "LDA: x0: expected dtype torch.float64"),
        (lambda: network().solve(*problem(network()), tol=0), "solve: tol: expected a number > 0"),
        (
            lambda: network().solve(*problem(network()), steps="bb"),
            "solve: steps: expected barzilai-borwein or grow",
        ),
    ],
)
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_balanced_network_takes_the_same_learned_steps():
    net = network(phases=3)
    with torch.no_grad():
        net.raw_tau.copy_(torch.tensor([-3.0, -2.0, -4.0]))
    y, x0 = problem(net)
    twin = net.balanced()
    torch.testing.assert_close(twin(y, x0, select=False)[0], net(y, x0, select=False)[0])
    torch.testing.assert_close(twin.tau.sum(), twin.alpha.sum())
    c = net.tau.sum() / net.alpha.sum()
    x, eps = x0, net.eps0
    torch.testing.assert_close(twin.regulariser.value(x, twin.eps0), c * net.regulariser.value(x, eps))


@pytest.mark.parametrize("kind", [LDA, GDNet, AGDNet])
@pytest.mark.parametrize("select", [True, False])
def test_status_of_an_image_that_is_not_finite(kind, select):
    torch.manual_seed(0)
    a = BlockSensing(torch.eye(9)[:4], 3)
    y = a(torch.rand(3, 1, 6, 6))
    y[1, 0, 0, 0] = math.nan
    net = kind(a, phases=2, channels=4, layers=2)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            x, report = net(y, torch.zeros(3, 1, 6, 6), select=select)
        lost = ~x.isfinite().flatten(1).all(1)
        assert lost.tolist() == [False, True, False]
        assert report.status == ["trained phases only", "the iterate is not finite", "trained phases only"]
        assert not report.converged.any()


def test_a_part_that_is_not_finite_is_the_status_of_the_whole():
    status = Status("unfinished", torch.zeros(4, dtype=torch.bool), torch.tensor([True, True, True, False]))
    zero = torch.zeros(4)
    report = Report(*[zero] * 9, torch.zeros(4, dtype=torch.bool), status).merged(2)
    assert report.status == ["unfinished", "the iterate is not finite"]


WRONG = [
    ("phases", 0), ("phases", 2.0), ("phases", True), ("channels", 0), ("channels", 1.5), ("layers", None),
    ("delta", 0.0), ("delta", -1.0), ("delta", math.nan), ("alpha", -1.0), ("alpha", 0.0), ("alpha", math.inf),
    ("alpha", "1"), ("eps0", 0.0), ("eps0", math.nan), ("tau", -1.0), ("tau", True), ("sigma", 0), ("sigma", math.inf),
    ("gamma", 1), ("gamma", math.nan), ("safeguard", 1), ("final_activation", "no"), ("eps_mode", 3), ("operator", 3),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value"), WRONG, ids=str)
def test_refuses_numbers_out_of_range(argument, value):
    with pytest.raises(ValueError, match=rf"(LDA|FeatureNorm): {argument}: expected .*, got"):
        LDA(**{"operator": BlockSensing(torch.eye(9)[:4], 3)} | {argument: value})


@pytest.mark.parametrize(
    "options",
    [{"tol": 0.0}, {"tol": math.nan}, {"tol": True}, {"iterations": -1}, {"iterations": 2.0}],
    ids=str,
)
def test_solve_refuses_numbers_out_of_range(options):
    net = LDA(BlockSensing(torch.eye(9)[:4], 3), phases=1, channels=2, layers=2)
    with pytest.raises(ValueError, match=f"solve: {next(iter(options))}: expected"):
        net.solve(torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 3, 3), **options)


def test_measurements_must_have_the_shape_of_the_operators():
    net = LDA(BlockSensing(torch.eye(9)[:4], 3), phases=1, channels=2, layers=2)
    with pytest.raises(ValueError, match=r"LeastSquares: y: expected \(1, 2, 2, 4\) .*, got \(1, 1, 1, 4\)"):
        net(torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 6, 6))
