"""How far a command is, told without a terminal and with one."""

import io as streams
import os
import sys
import time

import numpy as np
import pytest
import torch

from fastrecon.cli import main as cli
from fastrecon.cli import progress
from fastrecon.cli.progress import Progress
from fastrecon.operators import Inpainting
from fastrecon.solvers import LDA


def wait_for(text, read):
    """Reads until `text` has come."""
    found, end = "", time.monotonic() + 20
    while text not in found:
        assert time.monotonic() < end, found
        time.sleep(0.01)
        found += read()
    return found


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.01)
    monkeypatch.setattr(progress, "is_program", lambda: True)


@pytest.mark.usefixtures("soon")
def test_lines_without_a_terminal(capsys):
    read = lambda: capsys.readouterr().err  # noqa: E731
    with Progress(2) as p:
        wait_for("fastrecon: 0 of 2 images (", read)
        p.item("a\nb")
        wait_for("fastrecon: image 1 of 2: a\\nb (", read)
        p.item("c")
        p.part(30, 40, "phases", gap="0.1")
        assert " s left)" in wait_for("fastrecon: image 2 of 2: c: 30 of 40 phases, gap 0.1 (", read)
        assert p.fraction() == pytest.approx(0.875)


def test_nothing_is_said_of_quick_work(capsys):
    with Progress(1) as p:
        p.item("a")
        p.say("result")
    assert capsys.readouterr() == ("result\n", "")


class Terminal(streams.StringIO):
    def isatty(self):
        return True


@pytest.mark.usefixtures("soon")
def test_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(4) as p:
        p.item("a")
        p.part(1, 2)
        wait_for("12%|", terminal.getvalue)
        assert "image 1 of 4: a: 1 of 2 iterations" in wait_for("<", terminal.getvalue)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("reconstruct {} --simulate --model lda-cs-25 --no-figure --out {}", "of 11 phases"),
        ("reconstruct {} --simulate --model lda-cs-25 --rigorous --iterations 20 --no-figure --out {}",
         "reductions of eps"),
        ("reconstruct {} --problem inpaint --simulate --iterations 200 --no-figure --out {}", "of 200 iterations"),
        ("reconstruct {} --problem inpaint --simulate --method sgp-step --iterations 20 --no-figure --out {}",
         "of 20 iterations"),
        ("reconstruct {} --problem impulse --rigorous --tol 1e-9 --iterations 200 --no-figure --out {}",
         "of 200 iterations"),
        ("evaluate --data {} --model lda-cs-25 --csv {}", "of 1 runs"),
        ("evaluate --data {} --problem impulse --methods ladmm:iterations=50 d-ladmm --csv {}", "of 2 runs"),
        ("evaluate --data {} --problem inpaint --methods fista ista --side 16 --table noise --csv {}", "of 2 runs"),
    ],
)  # fmt: skip
def test_one_image_is_followed_inside(capsys, tmp_path, command, words):
    i = np.linspace(0, 1, 64, dtype=np.float32)
    np.save(tmp_path / "one.npy", np.outer(i, i[::-1]))
    argv = command.format(tmp_path / "one.npy", tmp_path / "out").split()
    assert cli.main(argv) == 0
    err = capsys.readouterr().err
    assert words in err
    assert "image 1 of 1: one.npy: " in err
    assert os.listdir(tmp_path)


def test_phases_are_told():
    solver = LDA(Inpainting(torch.ones(1, 1, 8, 8)), 3, 2, 2)
    seen = []
    with torch.no_grad():
        solver(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8), callback=lambda k, s: seen.append((k, tuple(s.x.shape))))
    assert seen == [(k, (2, 1, 8, 8)) for k in (1, 2, 3)]
