"""`fastrecon simulate`: measurements of pictures, with all that makes their operator, in one file each."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, batch, choice, reconstruct
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, Stages
from fastrecon.problems import file
from fastrecon.problems.base import Measurement

EPILOG = """examples:
  fastrecon simulate photo.png --problem mri --sampling radial --rate 0.2 --noise 0.01 --out measured
  fastrecon simulate photos/ --model lda-cs-25 --out measured
  fastrecon simulate skimage:phantom --problem ct --angles 0:180:60 --noise 0.02 --out measured
  fastrecon simulate --problem deblur --help                          # the options of a problem

The file holds measurements, what makes their operator, and the true picture, against which `fastrecon reconstruct`
scores its own."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The options, those of the chosen problem among them."""
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs", nargs="+", type=arguments.name, metavar="INPUT",
        help=f"pictures, folders of them, or {arguments.BUNDLED_HELP}",
    )  # fmt: skip
    found = choice.choose(words, inputs=False)
    parser.set_defaults(choice=found)
    arguments.add_out(parser, "the measurements", required=True)
    parser.add_argument("--format", choices=("npz", "safetensors"), default="npz", help="of the files (default: npz)")
    reconstruct.add_seed(parser)
    arguments.add_jobs(parser)
    arguments.add_json(parser)
    choice.add(parser, found, simulates=True, method=False)


def run(args: argparse.Namespace) -> None:
    """Writes DIR/<name of the picture>.npz (or .safetensors) for each picture."""
    chosen: choice.Choice = args.choice
    problem = choice.need(chosen)
    options = chosen.problem_options(args, simulate=True)
    paths, end = arguments.images(args.inputs), f".{args.format}"

    def compute(item: Item, picture: io.Picture, _: Progress) -> Measurement:
        m = problem.simulate(picture, options, args.seed or 0)
        return replace(m, facts={**m.facts, "model": args.model}) if args.model else m  # `reconstruct` takes the same

    def write(item: Item, m: Measurement) -> dict[str, Any]:
        target = item.prefix.with_name(item.prefix.name + end)
        file.write(target, m)
        return {
            "input": item.path, "notes": m.remarks, "problem": problem.name, "size": m.size, "shape": tuple(m.y.shape),
            "output": target, "measurements": problem.describe(m),
        }  # fmt: skip

    stages = Stages(lambda item: io.read_picture(item.path), compute, write)
    batch.write_each(args, paths, [end], partial(batch.each, stages, jobs=args.jobs), line)


def line(row: dict[str, Any]) -> str:
    """What was written, in one line."""
    names = f"{io.shown(row['input'])} -> {io.shown(row['output'])}"
    return f"{names}: {row['measurements']}{arguments.remarks(row['notes'])}"
