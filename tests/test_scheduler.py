"""The scheduler: every answer has the bits that it has alone, and whoever fails, fails alone."""

import gc
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch
from serving_zoo import KINDS, Asked, models, requests, same

import fastrecon as fr
from fastrecon.operators import Inpainting
from fastrecon.serving import Busy, Late, Scheduler
from fastrecon.solvers import FISTA


@pytest.fixture(scope="module")
def zoo():
    return models()


def submit(scheduler: Scheduler, asked: Asked, **options):
    return scheduler.submit(asked.y, model=asked.model, **asked.options, **options)


def inpainting(side=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    operator = Inpainting((torch.rand(side, side, generator=g) < 0.5).float())
    return operator(torch.rand(1, 1, side, side, generator=g)), operator


def test_mixed_requests_have_the_bits_they_have_alone(zoo):
    asked = requests(32, seed=18, sides=(16, 24), iterations=12)
    assert len({a.kind for a in asked}) == len(KINDS)
    waits = torch.rand(len(asked), generator=torch.Generator().manual_seed(2)) * 0.01
    with Scheduler(zoo, max_batch=8) as scheduler:
        futures = []
        for one, wait in zip(asked, waits.tolist(), strict=True):
            futures.append(submit(scheduler, one))
            time.sleep(wait)
        found = [f.result() for f in futures]
        stats = scheduler.stats()
    wrong = [a.kind for a, b in zip(asked, found, strict=True) if not same(b, a.alone(zoo))]
    assert not wrong
    assert stats["done"] == 32
    assert stats["joined"] > 0
    assert stats["mean_batch"] > 1


def varied(kind: str) -> list[Asked]:
    """Requests whose loops are of one kind, and end after other numbers of iterations."""
    if kind == "coder":
        coarse = [torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(k)) for k in range(6)]
        spots = [torch.nn.functional.interpolate(x, size=(24, 24)) for x in coarse]
        limits = [{"rigorous": True, "tol": 1e-4, "iterations": 40 + 35 * (k % 3)} for k in range(6)]
        return [Asked(kind, kind, y, limit) for y, limit in zip(spots, limits, strict=True)]
    if kind in ("rigorous", "prior-mask"):
        alike = [a for a in requests(300, seed=3, sides=(24,)) if a.kind == kind][:6]
        return [replace(a, options=a.options | {"iterations": 5 + 4 * (k % 3)}) for k, a in enumerate(alike)]
    asked = []
    for k in range(6):
        y, operator = inpainting(seed=k)
        own = {"iterations": 5 + 4 * (k % 3)} if kind != "hqs" else {"last": 4.0 ** (3 + k % 3)}
        noise = {"noise": 0.01 * (k + 1)} if kind != "sgp" else {}
        own |= {"tol": 0.0} if kind in ("explicit", "controlled") else {}
        asked.append(Asked(kind, kind, y, {"operator": operator} | own | noise))
    return asked


@pytest.mark.parametrize(
    "kind",
    [
        "rigorous",
        "prior-mask",
        "fista",
        "ista",
        "admm",
        "hqs",
        "sgp",
        "implicit",
        "explicit",
        "controlled",
        "coder",
    ],
)
def test_images_that_are_done_leave_and_others_enter(zoo, kind):
    asked = varied(kind)
    with Scheduler(zoo, max_batch=3) as scheduler:
        found = [f.result() for f in [submit(scheduler, a) for a in asked]]
        stats = scheduler.stats()
    assert all(same(b, a.alone(zoo)) for a, b in zip(asked, found, strict=True))
    assert stats["joined"] > 0


def test_the_phases_of_a_network_run_in_one_batch(zoo):
    asked = [a for a in requests(100, seed=4, sides=(24,)) if a.kind == "lda"][:6]
    y = torch.cat([a.y for a in asked])
    with Scheduler(zoo["lda"], max_batch=16) as scheduler:
        scheduler.submit(y, size=(24, 24)).result()  # a batch of many is one request
        futures = [scheduler.submit(a.y, **a.options) for a in asked]
        found = [f.result() for f in futures]
        stats = scheduler.stats()
    assert all(same(b, a.alone(zoo)) for a, b in zip(asked, found, strict=True))
    assert stats["mean_batch"] > 1.5


def test_arrays_are_answered_in_kind(zoo):
    y, operator = inpainting()
    with Scheduler(zoo["prior"]) as scheduler:
        found = scheduler.submit(y.numpy(), operator, noise=0.05, iterations=5).result()
    assert isinstance(found.x, np.ndarray)
    np.testing.assert_array_equal(found.x, zoo["prior"](y, operator, noise=0.05, iterations=5).x.numpy())


def test_one_bad_input_fails_alone(zoo):
    y, operator = inpainting()
    bad = y.clone()
    bad[0, 0, 3, 4] = float("nan")
    with Scheduler(zoo["prior"]) as scheduler:
        good = scheduler.submit(y, operator, noise=0.05, iterations=10)
        wrong = [
            scheduler.submit(bad, operator, noise=0.05),
            scheduler.submit(y, noise=0.05),
            scheduler.submit(y, operator, noise=0.05, rigorous=True),
            scheduler.submit(y[..., :20], operator, noise=0.05),
        ]
        assert same(good.result(), zoo["prior"](y, operator, noise=0.05, iterations=10))
        with pytest.raises(ValueError, match="NaN or Inf in image 0"):
            wrong[0].result()
        for future in wrong[1:]:
            with pytest.raises((ValueError, TypeError)):
                future.result()
        assert scheduler.stats()["failed"] == 4


def test_an_error_in_a_batch_hits_the_image_that_makes_it(zoo, monkeypatch):
    step = FISTA.step

    def breaks(self, s, k):
        if (s.x.abs().flatten(1).amax(1) > 50).any():
            raise RuntimeError("out of something")
        return step(self, s, k)

    monkeypatch.setattr(FISTA, "several", lambda *_: None)
    monkeypatch.setattr(FISTA, "step", breaks)
    asked = [inpainting(seed=k) for k in range(4)]
    asked[2] = (100 * asked[2][0], asked[2][1])
    with Scheduler("fista") as scheduler:
        futures = [scheduler.submit(y, a, iterations=20) for y, a in asked]
        with pytest.raises(RuntimeError, match="out of something"):
            futures[2].result()
        for k in (0, 1, 3):
            alone = fr.reconstruct(asked[k][0], asked[k][1], method="fista", iterations=20)
            assert same(futures[k].result(), alone)


@pytest.fixture
def endless():
    """A scheduler with room for one, and a request that would take minutes."""
    y, operator = inpainting()
    with Scheduler("fista", max_batch=1, max_queue=2) as scheduler:
        long = scheduler.submit(y, operator, iterations=10**6)
        while not scheduler.stats()["running"]:
            time.sleep(0.001)
        yield scheduler, long, y, operator
        long.cancel()


def test_a_full_queue_says_so_at_once(endless):
    scheduler, long, y, operator = endless
    waiting = [scheduler.submit(y, operator, iterations=3) for _ in range(2)]
    start = time.monotonic()
    with pytest.raises(Busy, match=r"Scheduler: queue: expected room for a request, got 2 waiting") as busy:
        scheduler.submit(y, operator)
    assert time.monotonic() - start < 0.1
    assert busy.value.retry_after > 0
    assert scheduler.stats()["refused"] == 1
    assert long.cancel()
    assert all(f.result().x.shape == y.shape for f in waiting)


def test_large_requests_do_not_queue_behind_large_ones():
    y, operator = inpainting(16)
    with Scheduler("fista", max_batch=16, max_pixels=300, max_ahead=1.25) as scheduler:
        long = scheduler.submit(y, operator, iterations=10**6)
        waits = scheduler.submit(y, operator, iterations=3)  # finds 256 of 300 pixels before it
        with pytest.raises(Busy):
            scheduler.submit(y, operator, iterations=3)
        assert long.cancel()
        assert waits.result(timeout=20).x.shape == y.shape


def test_a_batch_that_comes_at_once_is_taken():
    y, operator = inpainting()
    with Scheduler("fista", max_batch=8, max_queue=1) as scheduler:
        for future in [scheduler.submit(y, operator, iterations=3) for _ in range(8)]:
            future.result()


def test_cancelling_frees_the_place(endless):
    scheduler, long, y, operator = endless
    after, never = scheduler.submit(y, operator, iterations=3), scheduler.submit(y, operator, iterations=3)
    assert never.cancel()
    assert long.cancel()
    after.result(timeout=20)
    with pytest.raises(CancelledError):
        long.result()
    assert scheduler.drain(20)
    assert scheduler.stats()["cancelled"] == 2
    assert scheduler.stats()["running"] == 0


@pytest.mark.parametrize("method", ["fista", "admm"])
def test_a_deadline_frees_the_place(method):
    y, operator = inpainting()
    with Scheduler(method, max_batch=1) as scheduler:
        late = scheduler.submit(y, operator, deadline=0.2, iterations=10**6, tol=0.0)
        queued = scheduler.submit(y, operator, deadline=0.05, iterations=2)
        after = scheduler.submit(y, operator, iterations=2)
        for future in (late, queued):
            with pytest.raises(Late, match="deadline: expected an answer within"):
                future.result(timeout=20)
        assert after.result(timeout=20).x.shape == y.shape
        assert scheduler.stats()["late"] == 2


def test_the_pixels_of_all_models_are_bounded(zoo):
    y, operator = inpainting(16)
    large = inpainting(40)
    with Scheduler(zoo, max_pixels=600) as scheduler:
        with pytest.raises(ValueError, match="y: expected measurements of at most 600 pixels, got 1600"):
            scheduler.submit(*large, model="prior", noise=0.1)
        futures = [scheduler.submit(y, operator, model=m, iterations=30, noise=0.1) for m in ("prior", "fista") * 3]
        most = 0
        while not all(f.done() for f in futures):
            most = max(most, scheduler.stats()["pixels"])
            time.sleep(0.001)
    assert 256 <= most <= 600


def test_a_closed_scheduler_takes_nothing(zoo):
    y, operator = inpainting()
    before = {*threading.enumerate()}
    scheduler = Scheduler("fista")
    future = scheduler.submit(y, operator, iterations=5)
    assert future.result(timeout=20).x.shape == y.shape
    assert len({*threading.enumerate()} - before) == 2  # the worker and a fiber
    assert scheduler.drain()
    with pytest.raises(RuntimeError, match="takes no more"):
        scheduler.submit(y, operator)
    assert not scheduler.alive
    deadline = time.monotonic() + 5
    while {*threading.enumerate()} - before and time.monotonic() < deadline:
        time.sleep(0.001)  # a fiber's thread ends after it has said so
    assert not {*threading.enumerate()} - before


def test_an_error_in_its_body_takes_back_what_is_queued():
    y, operator = inpainting()

    def body():
        with Scheduler("fista") as scheduler:
            futures.append(scheduler.submit(y, operator, iterations=10**6))
            raise KeyError("mine")

    futures = []
    with pytest.raises(KeyError, match="mine"):
        body()
    assert futures[0].cancelled()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"model": "no-such"}, "model: expected a model or the name of a method"),
        ({"model": {}}, "model: expected at least one model"),
        ({"model": 3}, "model: expected a model or the name of a method"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_queue": 1.5}, "max_queue"),
        ({"max_pixels": True}, "max_pixels"),
        ({"max_ahead": 0}, "max_ahead"),
    ],
)
def test_settings_are_looked_at(told, message):
    with pytest.raises(ValueError, match=message):
        Scheduler(**{"model": "fista"} | told)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"y": torch.ones(3)}, "y: expected measurements"),
        ({"y": "text"}, "y: expected a tensor"),
        ({"y": torch.ones(0, 1, 24, 24)}, "at least one image"),
        ({"operator": 3}, "operator: expected a LinearOperator"),
        ({"operator": None}, "operator: expected a LinearOperator for a method"),
        ({"size": (0, 3)}, "size"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"rigorous": "no"}, "rigorous"),
        ({"model": "other"}, "model"),
    ],
)
def test_requests_are_looked_at_before_they_wait(told, message):
    y, operator = inpainting()
    with Scheduler("fista") as scheduler, pytest.raises(ValueError, match=message):
        scheduler.submit(**{"y": y, "operator": operator} | told)


def test_nothing_of_an_answered_request_stays():
    def tensors():
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    y, operator = inpainting()
    with Scheduler("fista") as scheduler:
        scheduler.submit(y, operator, iterations=5).result()  # what is kept for all of a kind
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        with Scheduler("fista", max_batch=2) as scheduler:
            late = scheduler.submit(y, operator, iterations=10**6, deadline=0.1)
            for future in [scheduler.submit(y, operator, iterations=5) for _ in range(8)]:
                future.result()
            assert isinstance(late.exception(), Late)
        del future
        assert tensors() <= before + 4  # of the last one, until the next
    finally:
        gc.enable()


def test_a_deadline_that_the_queue_cannot_keep_is_refused_at_once(endless):
    scheduler, long, y, operator = endless
    scheduler._counts.pace = 10.0
    waits = scheduler.submit(y, operator, iterations=3, deadline=60.0)
    with pytest.raises(Busy):
        scheduler.submit(y, operator, iterations=3, deadline=1.0)
    assert long.cancel()
    assert waits.result().x.shape == y.shape
