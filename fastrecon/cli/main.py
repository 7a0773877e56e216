"""The command line: `fastrecon <command> ...`.

Exit status: 0 done; 1 `verify` found what differs; 2 bad input, with a line on stderr that names the cause, or one for
each input that failed; 130 interrupted; 143 terminated. FASTRECON_DEBUG=1 shows where an error arose.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import fastrecon
from fastrecon import io, plugins, startup
from fastrecon.cli import console

# command: (module with add_arguments(parser) and run(args), what it does); a module is imported when its command is run
COMMANDS = {
    "demo": ("fastrecon.cli.demo", "reconstruct a real image with shipped weights and draw the figure"),
    "simulate": ("fastrecon.cli.simulate", "make measurements of pictures"),
    "reconstruct": ("fastrecon.cli.reconstruct", "pictures from measurements, with figure and certificate"),
    "evaluate": ("fastrecon.cli.evaluate", "methods compared on a set of pictures: PSNR, SSIM, error, time"),
    "reproduce": ("fastrecon.cli.reproduce", "the tables of the documentation, measured here"),
    "train": ("fastrecon.cli.train", "train a model"),
    "export": ("fastrecon.cli.export", "a model for other programs: C without Python and torch, or AOTInductor"),
    "bench": ("fastrecon.cli.bench", "throughput on this machine against eager PyTorch"),
    "tune": ("fastrecon.cli.tune", "measure the best tiles of the GPU kernels and keep them"),
    "verify": ("fastrecon.cli.verify", "try on this machine what is promised: same bits, adjoints, accuracy"),
    "serve": ("fastrecon.cli.serve", "answer requests over HTTP"),
    "info": ("fastrecon.cli.info", "versions, devices, backends, shipped models"),
}

EPILOG = """examples:
  fastrecon demo
  fastrecon reconstruct photo.png --problem inpaint --mask mask.png --out results
  fastrecon reconstruct photo.png --model lda-cs-25 --simulate --out results
  fastrecon evaluate --data set11 --model lda-cs-25

`fastrecon COMMAND --help` explains each command. FASTRECON_BACKEND=reference|cpu|triton|cuda and
FASTRECON_ISA=baseline|avx2|avx512|avx512bf16|amx force kernels; FASTRECON_DEBUG=1 shows where an error arose."""

LONGEST = 500  # characters of a message about the command line


def short(message: str) -> str:
    """A message, cut if long."""
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}..."


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError with the command to ask for help."""
        raise UsageError(f"{short(message)} (see {self.prog} --help)")


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that states the range of every number."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        limits = getattr(action.type, "range", None)
        return f"{action.help or ''} [{limits}]" if limits else action.help


def parser(command: str | None = None, words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` filled in; which these are may depend on its `words`."""
    top = Parser(
        prog="fastrecon",
        description="Learned image reconstruction that is fast and provably converges.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    top.add_argument("--version", action="version", version=f"fastrecon {fastrecon.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, formatter_class=Help, allow_abbrev=False
        )  # names in short would pass by what chooses the options
        if name == command:
            loaded = importlib.import_module(module)
            loaded.add_arguments(sub, words)
            sub.set_defaults(run=loaded.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        console.prepare()
        plugins.load()
        args = _parsed(argv)
        with startup.signals(), warnings.catch_warnings():
            warnings.showwarning = _told
            status = 0 if args is None else int(args.run(args) or 0)
            console.finish()
            return status
    except KeyboardInterrupt:
        console.complain("fastrecon: interrupted")
        return 130
    except startup.Terminated as e:
        console.complain(f"fastrecon: {e}")
        return e.status
    except SystemExit as e:  # of some library: a status, or a text
        if isinstance(e.code, str):
            console.complain(f"fastrecon: {io.shown(e.code)}")
        return e.code if isinstance(e.code, int) else 2 if e.code else 0
    except BaseException as e:  # a panic of compiled code is no Exception
        if os.environ.get("FASTRECON_DEBUG") == "1":
            raise
        console.complain("\n".join(f"fastrecon: {line}" for line in console.lines(e)))
        return 2


def _told(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """A warning on one line, as all that commands say."""
    console.complain(f"fastrecon: {io.shown(message)}")


def _parsed(argv: list[str]) -> argparse.Namespace | None:
    """The command line; None where it asked for help or the version, which are printed."""
    try:
        at = next((k for k, word in enumerate(argv) if word in COMMANDS), len(argv))
        args, unknown = parser(*argv[at : at + 1], words=argv[at + 1 :]).parse_known_args(argv)
        if unknown:
            raise UsageError(
                f"unrecognized arguments: {short(' '.join(unknown))} (see fastrecon {args.command} --help)"
            )
        return args
    except SystemExit:
        return None


if __name__ == "__main__":
    sys.exit(main())
