"""The first and last moments of the program, in processes of its own: signals, closed streams, readers that leave."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastrecon.cli import main as cli

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at the process through /proc")

MODULE = [sys.executable, "-m", "fastrecon"]
SCRIPT = [sys.executable, str(Path(sys.executable).with_name("fastrecon"))]
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}


def start(command: list[str], **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=ALONE, **pipes)


def wait_for(process: subprocess.Popen, holds) -> None:
    """Until holds() is true, which is asked in a tight loop."""
    end = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, "ended before anything could be sent"
        assert time.monotonic() < end
        time.sleep(1e-3)


def maps(process: subprocess.Popen, library: str) -> bool:
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGINT, 130, "fastrecon: interrupted\n"),
        (signal.SIGTERM, 143, "fastrecon: terminated\n"),
    ],
)
def test_signal_during_imports(command, number, status, line):
    with start([*command, "info"]) as process:
        wait_for(process, lambda: maps(process, "libtorch"))
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (status, "", line)


SLOW_WRITE = """
import sys, time
sys.argv = ["fastrecon", "simulate", "--problem", "inpaint", *sys.argv[1:]]
import numpy as np
def slow(file, **_):
    file.write(b"half")
    print("writing", file=sys.stderr, flush=True)
    time.sleep(60)
np.savez = slow
from fastrecon.cli import main as cli
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGINT, 130, "fastrecon: interrupted\n"),
        (signal.SIGTERM, 143, "fastrecon: terminated\n"),
    ],
)
def test_signal_while_writing_leaves_nothing_half_written(tmp_path, number, status, line):
    np.save(tmp_path / "a.npy", np.full((33, 33), 0.5))
    command = [sys.executable, "-c", SLOW_WRITE, str(tmp_path / "a.npy"), "--out", str(tmp_path / "out")]
    with start(command) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "writing\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (status, "", line)
    assert os.listdir(tmp_path / "out") == []


def test_library_leaves_signals_alone():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert cli.main(["--version"]) == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert handlers[1] == signal.SIG_DFL


def test_signals_raise_while_a_command_runs(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_parsed", lambda _: argparse.Namespace(run=lambda _: signal.raise_signal(signal.SIGHUP)))
    assert cli.main([]) == 129
    assert capsys.readouterr() == ("", "fastrecon: terminated: the terminal has gone\n")


@pytest.mark.parametrize("arguments", ["info", "--help"])
def test_closed_stdout_is_told_before_the_work(arguments):
    command = " ".join([*MODULE, arguments, ">&-"])
    with start(["sh", "-c", f"exec {command}"]) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("fastrecon: stdout: expected an open stream")
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_full_stdout():
    with open("/dev/full", "w") as full, start([*MODULE, "info"], stdout=full) as process:
        _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "stdout: No space left on device" in err


def test_reader_that_leaves_at_once_and_nobody_to_complain_to(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.full((16, 16), 0.5))
    out = tmp_path / "out"
    command = f"exec {' '.join(MODULE)} reconstruct {tmp_path} --problem impulse --no-figure --out {out} <&- 2>&-"
    with start(["sh", "-c", command]) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait()
    assert process.returncode == 0
    assert sorted(p.name for p in out.glob("*.json")) == ["a_report.json", "b_report.json"]
