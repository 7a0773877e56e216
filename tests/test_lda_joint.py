"""LDA with learned sampling: gradients, training and going on with it, its model in every command, rigorous mode."""

from pathlib import Path

import pytest
import torch

import fastrecon as fr
from fastrecon import io, zoo
from fastrecon.cli.main import main
from fastrecon.models import BlockSensingModel
from fastrecon.train.recipes.lda_joint import PRESETS, Config, LdaJoint
from fastrecon.train.recipes.warm_start import stages_of
from fastrecon.train.world import World

TINY = {
    "ratio": 25.0, "block": 8, "patch": 24, "phases": 2, "channels": 4, "layers": 2, "steps": 20, "batch": 4,
    "warmup": 1, "lr": 0.01, "validation": 0.4, "validate_every": 10, "start_blocks": 500,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for k, x in enumerate(zoo.scenes(3, 40, 36)):
        io.write_image(folder / f"{k}.png", x[0].numpy())
    return folder


def objective(pictures, **changes) -> LdaJoint:
    return LdaJoint(Config([str(pictures)], **(TINY | changes)), World(), Path())


@pytest.mark.parametrize("first", ["principal", "gaussian"])
def test_the_start_inverts_the_sampling(pictures, first):
    module = objective(pictures, first=first, dtype="float64").module
    phi, q = module.operator.phi, module.q
    assert phi.shape == (16, 64)
    eye = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(phi @ phi.T, eye, rtol=0, atol=1e-10)
    torch.testing.assert_close(phi @ q, eye, rtol=0, atol=1e-8)


def test_principal_components_sample_better(pictures):
    def error(first):
        own = objective(pictures, first=first).module
        x = own.operator.to_image(own.operator.to_blocks(zoo.scenes(2, 40, 40)))
        return (own.start(own.operator(x)) - x).square().mean()

    assert error("principal") < 0.8 * error("gaussian")


def test_gradients_of_sampling_and_start(pictures):
    own = objective(pictures, dtype="float64")
    own.begin_step(0)
    x = own.crops(2)
    own.crops = lambda *_: x
    named = dict(own.module.named_parameters())
    assert {n for n, share in own.rates.items() if share == 0.1} == {n for n in named if n.endswith(("phi", "q"))}
    own.loss().backward()
    for name in own.rates:
        p = named[name]
        direction = zoo.numbers(*p.shape, dtype=torch.float64)
        values = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                p.add_(h * direction)
                y = own.module.operator(x)
                x0 = own.module.start(y)
                found = own.module.solver(y, x0, select=False)[0]
                values.append(float((found - x).square().mean() + 0.01 * (x0 - x).square().mean()))
                p.sub_(h * direction)
        slope = (values[0] - values[1]) / 2e-6
        assert float((p.grad * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_training_learns_goes_on_and_serves_every_command(pictures, tmp_path, capsys):
    run, half = tmp_path / "run", TINY
    words = [w for k, v in half.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    argv = ["train", "lda-joint", "--data", str(pictures), "--out", str(run), "--threads", "1", "--device", "cpu"]
    assert main([*argv, *words]) == 0
    model = fr.load(run / "model.safetensors")
    assert isinstance(model, BlockSensingModel)
    assert model.operator.block == 8
    assert not model.blockwise
    card = (run / "lda-joint-25.md").read_text()
    assert "learned with the network" in card
    rows = [r.split(",") for r in (run / "log.csv").read_text().splitlines()]
    scores = [float(r[rows[0].index("validation_psnr")]) for r in rows[1:] if r[rows[0].index("validation_psnr")]]
    assert scores[-1] > scores[0]
    first = objective(pictures).module
    assert not torch.allclose(model.operator.phi, first.operator.phi)
    assert not torch.allclose(model.q, first.q)
    # any image size, measured by the model's own matrix
    path = str(run / "model.safetensors")
    assert main(["simulate", str(pictures / "0.png"), "--model", path, "--out", str(tmp_path / "measured")]) == 0
    out = ["--out", str(tmp_path / "done"), "--device", "cpu"]
    command = ["reconstruct", str(tmp_path / "measured"), "--model", path, *out]
    assert main(command) == 0
    capsys.readouterr()
    command = ["simulate", str(pictures / "0.png"), "--problem", "block-cs", "--block", "8", "--ratio", "25"]
    assert main([*command, "--out", str(tmp_path / "other")]) == 0
    assert main(["reconstruct", str(tmp_path / "other"), "--model", path, *out[:1], str(tmp_path / "no")]) == 2
    assert "sampling matrix" in capsys.readouterr().err


def test_a_run_goes_on_to_the_same_bits(pictures):
    one = objective(pictures)
    one.begin_step(0)
    one.loss()
    two = LdaJoint(Config([str(pictures)], **TINY), World(), Path(), fresh=False)
    two.load_state_dict(one.state_dict())
    two.begin_step(0)
    assert torch.equal(two.module.operator.phi, one.module.operator.phi)
    assert torch.equal(one.loss(), two.loss())


def test_another_model_brings_its_sampling_where_it_learned_one(pictures, tmp_path):
    own = objective(pictures)
    with torch.no_grad():
        own.module.operator.phi.mul_(1.5)
    own.module.save(tmp_path / "m.safetensors")
    again = objective(pictures, init=str(tmp_path / "m.safetensors"))
    assert torch.equal(again.module.operator.phi, own.module.operator.phi)
    assert torch.equal(again.module.q, own.module.q)
    other = objective(pictures, init=str(tmp_path / "m.safetensors"), ratio=50.0)
    assert len(other.module.operator.phi) == 32


def test_sampling_of_half_precision_is_stored_so(pictures, tmp_path):
    own = objective(pictures).module
    whole = tmp_path / "whole.safetensors"
    own.save(whole)
    with torch.no_grad():
        for t in (own.operator.phi, own.q):
            t.copy_(t.half())
    own.save(tmp_path / "half.safetensors")
    again = fr.load(tmp_path / "half.safetensors")
    assert torch.equal(again.operator.phi, own.operator.phi)
    assert torch.equal(again.q, own.q)
    assert again.q.dtype == torch.float32
    numbers = own.operator.phi.numel() + own.q.numel()
    assert whole.stat().st_size - (tmp_path / "half.safetensors").stat().st_size >= 2 * numbers - 200


def test_rigorous_mode_takes_any_norm_of_the_matrix(pictures):
    own = objective(pictures).module
    with torch.no_grad():
        own.operator.phi.mul_(1.7)  # L = |A|^2 = 2.89: no trained step is safe
    assert own.operator.norm() == pytest.approx(1.7, rel=1e-5)
    y = own.operator(zoo.scenes(2, 21, 30))
    found = own(y, size=(21, 30), rigorous=True, tol=1e-2, iterations=300)
    merit = found.report.history["merit"][2:]
    assert (merit.diff(dim=0) <= 1e-9 * merit[:-1].abs()).all()
    assert torch.isfinite(found.x).all()


def test_the_preset_is_the_papers():
    config = Config(["data"], **({"ratio": 10.0} | PRESETS["paper"]))
    assert (config.phases, config.block, config.patch, config.auxiliary) == (15, 32, 96, 0.01)
    assert stages_of(config)[-1].end == 1700 * 1400
