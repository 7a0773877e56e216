"""`fastrecon demo`: a real image, shipped weights, one figure."""

import argparse

import torch

from fastrecon import io
from fastrecon.tasks import arguments, cs, reconstruct, results

EPILOG = """examples:
  fastrecon demo
  fastrecon demo --image astronaut --ratio 10 --out somewhere
  fastrecon demo --ratio 50 --maps"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument("--image", default="camera", metavar="NAME", help="image in scikit-image (default: camera)")
    parser.add_argument("--ratio", type=float, default=25, help="measurements in percent of the pixels (default: 25)")
    arguments.add_model(parser, None, "lda-cs-RATIO")
    parser.add_argument(
        "--out", default="fastrecon-demo", metavar="DIR", help="folder for the results (default: %(default)s)"
    )
    reconstruct.add_options(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Reconstructs the image twice, the first time to warm up, and prints what came out."""
    image = io.read_image(arguments.bundled(args.image, "--image"))
    model = arguments.model(args, args.model or f"lda-cs-{args.ratio:g}")
    folder = io.output_folder(args.out)
    m = cs.simulate(model, image.pixels)
    cs.reconstruct(model, m)
    report = results.produce(
        model, m, folder / args.image, reconstruct.options(args), image.pixels, input=image.path, notes=image.notes
    )
    start, found = report["scores"]["start"], report["scores"]["reconstruction"]
    text = arguments.facts([
        ("image", f"{args.image} of scikit-image{arguments.remarks(image.notes)}"),
        ("measurements", cs.describe(m)),
        ("model", f"{report['model']}, {model.solver.phases} phases, {parameters(model)} parameters"),
        ("backend", f"{report['backend']}, {torch.get_num_threads()} threads on {report['device']}"),
        ("PSNR", f"{found['psnr']:.2f} dB (start: {start['psnr']:.2f} dB)"),
        ("SSIM", f"{found['ssim']:.4f} (start: {start['ssim']:.4f})"),
        ("time", f"{report['seconds']:.3f} s"),
        ("certificate", results.summary(report["certificate"])),
        *((what, str(path)) for what, path in report["files"].items()),
    ])  # fmt: skip
    arguments.answer(args, report, text)


def parameters(model: torch.nn.Module) -> str:
    """How many numbers were learned."""
    return f"{sum(p.numel() for p in model.parameters()):,}"
