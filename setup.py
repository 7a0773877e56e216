"""Builds fastrecon._C: every kernel source once per instruction set, and once what serves all of them.

On Linux the same objects make libfastrecon.so, the C interface of capi/, which needs neither Python nor torch.

FASTRECON_NO_EXTENSION=1 leaves the extension out (pure Python, same answers). FASTRECON_SANITIZE=address,undefined
builds it for the sanitizers.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, has_flag
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

CSRC, CAPI = Path("csrc"), Path("capi")
ONCE = ("isa_choice.cpp", "memory.cpp", "module.cpp", "pool.cpp")  # what depends on no instruction set
INTERFACE = "libfastrecon.so"
X86 = platform.machine().lower() in {"x86_64", "amd64"}
WINDOWS = sys.platform == "win32"
SANITIZE = os.environ.get("FASTRECON_SANITIZE", "")

AVX512 = [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx2",
    "-mfma",
    "-mbmi2",
    "-mprefer-vector-width=512",
]
# The sanitizers look at one build, the widest that this machine runs: four of them would take most of CI's time.
ISA_FLAGS: dict[str, list[str]] = {"baseline": ["-march=native"] if SANITIZE else []}
if X86 and not WINDOWS and not SANITIZE:
    ISA_FLAGS |= {"avx2": ["-mavx2", "-mfma", "-mbmi2"], "avx512": AVX512}
    ISA_FLAGS["avx512bf16"] = [*AVX512, "-mavx512bf16", "-DFASTRECON_EXTENDS=avx512"]
    if sys.platform == "linux":  # whose kernel is asked for the permission
        ISA_FLAGS["amx"] = [*ISA_FLAGS["avx512bf16"], "-mamx-tile", "-mamx-bf16", "-DFASTRECON_TILES"]
BFLOAT16 = {"feature_gradient"}  # all that avx512bf16 and amx add to avx512

COMMON = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
]
COMMON += ["-Wall", "-Wno-array-bounds"]  # GCC 12 sees negative sizes where generic code has none
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]
if SANITIZE:
    COMMON += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    # with checks in every unrolled loop -O3 takes many minutes a file, and so does following variables for debuggers
    COMMON += ["-O1", "-g1", "-fno-var-tracking"]


class BuildPerIsa(build_ext):
    """Compiles the kernels into one folder of objects per instruction set and links them all into the extension."""

    def build_extension(self, ext):
        kernels = sorted(str(p) for p in CSRC.glob("*.cpp") if p.name not in ONCE)
        depends = [str(p) for p in CSRC.glob("*.h")]

        def compile_one(job):
            isa, source = job
            folder = str(Path(self.build_temp) / isa)
            objects = self.compiler.object_filenames([source], output_dir=folder)
            if not self.force and not newer_group([source, *depends, "setup.py"], objects[0]):
                return objects
            return self.compiler.compile(
                [source],
                output_dir=folder,
                macros=[("FASTRECON_ISA", isa)],
                include_dirs=[str(CSRC)],
                extra_postargs=[*COMMON, *OPENMP, *ISA_FLAGS[isa]],
            )

        if not has_flag(self.compiler, "-mamx-bf16"):  # GCC has it since 11
            ISA_FLAGS.pop("amx", None)
        ext.define_macros += [("FASTRECON_AMX", "1")] if "amx" in ISA_FLAGS else []
        partial = {"avx512bf16", "amx"}
        jobs = [(i, k) for k in kernels for i in ISA_FLAGS if i not in partial or Path(k).stem in BFLOAT16]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [obj for objects in pool.map(compile_one, jobs) for obj in objects]
        super().build_extension(ext)
        if sys.platform == "linux" and not SANITIZE:
            self.build_interface(ext)

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        for extension in self.extensions:
            built = Path(self.build_lib) / "fastrecon" / INTERFACE
            if built.is_file():
                self.copy_file(str(built), str(Path(self.get_ext_fullpath(extension.name)).with_name(INTERFACE)))

    def build_interface(self, ext):
        """The C interface, beside the extension."""
        shared = self.compiler.object_filenames(
            [s for s in ext.sources if "module" not in s], output_dir=self.build_temp
        )
        own = self.compiler.compile(
            sorted(str(p) for p in CAPI.glob("*.cpp")),
            output_dir=self.build_temp,
            include_dirs=[str(CSRC), str(CAPI)],
            # products and sums apart, as torch has them
            extra_postargs=[*COMMON, "-ffp-contract=off"],
            depends=[str(p) for p in [*CAPI.glob("*.h"), CSRC / "kernels.h"]],
        )
        target = Path(self.get_ext_fullpath(ext.name)).with_name(INTERFACE)
        self.compiler.link_shared_object(
            [*shared, *ext.extra_objects, *own],
            str(target),
            extra_postargs=[*OPENMP, f"-Wl,-soname,{INTERFACE}"],
            target_lang="c++",
        )


extension = Pybind11Extension(
    "fastrecon._C",
    [str(CSRC / name) for name in ONCE],
    include_dirs=[str(CSRC)],
    depends=[str(p) for p in CSRC.glob("*")],
    define_macros=[("FASTRECON_X86", "1")] if len(ISA_FLAGS) > 1 else [],
    extra_compile_args=[*COMMON, *OPENMP],
    extra_link_args=[*OPENMP, *([f"-fsanitize={SANITIZE}"] if SANITIZE else [])],
    optional=not SANITIZE,  # without a compiler the package installs and runs on its definitions
)

setup(
    ext_modules=[] if os.environ.get("FASTRECON_NO_EXTENSION") == "1" else [extension],
    cmdclass={"build_ext": BuildPerIsa},
)
