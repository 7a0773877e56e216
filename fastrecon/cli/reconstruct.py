"""`fastrecon reconstruct`: pictures from measurements, each with a figure and its certificate."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, batch, choice, cluster, output, tiles
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, Stages
from fastrecon.models.base import pretrained
from fastrecon.options import flag_of, given
from fastrecon.problems import file
from fastrecon.problems.base import Measurement, Problem

EPILOG = """examples:
  fastrecon reconstruct photo.png --problem inpaint --mask mask.png --out results
  fastrecon reconstruct blurred.jpg --problem deblur --kernel kernel.npy --out results
  fastrecon reconstruct kspace.h5 --problem mri --out results
  fastrecon reconstruct sinogram.tif --problem ct --angles 0:180:60 --out results
  fastrecon reconstruct noisy.png --problem impulse --out results
  fastrecon reconstruct measured/ --out results                       # what `fastrecon simulate` wrote
  fastrecon reconstruct photo.png --model lda-cs-25 --simulate --out results
  fastrecon reconstruct house.tif --model lda-cs-50 --simulate --rigorous --out results
  fastrecon reconstruct skimage:camera --problem mri --simulate --sampling radial --method sgp-step --out results
  fastrecon reconstruct --problem deblur --help                       # the options of a problem

With --simulate inputs are pictures, which are measured first; the result is then scored against them. For an input
NAME.png DIR receives
  NAME_reconstruction.png  the picture, in the kind of the input (--bits: PNG or TIFF of 8, 16, float TIFF of 32)
  NAME_figure.png          start, reconstruction, the truth and the error where known, and every iteration
  NAME_transmission.png    of --problem dehaze: what of the scene's light came through; of derain NAME_streaks.png,
                           of low-light NAME_illumination.png, of smooth NAME_texture.png
  NAME_features.png        with --features, of learned regularisers: feature norms next to the picture's gradient norm
  NAME_report.json         scores, certificate (objective, ..., converged or why not) and history; see docs/report.md"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The options, those of the problem and the method that `words` choose among them."""
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs", nargs="+", type=arguments.name, metavar="INPUT",
        help=f"measurements: files, or folders of them; pictures with --simulate, also {arguments.BUNDLED_HELP}",
    )  # fmt: skip
    found = choice.choose(words)
    parser.set_defaults(choice=found)
    arguments.add_out(parser, "the results", required=True)
    add_simulate(parser)
    add_writing(parser)
    tiles.add_arguments(parser)
    add_bulk(parser)
    parser.set_defaults(words=list(words))
    arguments.add_device(parser)
    arguments.add_json(parser)
    choice.add(parser, found, simulates=True)


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """--simulate and --seed."""
    parser.add_argument("--simulate", action="store_true", help="measure pictures first, and score the result")
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """--seed."""
    parser.add_argument(
        "--seed", type=arguments.integer(0, 2**32 - 1), help="of simulated masks and noise (default: 0)"
    )


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What to write: see output.Writing."""
    parser.add_argument(
        "--bits", type=arguments.integer(8, 32), choices=(8, 16, 32), help="of the picture (default: as the input)"
    )
    parser.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True, help="draw the figure")


def add_bulk(parser: argparse.ArgumentParser) -> None:
    """--jobs, --on and --manifest."""
    arguments.add_jobs(parser, None, "; with --on ray: workers (default: as many as it has room for)")
    parser.add_argument(
        "--on", choices=("here", "ray"), default="here",
        help="ray: by workers of the Ray cluster at RAY_ADDRESS, else of this machine, --threads each (default 1);"
        " they see the same files (default: here)",
    )  # fmt: skip
    parser.add_argument(
        "--manifest", action=argparse.BooleanOptionalAction,
        help=f"write {batch.MANIFEST}: the report of every input, also of those skipped, or its fault (default: with"
        " --on ray)",
    )  # fmt: skip


def job(args: argparse.Namespace, model: str = "") -> output.Job:
    """What is done with every input, by the method's default model or another."""
    chosen: choice.Choice = args.choice
    problem, device = choice.need(chosen), arguments.device(args)
    assert chosen.method is not None
    options, settings = chosen.problem_options(args, args.simulate), chosen.method_options(args)
    if model:
        settings = dataclasses.replace(settings, model=model)
    about = {
        "problem_options": output.plain(options), "seed": seed(args), "method": chosen.method.name,
        "method_options": output.plain(settings), "model": getattr(settings, "model", None),
    }  # fmt: skip
    runner = chosen.method.prepare(settings, device)
    extras = ("features",) if getattr(settings, "features", False) else ()
    writing = output.Writing(args.bits, args.figure, extras, problem.maps)
    automatic = chosen.automatic and not given(args, chosen.method.Options) and model in ("", *pretrained())
    return output.Job(problem, runner, writing, device, about, settings, automatic)


def seed(args: argparse.Namespace) -> int | None:
    """--seed of what is simulated; None where nothing is.

    Raises:
        ValueError: it is given, and nothing is simulated.
    """
    choice.expect_option(args.simulate or args.seed is None, "--seed", "it with --simulate only", got="it without")
    return (args.seed or 0) if args.simulate else None


def run(args: argparse.Namespace) -> None:
    """Writes the results of each input as soon as it is done."""
    if args.tile is not None:
        return tiles.run(args)
    choice.expect_option(not args.resumable, "--resumable", "it with --tile only", got="it without")
    work = job(args)
    own = io.IMAGE_SUFFIXES if args.simulate or work.problem.suffixes is None else work.problem.suffixes
    known = own if args.simulate else tuple(dict.fromkeys((*own, *io.MEASUREMENT_SUFFIXES)))
    paths = arguments.images(args.inputs, known)
    done, threads, gpu = stages(args, work), args.threads or 1, work.device.type == "cuda"
    args.manifest = args.on == "ray" if args.manifest is None else args.manifest

    def make(items: Sequence[Item], line: Callable[[Any], str] | None) -> batch.Outcome:
        if args.on == "ray":
            return cluster.each(told_again, args.words, items, line, args.jobs, threads, gpu)
        return batch.each(done, items, line, 1 if args.jobs is None else args.jobs)

    batch.write_each(args, paths, work.writing.ends(), make, output.line)


def stages(args: argparse.Namespace, work: output.Job) -> Stages[Measurement, output.Made]:
    """What is done with each input: read or measured, reconstructed, written."""
    chosen: choice.Choice = args.choice
    options, drawn = chosen.problem_options(args, args.simulate), seed(args)
    named = [flag_of(name) for name in given(args, work.problem.Options)]

    @cache
    def made_for(model: str) -> output.Job:
        return job(args, model) if chosen.takes(model) else work

    def read(item: Item) -> Measurement:
        told = bool(named) and drawn is None and file.problem_of(item.path) is not None
        flag = named[0] if named else ""
        choice.expect_option(
            not told, flag, "no such option", got="it for a file of `fastrecon simulate`, which says it"
        )
        return measured(work.problem, item.path, options, drawn)

    def compute(item: Item, m: Measurement, progress: Progress) -> output.Made:
        model = m.facts.get("model")
        here = work if model is None or work.about["model"] != "" else made_for(str(model))
        return here.compute(m, progress)

    return Stages(read, compute, lambda item, made: made.write(item.prefix, item.path))


def told_again(words: Sequence[str]) -> Stages[Measurement, output.Made]:
    """The stages of the command with these words, in another process."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, words)
    args = parser.parse_args(words)
    return stages(args, job(args))


def measured(problem: Problem[Any], path: Path, options: Any, seed: int | None) -> Measurement:
    """The measurements in a file; with a seed those of the picture in it."""
    if seed is None:
        _no_picture(problem, path)
        return file.measured(problem, path, options)
    return problem.simulate(io.read_picture(path), options, seed)


def _no_picture(problem: Problem[Any], path: Path) -> None:
    """Raises ValueError where measurements of a problem are no pictures, and a picture came."""
    pictures = {s for s in io.IMAGE_SUFFIXES if s not in (problem.suffixes or io.IMAGE_SUFFIXES)}
    if path.suffix.lower() in pictures:
        expected = f"measurements ({', '.join(problem.suffixes or ())}), or --simulate to measure a picture first"
        raise ValueError(f"{io.shown(path)}: expected {expected}, got a picture")
