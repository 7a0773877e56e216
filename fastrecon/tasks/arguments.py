"""Arguments that several commands share, and how commands answer."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from fastrecon import io, models
from fastrecon.ops.feature_gradient import PRECISIONS

DEFAULT_MODEL = "lda-cs-25"
BUNDLED = "skimage:"  # before the name of an image that comes inside scikit-image


def add_model(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL, more: str = "") -> None:
    """--model."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=default,
        help=f"shipped model ({', '.join(models.pretrained()) or 'none yet'}) or path of a .safetensors file"
        f" (default: {more or default})",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --threads."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or auto: cuda if there is one (default)")
    parser.add_argument("--threads", type=positive(int), metavar="N", help="CPU threads (default: all)")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32",
        help="products in the network's steps: bfloat16 is faster where the processor has it, tf32 on a GPU,"
        " direct is without Winograd's transforms; what is decided and reported is that of float32 (default: float32)",
    )  # fmt: skip


def add_task(parser: argparse.ArgumentParser, *others: str) -> None:
    """--task: cs or one of the others."""
    parser.add_argument(
        "--task", choices=("cs", *others), default="cs",
        help="what was measured: cs, block compressed sensing (default); saltpepper, images with impulse noise"
        " (--noise is the share of the pixels then); others by name",
    )  # fmt: skip


def add_noise(parser: argparse.ArgumentParser) -> None:
    """--noise and --seed."""
    parser.add_argument(
        "--noise", type=positive(float), metavar="STD", help="add Gaussian noise to simulated measurements"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def positive(kind: type) -> Any:
    """An argparse type: a finite `kind` > 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its message
    return parse


def device(args: argparse.Namespace) -> torch.device:
    """The device that --device asks for; sets the number of threads that --threads asks for.

    Raises:
        ValueError: there is no such device.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not (index or "0").isdigit() or int(index or 0) >= count:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(f"--device: expected one of auto, {', '.join(known)} on this machine, got {args.device!r}")
    return torch.device(name)


def any_model(args: argparse.Namespace, name: str | None = None) -> Any:
    """The model `name`, or that of --model, of any task, on the device of --device."""
    return models.load(name or args.model).to(device(args))


def model(args: argparse.Namespace, name: str | None = None) -> models.Reconstructor:
    """The model `name`, or that of --model, on the device of --device, blockwise or not as --blockwise says.

    Raises:
        ValueError: it is a model for another task.
    """
    found = any_model(args, name)
    if not isinstance(found, models.Reconstructor):
        task = found.meta.get("task")
        raise ValueError(f"--model: expected a model for compressed sensing, got {name or args.model}, for {task}")
    if getattr(args, "blockwise", None) is not None:
        found.blockwise = args.blockwise
    found.solver.regulariser.precision = getattr(args, "precision", "float32")
    return found


def answer(args: argparse.Namespace, value: Any, text: str) -> None:
    """Prints `value` as JSON if --json was given, else `text`."""
    print(json.dumps(io.finite(value), indent=2, allow_nan=False) if args.json else text)


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A progress bar on stderr, where that is a terminal; gone when done."""
    from tqdm import tqdm

    return tqdm(items, disable=None, leave=False, dynamic_ncols=True, **options)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Aligned lines "name  value"."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def images(inputs: Sequence[str], suffixes: Sequence[str] = io.IMAGE_SUFFIXES) -> list[Path]:
    """The files that `inputs` name, see io.expand; skimage:NAME is an image that comes inside scikit-image."""
    found: list[Path] = []
    for name in inputs:
        found += [bundled(name.removeprefix(BUNDLED))] if name.startswith(BUNDLED) else io.expand([name], suffixes)
    return found


def bundled(name: str, argument: str = "skimage") -> Path:
    """The file of an image that comes inside scikit-image; `argument` asked for it.

    Raises:
        ValueError: there is none of that name.
    """
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    names = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in (".png", ".jpg")}
    if name not in names:
        raise ValueError(f"{argument}: expected one of {', '.join(names)}, got {name!r}")
    return names[name]


def stems(paths: list[Path]) -> list[str]:
    """The names of the outputs of these inputs.

    Raises:
        ValueError: two of them are the same.
    """
    first: dict[str, Path] = {}
    for path in paths:
        if path.stem in first:
            raise ValueError(
                f"{first[path.stem]} and {path}: expected inputs with different names, got two {path.stem!r}"
            )
        first[path.stem] = path
    return list(first)


def remarks(notes: Sequence[str]) -> str:
    """Notes in brackets, if any."""
    return f" [{'; '.join(notes)}]" if notes else ""
