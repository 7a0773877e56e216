"""Commands over many inputs: what is checked before the work, one bad input stops no other, nothing done is lost."""

import argparse
import errno
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, console
from fastrecon.cli.progress import Progress
from fastrecon.startup import Terminated

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no other input can be written either


@dataclass
class Outcome:
    """results of the inputs that succeeded; those that failed, with the reason; what ended the work early, if so."""

    total: int
    results: list[Any] = field(default_factory=list)
    failed: list[tuple[Path, Exception]] = field(default_factory=list)
    ended: BaseException | None = None

    def faults(self) -> list[dict[str, Any]]:
        """The inputs that failed, for JSON."""
        return [{"input": path, "error": console.named(path, e)} for path, e in self.failed]

    def end(self) -> None:
        """Raises what there is to raise, once results are out: an interruption, or Failures."""
        if self.ended is not None:
            for path, e in self.failed:
                console.complain(f"fastrecon: {console.named(path, e)}")
            raise self.ended
        if self.failed:
            raise console.Failures(self.failed, self.total, len(self.results))


def each(paths: Sequence[Path], work: Callable[[Path, Progress], Any]) -> Outcome:
    """work(path, progress) for every path, whatever happens to the others.

    Raises:
        ValueError: the only input failed; or all did.
        KeyboardInterrupt, Terminated: before anything was done.
    """
    outcome = Outcome(len(paths))
    if not paths:
        return outcome
    with Progress(len(paths)) as progress:
        for path in paths:
            progress.item(path.name)
            try:
                outcome.results.append(work(path, progress))
            except Exception as e:
                if len(paths) == 1:
                    raise ValueError(console.named(path, e)) from e
                if os.environ.get("FASTRECON_DEBUG") == "1":
                    traceback.print_exc()
                outcome.failed.append((path, e))
                if isinstance(e, OSError) and e.errno in FULL:
                    break
            except (KeyboardInterrupt, Terminated) as e:
                outcome.ended = e
                break
    if not outcome.results:
        outcome.end()
    return outcome


def write_each(
    args: argparse.Namespace, paths: Sequence[Path], ends: Sequence[str],
    produce: Callable[[Path, Path, Progress], dict[str, Any]], line: Callable[[dict[str, Any]], str],
) -> None:  # fmt: skip
    """Makes the results of each input in --out and tells of each as soon as it is there.

    Args:
        args: with `inputs`, `out`, `json` and what `arguments.add_out` adds.
        paths: the inputs.
        ends: of the names of the results of one input, the last written last.
        produce: (input, folder and stem of its results, progress) to a report.
        line: a report in words.

    Raises:
        ValueError: two inputs have one name; --out is one of the input folders, or not writable; results exist.
        Failures: some inputs failed.
    """
    stems = dict(zip(paths, arguments.stems(paths), strict=True))
    apart(args.out, args.inputs)
    folder = Path(args.out)
    files = {path: [folder / f"{stem}{end}" for end in ends] for path, stem in stems.items()}
    todo = list(paths)
    if args.skip_existing:
        todo = [path for path in paths if not files[path][-1].exists()]
    free(
        (f for path in todo for f in files[path]),
        args.overwrite or args.skip_existing,
        "--overwrite or --skip-existing",
    )
    io.output_folder(args.out)
    skipped = [path for path in paths if path not in todo]
    if skipped and not args.json:
        console.say(f"{len(skipped)} of {len(paths)} inputs skipped: their results are in {io.shown(folder)}")

    def work(path: Path, progress: Progress) -> dict[str, Any]:
        report = produce(path, folder / stems[path], progress)
        if not args.json:
            progress.say(line(report))
        return report

    outcome = each(todo, work)
    if args.json:
        rows = [{"input": path, "skipped": True, "files": {"report": files[path][-1]}} for path in skipped]
        arguments.answer(args, [*rows, *outcome.results, *outcome.faults()], "")
    outcome.end()


def outputs(args: argparse.Namespace, *files: str | Path | None) -> None:
    """Looks at the files that a command writes at its end, before its work.

    Raises:
        ValueError: one cannot be written, is a folder, or exists and --overwrite is not given.
    """
    free(files, args.overwrite)
    inputs = [*(getattr(args, "inputs", None) or []), *(getattr(args, "data", None) or [])]
    for file in files:
        if file is None:
            continue
        for name in inputs:
            if os.path.exists(name) and os.path.exists(file) and os.path.samefile(name, file):
                raise ValueError(f"{io.shown(file)}: expected another file than the input, which would be lost")
        io.output_file(file)


def apart(out: str, inputs: Iterable[str]) -> None:
    """Raises ValueError where --out is a folder of inputs: the next run would take results for inputs."""
    for name in inputs:
        if Path(name).is_dir() and Path(out).exists() and os.path.samefile(name, out):
            raise ValueError(f"--out: expected another folder than that of the inputs, got {io.shown(out)}")


def free(files: Iterable[Path | str | None], overwrite: bool, option: str = "--overwrite") -> None:
    """Looks at the files that a command will write, before its work.

    Raises:
        ValueError: one is a folder; or one exists, unless it may be overwritten, which `option` asks for.
    """
    targets = [Path(f) for f in files if f is not None]
    for path in targets:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise ValueError(f"{io.shown(path)}: expected the name of a file to write, got {kind}")
    found = [path for path in targets if path.exists() or path.is_symlink()]
    if found and not overwrite:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ValueError(
            f"{io.shown(found[0])}{more}: expected no file of that name yet, got one that exists: give {option}"
        )
