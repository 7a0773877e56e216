"""The pool that kernels share, and torch's threads beside it."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from utils import numbers

from fastrecon import ops, registry
from fastrecon.threads import alone, together

extension = registry.extension()
built = pytest.mark.skipif(extension is None, reason="the extension is not built: torch does all the work")
WEIGHTS = [numbers(8, 1, 3, 3, dtype=torch.float32) / 3, numbers(8, 8, 3, 3, dtype=torch.float32) / 8]


def work(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Results of kernels with few long tasks, many short ones, and sums."""
    x = numbers(3, 1, 160, 161, dtype=torch.float32, seed=seed)
    value, grad = ops.feature_gradient(x, WEIGHTS, 0.1)
    shrunk = ops.prox_lp(x, 0.1, 0.5), ops.prox_tv(x, 0.1, iterations=16).x
    return value, grad, ops.dwt2(x[..., :160].contiguous(), "sym4", 3), ops.squares(x), *shrunk


def info(code: str = "", **environment: str) -> dict:
    """build_info() of a new process that runs `code` first."""
    command = f"import json, os\n{code}\nfrom fastrecon.registry import extension\n"
    command += "print(json.dumps(extension().build_info()))"
    own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | environment
    return json.loads(subprocess.run([sys.executable, "-c", command], env=own, capture_output=True, check=True).stdout)


@pytest.fixture
def several():
    """More threads than most test machines have cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("several")
def test_the_same_bits_on_every_run():
    first = work()
    for _ in range(20):
        assert all(map(torch.equal, work(), first))


@pytest.mark.usefixtures("several")
def test_callers_at_the_same_time_get_what_they_get_alone():
    expected = [work(seed) for seed in range(6)]

    def call(seed):
        torch.set_num_threads(4)
        return [work(seed) for _ in range(5)]

    with ThreadPoolExecutor(6) as callers:
        for found, own in zip(callers.map(call, range(6)), expected, strict=True):
            for result in found:
                assert all(map(torch.equal, result, own))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    expected = work()
    child = os.fork()
    if child == 0:
        with alone:  # OpenMP's threads did not come along: torch itself would wait for them
            os._exit(0 if all(map(torch.equal, work(), expected)) else 1)
    done = threading.Event()
    timer = threading.Timer(60, lambda: done.is_set() or os.kill(child, 9))
    timer.start()
    status = os.waitpid(child, 0)[1]
    done.set()
    timer.cancel()
    assert status == 0
    assert all(map(torch.equal, work(), expected))


@built
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
def test_no_more_threads_than_the_affinity_allows():
    first = min(os.sched_getaffinity(0))
    found = info(f"os.sched_setaffinity(0, {{{first}}})")
    assert (found["cores"], found["threads"]) == (1, 1)


@built
def test_openmp_and_torch_choose_how_work_is_divided():
    assert info(OMP_NUM_THREADS="1")["threads"] == 1
    assert info("import torch; torch.set_num_threads(5)")["threads"] == 5
    assert info()["threads"] <= info()["cores"]


@built
@pytest.mark.usefixtures("several")
def test_alone_torch_has_one_thread_and_kernels_divide_work_as_before():
    expected = work()
    with alone:
        assert torch.get_num_threads() == 1
        assert extension.build_info()["threads"] == 4
        assert all(map(torch.equal, work(), expected))
        with together:
            assert torch.get_num_threads() == 4
        with alone:
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    with together:
        assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("several")
def test_an_error_leaves_the_section():
    @alone
    def fail():
        raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        fail()
    assert torch.get_num_threads() == 4


@built
@pytest.mark.usefixtures("several")
def test_other_threads_are_not_concerned():
    inside, checked, found = threading.Event(), threading.Event(), []

    def other():
        torch.set_num_threads(4)
        inside.wait()
        found.append((torch.get_num_threads(), extension.build_info()["threads"]))
        checked.set()

    thread = threading.Thread(target=other)
    thread.start()
    with alone:
        inside.set()
        checked.wait(60)
    thread.join()
    assert found == [(4, 4)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_section_does_not_break_graphs():
    @alone
    def double(x):
        return 2 * x

    x = torch.arange(3.0)
    assert torch.equal(torch.compile(double, fullgraph=True, backend="aot_eager")(x), 2 * x)
