"""Checks that every op has all its parts, under one name: definition, C++ and Triton kernel, tests, bench.

With --tests it prints the test files of all that is compiled instead.
"""

import re
import sys
from pathlib import Path

from fastrecon import registry

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("fastrecon/ops/{}.py", "tests/test_{}.py", "bench/bench_{}.py", "csrc/{}.cpp", "kernels/{}.py")
DRIVERS = {
    *("csrc/isa_choice.cpp", "csrc/memory.cpp", "csrc/module.cpp", "csrc/pool.cpp", "csrc/table.cpp"),
    *("kernels/__init__.py", "fastrecon/ops/__init__.py"),
}
SHARED = {"csrc/fft2.cpp"}  # kernels that those of ops call


def is_helper(path: Path) -> bool:
    """Whether a Python file next to the ops serves them, or what is built of them: another file imports it."""
    used = re.compile(rf"^from fastrecon\.(ops|kernels)(\.{path.stem} import| import .*\b{path.stem}\b)", re.MULTILINE)
    others = [*path.parent.glob("*.py"), *(ROOT / "fastrecon").rglob("*.py")]
    return any(used.search(other.read_text()) for other in others if other.name != "__init__.py")


def is_composite(path: Path) -> bool:
    """Whether a Python file among the ops is one autograd Function around raw ops of others, with a test of its own."""
    text = path.read_text()
    built = "(torch.autograd.Function)" in text and re.search(r"^from fastrecon\.ops\.\w+ import", text, re.MULTILINE)
    return bool(built) and (ROOT / f"tests/test_{path.stem}.py").is_file()


def problems() -> list[str]:
    """One line for each missing part, each file that serves no op, and each raw op without a kernel."""
    families = {op.family for op in registry.OPS.values()}
    expected = {place.format(family) for family in families for place in PLACES}
    optional = {f"kernels/{family}{end}" for family in families for end in (".cu", "_cuda.py")}
    lines = [f"{path}: missing" for path in sorted(expected) if not (ROOT / path).is_file()]
    for pattern in ("csrc/*.cpp", "kernels/*.py", "kernels/*.cu", "fastrecon/ops/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            known = (name := str(path.relative_to(ROOT))) in expected | optional | DRIVERS | SHARED
            if not (known or is_helper(path) or is_composite(path)):
                lines.append(f"{name}: belongs to no op in the registry")
    for launcher in sorted(ROOT.glob("kernels/*_cuda.py")):  # CUDA C++ is optional: two files where it exists
        source = launcher.with_name(launcher.stem.removesuffix("_cuda") + ".cu")
        lines += [] if source.is_file() else [f"{source.relative_to(ROOT)}: missing"]
    for name in registry.OPS:
        lines += [
            f"{name}: no {backend} implementation"
            for backend in ("reference", "cpu", "triton")
            if registry.implementation(name, backend) is None
        ]
    return lines


if __name__ == "__main__":
    if "--tests" in sys.argv:
        compiled = {op.family for op in registry.OPS.values()}
        compiled |= {p.stem for p in ROOT.glob("csrc/*.cpp") if f"csrc/{p.name}" not in DRIVERS}
        print(*(f"tests/test_{name}.py" for name in sorted(compiled)))
    elif found := problems():
        sys.exit("\n".join(found))
    else:
        print(f"{len(registry.OPS)} raw ops: all parts are there")
