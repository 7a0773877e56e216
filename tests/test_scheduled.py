"""FISTA behind learned iterations: FISTA's limit whatever is learned, bits alone and in a batch, training, models."""

import pytest
import torch

import fastrecon as fr
from fastrecon import masks
from fastrecon.cli.main import main
from fastrecon.models import ScheduleModel
from fastrecon.networks.step_schedule import LARGEST_BY_GAINS, StepSchedule, bands
from fastrecon.operators import Callables, Fourier, Inpainting, Wavelet
from fastrecon.problems.scan import even_scan
from fastrecon.solvers import FISTA, ScheduledFISTA, detail_weights
from fastrecon.solvers.scheduled import POWER

SIZE = (40, 48)
LAM = 0.1 / 255


def problem(count=2, kind=Inpainting, dtype=torch.float32):
    v, h = torch.linspace(0, 1, SIZE[0], dtype=dtype)[:, None], torch.linspace(0, 1, SIZE[1], dtype=dtype)
    x = torch.stack([((3 * v + (k + 1) * h).sin().abs() + (v > h + 0.2 * k)) / 2 for k in range(count)])[:, None]
    a = kind(torch.stack([masks.uniform(SIZE, 0.5, k) for k in range(count)])[:, None].to(dtype))
    return a @ Wavelet("sym4", 3, SIZE).T, a(x)


def scan(size=(48, 48), views=15, count=1):
    """Projections of pictures, in wavelet coefficients, in the unit in which their norm is 1."""
    v, h = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    x = torch.stack([((3 * v + (k + 1) * h).sin().abs() + (v > h + 0.2 * k)) / 2 for k in range(count)])[:, None]
    a = even_scan(size, views)
    return a @ Wavelet("sym4", 3, size).T, a(x), Wavelet("sym4", 3)(a.fbp(a(x), "hann"))


def wild(seed=0, iterations=6, gains=False):
    """A schedule of random numbers."""
    torch.manual_seed(seed)
    schedule = StepSchedule(iterations, gains=gains)
    for p in schedule.parameters():
        torch.nn.init.normal_(p, std=4.0)
    return schedule


def test_bands_are_those_of_the_transform():
    wavelet, found = Wavelet("sym4", 3, SIZE), bands(SIZE, 3, torch.device("cpu"))
    assert [int((found == j).sum()) for j in range(4)] == [30, 90, 360, 1440]
    assert torch.equal(found == 0, detail_weights(SIZE, 3, 1.0) == 0)
    c = torch.zeros(1, 1, *SIZE).masked_fill(found == 3, 1.0)
    assert wavelet.adjoint(c).sum().abs() < 1e-3  # the finest details have no mean


@pytest.mark.parametrize("kind", [Inpainting, Fourier])
def test_an_untrained_schedule_is_far_ahead_of_fista(kind):
    a, y = problem(kind=kind)
    start = FISTA(a, LAM)(y, iterations=0)[1].objective
    usual = FISTA(a, LAM)(y, iterations=60)[1].objective
    found = ScheduledFISTA(a, LAM, None, StepSchedule(20))(y, iterations=20)[1]
    assert (found.objective < usual).all()
    assert (usual < start).all()
    assert found.network_iterations.tolist() == [20, 20]


def test_gains_are_those_of_the_bands():
    band = bands(SIZE, 3, torch.device("cpu"))
    of_band = torch.tensor([1.0, 0.5, 0.01, 0.2])
    a = Callables(lambda c: of_band[band].sqrt() * c, lambda y: of_band[band].sqrt() * y, SIZE)
    solver = ScheduledFISTA(a, LAM, 1.0, StepSchedule(3, gains=True))
    scale = solver.scale(torch.zeros(2, 1, *SIZE), torch.tensor([1.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(scale, torch.stack((1 / of_band, 2 / of_band)).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("side", "views"), [(48, 9), (48, 40), (64, 30)])
def test_steps_by_gains_bound_projections_and_not_in_vain(side, views):
    a = scan((side, side), views)[0]
    solver = ScheduledFISTA(a, LAM, 1.0, StepSchedule(3, gains=True))
    scale = solver.scale(torch.zeros(1, 1, side, side), torch.ones(1, dtype=torch.float64))[0]
    metric = scale.float()[bands((side, side), 3, torch.device("cpu"))].sqrt()
    scaled = Callables(lambda c: a(metric * c), lambda y: metric * a.adjoint(y), (side, side))
    largest = scaled.norm((1, 1, side, side)) ** 2  # by power iteration
    assert 0.75 < largest < 4 / 3 / LARGEST_BY_GAINS  # such steps bear any momentum
    assert scale[1:].min() > 3


@pytest.mark.parametrize("size", [(48, 48), (96, 80)])
def test_by_gains_an_untrained_schedule_is_ahead_of_twice_as_many_of_fista_at_any_size(size):
    a, y, c = scan(size, size[0] // 2, 2)
    usual = FISTA(a, 5e-4 / 255, 1.0)(y, c, iterations=40)[1].objective
    found = ScheduledFISTA(a, 5e-4 / 255, 1.0, StepSchedule(20, gains=True))(y, c, iterations=20)[1]
    assert (found.objective < usual).all()
    assert found.network_iterations.tolist() == [20, 20]
    assert (found.operator_calls == 20 + 2 + POWER).all()  # the start, the end and the gains
    assert (found.adjoint_calls == 20 + 1 + POWER).all()


@torch.no_grad()
def test_by_gains_the_iterations_in_one_call_have_the_bits_of_single_steps():
    a, y = problem()
    solver = ScheduledFISTA(a, LAM, 1.0, StepSchedule(5, gains=True))
    seen = []
    together = solver(y, iterations=7)[0]
    s = solver.start(a.apply_adjoint(y), y)
    for k in range(7):
        s = solver.step(s, k)
        seen.append(s.x)
    assert torch.equal(together, seen[-1])


@pytest.mark.parametrize("seed", range(3))
def test_projections_tend_to_the_minimum_whatever_is_learned(seed):
    a, y, c = scan((24, 24), 9)
    y, c = y.double(), c.double()
    best = FISTA(a, 0.01, 1.0)(y, c, iterations=3000)[1].objective
    found = ScheduledFISTA(a, 0.01, 1.0, wild(seed, gains=True).double())(y, c, iterations=3000)[1]
    torch.testing.assert_close(found.objective, best, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_it_tends_to_the_minimum_whatever_is_learned(seed):
    a, y = problem(dtype=torch.float64)
    lam = 0.01
    best = FISTA(a, lam)(y, iterations=2000)[1].objective
    x, report = ScheduledFISTA(a, lam, 1.0, wild(seed).double())(y, iterations=1500, tol=1e-7)
    torch.testing.assert_close(report.objective, best, rtol=1e-7, atol=0)
    assert report.converged.all()
    recomputed = (a(x) - y).square().flatten(1).sum(1) / 2 + lam * x.abs().flatten(1).sum(1)
    torch.testing.assert_close(report.objective, recomputed)


def test_images_that_are_worse_than_their_start_begin_anew_from_it():
    a, y = problem()
    schedule = StepSchedule(3)
    torch.nn.init.constant_(schedule.step, 10.0)  # far too long
    torch.nn.init.constant_(schedule.weight, -20.0)
    start, found = FISTA(a, LAM)(y, iterations=0), ScheduledFISTA(a, LAM, None, schedule)(y, iterations=3)
    assert torch.equal(found[0], start[0])
    assert found[1].network_iterations.tolist() == [0, 0]


def test_the_history_tells_the_objective_of_the_problem():
    a, y = problem()
    lam, seen = detail_weights(SIZE, 3, LAM), []
    solver = ScheduledFISTA(a, lam, None, StepSchedule(4))
    _, report = solver(y, iterations=6, history=True, callback=lambda k, s: seen.append(s.x))
    for x, told in zip(seen, report.history["objective"][1:], strict=True):
        value = (a(x) - y).double().square().flatten(1).sum(1) / 2 + (lam * x.abs()).double().flatten(1).sum(1)
        torch.testing.assert_close(told, value, rtol=1e-5, atol=1e-9)


def test_projected_images_have_the_same_bits_alone_and_in_a_batch():
    a, y, c = scan(count=3)
    solver = ScheduledFISTA(a, LAM, 1.0, StepSchedule(5, gains=True))
    together = solver(y, c, iterations=8)[0]
    for k in range(3):
        assert torch.equal(together[k : k + 1], solver(y[k : k + 1], c[k : k + 1], iterations=8)[0])


@pytest.mark.parametrize("lam", [LAM, 0.0, torch.tensor([LAM, 3 * LAM]), detail_weights(SIZE, 3, LAM)], ids=str)
def test_an_image_has_the_same_bits_alone_and_in_a_batch(lam):
    a, y = problem(3)
    lam = torch.tensor([LAM, 3 * LAM, LAM]) if isinstance(lam, torch.Tensor) and lam.ndim == 1 else lam
    together = ScheduledFISTA(a, lam, 1.0, StepSchedule(5))(y, iterations=8)[0]
    for k in range(3):
        own = lam[k : k + 1] if isinstance(lam, torch.Tensor) and lam.ndim == 1 else lam
        alone = ScheduledFISTA(a.take(torch.tensor([k])), own, 1.0, StepSchedule(5))(y[k : k + 1], iterations=8)[0]
        assert torch.equal(together[k : k + 1], alone)


def test_images_that_are_done_leave_the_batch():
    a, y = problem(dtype=torch.float64)
    y = y * torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1)
    _, report = ScheduledFISTA(a, 0.01, 1.0, StepSchedule(5).double())(y, iterations=200, tol=1e-3, check_every=5)
    assert report.converged.all()
    assert report.iterations[1] < report.iterations[0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: StepSchedule(0), r"StepSchedule: iterations: expected an integer in \[1, 10000\], got 0"),
        (lambda: StepSchedule(3, -1), "StepSchedule: level: expected an integer >= 0"),
        (lambda: StepSchedule(3, 3).steps(0, (12, 16)), r"StepSchedule: size: expected sides divisible by 8, got"),
        (lambda: ScheduledFISTA(problem()[0], LAM, None, 3), "schedule: expected a StepSchedule, got int"),
    ],
)  # fmt: skip
def test_bad_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("sides", [["64"], ["48", "64"]], ids=" ".join)
def test_training_lowers_the_objective_and_gives_a_model(sides, tmp_path):
    out = tmp_path / "run"
    main(
        ["train", "fista", "--data", "skimage:camera", "skimage:moon", "skimage:coins", "--side", *sides, "--held", "1",
         "--unroll", "4", "--steps", "12", "--batch", "2", "--lr", "0.1", "--validate-every", "4", "--out", str(out)]
    )  # fmt: skip
    model = fr.load(out / "model.safetensors")
    assert isinstance(model, ScheduleModel)
    card = (out / "learned-fista-inpaint.md").read_text()
    assert "PSNR" in card
    assert " and ".join(f"{n}x{n}" for n in sides) in card
    a, y = problem()

    def after(schedule):
        return ScheduledFISTA(a, LAM, 1.0, schedule)(y, iterations=4)[1].objective

    assert (after(model.network) < after(StepSchedule(4))).all()
    masked = Inpainting(torch.stack([masks.uniform(SIZE, 0.5, k) for k in range(2)])[:, None])
    assert model(y, operator=masked, lam=LAM).report.network_iterations.tolist() == [4, 4]
    found = fr.reconstruct(y, masked, method="learned-fista", iterations=6, model=str(out / "model.safetensors"))
    assert torch.equal(found.x, model(y, operator=masked, iterations=6).x)
