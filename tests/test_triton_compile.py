"""Every Triton kernel compiles for sm_80 and sm_90 without a GPU, as its host function launches it, and none spills;
no host function waits for the device.

A process of its own compiles: Triton's interpreter, which the other tests use, cannot be left once it is on. Run as a
program, this file prints one JSON row per compiled kernel.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from utils import NoSync

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may use


def launch_everything():
    """Calls the host functions with arguments that together select every kernel and every kind of specialisation."""
    from fastrecon.kernels import (
        armijo,
        block_product,
        dwt2,
        feature_gradient,
        fourier_consistency,
        group_soft_threshold,
        ladmm_step,
        prox_gradient_iterations,
        prox_gradient_step,
        prox_lp,
        prox_tv,
        radon,
        rbf_unit,
        select_descent,
        smoothed_l21,
    )

    f32, f64, bf16, c64, c128 = torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128
    chains = [  # image's channels and side (1 is compiled as a constant), width, layers, dtype, activation, precision
        (1, 33, 32, 3, f32, False, "float32"),
        (2, 33, 20, 2, f64, True, "float32"),
        (4, 33, 128, 2, f32, False, "float32"),
        (1, 33, 32, 2, f32, False, "tf32"),
        (1, 33, 32, 2, f32, False, "bfloat16"),
        (1, 1, 1, 1, f32, True, "float32"),
    ]
    for channels, side, width, layers, dtype, final_activation, precision in chains:
        x, eps = torch.zeros(2, channels, side, side, dtype=dtype), torch.ones(2, dtype=dtype)
        weights = [torch.zeros(width, width if k else channels, 3, 3, dtype=dtype) for k in range(layers)]
        rest = (x, weights, eps, 0.01, final_activation)
        feature_gradient.feature_gradient_value(*rest, precision)
        feature_gradient.feature_gradient_fwd(*rest, precision)
        feature_gradient.feature_gradient_vjp(eps, x, *rest, precision)
    for dtype in (f32, bf16):
        g, eps = torch.zeros(2, 32, 1089, dtype=dtype), torch.ones(2, dtype=dtype)
        value, dual, norm = smoothed_l21.smoothed_l21_fwd(g, eps)
        smoothed_l21.smoothed_l21_bwd(value, g, eps, dual, norm)
    for dtype, each in ((f32, False), (c64, True)):
        g, tau = torch.zeros(2, 5, 1089, dtype=dtype), torch.ones(2, 1089 if each else 1)
        group_soft_threshold.group_soft_threshold_fwd(g, tau)
        group_soft_threshold.group_soft_threshold_bwd(g, g, tau)
    strips = (
        (f32, 5, 9, 1.0),
        (f32, 5, 1, 1.0),
        (c64, 1, 9, 1.0),
        (f32, 1, 9, 0.5),
        (c128, 5, 9, 0.5),
        (f32, 1, 1, 0.0),
    )
    for dtype, inner, columns, p in strips:
        x = torch.zeros(3, inner, columns, dtype=dtype)
        lam = torch.ones(inner, dtype=dtype.to_real() if dtype.is_complex else dtype)
        prox_lp.prox_lp_fwd(x, lam, p)
        prox_lp.prox_lp_bwd(x, x, lam, p)
    for dtype, count, isotropic in ((f32, 1, True), (f32, 3, True), (f64, 1, False), (f32, 1, False)):
        x = torch.zeros(2, count, 33, 33, dtype=dtype)
        prox_tv.prox_tv(
            x, torch.ones(2, dtype=dtype), torch.zeros(2, count, 2, 33, 33, dtype=dtype), 1e-4, 2, isotropic
        )
    for dtype, side, detectors in ((f32, 33, 49), (f64, 1, 1)):
        lines, axis = torch.zeros(3, side, detectors, dtype=f64), torch.ones(side, detectors, dtype=torch.int8)
        radon.radon(torch.zeros(2, side, side, dtype=dtype), lines, axis)
        radon.radon_adjoint(torch.zeros(2, side, detectors, dtype=dtype), lines, axis, side, side)
    for dtype, channels, side in ((f32, 2, 5), (f32, 1, 3), (f64, 1, 5)):
        v, taps = torch.zeros(2, channels, 41, 41, dtype=dtype), torch.zeros(24, channels, side, side, dtype=dtype)
        table = torch.zeros(24, 53, dtype=dtype)
        y = rbf_unit.rbf_unit_fwd(v, taps, taps, table, 0.04, 0.04)
        rbf_unit.rbf_unit_vjp(y, v, taps, taps, table, 0.04, 0.04)
    u, phi = torch.zeros(3, 1089), torch.ones(3)
    select_descent.select_descent(u, u, phi, phi)
    select_descent.select_descent_bwd(u, phi > 0)
    select_descent.shrink_eps(u, u, phi, 1e3, 0.9)
    for dtype in (f32, c64, f64):
        x, real = torch.zeros(3, 1089, dtype=dtype), f64 if dtype == f64 else f32
        each, one = torch.ones(3, 1089, dtype=real), torch.ones(1, 1, dtype=real)
        prox_gradient_step.prox_gradient_step(x, x, each, one)
        prox_gradient_step.squares(x)
        prox_gradient_step.squares(x, x)
        double = torch.ones(3, dtype=f64)
        armijo.armijo(x, x, x, one, double, double, 1e-4, 0.5, 20, True)
        armijo.armijo(x, x, x, each, double, double, 1e-4, 0.5, 20, False)
        plane = torch.zeros(3, 32, 32, dtype=dtype)
        dwt2.dwt2(plane, [0.5] * 8, 2)
        dwt2.idwt2(plane, [0.5] * 8, 2)
    for dtype, fista in ((f32, True), (f64, False)):
        plane, image = torch.zeros(2, 1, 32, 32, dtype=dtype), torch.zeros(2, 1, 29, 32, dtype=dtype)
        prox_gradient_iterations.prox_gradient_iterations_(
            plane, plane, image, image, image, image, torch.ones(1, 1, dtype=dtype), torch.ones(2, 4, dtype=f64),
            [0.5] * 8, 2, 1, fista, True,
        )  # fmt: skip
    for dtype in (f32, f64):
        phi = torch.zeros(272, 1089, dtype=dtype)
        for matrix in (phi, phi.T):
            block_product.block_product(torch.zeros(2, 8, matrix.shape[0], dtype=dtype), matrix)
        block_product.block_product(torch.zeros(1, 1, 1, dtype=dtype), phi[:1, :1])
    for dtype, mask in ((c64, f32), (c64, c64), (c128, f64)):
        k = torch.zeros(3, 2, 1089, dtype=dtype)
        fourier_consistency.fourier_consistency(k, torch.ones(3, 1, 1089, dtype=mask), k)
    for dtype in (f32, f64):
        q, a, row = torch.zeros(130, 500, dtype=dtype), torch.zeros(500, 500, dtype=dtype), torch.ones(500, dtype=dtype)
        ladmm_step.ladmm_shrink_fwd(q, q, a, row)
        ladmm_step.ladmm_shrink_bwd(q, q, q, a)
        for update in range(3):
            ladmm_step.ladmm_step_fwd(q, a, q, q, q, row, row, row, row, update)
            ladmm_step.ladmm_step_bwd(q, q, q, q, q, a, q, q, q, q, q, row, row, row, row, update, False, False)


def main(folder):
    """Compiles for each architecture and prints {architecture, kernel, specialisation, registers, stack, shared}."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:  # as much of a driver as compiling asks for
        def __init__(self, capability):
            self.capability = capability

        def get_current_device(self):
            return self.capability

        def get_current_stream(self, device):
            return 0

        def get_current_target(self):
            return GPUTarget("cuda", self.capability, 32)

    launch, tool = triton.JITFunction.run, Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    cubin, names = Path(folder) / "kernel.cubin", {}

    def compile_only(function, *args, grid, warmup, **options):
        kernel = launch(function, *args, grid=grid, warmup=True, **options)
        names[kernel.hash] = kernel
        flags = "".join(k[0] for k in ("FIRST", "LAST", "PAIR", "BACKWARD") if options.get(k))
        sizes = " ".join(f"{k}{options[k]}" for k in ("C", "P", "PARTS", "PRECISION") if k in options)
        rows[kernel.hash] = {"kernel": function.__name__, "options": f"{flags} {sizes} {args[0].dtype}".strip()}
        return kernel

    triton.JITFunction.run = compile_only
    for capability in SHARED_LIMIT:
        rows = {}
        triton.runtime.driver.set_active(Driver(capability))
        with contextlib.nullcontext() if capability == min(SHARED_LIMIT) else NoSync():  # the first time fills caches
            launch_everything()
        for key, row in rows.items():
            cubin.write_bytes(names[key].asm["cubin"])
            usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
            registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
            products = set(re.findall(r"(?:wg)?mma\S*\.(tf32|bf16|f64|f16)\.", names[key].asm["ptx"]))
            row |= {"sm": capability, "registers": registers, "stack": stack, "products": sorted(products)}
            row["shared"] = names[key].metadata.shared
            print(json.dumps(row))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    pytest.importorskip("triton", reason="triton is not installed")
    folder = tmp_path_factory.mktemp("compile")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, __file__, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    for r in found:
        used = (r["registers"], r["stack"], r["shared"], *r["products"])
        print(f"sm_{r['sm']} {r['kernel']:20s} {r['options']:40s}", *used)
    return found


@pytest.mark.parametrize("sm", SHARED_LIMIT)
def test_every_kernel_compiles(rows, sm):
    text = "".join(path.read_text() for path in (Path(__file__).parents[1] / "kernels").glob("*.py"))
    kernels = set(re.findall(r"^@triton\.jit.*\ndef (\w*kernel)\(", text, re.MULTILINE))
    assert {r["kernel"] for r in rows if r["sm"] == sm} == kernels


@pytest.mark.parametrize("sm", SHARED_LIMIT)
def test_no_kernel_spills_or_asks_for_too_much_shared_memory(rows, sm):
    assert [r for r in rows if r["sm"] == sm and (r["stack"] or r["shared"] > SHARED_LIMIT[sm])] == []


@pytest.mark.parametrize("sm", SHARED_LIMIT)
def test_matrix_units_multiply_as_asked(rows, sm):
    """Convolutions in TF32 and bfloat16 use the matrix units of that type; no other float32 kernel uses any."""
    kinds = set()
    for r in (r for r in rows if r["sm"] == sm and "float64" not in r["options"]):
        asked = re.findall(r"PRECISION(\w+)", r["options"])[0] if "PRECISION" in r["options"] else "ieee"
        whole = "F" in r["options"].split()[0]  # the image itself is never rounded
        assert r["products"] == ([] if asked == "ieee" or whole else [asked]), r
        kinds.add((r["kernel"], asked))
    assert {(k, p) for k in ("forward_kernel", "transposed_kernel") for p in ("ieee", "tf32", "bf16")} <= kinds


if __name__ == "__main__":
    main(sys.argv[1])
