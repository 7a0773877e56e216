"""`fastrecon evaluate`: methods compared on simulated measurements of a set of pictures."""

import argparse
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.cli import arguments, batch, choice, output, reconstruct
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, one_stage
from fastrecon.options import is_switch, options_of, parsed
from fastrecon.problems.base import Condition, Measurement, Problem
from fastrecon.solvers import methods
from fastrecon.solvers.methods import Runner

SIDE = 256  # pixels: of the squares of the papers' tables
METRICS = {"psnr": "PSNR in dB", "ssim": "SSIM", "relative_error": "relative error", "nmse_db": "NMSE in dB"}
START = "start"  # the row of the images that iterations start from

EPILOG = """examples:
  fastrecon evaluate --data set11 --model lda-cs-25
  fastrecon evaluate --data set11 --model runs/lda-cs-25/model.safetensors --csv scores.csv
  fastrecon evaluate --problem impulse --data waterloo --csv table.csv
  fastrecon evaluate --problem inpaint --data set11 --table all --out tables/inpaint
  fastrecon evaluate --problem mri --data set11 --rate 0.2 --methods fista:iterations=200 fista:lam=0.01 sgp-step

PSNR is that of the picture clipped to [0, 1], without rounding or cropping, averaged in dB; SSIM has the 7x7 uniform
window; RelErr is |x - reference| / |reference|; NMSE that of the images before imaginary parts go. Seconds are those of
the reconstruction alone. Masks and noise differ from picture to picture."""


@dataclass(frozen=True)
class Entry:
    """A method of the comparison: its name with options, and from the options of a condition to what runs."""

    label: str
    method: methods.Method
    options: Mapping[str, Any]
    device: torch.device

    @property
    def trained(self) -> bool:
        """Whether it has a model, which is run once before the clock starts."""
        return any(f.name == "model" for f in options_of(self.method.Options))

    def ready(self) -> Runner:
        """The method, ready."""
        return self.runner(Condition(""))

    def runner(self, condition: Condition) -> Runner:
        """The method, ready for a column."""
        known = {f.name for f in options_of(self.method.Options)}
        more = {k: v for k, v in condition.solve.items() if k in known}
        return self.method.prepare(self.method.Options(**(more | dict(self.options))), self.device)


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The options, those of the chosen problem among them."""
    parser.epilog = EPILOG
    found = choice.choose(words, inputs=False)
    parser.set_defaults(choice=found)
    add = parser.add_argument
    add(
        "--data", nargs="+", type=arguments.name, required=True, metavar="DIR",
        help=f"folders of pictures, picture files, or {arguments.BUNDLED_HELP}",
    )  # fmt: skip
    compared = "" if found.problem is None else f" (default: {' '.join(found.problem.compared())})"
    add(
        "--methods", nargs="+", metavar="NAME[:OPTION=VALUE,...]",
        help=f"methods to compare, model=FILE among the options of trained ones{compared}",
    )  # fmt: skip
    add("--table", default="default", metavar="NAME", help="columns: default, or of a paper: rates, noise, lam, all")
    add("--metric", choices=tuple(METRICS), help="of the table (default: psnr; of a paper's table nmse_db)")
    add(
        "--side", type=arguments.integer(8, 8192), metavar="N",
        help=f"pictures become squares of N pixels: cut in the middle, then resized (default: as they are; {SIDE} for a"
        " paper's table)",
    )  # fmt: skip
    add("--csv", type=arguments.name, metavar="FILE", help="write the rows of all pictures there")
    add("--out", type=arguments.name, metavar="DIR", help="write table.csv, table.json and curves.png there")
    arguments.add_overwrite(parser)
    reconstruct.add_seed(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)
    choice.add(parser, found, simulates=True, method=False)


def entries(args: argparse.Namespace, problem: Problem[Any], device: torch.device) -> list[Entry]:
    """The methods of --methods, of --model, else the problem's own comparison."""
    texts = args.methods
    if texts is None:
        named = args.choice.method
        texts = problem.compared() if args.model is None else [f"{named.name}:model={args.model}"]
    return [entry(text, problem, device) for text in texts]


def entry(text: str, problem: Problem[Any], device: torch.device) -> Entry:
    """A method of --methods, as NAME or NAME:OPTION=VALUE,...

    Raises:
        ValueError: it is unknown, solves other problems, or an option is wrong.
    """
    name, _, rest = text.partition(":")
    method = methods.named(name, problem.name, "evaluate")
    fields = {f.name: f for f in options_of(method.Options)}
    options: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        key, _, value = word.partition("=")
        key = key.replace("-", "_")
        expect(key in fields, "evaluate", "--methods", f"one of {', '.join(fields)} as an option of {name}", word)
        options[key] = _value(fields[key], value, word)
    choice.expect_meant(method.Options(**options), options)
    return Entry(text, method, options, device)


def _value(field: Any, text: str, word: str) -> Any:
    if is_switch(field):
        expect(text in ("", "true", "false"), "evaluate", "--methods", "true or false", arguments.short(word))
        return text != "false"
    try:
        return parsed(field, text)
    except argparse.ArgumentTypeError as e:
        raise ValueError(f"evaluate: --methods: {arguments.short(word)}: {e}") from e


def run(args: argparse.Namespace) -> None:
    """Prints the table once all pictures are done."""
    problem, device = choice.need(args.choice), arguments.device(args)
    paths, compared = arguments.images(args.data), entries(args, problem, device)
    columns = problem.conditions(args.table)
    side = args.side or (None if args.table == "default" else SIDE)
    files = [Path(args.out) / name for name in ("table.csv", "table.json", "curves.png")] if args.out else []
    if args.out:
        batch.apart(args.out, args.data)
    batch.outputs(args, args.csv, *files)
    base = args.choice.problem_options(args, simulate=True)
    runners = {(c.name, e.label): e.runner(c) for c in columns for e in compared}
    warm: set[str] = set()

    def work(item: Item, progress: Progress) -> list[dict[str, Any]]:
        path = item.path
        picture, seed = io.read_picture(path), ((args.seed or 0) + paths.index(path)) % 2**32
        if side is not None:
            picture = dataclasses.replace(picture, pixels=square(picture.pixels, side))
        rows = []
        for k, column in enumerate(columns):
            m = problem.simulate(picture, dataclasses.replace(base, **column.simulate), seed).to(device)
            rows.append(_row(path, column.name, START, problem.scores(problem.start(m), m), None, m, problem))
            for i, entry in enumerate(compared):
                tell = _Share(progress, k * len(compared) + i, len(columns) * len(compared))
                runner = runners[column.name, entry.label]
                if entry.trained and entry.label not in warm:
                    warm.add(entry.label)
                    runner(problem.inverse(m))
                rows.append(_measured(path, column.name, entry.label, problem, m, runner, tell))
                tell.part(1, 1)
        return rows

    outcome = batch.each(one_stage(work), [Item(path) for path in paths])
    rows = [row for found in outcome.results for row in found]
    metric = args.metric or ("psnr" if args.table == "default" else "nmse_db")
    summary = summarise(rows)
    document = {
        "problem": problem.name, "options": output.plain(base), "methods": [e.label for e in compared],
        "conditions": [dataclasses.asdict(c) for c in columns], "table": summary,
        "images": [{k: v for k, v in row.items() if k != "curve"} for row in rows], "failed": outcome.faults(),
    }  # fmt: skip
    plain = len(columns) == 1 and len(compared) == 1
    arguments.answer(args, document, table(rows, summary) if plain else matrix(problem.name, summary, metric))
    if args.csv:  # once the table is out: a full disk does not cost it
        io.write_csv(args.csv, document["images"])
    if args.out:
        _write(files, document["images"], summary, rows, problem.name)
    outcome.end()


@dataclass
class _Share:
    """The progress of one method, as its share of the work on a picture."""

    progress: Progress
    done: int
    total: int

    def part(self, done: float, total: float, what: str = "iterations", **_: object) -> None:
        """So much of this method is done."""
        share = min(done / total, 1.0) if total > 0 else 0.0
        self.progress.part(self.done + share, self.total, "runs")


def _measured(
    path: Path, column: str, label: str, problem: Problem[Any], m: Measurement, runner: Runner, tell: Any
) -> dict[str, Any]:
    with torch.no_grad():
        inverse = problem.inverse(m)
        watch = output.Watch(problem, m, tell)
        found = runner(inverse, watch)
        output.synchronise(m.y.device)

    seconds = time.perf_counter() - watch.began - watch.spent
    row = _row(path, column, label, problem.scores(found.x, m), seconds, m, problem)
    return row | {"curve": (watch.quality["iteration"], watch.quality["seconds"], watch.quality["nmse_db"])}


def _row(
    path: Path, column: str, label: str, scores: Any, seconds: float | None, m: Measurement, problem: Problem[Any]
) -> dict[str, Any]:
    height, width = problem.images(m.truth if m.truth is not None else m.y, m).shape[-2:]
    name = {"image": io.shown(path.stem), "height": height, "width": width, "condition": column, "method": label}
    return name | scores | {"seconds": seconds}


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square of a picture [H, W] or [H, W, 3], resized bicubically where it has another side."""
    from PIL import Image

    n = min(pixels.shape[:2])
    top, left = ((s - n) // 2 for s in pixels.shape[:2])
    pixels = pixels[top : top + n, left : left + n]
    if n == side:
        return np.ascontiguousarray(pixels)

    def resized(a: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(a).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)

    planes = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, -1, 0))
    done = [resized(np.ascontiguousarray(a)) for a in planes]
    return done[0] if pixels.ndim == 2 else np.stack(done, -1)


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if not values or None in values else float(np.mean(values))  # type: ignore[arg-type]


def _deviation(values: list[float]) -> float:
    """The standard deviation; NaN where a value is infinite, of a perfect picture."""
    return float(np.std(values)) if np.isfinite(values).all() else float("nan")


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the pictures, and the deviation of the scores, for each column and method."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["method"]), []).append(row)
    found = []
    for (condition, method), group in groups.items():
        means = {k: _mean(r[k] for r in group) for k in (*METRICS, "seconds")}
        spread = {f"{k}_deviation": None if means[k] is None else _deviation([r[k] for r in group]) for k in METRICS}
        found.append({"condition": condition, "method": method, "images": len(group), **means, **spread})
    return found


def table(rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]) -> str:
    """A row for each picture and the mean, of one method."""
    shown = [r for r in rows if r["method"] != START]
    mean = next(s for s in summary if s["method"] != START)
    width = max(len("image"), *(len(r["image"]) for r in shown))
    head = f"{'image':<{width}}  {'size':>9}  {'PSNR':>6}  {'SSIM':>6}  {'RelErr':>6}  {'seconds':>7}"
    lines = [_line(r["image"], f"{r['height']}x{r['width']}", r, width) for r in shown]
    return "\n".join([head, "-" * len(head), *lines, "-" * len(head), _line("mean", "", mean, width)])


def _line(name: str, size: str, r: Mapping[str, Any], width: int) -> str:
    ssim = "-" if r["ssim"] is None else f"{r['ssim']:.4f}"
    return f"{name:<{width}}  {size:>9}  {r['psnr']:6.2f}  {ssim:>6}  {r['relative_error']:6.4f}  {r['seconds']:7.3f}"


def matrix(problem: str, summary: Sequence[Mapping[str, Any]], metric: str) -> str:
    """A row for each method, a column for each condition: mean and deviation of a metric."""
    cells = {(s["condition"], s["method"]): s for s in summary}
    names, labels = (list(dict.fromkeys(s[k] for s in summary)) for k in ("condition", "method"))
    width = max(len(m) for m in labels)
    head = f"{'':<{width}}  " + "  ".join(f"{n:>14}" for n in names)

    def cell(s: Mapping[str, Any]) -> str:
        value, spread = s[metric], s[f"{metric}_deviation"]
        return f"{'-':>14}" if value is None else f"{value:7.2f} ± {spread:4.2f}"

    lines = [f"{label:<{width}}  " + "  ".join(cell(cells[n, label]) for n in names) for label in labels]
    times = [f"{m} {_mean(cells[n, m]['seconds'] for n in names):.3f}" for m in labels if m != START]
    count = summary[0]["images"]
    title = f"{problem}: {METRICS[metric]}, mean ± standard deviation over {count} image{'s' if count > 1 else ''}"
    return "\n".join([title, head, "-" * len(head), *lines, "seconds: " + "; ".join(times)])


def mean_curve(curves: Sequence[tuple[Any, Any, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Iterations of the longest run, and mean seconds and scores there; a picture that is done stays as it is."""
    iterations = np.asarray(max((c[0] for c in curves), key=len), float)
    seconds, scores = (np.mean([np.interp(iterations, c[0], c[k]) for c in curves], 0) for k in (1, 2))
    return iterations, seconds, scores


def _write(
    files: Sequence[Path], images: list[dict[str, Any]], summary: list[dict[str, Any]], rows: Any, problem: str
) -> None:
    from fastrecon import figures

    io.write_csv(files[0], images)
    io.write_json(files[1], summary)
    panels: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("curve") and row["curve"][0]:
            panels.setdefault(row["condition"], {}).setdefault(row["method"], []).append(row["curve"])
    means = {
        condition: {method: mean_curve(found) for method, found in by_method.items()}
        for condition, by_method in panels.items()
    }
    io.write_figure(files[2], figures.panels(means, f"{problem}: mean NMSE"))
