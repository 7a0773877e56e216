"""`fastrecon serve`: pictures from measurements over HTTP."""

import argparse
import importlib.util
import os
from collections.abc import Sequence

from fastrecon.cli import arguments

NEEDED = ("starlette", "uvicorn", "prometheus_client")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIB = 2**20

EPILOG = """examples:
  fastrecon serve
  fastrecon serve lda-cs-25 prior-natural trained.safetensors --port 8080
  fastrecon serve --host 0.0.0.0 --token-file token --max-batch 32
  curl --data-binary @photo.png -H 'content-type: image/png' \\
    'http://127.0.0.1:8765/v1/reconstruct?problem=inpaint&simulate=true&rate=0.4' -o found.png -D -

Needs the extra `serve`. POST /v1/reconstruct takes a file and the options of `fastrecon reconstruct`, and answers with
a file and its certificate; GET / is a page to try it; /v1/models, /health, /ready, /metrics. SIGTERM and Ctrl-C stop
accepting, answer what is inside, and end. See docs/serving.md."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "models", nargs="*", type=arguments.name, metavar="MODEL",
        help="shipped models, or files, that requests may name (default: all shipped ones)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=arguments.integer(0, 65535), default=8765, help="0: any (default: 8765)")
    parser.add_argument(
        "--token-file", type=arguments.name, metavar="FILE", help="file with the token that clients must send"
    )
    numbers = (
        ("--max-batch", 1, 4096, 16, "images in the works at once"),
        ("--max-queue", 1, 10**6, None, "requests that wait beside them; beyond, clients are told 429"),
        ("--max-pixels", 1, 2**40, 2**24, "of the images in the works, and of one request"),
        ("--max-body", 1, 2**20, 64, "of a body, in MiB"),
        ("--max-bodies", 1, 2**20, 512, "of all bodies at once, in MiB"),
    )
    for flag, least, most, default, text in numbers:
        kind = arguments.integer(least, most)
        told = "an eighth of --max-batch" if default is None else default
        parser.add_argument(flag, type=kind, default=default, metavar="N", help=f"{text} (default: {told})")
    for flag, default, text in (
        ("--deadline", 300.0, "for an answer, also where a client would wait longer"),
        ("--body-timeout", 30.0, "for a body to come"),
        ("--grace", 60.0, "for what is inside, once a signal has come"),
    ):
        kind = arguments.real(0, 86400, above=True)
        parser.add_argument(
            flag, type=kind, default=default, metavar="S", help=f"seconds {text} (default: {default:g})"
        )
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Serves until a signal comes."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"serve: expected {name} to be installed, got no such package: pip install 'fastrecon[serve]'"
            )
    from fastrecon.serving.words import named, token_in

    token = token_in(args.token_file)
    if not token and args.host not in LOOPBACK:
        raise ValueError(f"--host: expected 127.0.0.1, or a --token-file, got {arguments.short(args.host)}")
    os.environ.setdefault("FASTRECON_MAX_PIXELS", str(args.max_pixels))  # of readers: nothing larger is decoded
    device = arguments.device(args)
    from fastrecon.serving import Scheduler, http, running
    from fastrecon.serving.door import Door

    door = Door(named(args.models), device)
    # so few, by number and by pixels, that whoever is let in waits for a part of the time of a full batch
    queue = max(1, args.max_batch // 8) if args.max_queue is None else args.max_queue
    scheduler = Scheduler("auto", args.max_batch, queue, args.max_pixels, max_ahead=1 + queue / args.max_batch)
    limits = http.Limits(
        args.max_body * MIB, args.max_bodies * MIB, args.deadline, args.body_timeout, args.max_batch + queue
    )
    server = http.Server(door, scheduler, limits, token, local=args.host in LOOPBACK)
    running.run(server, args.host, args.port, args.grace)
