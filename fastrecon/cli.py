"""The command line: `fastrecon <command> ...`.

Exit status: 0 done, 2 bad input (one line on stderr names the cause), 130 interrupted. FASTRECON_DEBUG=1 shows where an
error arose.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import fastrecon

# command: (module with add_arguments(parser) and run(args), what it does); a module is imported when its command is run
COMMANDS = {
    "demo": ("fastrecon.tasks.demo", "reconstruct a real image with shipped weights and draw the figure"),
    "simulate": ("fastrecon.tasks.simulate", "make measurements of images"),
    "reconstruct": ("fastrecon.tasks.reconstruct", "images from measurements, with figure and per-image certificate"),
    "evaluate": ("fastrecon.tasks.evaluate", "PSNR, SSIM, relative error and time over a folder of images"),
    "train": ("fastrecon.tasks.train", "train a model"),
    "bench": ("fastrecon.tasks.bench", "throughput on this machine against eager PyTorch"),
    "tune": ("fastrecon.tasks.tune", "measure the best tiles of the GPU kernels and keep them"),
    "info": ("fastrecon.tasks.info", "versions, devices, backends, shipped models"),
}

EPILOG = """examples:
  fastrecon demo
  fastrecon reconstruct photo.png --model lda-cs-25 --out results
  fastrecon evaluate --data set11 --model lda-cs-25

`fastrecon COMMAND --help` explains each command. FASTRECON_BACKEND=reference|cpu|triton|cuda and
FASTRECON_ISA=baseline|avx2|avx512|avx512bf16|amx force kernels; FASTRECON_DEBUG=1 shows where an error arose."""


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError with the command to ask for help."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` filled in."""
    top = Parser(
        prog="fastrecon",
        description="Learned image reconstruction that is fast and provably converges.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastrecon {fastrecon.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == command:
            loaded = importlib.import_module(module)
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parser(next((a for a in argv if a in COMMANDS), None)).parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()
        return int(status or 0)
    except SystemExit as e:  # --help and --version
        return int(e.code or 0)
    except KeyboardInterrupt:
        print("fastrecon: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `fastrecon info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, RuntimeError, OSError, MemoryError, ImportError) as e:
        if os.environ.get("FASTRECON_DEBUG") == "1":
            raise
        print(f"fastrecon: {' '.join(str(e).split()) or type(e).__name__}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
