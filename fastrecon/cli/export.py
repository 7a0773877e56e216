"""`fastrecon export`: a trained model for programs without Python."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fastrecon import export, io
from fastrecon.cli import arguments, batch, choice
from fastrecon.options import add_options, given
from fastrecon.solvers.wavelet_methods import WaveletOptions

EPILOG = """examples:
  fastrecon export lda-cs-25 --to c --out there            # library, header, example.c, lda-cs-25.safetensors
  fastrecon export lda-cs-25 --to c --method fista --lam 0.001 --out there
  fastrecon export dladmm-saltpepper --to c --out there
  fastrecon export lda-cs-25 --to pt2 --out there          # lda-cs-25.pt2, library, example.cc: for C++ with libtorch

C needs neither Python nor torch: cc there/example.c -Ithere -Lthere -lfastrecon -Wl,-rpath,there. See
docs/production.md."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Model, kind, folder; the options of FISTA with it."""
    parser.epilog = EPILOG
    parser.add_argument("model", type=arguments.name, metavar="MODEL", help="name of a shipped model, or its file")
    parser.add_argument("--to", choices=("c", "pt2"), required=True, help="c: a folder; pt2: a package of AOTInductor")
    parser.add_argument("--out", type=arguments.name, metavar="DIR", required=True, help="folder for what is made")
    arguments.add_overwrite(parser)
    parser.add_argument(
        "--method", choices=("fista",), help="instead of the model itself: FISTA with wavelets for its measurements"
    )
    arguments.add_json(parser)
    if choice.value_of(words, "--method") == "fista":
        add_options(parser, WaveletOptions, group="method fista")


def run(args: argparse.Namespace) -> None:
    """Writes the files."""
    model = choice.load(args.model)
    choice.expect_option(args.method is None or args.to == "c", "--method", "none with --to pt2", args.method)
    folder = Path(args.out)
    stem = f"{args.method + '-' if args.method else ''}{model.name}"
    own = [f"{stem}.pt2"] if args.to == "pt2" else [f"{stem}.safetensors"]
    batch.free([folder / name for name in own], args.overwrite)
    if args.to == "pt2":
        files = export.to_pt2(model, folder)
    else:
        options = WaveletOptions(**given(args, WaveletOptions)) if args.method else None
        files = export.to_c(model, folder, args.method or "", options)
    arguments.answer(args, {"files": files}, "\n".join(f"{name}: {io.shown(path)}" for name, path in files.items()))
