"""Checks the kernels' objects in a build folder for weak symbols.

Every kernel is compiled once per instruction set. The linker keeps one copy of a weak symbol (an inline function or a
template instance with external linkage): if that is the AVX-512 copy, older machines crash.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def weak_symbols(build: Path) -> tuple[int, list[str]]:
    """The number of kernel objects under `build`, and "object: symbol" for each weak symbol defined in one of them."""
    objects = [p for p in sorted(build.glob("temp.*/*/csrc/*.o")) if (ROOT / "csrc" / f"{p.stem}.cpp").is_file()]
    weak = []
    for path in objects:
        table = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        for line in table.splitlines():
            _, kind, name = line.split(maxsplit=2)
            if kind in "uvVwW" and not name.startswith("DW.ref."):  # a pointer for unwinding, the same in every copy
                weak.append(f"{path.relative_to(build)}: {name}")
    return len(objects), weak


if __name__ == "__main__":
    count, weak = weak_symbols(Path(sys.argv[1]))
    if count == 0:
        sys.exit(f"{sys.argv[1]}: no kernel objects: run `python setup.py build_ext` first")
    if weak:
        sys.exit("weak symbols:\n" + "\n".join(weak))
    print(f"{count} objects without weak symbols")
