"""Table "padnet-table3": haze removal, on haze that is put on photographs; of real haze, pictures.

Source: Table 3 of Liu, Fan, Cheng, Wang & Luo, Proximal Alternating Direction Network, AAAI 2018 (arXiv:1711.07653),
whose images are others: its numbers stand beside ours for their order.
"""

import argparse
import time
from pathlib import Path

import torch

from fastrecon import io
from fastrecon.cli import arguments, evaluate, output
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, add_pictures, register
from fastrecon.problems.base import PROBLEMS, Measurement

IMAGES = ("astronaut", "coffee", "chelsea", "rocket")  # colour ones that come with scikit-image
METHODS = ("dark-channel", "contextual", "padnet")
PAPER = {  # PSNR, SSIM and seconds; contextual regularisation is Meng et al., the dark channel He et al.
    "dark-channel": (27.11, 0.96, 17.20), "contextual": (26.13, 0.95, 6.95), "padnet": (28.47, 0.96, 2.74),
}  # fmt: skip
CASES = {
    "scattering 0.5": {"scattering": 0.5, "air": 0.85},
    "scattering 1": {"scattering": 1.0, "air": 0.85},
    "scattering 1.5": {"scattering": 1.5, "air": 0.85},
    "scattering 1, light 0.7": {"scattering": 1.0, "air": 0.7},
    "scattering 1, light 1": {"scattering": 1.0, "air": 1.0},
}
PAPER_LINE, REAL_LINE = "paper, its images", "real haze"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Photographs and methods."""
    add = parser.add_argument
    what = (
        "folders of colour photographs without haze, or files, which get haze of a depth that rises from the lower edge"
        " to the upper"
    )
    add_pictures(parser, IMAGES, what, "photographs")
    add(
        "--real", nargs="+", type=arguments.name, metavar="DIR", default=[],
        help="folders of hazy photographs, or files: the results are written as pictures beside the table",
    )  # fmt: skip
    add(
        "--methods", nargs="+", default=list(METHODS), metavar="NAME[:OPTION=VALUE,...]",
        help=f"methods for haze (default: {' '.join(METHODS)})",
    )  # fmt: skip


def units(args: argparse.Namespace) -> list[Unit]:
    """The paper's numbers, then photograph by photograph.

    Raises:
        ValueError: a method is unknown.
    """
    device, problem, found = arguments.device(args), PROBLEMS["dehaze"], []
    runners = {text: evaluate.entry(text, problem, device) for text in args.methods}
    for name, (psnr, ssim, seconds) in PAPER.items():
        row = {"psnr": psnr, "ssim": ssim, "seconds": seconds}
        found.append(Unit({"haze": PAPER_LINE, "method": name, "image": ""}, lambda row=row: dict(row)))
    for path in arguments.images(args.data)[: args.limit]:
        for case, options in CASES.items():
            for text, entry in runners.items():
                key: Key = {"haze": case, "method": text, "image": io.shown(path.stem)}
                found.append(Unit(key, lambda p=path, o=options, e=entry: _simulated(p, o, e, device)))
    for path in arguments.images(args.real) if args.real else []:
        for text, entry in runners.items():
            key = {"haze": REAL_LINE, "method": text, "image": io.shown(path.stem)}
            target = Path(args.out) / f"{path.stem}_{text.replace(':', '_')}"
            found.append(Unit(key, lambda p=path, e=entry, t=target: _real(p, e, t, device)))
    return found


def _simulated(path: Path, options: dict[str, float], entry: evaluate.Entry, device: torch.device) -> Row:
    problem = PROBLEMS["dehaze"]
    m = problem.simulate(io.read_picture(path), problem.Options(**options)).to(device)
    x, row = _run(m, entry)
    scores, hazy = problem.scores(x, m), problem.scores(problem.start(m), m)
    assert scores is not None
    assert hazy is not None
    return scores | {"hazy_psnr": hazy["psnr"]} | row


def _real(path: Path, entry: evaluate.Entry, target: Path, device: torch.device) -> Row:
    problem = PROBLEMS["dehaze"]
    m = problem.read(path, problem.Options()).to(device)
    x, row = _run(m, entry)
    written = io.write_picture(target, problem.pixels(x, m), m.form)
    for name, values in problem.maps_of(x, m).items():
        io.write_picture(target.with_name(f"{target.name}_{name}"), values, io.Form())
    return row | {"picture": written.name}


def _run(m: Measurement, entry: evaluate.Entry) -> tuple[torch.Tensor, Row]:
    """The transmission, and how long it took: on the clock, and of the processor."""
    runner = entry.ready()
    with torch.no_grad():
        inverse = PROBLEMS["dehaze"].inverse(m)
        begin, used = time.perf_counter(), time.process_time()
        x = runner(inverse).x
        output.synchronise(m.y.device)
        row = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - used}
    height, width = m.size
    return x, row | {"height": height, "width": width}


register(
    Table(
        "padnet-table3", "haze removal: dark channel, contextual regularisation, PADNet", add_arguments, units,
        ("haze", "method", "psnr"), "PSNR in dB of the scene behind haze.",
        also=(
            Further("ssim", "SSIM of the scene.", 3),
            Further("seconds", "Seconds for a transmission.", 2, less=True),
            Further("processor_seconds", "Of these, on the processor.", 2, less=True),
        ),
    )
)  # fmt: skip
