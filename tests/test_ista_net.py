"""ISTA-Net: its phases against their definition, published weights, parameter counts, files, training, commands."""

from pathlib import Path

import numpy
import pytest
import torch
from torch.nn import functional as F

import fastrecon as fr
from fastrecon import io, zoo
from fastrecon.cli.main import main
from fastrecon.models import ISTANetModel
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.solvers.ista_net import PUBLIC, ISTANet
from fastrecon.train.recipes.ista_net import Config, IstaNetTraining
from fastrecon.train.world import World

BLOCK, ROWS = 6, 18
TINY = {
    "ratio": 50.0, "block": BLOCK, "phases": 2, "channels": 4, "steps": 8, "batch": 2, "patch": 12, "warmup": 1,
    "validation": 0.4, "validate_every": 4, "start_blocks": 200,
}  # fmt: skip


def operator(dtype=torch.float64) -> BlockSensing:
    return BlockSensing(random_phi(ROWS, BLOCK**2, 3).to(dtype), BLOCK)


def published(plus: bool, phases=3, channels=4, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Weights as ISTA-Net-PyTorch names them."""
    torch.manual_seed(2)
    wide, found = channels if plus else 1, {}
    shapes = {"conv1_forward": (channels, wide), "conv2_forward": (channels, channels)}
    shapes |= {"conv1_backward": (channels, channels), "conv2_backward": (wide, channels)}
    shapes |= {"conv_D": (channels, 1), "conv_G": (1, channels)} if plus else {}
    for k in range(phases):
        found[f"fcs.{k}.lambda_step"] = torch.tensor([0.5 + 0.1 * k], dtype=dtype)
        found[f"fcs.{k}.soft_thr"] = torch.tensor([0.02 - 0.02 * k], dtype=dtype)  # the last one is negative
        for name, shape in shapes.items():
            found[f"fcs.{k}.{name}"] = 0.3 * torch.randn(*shape, 3, 3, dtype=dtype)
    return found


def definition(a: BlockSensing, state: dict[str, torch.Tensor], y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """ISTA-Net-PyTorch, line by line."""
    for k in range(3):
        w = {name.split(".")[2]: t for name, t in state.items() if name.startswith(f"fcs.{k}.")}

        def conv(t, name, w=w):
            return F.conv2d(t, w[name], padding=1)

        z = x - w["lambda_step"] * a.apply_adjoint(a(x) - y, x.shape[-2:])
        t = conv(z, "conv_D") if "conv_D" in w else z
        t = conv(F.relu(conv(t, "conv1_forward")), "conv2_forward")
        t = torch.mul(torch.sign(t), F.relu(torch.abs(t) - w["soft_thr"]))
        t = conv(F.relu(conv(t, "conv1_backward")), "conv2_backward")
        x = z + conv(t, "conv_G") if "conv_D" in w else t
    return x


@pytest.mark.parametrize("plus", [False, True])
def test_phases_are_those_of_the_definition(plus):
    a, state = operator(), published(plus)
    net = ISTANet.from_state(a, state).double()
    assert net.plus is plus
    y = a(zoo.scenes(3, 12, 18).double())
    x0 = a.apply_adjoint(y)
    x, report = net(y, x0)
    torch.testing.assert_close(x, definition(a, state, y, x0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(report.misfit, (a(x) - y).flatten(1).norm(dim=1))
    assert report.status == ["trained phases only"] * 3
    learned, asymmetry = net.learn(y, x0)
    torch.testing.assert_close(learned, x)
    assert asymmetry > 0
    for k in range(3):  # whatever the batch
        assert torch.equal(net(y[k : k + 1], x0[k : k + 1])[0][0], x[k])


def test_parameters_are_as_many_as_published():
    def count(**options):
        return sum(p.numel() for p in ISTANet(operator(), **options).parameters())

    assert count() == 336_978
    assert count(plus=False) == 171_090
    assert count(shared=True) == 37_450


def test_asymmetry_vanishes_where_the_transform_is_its_own_inverse():
    net = ISTANet(operator(), phases=1, channels=1, plus=False).double()
    with torch.no_grad():
        for kernel in net.layers[0].kernels.values():
            kernel.zero_()[..., 1, 1] = 1
    x = zoo.scenes(1, 6, 6).double()
    assert net.learn(operator()(x), x)[1].item() == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.pop("fcs.1.lambda_step"), "ISTANet: state: expected fcs.K.lambda_step"),
        (lambda s: s.pop("fcs.2.conv_D"), "ISTANet: state: expected fcs.K.lambda_step"),
        (lambda s: s.clear(), "ISTANet: state: expected fcs.K.lambda_step"),
        (lambda s: s.update({"fcs.1.conv_G": torch.zeros(2)}), r"fcs.1.conv_G: expected \(1, 4, 3, 3\)"),
    ],
)
def test_other_states_are_told(change, line):
    state = published(True)
    change(state)
    with pytest.raises(ValueError, match=line):
        ISTANet.from_state(operator(), state)


def test_published_weights_become_a_file_for_every_command(tmp_path):
    phi = random_phi(ROWS, BLOCK**2, 3)
    state = published(True, dtype=torch.float32)
    q = phi.T.float()  # rows of phi are orthonormal
    model = ISTANetModel.from_published(state, phi.numpy(), q, {"name": "theirs"}, block=BLOCK)
    path = tmp_path / "theirs.safetensors"
    model.save(path)
    again = fr.load(path)
    assert isinstance(again, ISTANetModel)
    assert again.blockwise
    assert again.meta["ratio"] == 50
    image = zoo.scenes(1, 20, 15)
    y = model.operator(image)
    result = again(y, size=(20, 15))
    assert result.x.shape == image.shape
    assert torch.equal(result.x, model(y, size=(20, 15)).x)
    blocks = again.operator.to_image  # every block is an image of its own
    alone = again.solver(y.reshape(-1, 1, 1, ROWS), again.start(y.reshape(-1, 1, 1, ROWS)))[0]
    assert torch.equal(result.x, blocks(alone.reshape(*y.shape[:3], -1), (20, 15)))
    picture = tmp_path / "scene.png"
    io.write_image(picture, image[0, 0].clamp(0, 1).numpy())
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    command = ["reconstruct", str(picture), "--simulate", "--problem", "block-cs", "--method", "ista-net-plus"]
    assert main([*command, "--model", str(path), *out]) == 0


def test_another_sampling_matrix_is_told(tmp_path, capsys):
    model = ISTANetModel.from_published(
        published(False, dtype=torch.float32), random_phi(ROWS, BLOCK**2, 3), torch.zeros(BLOCK**2, ROWS),
        {"name": "theirs"}, block=BLOCK,
    )  # fmt: skip
    model.save(tmp_path / "m.safetensors")
    other = operator(torch.float32)
    with pytest.raises(ValueError, match="operator: expected the model's own sampling matrix"):
        model(other(zoo.scenes(1, 6, 6)), BlockSensing(random_phi(ROWS, BLOCK**2, 4).float(), BLOCK))
    numpy.save(tmp_path / "y.npy", zoo.numbers(1, 1, 272).numpy())  # as many as 25% of 33x33
    command = ["reconstruct", str(tmp_path / "y.npy"), "--problem", "block-cs", "--method", "ista-net"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "ista-net: --model: expected a model of ista-net for block-cs, got none" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, scene in enumerate(zoo.scenes(5, 24, 24)):
        io.write_image(folder / f"{k}.png", scene[0].clamp(0, 1).numpy())
    return folder


def words(changes: dict) -> list[str]:
    return [w for k, v in changes.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def test_training_lowers_the_loss_and_goes_on_to_the_same_bits(photos, tmp_path):
    common = ["train", "ista-net", "--data", str(photos), "--plus", "--threads", "1", "--device", "cpu"]
    run = tmp_path / "run"
    assert main([*common, *words(TINY | {"steps": 60, "lr": 0.003}), "--out", str(run)]) == 0
    model = fr.load(run / "model.safetensors")
    assert isinstance(model, ISTANetModel)
    assert not model.blockwise
    assert "ISTA-Net+ for block compressed sensing at 50%" in (run / "ista-net-plus-50.md").read_text()
    rows = (run / "log.csv").read_text().splitlines()
    place = rows[0].split(",").index("validation_psnr")
    scores = [float(r.split(",")[place]) for r in rows[1:] if r.split(",")[place]]
    assert scores[-1] > scores[0]
    config = Config([str(photos)], plus=True, **TINY)
    one, two = (IstaNetTraining(config, World(), tmp_path) for _ in range(2))
    one.loss()
    state = one.state_dict()
    two.load_state_dict(state)
    assert torch.equal(one.loss(), two.loss())


def test_the_loss_weighs_asymmetry(photos, tmp_path):
    with_it, without = (
        IstaNetTraining(Config([str(photos)], symmetry=w, **TINY), World(), tmp_path) for w in (0.5, 0.0)
    )
    assert without.loss() < with_it.loss()


def test_training_starts_from_a_model_of_the_same_shape(photos, tmp_path):
    first = IstaNetTraining(Config([str(photos)], **TINY), World(), tmp_path).module
    first.meta["training"] = {"command": "", "settings": {}}
    first.save(tmp_path / "first.safetensors")
    init = {"init": str(tmp_path / "first.safetensors"), "seed": 5}
    again = IstaNetTraining(Config([str(photos)], **TINY, **init), World(), tmp_path).module
    assert torch.equal(again.solver.layers[1].kernels["h1"], first.solver.layers[1].kernels["h1"])
    with pytest.raises(ValueError, match="--init: expected a model of ISTA-Net with"):
        IstaNetTraining(Config([str(photos)], plus=True, **TINY, **init), World(), tmp_path)


def test_every_published_name_is_known():
    assert set(PUBLIC.values()) == {k.split(".")[2] for k in published(True)} - {"lambda_step", "soft_thr"}
