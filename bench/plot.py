"""Draws bench/speed.svg from bench/results.csv: how many times faster than eager PyTorch each problem runs.

    python bench/plot.py [--device NAME] [--csv FILE] [--out FILE]

Each problem's latest rows on the device count; without --device it is the device of the last row.
"""

import argparse
import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COLOURS = {"torch.compile": "#b8b8b8", "fastrecon": "#2a6fbb"}


def latest(path: Path, device: str | None) -> tuple[str, dict[tuple[str, ...], dict[str, float]]]:
    """The device's name and {problem: {implementation: times faster than eager}} from each one's latest row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = device or rows[-1]["device"]
    problems: dict[tuple[str, ...], dict[str, float]] = {}
    for r in rows:
        if r["device"] == name and r["x_eager"] and r["implementation"] != "eager":
            problem = (r["op"], r["case"], r["shape"], r["dtype"])
            problems.setdefault(problem, {})[r["implementation"]] = float(r["x_eager"])
    return name, problems


def main() -> None:
    """Reads the rows and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="as in the column of that name")
    parser.add_argument("--csv", type=Path, default=HERE / "results.csv")
    parser.add_argument("--out", type=Path, default=HERE / "speed.svg")
    options = parser.parse_args()
    device, problems = latest(options.csv, options.device)
    if not problems:
        parser.error(f"{options.csv}: no rows with a ratio to eager for device {device!r}")
    implementations = sorted({i for ratios in problems.values() for i in ratios}, key=lambda i: (i == "fastrecon", i))
    height = 0.8 / len(implementations)
    figure, axes = plt.subplots(figsize=(8, 1 + 0.4 * len(problems)), layout="constrained")
    for k, implementation in enumerate(implementations):
        shown = [(y, ratios[implementation]) for y, ratios in enumerate(problems.values()) if implementation in ratios]
        bars = axes.barh(
            [y + (k - (len(implementations) - 1) / 2) * height for y, _ in shown],
            [ratio for _, ratio in shown],
            height,
            label=implementation,
            color=COLOURS.get(implementation),
        )
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_yticks(range(len(problems)), [" ".join(p).replace("_", " ") for p in problems], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times faster than eager PyTorch, {device}")
    axes.legend(fontsize=8)
    figure.savefig(options.out, metadata={"Date": None})
    print(options.out)


if __name__ == "__main__":
    main()
