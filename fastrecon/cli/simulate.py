"""`fastrecon simulate`: measurements of images."""

import argparse
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, batch, cs
from fastrecon.cli.progress import Progress

EPILOG = """examples:
  fastrecon simulate photo.png --model lda-cs-25 --out measurements
  fastrecon simulate photo.png scans/ --noise 0.01 --format safetensors --out measurements
  fastrecon reconstruct measurements --out results"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs", nargs="+", type=arguments.name, metavar="IMAGE",
        help=f"image files, folders of them, or {arguments.BUNDLED_HELP}",
    )  # fmt: skip
    arguments.add_model(parser)
    arguments.add_out(parser, "the measurement files", required=True)
    parser.add_argument("--format", choices=("npz", "safetensors"), default="npz", help="of the files (default: npz)")
    arguments.add_noise(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Writes DIR/<name of the image>.npz (or .safetensors) for each image."""
    paths, model = arguments.images(args.inputs), arguments.model(args)
    end = f".{args.format}"

    def produce(path: Path, prefix: Path, _: Progress) -> dict[str, Any]:
        image = io.read_image(path)
        m = cs.simulate(model, image.pixels, args.noise or 0.0, args.seed)
        m.facts.update(model=io.shown(args.model), source=io.shown(path.name))
        target = prefix.with_name(prefix.name + end)
        io.write_measurements(target, m)
        return {
            "input": path, "notes": image.notes, "size": m.size, "shape": m.y.shape, "output": target,
            "measurements": cs.describe(m),
        }  # fmt: skip

    batch.write_each(args, paths, [end], produce, line)


def line(row: dict[str, Any]) -> str:
    """What was written, in one line."""
    names = f"{io.shown(row['input'])} -> {io.shown(row['output'])}"
    return f"{names}: {row['measurements']}{arguments.remarks(row['notes'])}"
