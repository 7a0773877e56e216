"""`fastrecon train`: one subcommand for each kind of model."""

import argparse
from collections.abc import Callable
from functools import partial

from fastrecon.train import dladmm, lda_cs, sgp

EPILOG = """examples:
  fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25
  fastrecon train lda-cs --out runs/lda-cs-25 --resume
  fastrecon train dladmm --task synthetic --out runs/synthetic
  fastrecon train dladmm --task denoise --data train400 --lr 0.03 --steps 4000 --out runs/saltpepper
  fastrecon train sgp --task inpaint --data train400 --out runs/greedy  # the paper's stages
  fastrecon train sgp --task inpaint --data train400 --rate 0.3 0.5 0.7 --noise 0 5 --lam-factor 0.5 1 2 --side 96 \\
      --unroll 20 --first-step 2 --width 8 --lr 2e-3 --batch 4 --steps 200 --out runs/sgp-step-inpaint
  fastrecon train unet --task fourier --data train400 --out runs/unet-fourier
  torchrun --nproc-per-node 4 -m fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25"""


KINDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]] = {
    "lda-cs": (lda_cs.add_arguments, lda_cs.run, "LDA for block compressed sensing"),
    "dladmm": (dladmm.add_arguments, dladmm.run, "D-LADMM for sparse coding or salt-and-pepper denoising"),
    "sgp": (partial(sgp.add_arguments, method="sgp"), sgp.run, "step sizes or a metric for SGP"),
    "unet": (partial(sgp.add_arguments, method="unet"), sgp.run, "a U-Net that maps images directly"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The kinds of models."""
    parser.epilog = EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (add, _, summary) in KINDS.items():
        sub = kinds.add_parser(
            name, help=summary, description=f"Train {summary}.", epilog=EPILOG, formatter_class=parser.formatter_class
        )
        add(sub)


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is the trainer's."""
    return KINDS[args.kind][1](args)
