"""`fastrecon train`: one subcommand for each kind of model."""

import argparse

from fastrecon.train import dladmm, lda_cs

EPILOG = """examples:
  fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25
  fastrecon train lda-cs --out runs/lda-cs-25 --resume
  fastrecon train dladmm --task synthetic --lam 0.5 --loss decibel --deep 1 --clip 1 --lr 0.03 --steps 3000 \\
      --recombine --out runs/synthetic
  fastrecon train dladmm --task denoise --data train400 --lr 0.03 --steps 4000 --out runs/saltpepper
  torchrun --nproc-per-node 4 -m fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25"""


KINDS = {
    "lda-cs": (lda_cs, "LDA for block compressed sensing"),
    "dladmm": (dladmm, "D-LADMM for sparse coding or salt-and-pepper denoising"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The kinds of models."""
    parser.epilog = EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (module, summary) in KINDS.items():
        sub = kinds.add_parser(
            name, help=summary, description=f"Train {summary}.", epilog=EPILOG, formatter_class=parser.formatter_class
        )
        module.add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is the trainer's."""
    return KINDS[args.kind][0].run(args)
