"""`fastrecon demo`: a real picture, shipped weights, one figure."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastrecon import io
from fastrecon.cli import arguments, batch, choice, output, reconstruct
from fastrecon.cli.progress import Progress

EPILOG = """examples:
  fastrecon demo
  fastrecon demo --image astronaut --ratio 10 --out somewhere
  fastrecon demo --model lda-cs-50 --features
  fastrecon demo --problem inpaint --image cat"""

RATIO = 25


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The options, those of the problem among them: block compressed sensing unless another is named."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--image", type=arguments.name, default="camera", metavar="NAME", help="in scikit-image (default: camera)")
    add(
        "--out", type=arguments.name, default="fastrecon-demo", metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )  # fmt: skip
    found = choice.choose([*words, *_default(words)], inputs=False)
    parser.set_defaults(choice=found, simulate=True)
    arguments.add_overwrite(parser)
    reconstruct.add_seed(parser)
    reconstruct.add_writing(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)
    choice.add(parser, found, simulates=True)


def _default(words: Sequence[str]) -> list[str]:
    """The shipped model of --ratio, where neither problem nor model is named."""
    if choice.value_of(words, "--problem") or choice.value_of(words, "--model"):
        return []
    ratio = choice.value_of(words, "--ratio") or str(RATIO)
    return ["--model", f"lda-cs-{ratio.removesuffix('.0')}"]


def run(args: argparse.Namespace) -> None:
    """Reconstructs the picture twice, the first time to warm up, and prints what came out."""
    name = args.image.removeprefix(io.BUNDLED)
    path = io.bundled(name, "--image")
    work = reconstruct.job(args)
    m = reconstruct.measured(work.problem, path, args.choice.problem_options(args, True), args.seed or 0)
    prefix = Path(args.out) / name
    batch.free((f"{prefix}{end}" for end in work.writing.ends(work.writing.form(m))), args.overwrite)
    io.output_folder(args.out)
    with Progress(1) as progress:
        progress.item(name)
        with torch.no_grad():
            inverse = work.problem.inverse(m.to(work.device))
            work.ready(inverse)[0](inverse)
        report = work.compute(m, progress).write(prefix, path)
    arguments.answer(args, report, arguments.facts(_facts(name, report, work, m)))


def _facts(name: str, report: dict[str, Any], work: output.Job, m: Any) -> list[tuple[str, str]]:
    start, found = report["scores"]["start"], report["scores"]["reconstruction"]
    model = report["model"] and choice.load(report["model"])
    rows = [
        ("image", f"{name} of scikit-image{arguments.remarks(report['notes'])}"),
        ("measurements", work.problem.describe(m)),
        ("method", report["method"] + (f", model {report['model']}, {parameters(model)} parameters" if model else "")),
        ("backend", f"{report['backend']}, {torch.get_num_threads()} threads on {report['device']}"),
        ("PSNR", f"{found['psnr']:.2f} dB (start: {start['psnr']:.2f} dB)"),
    ]
    if found["ssim"] is not None:
        rows.append(("SSIM", f"{found['ssim']:.4f} (start: {start['ssim']:.4f})"))
    rows += [("time", f"{report['seconds']:.3f} s"), ("certificate", output.summary(report["certificate"]))]
    return rows + [(what, str(path)) for what, path in report["files"].items()]


def parameters(model: torch.nn.Module) -> str:
    """How many numbers were learned."""
    return f"{sum(p.numel() for p in model.parameters()):,}"
