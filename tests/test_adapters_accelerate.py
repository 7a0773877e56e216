"""`accelerate`: deepinv's algorithms by our loop have deepinv's iterates, metrics, parameters and gradients."""

import re

import peers
import pytest
import torch

dinv = peers.deepinv()
pytest.importorskip("ptwt", reason="deepinv's own wavelets need ptwt")

from fastrecon.adapters import deepinv as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # deepinv warns of itself

optim, P = dinv.optim, dinv.physics
B, SIDE = 3, 32


def images():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(B, 1, SIDE, SIDE, generator=g, dtype=torch.float64).cumsum(-1).cumsum(-2)
    return x / x.amax((1, 2, 3), keepdim=True)


def problem(name):
    x, g = images(), torch.Generator().manual_seed(1)
    kernel = torch.rand(1, 1, 5, 5, generator=g, dtype=torch.float64)
    physics = {
        "inpainting": lambda: P.Inpainting(
            (1, SIDE, SIDE), mask=(torch.rand(1, SIDE, SIDE, generator=g) > 0.5).double()
        ),
        "blur": lambda: P.BlurFFT((1, SIDE, SIDE), kernel / kernel.sum()),
        "valid": lambda: P.Blur(kernel / kernel.sum(), padding="valid"),
    }[name]()
    y = physics.A(x)
    return physics, y + 0.05 * torch.randn(y.shape, generator=g, dtype=torch.float64), x


def prior(name):
    return {
        "zero": lambda: optim.WaveletPrior(wv="db4", level=2),
        "symmetric": lambda: optim.WaveletPrior(wv="db2", level=2, mode="symmetric"),
        "tv": lambda: optim.TVPrior(def_crit=1e-9, n_it_max=600),
        "l12": lambda: optim.L12Prior(l2_axis=1),
        "own": lambda: optim.Tikhonov(),
    }[name]()


def model(kind, g="zero", **options):
    settings = {"data_fidelity": optim.L2(), "prior": prior(g), "stepsize": 0.9, "lambda_reg": 0.2, "max_iter": 8}
    return kind(**(settings | options))


@pytest.mark.parametrize("name", ["inpainting", "blur", "valid"])
@pytest.mark.parametrize("kind", [optim.PGD, optim.FISTA, optim.HQS, optim.ADMM])
def test_iterates_and_metrics(kind, name):
    physics, y, x = problem(name)
    theirs, fast = model(kind), ours.accelerate(model(kind))
    a, rows = theirs(y, physics, x_gt=x, compute_metrics=True)
    b, mine = fast(y, physics, x_gt=x, compute_metrics=True)
    torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-6)
    assert {k: [len(r) for r in v] for k, v in mine.items()} == {k: [len(r) for r in v] for k, v in rows.items()}
    torch.testing.assert_close(torch.tensor(mine["cost"]), torch.tensor(rows["cost"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast(y, physics), b)
    assert "fastrecon's loop" in fast.fastrecon_report["algorithm"]
    assert ("of fastrecon" in fast.fastrecon_report["physics"]) == (name != "valid")


@pytest.mark.parametrize("g", ["symmetric", "tv", "l12", "own"])
def test_priors(g):
    physics, y, _ = problem("inpainting")
    few = {"max_iter": 3}
    theirs, fast = model(optim.PGD, g, **few), ours.accelerate(model(optim.PGD, g, **few))
    torch.testing.assert_close(fast(y, physics), theirs(y, physics), atol=1e-3, rtol=1e-4)
    assert ("deepinv's: Tikhonov" in fast.fastrecon_report["prior"]) == (g == "own")


@pytest.mark.parametrize("g_first", [False, True])
def test_primal_dual_and_order(g_first):
    physics, y, _ = problem("blur")
    for kind, options in (
        (optim.PDCP, {"K": physics.A, "K_adjoint": physics.A_adjoint, "stepsize_dual": 0.5}),
        (optim.ADMM, {"beta": 0.8}),
        (optim.HQS, {}),
    ):
        seen = P.Denoising() if kind is optim.PDCP and not g_first else physics
        if kind is optim.PDCP and g_first:
            options = options | {"K": lambda x: x, "K_adjoint": lambda x: x}
        theirs, fast = (model(kind, g_first=g_first, **options) for _ in range(2))
        a, b = theirs(y, seen), ours.accelerate(fast)(y, seen)
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-6)


def test_stopping():
    physics, y, _ = problem("blur")
    options = {"early_stop": True, "thres_conv": 3e-3, "max_iter": 100}
    theirs, strict = model(optim.PGD, **options), ours.accelerate(model(optim.PGD, **options), strict=True)
    a, rows = theirs(y, physics, compute_metrics=True)
    b, mine = strict(y, physics, compute_metrics=True)
    torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-6)
    assert [len(r) for r in mine["residual"]] == [len(r) for r in rows["residual"]]
    fast = ours.accelerate(model(optim.PGD, **options))
    c, own = fast(y, physics, compute_metrics=True)
    for k in range(B):  # an image of a batch as it is alone, and as deepinv has it alone
        torch.testing.assert_close(c[k : k + 1], fast(y[k : k + 1], physics))
        alone, its = model(optim.PGD, **options)(y[k : k + 1], physics, compute_metrics=True)
        torch.testing.assert_close(c[k : k + 1], alone, atol=1e-6, rtol=1e-6)
        assert len(own["residual"][k]) == len(its["residual"][0])
    assert "each image" in fast.fastrecon_report["stopping"]
    assert "by the mean" in strict.fastrecon_report["stopping"]


def test_backtracking():
    physics, y, _ = problem("blur")
    options = {"stepsize": 6.0, "backtracking": True, "max_iter": 12}
    theirs, strict = model(optim.PGD, **options), ours.accelerate(model(optim.PGD, **options), strict=True)
    torch.testing.assert_close(strict(y, physics), theirs(y, physics), atol=1e-6, rtol=1e-6)
    fast = ours.accelerate(model(optim.PGD, **options))
    c = fast(y, physics)
    for k in range(B):
        alone = model(optim.PGD, **options)(y[k : k + 1], physics)
        torch.testing.assert_close(c[k : k + 1], alone, atol=1e-6, rtol=1e-6)


def test_unfolded_gradients_and_keys():
    physics, y, x = problem("blur")
    options = {"unfold": True, "max_iter": 3, "stepsize": [0.9] * 3, "lambda_reg": [0.2] * 3}
    theirs, fast = (model(optim.PGD, **(options | {"trainable_params": ["stepsize", "lambda"]})) for _ in range(2))
    fast = ours.accelerate(fast)
    assert list(theirs.state_dict()) == list(fast.state_dict())

    def grads(net):
        net.zero_grad()
        (net(y, physics) - x).square().sum().backward()
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    a, b = grads(theirs), grads(fast)
    assert a.keys() == b.keys()
    assert a
    for n in a:
        torch.testing.assert_close(b[n], a[n], atol=1e-4, rtol=1e-4)


def test_what_is_not_known():
    with pytest.raises(
        ValueError, match="accelerate: model: expected PGD, FISTA, HQS, ADMM or PDCP of deepinv, got GD"
    ):
        ours.accelerate(model(optim.GD))
    physics, y, _ = problem("blur")
    slow, fast = (model(optim.PGD, anderson_acceleration=True) for _ in range(2))
    torch.testing.assert_close(ours.accelerate(fast)(y, physics), slow(y, physics))
    assert fast.fastrecon_report["algorithm"] == "deepinv's loop: Anderson acceleration"
    net = torch.nn.Identity()
    denoiser = optim.PnP(lambda x, sigma: net(0.9 * x))
    slow, fast = (optim.PGD(prior=denoiser, data_fidelity=optim.L2(), max_iter=4) for _ in range(2))
    torch.testing.assert_close(ours.accelerate(fast)(y, physics), slow(y, physics))
    assert "PnP is not one that is known" in fast.fastrecon_report["prior"]


APPENDED = """
from fastrecon.adapters.deepinv import accelerate

def accelerated(name):
    return lambda *args, **options: accelerate(vars(dinv.optim)[name](*args, **options))

PDCP = accelerated("PDCP")
"""
OPTIM = {  # without algorithms that `accelerate` does not take
    "getattr(dinv.optim, ": "accelerated(",
    '    "GD",\n    "PGD",\n': '    "PGD",\n',
    '    "DRS",\n': "",
    '    "MD",\n    "PMD",\n': "",
    '"DRS", ': "",
    '["GD", "PGD", "FISTA"]': '["PGD", "FISTA"]',
}
ANDERSON = ("PGD-True", "HQS-True", "True-PGD", "True-HQS")
UNFOLDED = {"getattr(optim, ": "accelerated(", '    "GD",\n': ""}


@pytest.mark.parametrize(
    ("module", "changes", "chosen", "least"),
    [
        ("test_optim", OPTIM, "(algo or test_CP) and not TVL1Prior", 50),  # TV-L1, deepinv's own here, takes minutes
        ("test_unfolded", UNFOLDED, "not " + " and not ".join(ANDERSON), 22),  # that stays in deepinv's loop
    ],
)
def test_their_tests_of_algorithms(module, changes, chosen, least, tmp_path):
    """deepinv's own tests of its algorithms and priors, each model accelerated."""
    output = peers.own_tests(tmp_path, module, changes, APPENDED, "-k", chosen)
    passed = re.search(r"(\d+) passed", output)
    assert "failed" not in output, output[-3000:]
    assert passed is not None, output[-3000:]
    assert int(passed.group(1)) >= least


def test_physics_that_is_not_linear_stays_theirs():
    x = images()
    physics = P.Physics(A=lambda x, **kwargs: x.square() + x)  # its gradient is autograd's
    y = physics.A(x)
    slow, fast = (model(optim.PGD, stepsize=0.1) for _ in range(2))
    fast = ours.accelerate(fast)
    torch.testing.assert_close(fast(y, physics, init=x + 0.1), slow(y, physics, init=x + 0.1), atol=1e-6, rtol=1e-6)
    assert fast.fastrecon_report["physics"] == "deepinv's: L2 of Physics"
    for what in (object(), torch.nn.Identity(), None):
        with pytest.raises(ValueError, match="accelerate: model: expected PGD, FISTA, HQS, ADMM or PDCP of deepinv"):
            ours.accelerate(what)
