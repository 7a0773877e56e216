"""ADMM-Net, variational networks, LISTA and ISTA-Net of complex images: definitions, counts, files, training, masks."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import fastrecon as fr
from fastrecon import io, masks, zoo
from fastrecon.cli.main import main
from fastrecon.models import DescentModel, ISTANetModel, UnrolledModel
from fastrecon.models.sampling import aligned
from fastrecon.operators import BlockSensing, Fourier, Identity, random_phi
from fastrecon.ops.soft_threshold import soft_threshold
from fastrecon.solvers import LDA, LISTA, ADMMNet, ISTANet, VariationalNetwork
from fastrecon.solvers.admm_net import POINTS, TINY
from fastrecon.train.recipes.unrolled_mri import SETTINGS, Config, UnrolledMri, network
from fastrecon.train.world import World

SIZE = (16, 20)
TINY_RUN = {
    "rate": 0.5, "steps": 6, "batch": 2, "patch": 16, "warmup": 1, "validation": 0.3, "validate_every": 3, "phases": 2
}  # fmt: skip
PARAMETERS = {"ista-net-plus": 823_692, "vn": 131_050, "admm-net": 14_600}


def measured(count=2, dtype=torch.complex128):
    a = Fourier(masks.radial(SIZE, 0.4).double())
    x = torch.polar(zoo.scenes(count, *SIZE), zoo.scenes(count, *SIZE).flip(-1)).to(dtype)
    return a, x, a(x)


def small(name: str):
    torch.manual_seed(3)
    kinds = {
        "ista-net-plus": lambda: ISTANet(Identity(), 2, 4, complex_features=True, one_threshold=True),
        "vn": lambda: VariationalNetwork(Identity(), 2, 4, 5, 9), "admm-net": lambda: ADMMNet(Identity(), 2, 3),
    }  # fmt: skip
    return kinds[name]()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_in_the_paper(name):
    assert sum(p.numel() for p in network(name).parameters()) == PARAMETERS[name]
    assert set(SETTINGS) >= set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_image_has_the_bits_it_has_alone_and_every_number_learns(name):
    a, x, y = measured()
    model = UnrolledModel(name, small(name).double())
    found = model(y, a).x
    for k in range(2):
        assert torch.equal(model(y[k : k + 1], a).x[0], found[k])
    solver = model.for_operator(a)
    learned, rest = solver.learn(y, a.apply_adjoint(y))
    ((learned - x).abs().square().mean() + rest).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in solver.parameters())
    assert torch.equal(model(1024 * y, a).x, 1024 * found)  # other units change nothing


def test_admm_net_solves_its_data_step():
    a, _, y = measured(1)
    net = small("admm-net").double()
    net.fidelity.operator = a
    z = zoo.numbers(1, 6, *SIZE, dtype=torch.float64)
    x = net._data_step(0, z, y, a.apply_adjoint(y))

    def correlated(t):
        return F.conv2d(F.pad(t, (1, 1, 1, 1), mode="circular"), net.data[0])

    def back(t):  # the adjoint
        return F.conv2d(F.pad(t, (1, 1, 1, 1), mode="circular"), net.data[0].flip(-1, -2).transpose(0, 1))

    weight = net.rho[0][:, None, None]
    parts = [(x.real, z[:, :3]), (x.imag, z[:, 3:])]
    rest = torch.complex(*(back(weight * (correlated(t) - v)) for t, v in parts))
    gradient = a.apply_adjoint(a(x) - y) + rest + TINY * x
    assert gradient.abs().max() < 1e-10


def test_shrinkage_of_admm_net_is_piecewise_linear():
    from fastrecon.solvers.admm_net import _shrunk

    grid = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    values = torch.stack([soft_threshold(grid, 0.3), grid])
    t = zoo.numbers(2, 2, 5, 5, dtype=torch.float64)
    found = _shrunk(t, values)
    torch.testing.assert_close(found[:, 0], soft_threshold(t[:, 0], 0.3), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, 1], t[:, 1])
    values.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(_shrunk, (t, values))


def test_lista_is_ista_at_its_start():
    a = BlockSensing(random_phi(18, 64, 1), 8)
    net = LISTA(a, 2).double()
    y = a(zoo.scenes(2, 24, 16).double())
    x0 = a.apply_adjoint(y)
    wavelet = fr.operators.Wavelet("sym4", 3, (24, 16))
    x = x0
    for _ in range(2):
        c = wavelet(x - a.apply_adjoint(a(x) - y))
        shrunk = soft_threshold(c, 0.01)
        shrunk[..., :3, :2] = c[..., :3, :2]
        x = wavelet.adjoint(shrunk)
    torch.testing.assert_close(net(y, x0)[0], x, rtol=0, atol=1e-7)  # thresholds are single numbers
    net.learn(y, x0)[0].square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_files_hold_the_models(tmp_path):
    a, _, y = measured(dtype=torch.complex64)
    for name in PARAMETERS:
        own = UnrolledModel(name, small(name), {"name": name})
        own.save(tmp_path / "m.safetensors")
        again = fr.load(tmp_path / "m.safetensors")
        assert isinstance(again, UnrolledModel)
        assert again.method == name
        assert torch.equal(own(y, a).x, again(y, a).x)
    block = BlockSensing(random_phi(18, 64, 1).float(), 8)
    shared = ISTANetModel(block, ISTANet(block, 3, 4, shared=True), block.phi.T.clone(), {"ratio": 28.0})
    shared.save(tmp_path / "s.safetensors")
    z = block(zoo.scenes(1, 8, 8))
    assert torch.equal(fr.load(tmp_path / "s.safetensors")(z).x, shared(z).x)
    lista = ISTANetModel(block, LISTA(block, 2), block.phi.T.clone(), {"ratio": 28.0}, blockwise=False)
    lista.save(tmp_path / "l.safetensors")
    again = fr.load(tmp_path / "l.safetensors")
    y = block(zoo.scenes(2, 21, 30))
    assert again.method == "lista"
    assert torch.equal(lista(y, size=(21, 30)).x, again(y, size=(21, 30)).x)


def test_published_weights_for_real_images(tmp_path):
    torch.manual_seed(2)
    state, shapes = {}, {"conv_D": (3, 1), "conv1_forward": (3, 3), "conv2_forward": (3, 3)}
    shapes |= {"conv1_backward": (3, 3), "conv2_backward": (3, 3), "conv_G": (1, 3)}
    for k in range(2):
        state |= {f"fcs.{k}.lambda_step": torch.tensor([0.5]), f"fcs.{k}.soft_thr": torch.tensor([0.02])}
        state |= {f"fcs.{k}.{name}": 0.3 * torch.randn(*shape, 3, 3) for name, shape in shapes.items()}
    model = UnrolledModel.from_published(state, {"name": "theirs"})
    model.save(tmp_path / "m.safetensors")
    a = Fourier(masks.radial(SIZE, 0.4))
    x = zoo.scenes(1, *SIZE)
    found = fr.load(tmp_path / "m.safetensors")(a(x), a).x
    assert not found.is_complex()

    def conv(t, name, k):
        return F.conv2d(t, state[f"fcs.{k}.{name}"], padding=1)

    first = a.adjoint(a(x)).real  # ISTA-Net-PyTorch, line by line
    z = first
    for k in range(2):
        z = z - 0.5 * a.adjoint(a(z)).real + 0.5 * first
        t = conv(F.relu(conv(conv(z, "conv_D", k), "conv1_forward", k)), "conv2_forward", k)
        t = soft_threshold(t, 0.02)
        z = z + conv(conv(F.relu(conv(t, "conv1_backward", k)), "conv2_backward", k), "conv_G", k)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-5)


def test_matrices_without_orthonormal_rows_are_told():
    state = {}
    for name, shape in {"conv1_forward": (4, 1), "conv2_forward": (4, 4), "conv1_backward": (4, 4),
                        "conv2_backward": (1, 4)}.items():  # fmt: skip
        state[f"fcs.0.{name}"] = torch.zeros(*shape, 3, 3)
    state |= {"fcs.0.lambda_step": torch.ones(1), "fcs.0.soft_thr": torch.ones(1)}
    phi = random_phi(18, 36, 3)
    ISTANetModel.from_published(state, phi, phi.T, block=6)
    with pytest.raises(ValueError, match=r"ISTANetModel: phi: expected orthonormal rows: phi phi\^T = I, got an error"):
        ISTANetModel.from_published(state, 2 * phi, phi.T / 2, block=6)


def test_other_conventions_are_converted_and_said():
    x = zoo.scenes(1, 32, 32).to(torch.complex64)
    mask = masks.radial((32, 32), 0.4)
    a = Fourier(mask)
    y = a(x)
    torch.manual_seed(4)
    model = DescentModel(LDA(Identity(), phases=2, channels=3, layers=2, tau=0.02, complex_features=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = model(y, a).x
        assert aligned(a, y, "lda") is a
    turned = torch.fft.fftshift(mask)
    with pytest.warns(UserWarning, match="lda: operator: the mask, whose zero frequency was half its size beside"):
        assert torch.equal(model(y, Fourier(turned)).x, right)
    both = torch.fft.fftshift(y, (-2, -1))
    with pytest.warns(UserWarning, match="zero frequency in the middle: taken as Fourier"):
        torch.testing.assert_close(model(both, Fourier(turned)).x, right)
    with pytest.warns(UserWarning, match="zero frequency in the corner: taken as Fourier"):
        torch.testing.assert_close(model(y, Fourier(turned, centred=True)).x, right)


def test_another_share_of_frequencies_is_said():
    x = zoo.scenes(1, 32, 32).to(torch.complex64)
    torch.manual_seed(4)
    facts = {"name": "small", "training": {"settings": {"rate": 0.4}}}
    model = DescentModel(LDA(Identity(), phases=1, channels=3, layers=2, complex_features=True), facts)
    a = Fourier(masks.radial((32, 32), 0.2))
    with pytest.warns(UserWarning, match=r"lda: mask: 2\d\.\d% of the frequencies are sampled, small has learned 40%"):
        model(a(x), a)


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> Path:
    turned = torch.polar(zoo.scenes(3, 20, 26), zoo.scenes(3, 20, 26).flip(-1))[:, 0].numpy()
    path = tmp_path_factory.mktemp("slices") / "slices.npz"
    np.savez(path, real=200 * zoo.scenes(3, 24, 24)[:, 0].numpy(), turned=turned)
    return path


def test_training_and_its_model_in_commands(slices, tmp_path):
    for name in ("admm-net", "ista-net"):
        run = tmp_path / name
        words = [w for k, v in TINY_RUN.items() for w in (f"--{k.replace('_', '-')}", str(v))]
        argv = ["train", "unrolled-mri", "--network", name, "--data", str(slices), "--out", str(run), *words]
        assert main([*argv, "--threads", "1", "--device", "cpu"]) == 0
        assert "2 phases" in (run / f"{name}-mri-50.md").read_text()
        picture = tmp_path / "scene.png"
        io.write_image(picture, zoo.scenes(1, 32, 32)[0, 0].numpy())
        command = ["reconstruct", str(picture), "--problem", "mri", "--simulate", "--device", "cpu", "--method", name]
        command += ["--model", str(run / "model.safetensors"), "--out", str(tmp_path / f"{name}-out")]
        assert main(command) == 0


def test_training_goes_on_to_the_same_bits(slices, tmp_path):
    config = Config([str(slices)], **TINY_RUN, network="admm-net")
    one, two = (UnrolledMri(config, World(), tmp_path) for _ in range(2))
    one.loss()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.loss(), two.loss())


@pytest.mark.parametrize("name", ["gd-net", "agd-net"])
def test_gradient_networks_and_lista_are_trained_too(tmp_path, name):
    for k, scene in enumerate(zoo.scenes(3, 24, 24)):
        io.write_image(tmp_path / f"{k}.png", scene[0].numpy())
    common = ["--data", *(str(tmp_path / f"{k}.png") for k in range(3)), "--threads", "1", "--device", "cpu"]
    common += ["--ratio", "50", "--block", "8", "--patch", "16", "--steps", "4", "--batch", "2", "--phases", "2"]
    common += ["--start-blocks", "100", "--validation", "0.4"]
    run = tmp_path / "run"
    assert main(["train", "lda-cs", "--network", name, *common, "--channels", "2", "--out", str(run)]) == 0
    assert fr.load(run / "model.safetensors").method == name
    assert (
        f"{name.upper().replace('NET', 'Net')} for block compressed sensing" in (run / f"{name}-cs-50.md").read_text()
    )
    if name == "gd-net":
        run = tmp_path / "lista"
        assert main(["train", "ista-net", "--network", "lista", *common, "--out", str(run)]) == 0
        assert "LISTA for block compressed sensing" in (run / "lista-50.md").read_text()
