"""Checks that the wheel and the source archive in a folder hold all they should, and nothing else.

The wheel: the package, the extension, on Linux the library for C, the kernels with their CUDA sources, the header that
these share with the CPU code, that of the C interface, and the weights with their cards. The archive: every file of the
checkout.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked() -> set[str]:
    """The files of the checkout that version control does not ignore, or all of them outside a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return {name for name in listed if name and (ROOT / name).is_file()}


def installed_name(path: str) -> str | None:
    """Where a file of the checkout lies in the wheel, or None if it does not belong there."""
    name = Path(path)
    if name.parts[0] == "fastrecon":
        return path
    if name.parts[0] == "kernels" and name.suffix in {".py", ".cu", ".h", ".json"}:
        return f"fastrecon/{path}"
    shared = {"capi/example.c", "capi/example.cc", "capi/fastrecon.h", "csrc/scalar_math.h"}
    return f"fastrecon/{path}" if path in shared else None


def compare(what: str, expected: set[str], found: set[str]) -> list[str]:
    """One line for each difference."""
    lines = [f"{what}: {name} is missing" for name in sorted(expected - found)]
    return lines + [f"{what}: {name} does not belong there" for name in sorted(found - expected)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = tracked()
    with zipfile.ZipFile(wheel) as z:
        in_wheel = {n for n in z.namelist() if ".dist-info/" not in n}
    extensions = {n for n in in_wheel if n.startswith("fastrecon/_C.")}
    interface = {n for n in in_wheel if n == "fastrecon/libfastrecon.so"}
    with tarfile.open(archive) as t:
        in_archive = {m.name.partition("/")[2] for m in t.getmembers() if m.isfile()}
    generated = {n for n in in_archive if n in {"PKG-INFO", "setup.cfg"} or n.startswith("fastrecon.egg-info/")}
    found = compare(wheel.name, {n for f in files if (n := installed_name(f))}, in_wheel - extensions - interface)
    found += compare(archive.name, files - {".gitignore"}, in_archive - generated)
    if len(extensions) != 1:
        found.append(f"{wheel.name}: expected one compiled extension, got {sorted(extensions)}")
    if found:
        sys.exit("\n".join(found))
    print(f"{wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size / 1e6:.1f} MB; {archive.name}: complete")
