"""`fastrecon train`: one subcommand for each recipe."""

import argparse
from collections.abc import Sequence

from fastrecon.train import command
from fastrecon.train.recipes import RECIPES

TORCHRUN = "torchrun --nproc-per-node 4 -m fastrecon train lda-cs --data train400 --ratio 25 --out runs/lda-cs-25"


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """A parser for each recipe, those registered from outside included."""
    lines = [f"  fastrecon train {example}" for recipe in RECIPES.values() for example in recipe.examples]
    parser.epilog = "\n".join(["examples:", *lines, f"  {TORCHRUN}"])
    kinds = parser.add_subparsers(dest="recipe", metavar="RECIPE", required=True)
    for name, recipe in RECIPES.items():
        own = "\n".join(["examples:", *(f"  fastrecon train {example}" for example in recipe.examples)])
        sub = kinds.add_parser(
            name, help=recipe.summary, description=f"Train {recipe.summary}.", formatter_class=parser.formatter_class,
            epilog=own if recipe.examples else None,
        )  # fmt: skip
        command.add_arguments(sub, recipe)


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is the trainer's."""
    return command.run(RECIPES[args.recipe], args)
