"""Table "lda-table3": magnetic resonance imaging by LDA and the networks it is compared with.

Source: Table 3 of Chen, Liu, Ye & Zhang (arXiv:2007.11245), means over 50 brain slices of 190x190 with radial masks.
Published weights of ISTA-Net+ stand beside ours with --take ista-net-plus-mri-20-public=FILE, a file that
`models.UnrolledModel.from_published` made.
"""

import argparse
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments
from fastrecon.cli.tables.base import Further, Key, Row, Table, Unit, register
from fastrecon.cli.tables.lda import HEADING, PARAMETERS, SECONDS
from fastrecon.cli.tables.trained import MEASURED, Wanted, add_arguments, cells, picture, pictures, quoted
from fastrecon.problems.base import PROBLEMS

RATES = (10, 20, 30)
TABLE3 = {  # PSNR, relative error and SSIM at 10, 20, 30%, and learned numbers
    "zero filling": ((23.45, 0.2820, 0.4544), (27.46, 0.1806, 0.5820), (30.91, 0.1232, 0.6665), None),
    "ADMM-Net": ((30.43, 0.1193, 0.7990), (37.73, 0.0516, 0.9507), (41.90, 0.0321, 0.9646), 14_600),
    "ISTA-Net+": ((32.62, 0.0950, 0.9312), (39.84, 0.0430, 0.9816), (43.53, 0.0295, 0.9892), 823_692),
    "VN": ((33.21, 0.0882, 0.9395), (40.11, 0.0400, 0.9855), (44.27, 0.0249, 0.9928), 131_050),
    "LDA": ((34.20, 0.0790, 0.9462), (41.03, 0.0363, 0.9852), (46.12, 0.0214, 0.9931), 55_895),
}  # fmt: skip
NETWORKS = {"ADMM-Net": "admm-net", "ISTA-Net+": "ista-net-plus", "VN": "vn"}


def options(rate: int, mask: str = "") -> dict[str, Any]:
    """What is simulated."""
    return {"mask": mask} if mask else {"rate": rate / 100, "sampling": "radial"}


def extra_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of trained tables, and --masks."""
    add_arguments(parser)
    parser.add_argument(
        "--masks", nargs=len(RATES), type=arguments.name, metavar="FILE", default=["", "", ""],
        help="masks for 10, 20, 30%% (default: radial ones of the pictures' size)",
    )  # fmt: skip


def units(args: argparse.Namespace) -> list[Unit]:
    """Quoted numbers; zero filling, LDA as it is shipped or trained here, and the networks trained alike."""
    known: dict[str, dict[str, Row]] = {}
    for k, rate in enumerate(RATES):
        row = {}
        for name, numbers in TABLE3.items():
            psnr, error, ssim = numbers[k]  # type: ignore[misc]
            row[name] = {"psnr": psnr, "relative_error": error, "ssim": ssim, "parameters": numbers[-1]}
        known[f"{rate}%"] = row
    wanted, given = {}, {}
    for rate, mask in zip(RATES, args.masks, strict=True):
        line = f"{rate}%"
        given[line] = options(rate, mask)
        wanted[line] = {"LDA": Wanted(f"lda-mri-{rate}", "lda", "lda-mri", {"rate": rate / 100}, f"lda-mri-{rate}")} | {
            name: Wanted(f"{network}-mri-{rate}", network, "unrolled-mri", {"rate": rate / 100, "network": network})
            for name, network in NETWORKS.items()
        }
        public = f"ista-net-plus-mri-{rate}-public"
        if any(text.startswith(f"{public}=") for text in args.take):
            wanted[line]["ISTA-Net+, published"] = Wanted(public, "ista-net-plus", "unrolled-mri")
    filled = [
        Unit(_key(args, line, path, seed), lambda p=path, o=o, s=seed: _filled(args, p, o, s))
        for seed, path in pictures(args)
        for line, o in given.items()
    ]
    return [*quoted(known, "rate", "method"), *filled, *cells(args, wanted, "mri", "rate", "method", given)]


def _key(args: argparse.Namespace, line: str, path: Any, seed: int) -> Key:
    return {
        "rate": f"{line}, {MEASURED}", "method": "zero filling", "image": io.shown(path.stem), "side": args.side,
        "seed": seed,
    }  # fmt: skip


def _filled(args: argparse.Namespace, path: Any, options: dict[str, Any], seed: int) -> Row:
    problem = PROBLEMS["mri"]
    m = problem.simulate(picture(path, args.side), problem.Options(**options), seed)
    return (problem.scores(problem.start(m), m) or {}) | {"source": "measured"}


register(
    Table(
        "lda-table3", "magnetic resonance imaging: LDA beside ADMM-Net, ISTA-Net+ and a variational network",
        extra_arguments, units, ("rate", "method", "psnr"), HEADING,
        also=(
            Further("relative_error", "Relative error.", 4, less=True), Further("ssim", "SSIM.", 4), PARAMETERS, SECONDS
        ),
    )
)  # fmt: skip
