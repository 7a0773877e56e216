"""`fastrecon demo`: a real image, shipped weights, one figure."""

import argparse
from pathlib import Path

import torch

from fastrecon import io
from fastrecon.cli import arguments, batch, cs, reconstruct, results
from fastrecon.cli.progress import Progress

EPILOG = """examples:
  fastrecon demo
  fastrecon demo --image astronaut --ratio 10 --out somewhere
  fastrecon demo --ratio 50 --maps"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--image", type=arguments.name, default="camera", metavar="NAME", help="in scikit-image (default: camera)")
    add(
        "--ratio", type=arguments.real(0, 100, above=True), default=25, metavar="R",
        help="measurements in percent of the pixels (default: 25)",
    )  # fmt: skip
    arguments.add_model(parser, None, "lda-cs-RATIO")
    add(
        "--out", type=arguments.name, default="fastrecon-demo", metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )  # fmt: skip
    arguments.add_overwrite(parser)
    reconstruct.add_options(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Reconstructs the image twice, the first time to warm up, and prints what came out."""
    name = args.image.removeprefix(io.BUNDLED)
    image = io.read_image(io.bundled(name, "--image"))
    model = arguments.model(args, args.model or f"lda-cs-{args.ratio:g}")
    options, prefix = reconstruct.options(args), Path(args.out) / name
    batch.free((f"{prefix}{end}" for end in results.ends(options)), args.overwrite)
    io.output_folder(args.out)
    with Progress(1) as progress:
        progress.item(name)
        m = cs.simulate(model, image.pixels)
        cs.reconstruct(model, m)
        report = results.produce(model, m, prefix, options, image.pixels, progress, input=image.path, notes=image.notes)
    start, found = report["scores"]["start"], report["scores"]["reconstruction"]
    text = arguments.facts([
        ("image", f"{name} of scikit-image{arguments.remarks(image.notes)}"),
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
