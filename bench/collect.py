"""Runs benches and appends their results to bench/results.csv, one row for each timing, with ratios and rates.

    python bench/collect.py                                  # every bench
    python bench/collect.py bench/bench_prox_lp.py -k 256    # arguments of pytest
    python bench/collect.py --limits                         # only what the machine can do
    python bench/collect.py --table                          # only what the file says about fastrecon

Ratios compare with eager and torch.compile in the same run: only they mean something on a shared machine. `share` is
the time that the machine's measured copy bandwidth and matrix rate allow for the work, divided by the median.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import fastrecon
from fastrecon import registry

HERE = Path(__file__).resolve().parent
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
COLUMNS = [
    *("date", "device", "threads", "torch", "fastrecon", "isa"),
    *("op", "case", "shape", "dtype", "implementation", "rounds", "median_ms", "iqr_ms"),
    *("x_eager", "x_compile", "gb_s", "gflop_s", "copy_gb_s", "matrix_gflop_s", "share", "peak_mb"),
]
BASELINES = {"x_eager": "eager", "x_compile": "torch.compile"}
OWN_COLUMNS = {"device", "dtype", "implementation", "shape"}  # a bench's other parameters go into the name of its case


def device_name(device: str) -> str:
    """The model of the processor or of the GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    family = re.search(r"^cpu family\s*: (.+)$", info, re.MULTILINE)
    return f"{model.group(1)} (family {family.group(1)})" if model and family else "unknown CPU"


def seconds(run: Callable[[], object], device: str, rounds: int = 15) -> float:
    """The median time of `run` after three warm-ups."""
    times = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[3:])


def measured_limits(device: str) -> dict[str, float]:
    """The device's copy bandwidth [GB/s, bytes read and written] and its matrix rate per precision [GFLOP/s]."""
    source = torch.empty((1 << 30 if device == "cuda" else 1 << 27) // 4, device=device).fill_(1)
    target = torch.empty_like(source)
    limits = {"copy": 2 * source.nbytes / seconds(lambda: target.copy_(source), device) / 1e9}
    n = 8192 if device == "cuda" else 2048
    for precision in ("float32", "float64", "bfloat16", *(["tf32"] if device == "cuda" else [])):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a = torch.randn(n, n, device=device).to(getattr(torch, precision, torch.float32))
        limits[precision] = 2 * n**3 / seconds(lambda a=a: a @ a, device, 5) / 1e9
    torch.backends.cuda.matmul.allow_tf32 = False
    return limits


def row(bench: dict[str, Any], limits: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One row, but for the ratios, from one entry of pytest-benchmark's JSON."""
    file, _, function = bench["fullname"].partition("::")
    params = bench["params"] or {}
    info = {**params, **bench["extra_info"]}
    case = [function.partition("[")[0].removeprefix("bench_")]
    case += [f"{name}={value}" for name, value in sorted(params.items()) if name not in OWN_COLUMNS]
    device = str(info.get("device", "cpu")).partition(":")[0]
    dtype = (re.findall(r"\w*(?:float|complex|tf)\d+", str(info.get("dtype"))) or ["float32"])[0]
    products = info.get("products", dtype)
    limit, extension = limits[device], registry.extension()
    time_s, floor_s = bench["stats"]["median"], 0.0
    out = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastrecon": fastrecon.__version__,
        "isa": "sm_{}{}".format(*torch.cuda.get_device_capability())
        if device == "cuda"
        else extension.build_info()["isa"]
        if extension
        else "none",
        "op": info.get("op", Path(file).stem.removeprefix("bench_")),
        "case": " ".join(case),
        "shape": "x".join(re.findall(r"\d+", str(info.get("shape", "")))),
        "dtype": dtype,
        "implementation": info.get("implementation", "fastrecon"),
        "rounds": bench["stats"]["rounds"],
        "median_ms": time_s * 1e3,
        "iqr_ms": bench["stats"]["iqr"] * 1e3,
        "copy_gb_s": limit["copy"],
        "matrix_gflop_s": limit.get(products, ""),
    }
    if info.get("bytes"):
        out["gb_s"] = info["bytes"] / time_s / 1e9
        floor_s = info["bytes"] / limit["copy"] / 1e9
    if info.get("flops"):
        out["gflop_s"] = info["flops"] / time_s / 1e9
        floor_s = max(floor_s, info["flops"] / limit.get(products, limit["float32"]) / 1e9)
    if floor_s:
        out["share"] = floor_s / time_s
    if info.get("peak_bytes"):
        out["peak_mb"] = info["peak_bytes"] / 1e6
    return out


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Fills in how many times faster each row is than eager and torch.compile on the same problem."""
    same = ("device", "op", "case", "shape", "dtype")
    times = {(*(r[k] for k in same), r["implementation"]): r["median_ms"] for r in rows}
    for r in rows:
        for column, baseline in BASELINES.items():
            if (key := (*(r[k] for k in same), baseline)) in times:
                r[column] = times[key] / r["median_ms"]


def text(value: object) -> str:
    """A value as it stands in the file: four significant digits are more than the timings carry."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints rows, short."""
    shown = ("op", "case", "shape", "dtype", "implementation", "median_ms", "x_eager", "x_compile", "share")
    table = [shown, *([text(r.get(k, "")) for k in shown] for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(shown))]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table))


def main() -> int:
    """Runs the benches, appends their rows, prints a table; the status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=HERE / "results.csv", help="the file that rows are appended to")
    parser.add_argument("--limits", action="store_true", help="only measure the machine's own limits, and print them")
    parser.add_argument("--table", action="store_true", help="only print the file's rows of fastrecon")
    options, pytest_arguments = parser.parse_known_args()
    if options.table:
        with options.csv.open(newline="") as file:
            show([r for r in csv.DictReader(file) if r["implementation"].startswith("fastrecon")])
        return 0
    if options.limits:
        for device in DEVICES:
            print(device_name(device))
            for name, rate in measured_limits(device).items():
                print(f"  {name:<9}{text(rate):>10} {'GB/s, bytes read and written' if name == 'copy' else 'GFLOP/s'}")
        return 0
    if not any(not a.startswith("-") and Path(a.partition("::")[0]).exists() for a in pytest_arguments):
        pytest_arguments.append(str(HERE))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "-W", "default", f"--benchmark-json={report}", *pytest_arguments]
        status = subprocess.run(command, check=False, env=os.environ | {"PYTHONUNBUFFERED": "1"}).returncode
        benches = json.loads(report.read_text())["benchmarks"] if report.is_file() and report.stat().st_size else []
    if not benches:
        print("no bench was timed", file=sys.stderr)
        return status or 1
    limits = {device: measured_limits(device) for device in DEVICES}
    rows = [row(bench, limits) for bench in benches]
    add_ratios(rows)
    new = not options.csv.exists()
    with options.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows({k: text(v) for k, v in r.items()} for r in rows)
    show(rows)
    return status


if __name__ == "__main__":
    sys.exit(main())
