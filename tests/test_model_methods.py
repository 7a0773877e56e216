"""Trained models as methods: the right model for a measurement, images and certificates, who is told of what."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon import io
from fastrecon.models import DirectModel
from fastrecon.networks.unet import DirectNet
from fastrecon.problems import PROBLEMS
from fastrecon.problems.block_cs import fingerprint
from fastrecon.solvers.methods import METHODS, named

NAMES = ("lda", "gd-net", "agd-net", "d-ladmm", "sgp-step", "sgp-diag", "unet")


def picture(shape=(40, 48)):
    rows, columns = (np.linspace(0, 1, n, dtype=np.float32) for n in shape)
    a = 0.5 + 0.3 * np.sin(9 * rows)[:, None] * np.cos(7 * columns) + 0.2 * ((rows > 0.5)[:, None] ^ (columns > 0.3))
    return io.Picture(a.clip(0, 1).astype(np.float32), Path("picture.png"), io.Form())


def measured(name, shape=(40, 48), **options):
    problem = PROBLEMS[name]
    return problem, problem.simulate(picture(shape), problem.Options(**options), 3)


def test_all_are_registered():
    assert set(NAMES) <= set(METHODS)
    for name in NAMES:
        problems = METHODS[name].problems
        assert problems
        assert set(problems) <= {*PROBLEMS, ""}
        for problem in problems:
            assert named(name, problem).name == name


@pytest.mark.parametrize(
    ("problem", "method", "options", "gain"),
    [
        ("block-cs", "lda", {"ratio": 25.0}, 8),
        ("block-cs", "lda", {"ratio": 10.0}, 5),
        ("impulse", "d-ladmm", {}, 8),
        ("inpaint", "sgp-step", {}, 5),
        ("mri", "sgp-diag", {}, 3),
    ],
)
def test_the_shipped_model_of_a_measurement(problem, method, options, gain):
    p, m = measured(problem, (48, 40) if problem == "mri" else (51, 45), **options)
    seen = []
    found = METHODS[method].ready()(p.inverse(m), lambda *told, **more: seen.append((*told[:2], told[2]().shape)))
    assert found.x.shape[-2:] == m.size
    first = p.scores(p.start(m) if problem != "block-cs" else m.y.new_zeros(found.x.shape), m)
    assert p.scores(found.x, m)["psnr"] > first["psnr"] + gain
    assert len(found.report) == len(m.y)
    if method != "d-ladmm":  # whose learned layers tell nobody
        assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
        assert seen[-1][0] == seen[-1][1]
        assert {shape for _, _, shape in seen} == {found.x.shape}
    again = METHODS[method].ready()(p.inverse(m))  # nobody watches
    assert torch.equal(again.x, found.x)


def test_lda_to_convergence_with_start_and_features():
    p, m = measured("block-cs", (33, 33))
    seen = []
    run = METHODS["lda"].ready(rigorous=True, tol=1.0, features=True)
    found = run(p.inverse(m), lambda done, total, x, what: seen.append((done, total, what, x().shape)))
    assert found.report.status == ["converged"]
    assert (found.report.history["merit"][found.report.trained_phases :].diff(dim=0) <= 0).all()
    assert seen[-1][0] == seen[-1][1]
    assert {s[2:] for s in seen} == {("reductions of eps and gradient", (1, 1, 33, 33))}
    assert found.extras["features"].shape == (1, 33, 33)
    model = fr.load("lda-cs-25")
    assert torch.equal(found.start, model.start(m.y, m.size))
    exact = model(m.y, size=m.size, rigorous=True, tol=1.0)
    assert torch.equal(found.x, exact.x)


def test_blocks_alone_and_precision():
    p, m = measured("block-cs", (40, 48))
    seen = []
    run = METHODS["lda"].ready(blockwise=True, precision="direct")
    found = run(p.inverse(m), lambda done, total, x, what: seen.append(x()))
    model = fr.load("lda-cs-25")
    model.blockwise = True
    model.set_precision("direct")
    assert torch.equal(found.x, model(m.y, size=m.size).x)
    assert torch.equal(seen[-1], found.x)


def test_a_direct_network(tmp_path):
    torch.manual_seed(0)
    model = DirectModel(DirectNet(width=2), "deblur", {"name": "mine"}).eval()
    path = str(tmp_path / "mine.safetensors")
    model.save(path)
    p, m = measured("deblur", (41, 43))
    found = METHODS["unet"].ready(model=path)(p.inverse(m))
    assert torch.equal(found.x, model(m.y, operator=p.operator(m), x0=p.start(m)).x)
    with pytest.raises(
        ValueError, match=r"unet: --model: expected a model of unet for inpaint, got .*, of unet for deblur"
    ):
        METHODS["unet"].ready(model=path)(PROBLEMS["inpaint"].inverse(measured("inpaint")[1]))


def test_what_does_not_fit_is_named():
    cases = (
        ("lda", {"model": "dladmm-saltpepper"}, r"lda: --model: expected a model of lda for block-cs, got dladmm-.*"),
        ("d-ladmm", {"model": "lda-cs-10"}, "d-ladmm: --model: expected a model of d-ladmm for impulse, got lda-cs-10"),
        ("sgp-step", {"model": "sgp-diag-inpaint"}, "sgp-step: --model: expected a model of sgp-step, got sgp-diag-"),
        ("sgp-step", {"model": "none"}, "load: name: expected one of"),
        ("sgp-step", {"iterations": 0}, r"reconstruct: --iterations: expected an integer in \[1, 1e6\], got 0"),
        ("lda", {"precision": "float16"}, "reconstruct: --precision: expected one of float32, .*, got 'float16'"),
        ("lda", {"blockwise": "some"}, "reconstruct: --blockwise: expected true or false, got 'some'"),
        ("d-ladmm", {"tol": 0}, r"reconstruct: --tol: expected a number in \(0, 1\], got 0"),
    )
    for name, options, message in cases:
        with pytest.raises(ValueError, match=message):
            METHODS[name].ready(**options)
    p, m = measured("ct")
    with pytest.raises(ValueError, match="sgp-step: --model: expected a model of sgp-step for ct, got none, and no"):
        METHODS["sgp-step"].ready()(p.inverse(m))


def test_measurements_of_another_matrix_are_refused():
    p, m = measured("block-cs", ratio=37.0)
    with pytest.raises(ValueError, match="--model: expected a model of lda for block-cs, got none, and no shipped"):
        METHODS["lda"].ready()(p.inverse(m))
    with pytest.raises(ValueError, match="reconstruct: y: expected 272 measurements per block"):
        METHODS["lda"].ready(model="lda-cs-25")(p.inverse(m))
    other = "reconstruct: measurements: expected those of the model's own sampling matrix, got another's"
    p, m = measured("block-cs", phi_seed=5)
    with pytest.raises(ValueError, match=other):
        METHODS["lda"].ready()(p.inverse(m))
    inverse = p.inverse(m)  # of a file that says what made it, the operator was only assumed
    known = {"operator": fingerprint(fr.load("lda-cs-25").operator), "model": "mine"}
    assert len(METHODS["lda"].ready()(dataclasses.replace(inverse, facts=known)).report) == 1
    known["operator"] = fingerprint(inverse.operator)
    with pytest.raises(ValueError, match=other + r" \(they were made for mine\)"):
        METHODS["lda"].ready()(dataclasses.replace(inverse, facts=known))


def test_block_sensing_by_a_matrix_of_ones_own():
    def chosen(noise=0.0, **simulate):
        p, m = measured("block-cs", **simulate)
        return p.auto(dataclasses.replace(p.inverse(m), noise=noise))

    assert (chosen().method, chosen(phi_seed=5).method, chosen(noise=0.05).method) == ("lda", "prior", "prior")
    assert chosen().settings == {"rigorous": True}
    assert "on to convergence" in chosen().why
    assert chosen(ratio=37.0, noise=None).method == "tv"
    assert "no shipped model has learned this sampling matrix" in chosen(ratio=37.0).why
    assert "trained without noise" in chosen(noise=0.05).why
    matrix = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)) / 8
    p, m = measured("block-cs", (20, 24), block=8, matrix=matrix)
    found = fr.reconstruct(m.y, p.operator(m), noise=0.0, size=m.size)
    assert found.report.status == ["converged"]
    assert (found.method, found.why) == ("prior", "there is no noise, and pictures taught a prior the rest")
    least = p.operator(m).adjoint(m.y, m.size)
    assert fr.metrics.psnr(found.x, m.truth) > fr.metrics.psnr(least, m.truth) + 3


def test_measurements_that_the_network_diverges_from_are_told():
    p, m = measured("block-cs")
    inverse = dataclasses.replace(p.inverse(m), y=m.y * 1e38)
    with pytest.raises(RuntimeError, match=r"the iterations diverged: lda-cs-25 is not trained .*\(\|y\| up to"):
        METHODS["lda"].ready()(inverse)


def test_in_one_line():
    model = fr.load("lda-cs-25")
    m = measured("block-cs")[1]
    found = fr.reconstruct(m.y, model.operator, method="lda", size=m.size)
    assert (found.method, found.why) == ("lda", "asked for")
    assert torch.equal(found.x, model(m.y, size=m.size).x)
    m = measured("inpaint")[1]
    a = PROBLEMS["inpaint"].operator(m)
    found = fr.reconstruct(m.y, a, method="sgp-step", iterations=5)
    assert torch.equal(found.x, fr.load("sgp-step-inpaint")(m.y, operator=a, iterations=5).x)
    m = measured("mri", (48, 40))[1]
    a = PROBLEMS["mri"].operator(m)
    found = fr.reconstruct(m.y, a, method="sgp-step", iterations=5)
    assert torch.equal(found.x, fr.load("sgp-step-fourier")(m.y, operator=a, iterations=5).x)
