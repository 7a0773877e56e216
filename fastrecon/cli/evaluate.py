"""`fastrecon evaluate`: scores over a folder of images."""

import argparse
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, batch, cs, saltpepper, tables
from fastrecon.cli.progress import Progress
from fastrecon.problems import wavelet_l1 as problems

_TABLE = {"table", "networks", "side", "out"}
OWN = {  # options that not all tasks have
    "cs": {"precision"}, "saltpepper": set[str](), "inpaint": _TABLE | {"mask"}, "fourier": _TABLE | {"mask"},
    "deblur": _TABLE, "ct": _TABLE,
}  # fmt: skip

EPILOG = """examples:
  fastrecon evaluate --data set11 --model lda-cs-25
  fastrecon evaluate --data set11 --model runs/lda-cs-25/model.safetensors --csv scores.csv
  fastrecon evaluate --task saltpepper --data waterloo --noise 0.1 --csv table.csv
  fastrecon evaluate --task inpaint --data set11 --out tables/inpaint
  fastrecon evaluate --task fourier --data set11 --table rates --networks runs/unet/model.safetensors --out tables

PSNR is that of the image clipped to [0, 1], without rounding or cropping, averaged in dB; SSIM has the 7x7 uniform
window; RelErr is |x - reference| / |reference|. Seconds are those of the reconstruction alone. For inpaint, fourier,
deblur and ct the table has the NMSE of FISTA, of SGP with the shipped networks, and of those that --networks names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--data", nargs="+", type=arguments.name, required=True, metavar="DIR",
        help=f"folders of images, image files, or {arguments.BUNDLED_HELP}",
    )  # fmt: skip
    other = f"{saltpepper.MODEL} with --task saltpepper"
    arguments.add_model(parser, None, f"{arguments.DEFAULT_MODEL}; {other}")
    parser.add_argument("--csv", type=arguments.name, metavar="FILE", help="write the table there too")
    arguments.add_overwrite(parser)
    arguments.add_task(parser, "saltpepper", *problems.LAM)
    arguments.add_noise(parser)
    arguments.add_precision(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)
    tables.add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Prints a row for each image and the mean, once all are done."""
    arguments.own_options(args, args.task, OWN)
    if args.task == "saltpepper":
        saltpepper.evaluate(args)
        return
    if args.task in problems.LAM:
        tables.evaluate(args)
        return
    paths, name = arguments.images(args.data), args.model or arguments.DEFAULT_MODEL
    model = arguments.model(args, name)
    batch.outputs(args, args.csv)
    warm = False

    def work(path: Path, progress: Progress) -> dict[str, Any]:
        nonlocal warm
        tell = lambda k, _: progress.part(k, model.solver.phases, "phases")  # noqa: E731
        row = cs.evaluate(model, io.read_image(path), args.noise or 0.0, args.seed, not warm, tell)
        warm = True
        return row | {"image": io.shown(row["image"])}

    outcome = batch.each(paths, work)
    rows, mean = outcome.results, cs.mean(outcome.results)
    found = {"model": name, "images": rows, "mean": mean, "failed": outcome.faults()}
    arguments.answer(args, found, table(rows, mean))
    if args.csv:  # once the table is out: a full disk does not cost it
        io.write_csv(args.csv, [*rows, {"image": "mean", "height": "", "width": "", **mean}])
    outcome.end()


def table(rows: list[dict[str, Any]], mean: dict[str, float | None]) -> str:
    """The rows and their mean in columns."""
    width = max(len("image"), *(len(r["image"]) for r in rows))
    head = f"{'image':<{width}}  {'size':>9}  {'PSNR':>6}  {'SSIM':>6}  {'RelErr':>6}  {'seconds':>7}"
    sizes = [f"{r['height']}x{r['width']}" for r in rows]
    lines = [_line(r["image"], size, r, width) for r, size in zip(rows, sizes, strict=True)]
    return "\n".join([head, "-" * len(head), *lines, "-" * len(head), _line("mean", "", mean, width)])


def _line(name: str, size: str, r: dict[str, Any], width: int) -> str:
    ssim = "-" if r["ssim"] is None else f"{r['ssim']:.4f}"
    return f"{name:<{width}}  {size:>9}  {r['psnr']:6.2f}  {ssim:>6}  {r['relative_error']:6.4f}  {r['seconds']:7.3f}"
