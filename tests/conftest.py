"""Set-up of all tests: Triton's interpreter, or exact products on a GPU; seeds; what an op's tests run on."""

import importlib
import os
import signal

import pytest
import torch

if torch.cuda.is_available():
    torch.backends.cudnn.allow_tf32 = False  # allowed by default: convolutions of three digits would be the judges
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

from fastrecon import registry

NO_GPU = "needs a CUDA device"
LONGEST = ("triton_compile", "sgp_training", "feature_gradient", "cli_batch", "triton", "reproduce", "cuda", "fallback")

for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # started in the background, where a shell lets them be ignored
        signal.signal(number, usual)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, and a GPU: where there is none, its tests are counted as skipped."""
    return request.param


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with models and pictures for commands, which no test changes."""
    from commands import furnish

    return furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture
def run(capsys, place, monkeypatch):
    """Runs a command in this process: see `commands.runner`."""
    from commands import runner

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return runner(capsys, place)


@pytest.fixture
def fails(run):
    """Runs a command that must fail with one line: see `commands.failing`."""
    from commands import failing

    return failing(run)


@pytest.fixture
def unwritten_is_nan():
    """Memory that an op allocates and does not write holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # some definitions have no fixed order on a GPU
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["reference", "cpu"])
def backend(request, device, unwritten_is_nan, monkeypatch):
    """Implementations of an op on `device`: in test_foo.py those of the raw ops that fastrecon/ops/foo.py calls."""
    if request.param not in registry.usable(device):
        pytest.skip(f"no {request.param} on {device}")
    module = importlib.import_module(f"fastrecon.ops.{request.module.__name__.removeprefix('test_')}")
    for attribute, op in list(vars(module).items()):
        if isinstance(op, torch._ops.OpOverloadPacket):
            chosen, definition = (registry.implementation(op.__name__, b) for b in (request.param, "reference"))
            monkeypatch.setattr(module, attribute, _or_definition(chosen, definition))
    # kernels that are called past those
    monkeypatch.setattr("fastrecon.ops.function.kernels", lambda: request.param == "cpu")
    for module in ("function", "layout"):
        looking = registry.looking if request.param == "cpu" else lambda: None
        monkeypatch.setattr(f"fastrecon.ops.{module}.looking", looking)
    return request.param


def _or_definition(chosen, definition):
    """What the dispatcher calls: the definition answers where `chosen` has no kernel."""

    def call(*arguments):
        result = chosen(*arguments)
        return definition(*arguments) if result is NotImplemented else result

    return call


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first, so that processes that share the tests end together; skips what needs a
    GPU where there is none.
    """
    places = {f"test_{name}": k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_terminal_summary(terminalreporter):
    """Says how many tests wait for a GPU."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_GPU in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} gpu tests skipped: {NO_GPU}; bench/gpu.sh runs them on one")
