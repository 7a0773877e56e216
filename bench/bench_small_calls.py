"""What a call of a small op costs: microseconds of processor time on 128 numbers, and of the kernel by itself.

    OMP_NUM_THREADS=1 python bench/bench_small_calls.py [repetitions]     # torch.relu first, to compare with

The kernel's time is that of the compiled function, called with addresses as the op calls it.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fastrecon import ops, registry

CALLS = 2000
N = 128


def microseconds(call: Callable[[], Any], repetitions: int) -> float:
    """The least of so many means."""
    least = float("inf")
    for _ in range(repetitions):
        begin = time.process_time_ns()
        for _ in range(CALLS):
            call()
        least = min(least, (time.process_time_ns() - begin) / CALLS / 1000)
    return least


class Seen:
    """The compiled module, which keeps the last call of a kernel."""

    def __init__(self, module: Any):
        self.module = module
        self.last: tuple[Any, tuple[Any, ...]] | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        if name in ("alike", "all_plain"):
            return found

        def call(*arguments: Any) -> Any:
            self.last = (found, arguments)
            return found(*arguments)

        return call


def calls() -> dict[str, Callable[[], Any]]:
    """By name."""
    g = torch.Generator().manual_seed(0)
    x, z, grad = (torch.randn(1, N, generator=g) for _ in range(3))
    image, groups, numbers = x.view(1, 1, 8, 16).clone(), x.view(1, 8, 16).clone(), torch.rand(2, 1, generator=g)
    curvature, (phi_u, phi_v), eps = torch.rand(1, generator=g).double(), numbers.double(), numbers[0].clone()
    return {
        "soft_threshold": lambda: ops.soft_threshold(x, 0.1),
        "prox_lp": lambda: ops.prox_lp(x, 0.1, 0.5),
        "group_soft_threshold": lambda: ops.group_soft_threshold(groups, 0.1),
        "squares": lambda: ops.squares(x),
        "dwt2": lambda: ops.dwt2(image, "haar", 1),
        "idwt2": lambda: ops.idwt2(image, "haar", 1),
        "select_descent": lambda: ops.select_descent(x, z, phi_u, phi_v),
        "shrink_eps": lambda: ops.shrink_eps(x, z, eps, 1.0, 0.5),
        "prox_gradient_step": lambda: ops.prox_gradient_step(x, grad, 0.5, 0.1),
        "armijo": lambda: ops.armijo(x, z, grad, 0.1, curvature, trials=10),
    }


def main(repetitions: int = 15) -> None:
    """Prints a row for each op."""
    torch.set_num_threads(1)
    x = torch.randn(1, N)
    print(f"{'torch.relu':22} {microseconds(lambda: torch.relu(x), repetitions):6.2f}")
    print(f"{'op':22} {'call':>6} {'kernel':>7} {'between':>8}")
    for name, call in calls().items():
        seen, kept = Seen(registry.compiled()), []
        modules = [m for k, m in sys.modules.items() if k.startswith("fastrecon.ops.") and hasattr(m, "compiled")]
        for module in modules:
            module.compiled = lambda seen=seen: seen  # type: ignore[attr-defined]
        kept.append(call())  # arrays of the addresses
        for module in modules:
            module.compiled = registry.compiled  # type: ignore[attr-defined]
        assert seen.last is not None, f"{name}: went through the dispatcher"
        kernel, arguments = seen.last
        whole, inner = microseconds(call, repetitions), microseconds(partial(kernel, *arguments), repetitions)
        print(f"{name:22} {whole:6.2f} {inner:7.2f} {whole - inner:8.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
