"""Networks for SGP: what they answer untrained; greedy training learns, resumes to the same bits, and is loaded."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

import fastrecon as fr
from fastrecon.cli.main import main
from fastrecon.models import StepModel
from fastrecon.networks.unet import LIMITS, DirectNet, StepNet, UNet
from fastrecon.problems import wavelet_l1 as problems
from fastrecon.solvers import FISTA, ISTA, SGP
from fastrecon.train import checkpoint
from fastrecon.train.loop import Trainer
from fastrecon.train.recipes.sgp import Unrolled
from fastrecon.train.recipes.sgp_base import Config
from fastrecon.train.recipes.sgp_stages import Stages
from fastrecon.train.world import World


def picture(side, seed):
    """Blobs and edges, 8 bits."""
    t = np.linspace(0, 4, side)
    x = np.sin(t[:, None] * (seed + 1)) * np.cos(t * (2 + seed)) + (t[:, None] + t > 3 + 0.3 * seed)
    return ((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(picture(40, k)).save(folder / f"{k}.png")
    return folder


SMALL = ["--side", "32", "--held", "1", "--steps", "12", "--batch", "4", "--width", "4", "--lr", "3e-3"]
GREEDY = ["--stages", "2", "--target-iterations", "100"]


def small(images, **more):
    options = {"side": 32, "held": 1, "stages": 2, "steps": 12, "batch": 4, "width": 4, "target_iterations": 100}
    return Config(**{"data": [str(images)], **options, **more})


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("variant", ["step", "diag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_untrained_networks_answer_one(variant, dtype, norm):
    net = StepNet(variant, dtype.is_complex, 4, norm).eval()
    x, g = torch.randn(2, 2, 1, 16, 24, dtype=dtype)
    d = net(x, g)
    assert d.shape == ((2,) if variant == "step" else (2, 1, 16, 24))
    torch.testing.assert_close(d, torch.ones_like(d))
    y = torch.rand(2, 1, 16, 24)
    assert torch.equal(DirectNet(4, norm).eval()(y), y)


def test_size_of_the_paper_and_what_does_not_fit():
    count = sum(p.numel() for p in UNet(2, 64).parameters())
    assert 7e6 < count < 8.7e6
    with pytest.raises(ValueError, match=r"UNet: x: expected .* divisible by 8"):
        UNet(2, 4)(torch.zeros(1, 2, 12, 16))


def random_net(variant="step", complex_input=False, seed=0):
    """Weights as before training, but with a head that answers."""
    torch.manual_seed(seed)
    net = StepNet(variant, complex_input, 4).double()
    torch.nn.init.normal_(net.head.weight, std=0.03)
    torch.nn.init.constant_(net.head.bias, 2)
    return net


@pytest.mark.parametrize("variant", ["step", "diag"])
def test_steps_depend_on_the_problem_and_not_on_its_units(variant):
    """Intensities, and L, in other units: the iterates follow exactly, with the same steps."""
    p = problems.instance("inpaint", torch.from_numpy(picture(32, 1)).double()[None, None] / 255, 0.5)
    net = random_net(variant)
    x, report = SGP(p.operator, p.lam, 1.0, net)(p.y, iterations=5, history=True)
    ista, _ = ISTA(p.operator, p.lam, 1.0)(p.y, iterations=5)
    assert (x - ista).norm() > 0.01 * x.norm()
    scaled, _ = SGP(p.operator, 7 * p.lam, 1.0, net)(7 * p.y, iterations=5)
    torch.testing.assert_close(scaled, 7 * x, rtol=1e-8, atol=1e-10)

    def seen(operator, y, lam, lipschitz):
        solver = SGP(operator, lam, lipschitz, net)
        s = solver.start(p.operator.adjoint(p.y), y)
        return solver.metric(s.x, operator.adjoint(s.residual), s.t, 0)

    class Louder(fr.operators.LinearOperator):
        """3 A: L is 9 times as large, and so is lam of the same problem."""

        def forward(self, x):
            return 3 * p.operator(x)

        def apply_adjoint(self, y, size=None):
            return 3 * p.operator.adjoint(y)

    torch.testing.assert_close(seen(Louder(), 3 * p.y, 9 * p.lam, 9.0), seen(p.operator, p.y, p.lam, 1.0) / 9)
    two = torch.tensor([p.lam, 2 * p.lam], dtype=torch.float64)
    both, _ = SGP(p.operator, two, 1.0, net)(p.y.expand(2, -1, -1, -1), iterations=5)
    torch.testing.assert_close(both[:1], x, rtol=1e-8, atol=1e-10)  # a weight for each image
    assert report.network_iterations.item() > 0


def test_limits_are_the_networks_unless_others_are_given():
    a = fr.operators.Inpainting(torch.ones(1, 1, 16, 16, dtype=torch.float64))
    assert SGP(a, 1.0).limits == (1e-2, 1e2)
    assert SGP(a, 1.0, network=StepNet(width=4)).limits == LIMITS
    x, t = torch.randn(1, 1, 16, 16, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for limits in ((1e-2, 1e2), (0.5, 3.0)):
        solver = SGP(a, 1.0, network=lambda x, g: 1e3 * torch.sign(x), limits=limits)
        d = solver.metric(x, x, t, 0)
        assert (d.min().item(), d.max().item()) == limits
    with pytest.raises(ValueError, match="SGP: limits: expected two numbers > 0 around 1"):
        SGP(a, 1.0, limits=(2.0, 3.0))


def test_rounding_noise_is_no_gradient():
    """At the zero-filled start of inpaint the gradient is 0; a network must not see it as large."""
    net = random_net()
    x = 100 * torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = 1e-9 * torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(net(x, noise), net(x, torch.zeros_like(x)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("task", list(problems.LAM))
def test_instances_are_what_they_say(task):
    x = torch.from_numpy(picture(32, 1)).double()[None, None].expand(2, 1, 32, 32) / 255
    p = problems.instance(task, x, 0.4, seed=5)
    assert p.y.is_complex() == (task == "mri")
    torch.testing.assert_close(p.operator(p.coefficients), p.y, rtol=0, atol=1e-8)
    torch.testing.assert_close(p.image(p.coefficients), x, rtol=0, atol=1e-8)
    assert p.operator.norm() <= 1 + 1e-6
    assert (p.image(p.start()) - x).norm() < x.norm()
    noisy = problems.instance(task, x, 0.4, noise=5.0, seed=5)
    n = (noisy.y - p.y) if p.mask is None else (noisy.y - p.y)[p.mask.expand_as(p.y) > 0]
    parts = torch.view_as_real(n) if n.is_complex() else n
    assert parts.std().item() == pytest.approx(5 / 255, rel=0.1)
    if p.mask is not None:
        assert not torch.equal(p.mask[0], p.mask[1])  # one mask for each image
        assert (noisy.y[p.mask.expand_as(p.y) == 0] == 0).all()


@pytest.mark.parametrize("kind", ["uniform", "variable", "cartesian", "radial"])
def test_masks_of_every_kind(kind):
    x = torch.rand(2, 1, 32, 32)
    p = problems.instance("mri", x, [0.3, 0.6], mask=kind)
    shares = p.mask.mean((1, 2, 3)).tolist()
    assert shares == pytest.approx([0.3, 0.6], abs=0.08)  # one rate for each image
    assert p.mask_kind == kind
    if kind != "uniform":
        assert (p.mask[..., 0, 0] == 1).all()


def test_noise_of_each_image():
    x = torch.rand(2, 1, 32, 32)
    exact = problems.instance("deblur", x)
    difference = problems.instance("deblur", x, noise=[0.0, 10.0]).y - exact.y
    assert difference[0].abs().max() == 0
    assert difference[1].std().item() == pytest.approx(10 / 255, rel=0.1)
    with pytest.raises(ValueError, match="problems: noise: expected a number, or one for each of 2 images, got 3"):
        problems.instance("deblur", x, noise=[0.0, 1.0, 2.0])


def test_views_of_a_scan():
    x = torch.from_numpy(picture(32, 1)).float()[None, None] / 255
    few, many = (problems.instance("ct", x, views=n) for n in (8, 90))
    assert (few.y.shape[2], many.y.shape[2]) == (8, 90)
    assert (many.image(many.start()) - x).norm() < (few.image(few.start()) - x).norm()
    assert (SGP(many.operator, many.lam, 1.0)(many.y, many.start(), iterations=5)[1].objective
            < SGP(many.operator, many.lam, 1.0).objective(many.start(), many.y))  # fmt: skip


@pytest.mark.parametrize(("task", "variant"), [("inpaint", "step"), ("mri", "diag")])
def test_unrolled_training_beats_fista(images, tmp_path, task, variant):
    """On the images it was trained with, after as many iterations."""
    config = small(images, problem=task, variant=variant, unroll=6, first_step=1.0, lam_factor=[0.5, 2.0])
    fit = Unrolled(config, World(), tmp_path)
    assert len(fit.lam.unique()) == 2
    optimiser = torch.optim.Adam(fit.module.parameters(), lr=2e-3)
    p = fit.problem

    def db(solver):
        return fr.metrics.nmse_db(solver(p.y, iterations=6)[0], p.coefficients).mean()

    before = db(SGP(p.operator, fit.lam, 1.0, fit.module))
    for _ in range(40):
        optimiser.zero_grad()
        fit.loss().backward()
        optimiser.step()
    after = db(SGP(p.operator, fit.lam, 1.0, fit.module))
    assert after < before - 0.1
    assert after < db(FISTA(p.operator, fit.lam, 1.0)) - 0.5


@pytest.mark.parametrize(("task", "variant"), [("deblur", "step"), ("inpaint", "diag")])
def test_training_beats_the_safe_step(images, tmp_path, task, variant):
    config = small(images, problem=task, variant=variant, steps=60)
    stages = Stages(config, World(), tmp_path)
    stages.begin_step(config.steps)  # at the zero-filled start of inpaint the gradient is zero: nothing to learn there
    optimiser = torch.optim.Adam(stages.module.parameters(), lr=1e-3)

    def loss():
        stages.generator.manual_seed(7)  # the same iterates before and after
        return np.mean([stages.loss().item() for _ in range(10)])

    first = loss()  # d = 1: what ISTA does
    for _ in range(60):
        optimiser.zero_grad()
        stages.loss().backward()
        optimiser.step()
    assert loss() < 0.98 * first
    p = stages.problem
    ends = [s(p.y, iterations=6)[1].objective for s in (
        ISTA(p.operator, p.lam, 1.0), SGP(p.operator, p.lam, 1.0, stages.module))]  # fmt: skip
    assert (ends[1] < ends[0]).all()


def test_stages_advance_by_the_learned_and_a_plain_step(images, tmp_path):
    stages = Stages(small(images), World(), tmp_path)
    stages.begin_step(11)
    assert len(stages.iterates) == 1
    stages.begin_step(12)
    assert len(stages.iterates) == 2
    p = stages.problem  # untrained: both steps are steps of ISTA
    expected, _ = ISTA(p.operator, p.lam, 1.0)(p.y, iterations=2)
    torch.testing.assert_close(stages.iterates[1], expected, rtol=0, atol=1e-5)
    solved, _ = FISTA(p.operator, p.lam, 1.0)(p.y, iterations=100)
    torch.testing.assert_close(stages.targets, solved, rtol=0, atol=1e-6)


def test_resuming_gives_the_same_bits(images, tmp_path):
    common = ["train", "sgp", "--data", str(images), *SMALL, *GREEDY]
    assert main([*common, "--out", str(tmp_path / "whole")]) == 0
    assert main([*common, "--out", str(tmp_path / "parts")]) == 0
    path = tmp_path / "parts/checkpoint.safetensors"
    whole = checkpoint.load(path)
    config = small(images, lr=3e-3)
    fit = Stages(config, World(), tmp_path / "parts")  # the loop of the command, stopped in the 2nd stage
    trainer = Trainer(fit, config.schedule(), {})
    for _ in range(15):
        trainer.objective.begin_step(trainer.step)
        trainer.update()
    trainer.settings = whole["settings"]
    trainer.save()
    assert main(["train", "sgp", "--out", str(tmp_path / "parts"), "--resume"]) == 0
    for name, p in checkpoint.load(path)["task"]["module"].items():
        assert torch.equal(p, whole["task"]["module"][name]), name


def test_commands_train_and_reconstruct(images, tmp_path, capsys):
    for method, more in (("sgp", ["--unroll", "3"]), ("unet", [])):
        command = ["train", method, "--data", str(images), "--problem", "mri", *SMALL, *more]
        assert main([*command, "--rate", "0.3", "0.5", "--out", str(tmp_path / method)]) == 0
    model = str(tmp_path / "sgp/model.safetensors")
    net = fr.load(model)
    assert (net.method, net.problem, net.training) == ("sgp-step", "mri", False)
    assert "fr.load" in (tmp_path / "sgp/sgp-step-mri.md").read_text()
    runs = {"sgp-step": model, "unet": str(tmp_path / "unet/model.safetensors"), "fista": None, "ista": None}
    capsys.readouterr()
    for method, path in runs.items():
        out = tmp_path / "out" / method
        command = ["reconstruct", str(images / "0.png"), "--simulate", "--problem", "mri", "--method", method]
        iterations = [] if method == "unet" else ["--iterations", "8"]
        assert main([*command, "--out", str(out), "--json", *iterations, *(["--model", path] if path else [])]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        assert (out / "0_figure.png").is_file()
        assert report["scores"]["reconstruction"]["nmse_db"] < 0
        if method != "unet":
            assert report["certificate"]["iterations"] == 8
            assert len(json.loads((out / "0_report.json").read_text())["history"]["objective"]) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problem", "deblur", "--method", "sgp-step"], "--model: expected a model of sgp-step for deblur, got none"),
        (["--problem", "inpaint", "--rate", "1.5"], "--rate: expected a number in (0, 1], got 1.5"),
        (["--problem", "deblur", "--method", "unet", "--model", "missing.safetensors"], "no such file"),
    ],
)
def test_bad_input_is_one_line(images, tmp_path, capsys, arguments, message):
    command = ["reconstruct", str(images / "0.png"), "--simulate", *arguments, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_one_reader_for_all_models(tmp_path):
    net, path = random_net("diag", True).float(), tmp_path / "x.safetensors"
    model = StepModel(net, "mri", {"name": "x"})
    model.save(path)
    again = fr.load(path)
    x, g = torch.randn(2, 1, 1, 16, 16, dtype=torch.complex64)
    assert torch.equal(again.network(x, g), net.eval()(x, g))
    assert (again.method, again.problem, again.meta) == ("sgp-diag", "mri", {"name": "x"})
    net.settings["width"] = 8
    model.save(path)
    with pytest.raises(ValueError, match=r"load: .*expected a complete model, got a damaged file"):
        fr.load(path)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reconstruct IMAGE --simulate --problem inpaint --method sgp-diag --model lda-cs-10 --out OUT",
         "--model: expected a model for inpaint, got one for block-cs"),
        ("evaluate --problem inpaint --data IMAGE --methods sgp-step:model=dladmm-saltpepper",
         "sgp-step: --model: expected a model of sgp-step, got dladmm-saltpepper, of d-ladmm for impulse"),
        ("evaluate --problem inpaint --data IMAGE --side 3", "--side: expected an integer from 8 to 8192, got '3'"),
    ],
)  # fmt: skip
def test_wrong_kinds_are_one_line(images, tmp_path, capsys, command, message):
    net = StepNet(width=4)
    StepModel(net, "inpaint").save(tmp_path / "net.safetensors")
    places = {"IMAGE": images / "0.png", "OUT": tmp_path / "out", "NET": tmp_path / "net.safetensors"}
    assert main([str(places.get(word, word)) for word in command.split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_table(images, tmp_path, capsys):
    StepModel(random_net("step").float(), "inpaint").save(tmp_path / "net.safetensors")
    out, chosen = tmp_path / "tables", [str(images / f"{k}.png") for k in (0, 1)]
    common = ["evaluate", "--data", *chosen, "--side", "32"]
    methods = ["fista:iterations=10", f"sgp-step:model={tmp_path / 'net.safetensors'}"]
    assert (
        main([*common, "--problem", "inpaint", "--table", "all", "--methods", *methods, "--out", str(out), "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    names = ["30%", "50%", "70%", "50% noise 5", "50% lam/2", "50% 2 lam"]
    assert [c["name"] for c in found["conditions"]] == names
    rows = [r for r in found["images"] if (r["condition"], r["method"]) == ("50%", methods[0])]
    (cell,) = [s for s in found["table"] if (s["condition"], s["method"]) == ("50%", methods[0])]
    nmse = [r["nmse_db"] for r in rows]
    assert (cell["nmse_db"], cell["nmse_db_deviation"]) == (pytest.approx(np.mean(nmse)), pytest.approx(np.std(nmse)))
    assert len(nmse) == 2
    assert (out / "table.csv").read_text().count("\n") == 1 + 2 * 6 * 3
    assert (out / "curves.png").stat().st_size > 1000


def test_masks_on_the_command_line(tmp_path, capsys):
    command = ["reconstruct", "skimage:phantom", "--simulate", "--out", str(tmp_path), "--json", "--no-figure"]
    command += ["--problem", "mri", "--method", "fista", "--iterations", "3", "--sampling", "radial", "--rate", "0.2"]
    assert main(command) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["problem_options"]["sampling"], report["problem_options"]["rate"]) == ("radial", 0.2)
    assert main(["reconstruct", "skimage:nobody", "--problem", "inpaint", "--out", str(tmp_path)]) == 2
    assert "skimage: expected one of astronaut" in capsys.readouterr().err
