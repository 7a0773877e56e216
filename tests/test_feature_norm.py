import pytest
import torch
from zoo import printed_feature_norm

from fastrecon.terms.feature_norm import FeatureNorm


def make(channels=6, layers=3, seed=0, **options):
    torch.manual_seed(seed)
    return FeatureNorm(channels, layers, **options).double()


def images(count=3, h=7, w=9):
    return torch.randn(count, 1, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("final_activation", [False, True])
@pytest.mark.parametrize("delta", [0.01, 0.3])
def test_value_is_that_of_the_paper(final_activation, delta):
    net, x = make(final_activation=final_activation, delta=delta), images()
    for eps in (1e-3, float(net.feature_norms(x).median()), 1e2):
        e = torch.full((3,), eps, dtype=torch.float64)
        torch.testing.assert_close(net.value(x, e), printed_feature_norm(net, x, e))


def test_smoothing_bounds():
    net, x = make(), images()
    r, m = net.nonsmooth_value(x), 63
    torch.testing.assert_close(r, net.feature_norms(x).sum((1, 2)))
    previous = r
    for eps in (1e-6, 1e-2, 0.3, 1.0, 10.0):  # r_eps <= r <= r_eps + m eps / 2 (eq. 6), and falls as eps rises
        r_eps = net.value(x, eps)
        assert (r_eps <= previous + 1e-12).all()
        assert (r <= r_eps + m * eps / 2 + 1e-12).all()
        previous = r_eps


@pytest.mark.parametrize("where", ["generic", "zero features", "|g| = eps"])
def test_gradient_is_the_finite_difference_of_the_value(where):
    net, x = make(layers=2, delta=0.2), images(1, 5, 4)
    if where == "zero features":  # a strip of the image below the activation
        with torch.no_grad():
            net.weights[0].abs_()
        x[..., :3] = -9.0
        assert (net.feature_norms(x)[..., 0] == 0).all()
    eps = float(net.feature_norms(x)[0, 2, 3]) if where == "|g| = eps" else 0.4
    grad = net.grad(x, eps)
    for i in range(0, x.numel(), 3):
        h = torch.zeros_like(x)
        h.view(-1)[i] = 1e-6
        numeric = (net.value(x + h, eps) - net.value(x - h, eps)) / 2e-6
        assert grad.view(-1)[i].item() == pytest.approx(numeric.item(), rel=1e-6, abs=1e-6)


def test_zero_image_and_zero_weights_give_finite_zeros():
    net, x = make(), torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for w in net.weights:
            w.zero_()
    value, grad = net.value_and_grad(x, 0.1)
    assert torch.equal(value, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(grad, torch.zeros_like(x))
    assert torch.equal(net.nonsmooth_value(x), value)


def test_refreshing_touches_only_what_changed():
    net, x = make(), images()
    eps = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    old = net.evaluate(x, eps)
    changed = torch.tensor([False, True, False])
    new_eps = torch.where(changed, 0.5 * eps, eps)
    new = net.refresh(old, x, new_eps, changed)
    fresh = net.evaluate(x, new_eps)
    torch.testing.assert_close(new.value, fresh.value)
    torch.testing.assert_close(new.grad, fresh.grad)
    assert not torch.equal(new.value, old.value)
    assert net.refresh(old, x, eps, torch.zeros(3, dtype=torch.bool)) is old


def test_refreshing_at_other_images_is_a_choice():
    net, x, eps = make(), images(), torch.full((3,), 0.1).double()
    a, b = net.evaluate(x, eps), net.evaluate(-x, eps)
    chosen = net.refresh(a, -x, eps, torch.tensor([False, True, False]))
    torch.testing.assert_close(chosen.value, torch.stack((a.value[0], b.value[1], a.value[2])))
    torch.testing.assert_close(chosen.grad, torch.stack((a.grad[0], b.grad[1], a.grad[2])))


@pytest.mark.parametrize(("channels", "layers", "count"), [(32, 4, 27936), (8, 4, 1800), (48, 4, 62640), (32, 2, 9504)])
def test_number_of_weights(channels, layers, count):
    assert sum(p.numel() for p in FeatureNorm(channels, layers).parameters()) == count  # 9 d + 9 d^2 (l - 1)


def test_initial_weights_have_xaviers_bound():
    for w in FeatureNorm(32, 4).weights:
        bound = (6 / (9 * (w.shape[0] + w.shape[1]))) ** 0.5
        assert 0.9 * bound < w.abs().max() <= bound


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="FeatureNorm: layers: expected an integer >= 1, got 0"):
        FeatureNorm(layers=0)
