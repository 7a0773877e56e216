"""The engine answers as the model does, bit for bit; stand-ins try its graphs and streams where there is no GPU."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import CASES, images, small_coder, small_model, smooth

import fastrecon as fr
from fastrecon import engine as engines
from fastrecon import products
from fastrecon.models import load
from fastrecon.models.sparse_coding import SparseCoder

COMPILED = fr.backends()["feature_gradient_fwd"]["cpu"].startswith("cpu")


def tensors(report):
    found = {}
    report.map(lambda name, t: found.setdefault(name, t))
    return found


def assert_same(result, expected):
    """Images, certificates and texts, to the last bit."""
    assert torch.equal(torch.as_tensor(result[0]), torch.as_tensor(expected[0]))
    ours, theirs = tensors(result[1]), tensors(expected[1])
    assert ours.keys() == theirs.keys()
    for name, t in ours.items():
        torch.testing.assert_close(t, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert result[1].status == expected[1].status


def assert_near(result, expected):
    torch.testing.assert_close(result[0], expected[0], rtol=1e-4, atol=1e-5)
    assert result[1].status == expected[1].status


@pytest.mark.parametrize("case", CASES)
def test_answers_of_the_model(case):
    module, y, options = CASES[case]()
    assert_same(fr.Engine(module)(y, **options), module.compute(y, **options))


def test_batches_are_cut_and_joined():
    r = small_model()
    y = r.operator(images(5)).detach()
    engine = fr.Engine(r, max_batch=2)
    assert_same(engine(y, size=(13, 9), history=True), r(y, size=(13, 9), history=True))
    assert_same(engine(y, rigorous=True, iterations=5), r(y, rigorous=True, iterations=5))
    blockwise = small_model(blockwise=True)
    assert_same(fr.Engine(blockwise, max_batch=2)(y), blockwise(y))


def test_images_that_decide_together_stay_together():
    r = small_model()
    y = r.operator(images(5)).detach()
    r.solver.eps_mode = "batch"
    assert_same(fr.Engine(r, max_batch=2)(y), r(y))
    assert not r.independent


def test_a_solver_takes_its_batch_whole():
    module, y, options = CASES["ista"]()  # its masks belong to the images
    assert_same(fr.Engine(module, max_batch=1)(y, **options), module(y, **options))


def test_arrays_come_back_as_arrays_and_in_order():
    r = small_model()
    inputs = [r.operator(images(k)).detach().numpy() for k in (1, 3, 2)]
    found = list(fr.Engine(r).map(iter(inputs), size=(13, 9)))
    assert [len(x) for x, _ in found] == [1, 3, 2]
    for (x, report), y in zip(found, inputs, strict=True):
        assert isinstance(x, np.ndarray)
        assert_same((x, report), r(y, size=(13, 9)))


def test_later_changes_of_the_model_do_not_show():
    r = small_model()
    y = r.operator(images()).detach()
    engine, before = fr.Engine(r), r(y)
    with torch.no_grad():
        r.solver.raw_alpha.add_(1)
    assert not torch.equal(r(y).x, before.x)
    assert_same(engine(y), before)


def settings():
    return torch.get_num_threads(), [getattr(place, name) for place, name, _ in products.EXACT]


def test_settings_are_the_engines_within_and_the_callers_outside(monkeypatch):
    r, seen = small_model(), []
    y = r.operator(images()).detach()
    engine = fr.Engine(r, threads=1)
    monkeypatch.setattr(engine.model, "compute", lambda y, **options: seen.append(settings()) or r.compute(y))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        before = settings()
        engine(y)
        assert settings() == before
        with pytest.raises(ValueError, match="NaN"):
            engine(y * float("nan"))
        next(engine.map([y]))
        assert settings() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(threads)
    assert seen == [(1, [exact for _, _, exact in products.EXACT])] * 2
    assert before != seen[0]


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_precision_is_that_of_the_steps(precision):
    r = load("lda-cs-10")
    x = torch.rand(1, 1, 33, 33, generator=torch.Generator().manual_seed(0))
    y = r.operator(x)
    expected = copy.deepcopy(r)
    expected.set_precision(precision)
    assert_same(fr.Engine(r, precision)(y), expected(y))
    assert r.solver.regulariser.precision == "float32"


def test_what_does_not_fit_is_named():
    for arguments, message in (
        ({"precision": "float16"}, "Engine: precision: expected one of float32, tf32, bfloat16, got 'float16'"),
        ({"max_batch": 0}, "Engine: max_batch: expected an integer >= 1, got 0"),
        ({"threads": 0}, r"Engine: threads: expected an integer in \[1, 1024\], got 0"),
        ({"threads": 10**11}, r"Engine: threads: expected an integer in \[1, 1024\], got 100000000000"),
        ({"max_batch": 2.0}, r"Engine: max_batch: expected an integer >= 1, got 2\.0"),
        ({"max_batch": True}, "Engine: max_batch: expected an integer >= 1, got True"),
        ({"graph": "no"}, "Engine: graph: expected True or False, got str 'no'"),
        ({"precision": None}, "Engine: precision: expected one of float32, tf32, bfloat16, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            fr.Engine(small_model(), **arguments)
    with pytest.raises(ValueError, match="SparseCoder: precision: expected float32 or tf32, got 'bfloat16'"):
        fr.Engine(small_coder(SparseCoder), "bfloat16")
    with pytest.raises(ValueError, match="Engine: model: expected a model or a solver of fastrecon, got Linear"):
        fr.Engine(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="finite measurements"):
        fr.Engine(small_model())(torch.full((1, 3, 2, 10), float("inf")))


class Recorder:
    """Stands in for CUDA: what is recorded in the capture is computed again, into the same memory, at every replay."""

    def __init__(self, monkeypatch, engine):
        self.captures = []
        monkeypatch.setattr(engine, "_captures", lambda y, options: engine.model.capturable(**options))
        monkeypatch.setattr(engine, "_capture", lambda *args: self.capture(engine, *args))

    def capture(self, engine, y, count, options):
        own = y[:1].expand(count, *y.shape[1:]).clone()
        x, report = engine.model.compute(own, **options)
        self.captures.append((count, options))

        def replay():
            new, made = engine.model.compute(own, **options)
            x.copy_(new)
            fresh = tensors(made)
            report.map(lambda name, t: t.copy_(fresh[name]))

        return engines._Graph(type("Graph", (), {"replay": staticmethod(replay)}), own, x, report)


@pytest.mark.parametrize("kind", ["reconstructor", "denoiser"])
def test_batches_ride_in_captured_ones(monkeypatch, kind):
    if kind == "reconstructor":
        r, options = small_model(), {"size": (13, 9), "history": True}
        y = r.operator(images(11)).detach()
    else:
        r, options = small_coder(), {}
        y = torch.cat([smooth() * k / 11 for k in range(1, 12)])
    engine = fr.Engine(r, max_batch=8)
    recorder = Recorder(monkeypatch, engine)
    kept = []
    for some in (y[:3], y[3:7], y[7:8], y, y[2:4]):  # larger, smaller and different batches in turn
        kept.append((engine(some, **options), r(some, **options)))
    for result, expected in kept:  # and no result lies in memory that a later replay wrote
        assert_same(result, expected)
    assert sorted(count for count, _ in recorder.captures) == [1, 2, 4, 8]


def test_what_is_not_captured(monkeypatch):
    r = small_model()
    y = r.operator(images()).detach()
    engine = fr.Engine(r)
    recorder = Recorder(monkeypatch, engine)
    assert_same(engine(y, rigorous=True, iterations=3), r(y, rigorous=True, iterations=3))
    assert recorder.captures == []
    monkeypatch.setattr(engines, "MOST_GRAPHS", 1)
    assert_same(engine(y), r(y))
    assert_same(engine(y, size=(13, 9)), r(y, size=(13, 9)))
    assert len(recorder.captures) == 1
    module, y, _ = CASES["ista"]()
    assert not module.capturable(tol=1e-3)
    assert not module.capturable(callback=print)
    assert not type(module)(module.operator, 0.1).capturable()  # finding |A| asks the host
    assert not any(map(engines._plain, (y, [1], (y,))))


class Stream:
    """A CUDA stream that is always done."""

    def wait_stream(self, other):
        pass

    def record_event(self):
        return type("Event", (), {"synchronize": staticmethod(lambda: None)})


def test_transfers_keep_order_and_kind(monkeypatch):
    """The pipeline of a GPU with streams that do nothing: every input comes back as itself."""
    r = small_model()
    engine = fr.Engine(r)
    empty, to, none = torch.empty, Tensor.to, contextlib.nullcontext
    monkeypatch.setattr(engine, "device", type("Device", (), {"type": "cuda"}))
    for name, stub in (("Stream", Stream), ("current_stream", Stream), ("stream", lambda s: none()), ("device", none)):
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    monkeypatch.setattr(Tensor, "record_stream", lambda t, s: None)
    monkeypatch.setattr(
        Tensor, "to", lambda t, *a, **options: t if options.get("non_blocking") else to(t, *a, **options)
    )
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    started = []

    def read():
        for k in range(4):
            started.append(k)
            y = r.operator(images(k + 1)).detach()
            yield y.numpy() if k % 2 else y

    for k, (x, report) in enumerate(engine.map(read())):
        assert len(started) == min(k + 2, 4)  # the next one is on its way before this one is waited for
        assert isinstance(x, np.ndarray if k % 2 else Tensor)
        assert_same((x, report), r(r.operator(images(k + 1)).detach()))


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_graphs_answer_as_the_model(case):
    module, y, options = CASES[case]()
    module, y = module.cuda(), y.cuda()
    expected = module.compute(y, **options)
    engine = fr.Engine(module, max_batch=8)
    # a matrix product of more rows may round differently, and only D-LADMM has one for the whole batch
    alike = assert_near if case.startswith("d-ladmm") else assert_same
    for _ in range(3):
        alike(engine(y, **options), expected)
    assert len(engine._graphs) == 1
    other = y.flip(0) if getattr(module, "independent", False) else y
    alike(engine(other, **options), module.compute(other, **options))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = engine(y, **options)  # on another stream, while the last replay may still run
    stream.synchronize()
    alike(found, expected)


@pytest.mark.gpu
def test_a_pipeline_on_the_gpu():
    r = load("lda-cs-10").cuda()
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(k, 1, 99, 66, generator=generator) for k in (1, 4, 3, 4)]
    with torch.no_grad():
        measured = [r.operator(x.cuda()).cpu() for x in inputs]
    engine = fr.Engine(r)
    for (x, report), y in zip(engine.map(measured), measured, strict=True):
        assert x.device.type == report.phi.device.type == "cpu"
        assert_same((x, report), (r(y.cuda()).x.cpu(), r(y.cuda()).report.to("cpu")))
    assert len(engine._graphs) == 2
