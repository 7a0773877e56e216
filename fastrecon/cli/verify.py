"""`fastrecon verify`: whether this machine keeps what is promised, for every op, operator, solver and shipped model."""

import argparse
import dataclasses
from collections.abc import Sequence

import torch

from fastrecon import registry, verification
from fastrecon.cli import arguments, console

EPILOG = """examples:
  fastrecon verify
  fastrecon verify --quick
  fastrecon verify --backend reference --threads 1 --json

An image must have the same bits alone, in any batch, at any place of it and of memory, and in repeated runs; operators
and their adjoints must match; kernels must be about as near to float64 as plain PyTorch is; certificates must say what
float64 finds. Exit status 1 if something differs: please report it with the output of `fastrecon info`."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--backend", action="append", metavar="NAME", choices=registry.BACKENDS,
        help=f"{', '.join(registry.BACKENDS)}; may be repeated (default: all that the device has)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the best backend only, without the shipped models")
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each case as it comes; returns 1 if something differs."""
    device = arguments.device(args)
    usable = list(registry.usable(device.type))
    chosen = args.backend or (usable[:1] if args.quick else usable)
    findings = []
    for backend in dict.fromkeys(chosen):
        for finding in verification.verify(backend, device, args.quick):
            findings.append(finding)
            if not args.json:
                console.say(line(finding))
    bad = [f for f in findings if f.problems]
    document = {
        "device": str(device), "threads": torch.get_num_threads(), "ok": not bad,
        "findings": [dataclasses.asdict(f) for f in findings],
    }  # fmt: skip
    counted = f"{len(findings)} cases on {device}, {document['threads']} threads: "
    arguments.answer(args, document, counted + (f"{len(bad)} differ" if bad else "all as promised"))
    return 1 if bad else 0


def line(f: verification.Finding) -> str:
    """One line of the table."""
    return f"{f.backend:<10}{f.kind:<10}{f.name:<40}{'; '.join(f.problems) or 'ok'}"
