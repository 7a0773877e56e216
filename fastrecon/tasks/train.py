"""`fastrecon train`: one subcommand for each kind of model."""

import argparse

from fastrecon.train import lda_cs, sgp

EPILOG = """examples:
  fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25
  fastrecon train lda-cs --out runs/lda-cs-25 --resume
  fastrecon train sgp --task inpaint --variant step --data train400 --out runs/sgp-inpaint-step
  fastrecon train unet --task fourier --data train400 --out runs/unet-fourier
  torchrun --nproc-per-node 4 -m fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The kinds of models."""
    parser.epilog = EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    summary = "LDA for block compressed sensing"
    lda_cs.add_arguments(
        kinds.add_parser(
            "lda-cs",
            help=summary,
            description=f"Train {summary}.",
            epilog=EPILOG,
            formatter_class=parser.formatter_class,
        )
    )

    for method, summary in (("sgp", "step sizes or a metric for SGP"), ("unet", "a U-Net that maps images directly")):
        one = kinds.add_parser(method, help=summary, description=f"Train {summary}.")
        sgp.add_arguments(one, method)


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is the trainer's."""
    return lda_cs.run(args) if args.kind == "lda-cs" else sgp.run(args)
