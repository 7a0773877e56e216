"""`fastrecon simulate`: measurements of images."""

import argparse

from fastrecon import io
from fastrecon.tasks import arguments, cs

EPILOG = """examples:
  fastrecon simulate photo.png --model lda-cs-25 --out measurements
  fastrecon simulate photo.png scans/ --noise 0.01 --format safetensors --out measurements
  fastrecon reconstruct measurements --out results"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    arguments.add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the measurement files")
    parser.add_argument("--format", choices=("npz", "safetensors"), default="npz", help="of the files (default: npz)")
    arguments.add_noise(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Writes DIR/<name of the image>.npz (or .safetensors) for each image."""
    paths = io.expand(args.inputs)
    stems = arguments.stems(paths)
    model = arguments.model(args)
    folder = io.output_folder(args.out)
    lines, rows = [], []
    for path, stem in zip(arguments.progress(paths, unit="image"), stems, strict=True):
        image = io.read_image(path)
        m = cs.simulate(model, image.pixels, args.noise or 0.0, args.seed)
        m.facts.update(model=args.model, source=path.name)
        target = folder / f"{stem}.{args.format}"
        io.write_measurements(target, m)
        rows.append({"input": path, "notes": image.notes, "size": m.size, "shape": m.y.shape, "output": target})
        lines.append(f"{path} -> {target}: {cs.describe(m)}{arguments.remarks(image.notes)}")
    arguments.answer(args, rows, "\n".join(lines))
