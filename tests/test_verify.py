"""The promises of `fastrecon verify`, case by case, and that it would notice a broken one."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastrecon import ops, registry, verification, zoo
from fastrecon.cli import main as cli
from fastrecon.zoo import Case

BACKENDS = [b for b in ("cpu", "reference") if b in registry.usable("cpu")]
CASES = [(kind, name) for kind, cases in zoo.groups().items() for name in cases]
# Whose definitions take seconds: `fastrecon verify` runs them on all backends, the tests on the best.
SLOW = {
    "LDA.solve", "LDA, safeguarded", "AGDNet", "ISTA, many pixels", "FISTA, Radon", "SGP, paper's rule", "lda-cs-10",
    "lda-cs-25", "lda-cs-50", "sgp-diag-inpaint", "sgp-diag-fourier", "sgp-step-fourier",
}  # fmt: skip
TRIED = [(*case, b) for b in BACKENDS for case in CASES if b == BACKENDS[0] or case[1] not in SLOW]
SPLIT = [("op", "squares, many numbers", b) for b in BACKENDS]  # sums that threads share


@pytest.fixture(autouse=True)
def one_thread():
    """Small images gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("kind", "name", "backend"), TRIED, ids=str)
def test_promises_are_kept(kind, name, backend):
    assert verification.one(kind, name, backend) == []


@pytest.mark.parametrize(("kind", "name", "backend"), SPLIT, ids=str)
def test_sums_that_threads_share(kind, name, backend):
    torch.set_num_threads(2)
    assert verification.one(kind, name, backend) == []


@pytest.mark.parametrize("name", ["FISTA", "LDA"])
def test_a_certificate_that_is_wrong_is_noticed(name):
    case = zoo.groups()["solver"][name]()

    def run(*arguments):
        x, report = case.run(*arguments)
        return x + 0.01, report

    assert verification.certificate(case) == []
    problems = verification.certificate(dataclasses.replace(case, run=run))
    assert "certificate: " in problems[0]
    assert "from what it is when recomputed" in problems[0]


class Called(TorchDispatchMode):
    """The raw ops that were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastrecon":
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_every_op_is_in_the_zoo():
    cases = zoo.groups()
    with Called() as called:
        for make in cases["op"].values():
            verification._with_derivatives(make())
        for kind, name in (("op", "feature_value"), ("solver", "DLADMM.solve")):
            case = cases[kind][name]()
            case.run(*case.inputs, *case.shared)
    files = {path.stem for path in Path(ops.__file__).parent.glob("*.py")}  # other tests define ops of their own
    assert called.names == {op.name for op in registry.OPS.values() if op.family in files}


def test_a_batch_that_shows_is_noticed():
    x = zoo.numbers(3, 5)
    assert verification.bits(Case(lambda x: 2 * x, (x,))) == []
    assert any("alone" in p for p in verification.bits(Case(lambda x: x - x.mean(), (x,))))
    assert any("reversed" in p for p in verification.bits(Case(lambda x: x + torch.arange(len(x))[:, None], (x,))))
    assert any("strided" in p for p in verification.bits(Case(lambda x: x + x.stride(-1) - 1, (x,))))
    count = iter(range(100))
    assert any("repeated" in p for p in verification.bits(Case(lambda x: x + next(count), (x,))))


def test_a_wrong_adjoint_is_noticed():
    from fastrecon.operators import LinearOperator

    class Wrong(LinearOperator):
        def forward(self, x):
            return x.roll(1, -1)

        def apply_adjoint(self, y, size=None):
            return y.roll(1, -1)

    case = Case(lambda x: x, (zoo.numbers(2, 1, 4, 5),), operator=Wrong)
    assert verification.adjoint(case)[0].startswith("adjoint: <A x, y> and <x, A* y> differ by")


@pytest.mark.skipif(len(BACKENDS) < 2, reason="there is no extension whose kernels could differ")
def test_an_inaccurate_kernel_is_noticed(monkeypatch):
    case = zoo.groups()["op"]["soft_threshold"]()
    assert verification.accuracy(case, "cpu", 2) == []
    op = registry.OPS["soft_threshold_fwd"]
    right = op.implementations["cpu"]
    monkeypatch.setitem(op.implementations, "cpu", lambda x, tau: right(x, tau) * (1 + 1e-5))
    assert verification.accuracy(case, "cpu", 2)[0].startswith("accuracy: result has error 1.0e-05")


def test_an_error_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("out of order")

    monkeypatch.setitem(zoo.groups()["op"], "soft_threshold", broken)
    assert verification.one("op", "soft_threshold", BACKENDS[0]) == ["RuntimeError: out of order"]


@pytest.fixture
def few(monkeypatch):
    """Two cases, quick to run."""
    kept = {"op": {"soft_threshold": zoo.groups()["op"]["soft_threshold"]}, "model": {}}
    monkeypatch.setattr(zoo, "groups", lambda: kept)
    return kept


def test_command_says_ok(few, capsys):
    assert cli.main(["verify", "--backend", "reference"]) == 0
    out = capsys.readouterr().out
    assert "reference op        soft_threshold                          ok" in out
    assert out.splitlines()[-1].endswith("all as promised")


def test_command_says_what_differs(few, capsys):
    few["op"]["mean"] = lambda: Case(lambda x: x - x.mean(), (zoo.numbers(3, 5),))
    assert cli.main(["verify", "--quick", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [bool(f["problems"]) for f in document["findings"]] == [False, True]
    assert cli.main(["verify", "--backend", "fpga"]) == 2
    assert "invalid choice: 'fpga'" in capsys.readouterr().err


def test_backend_is_chosen_for_a_while():
    table = registry.backends()
    with registry.using("reference"):
        assert registry.backends()["squares"]["cpu"].startswith("reference")
    assert registry.backends() == table
    with pytest.raises(RuntimeError, match="FASTRECON_BACKEND: expected one of"), registry.using("fpga"):
        pass
    assert registry.backends() == table
