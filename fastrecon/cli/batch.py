"""Commands over many inputs: what is checked before the work, one bad input stops no other, nothing done is lost."""

import argparse
import contextlib
import errno
import json
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, console
from fastrecon.cli.progress import Progress
from fastrecon.cli.stages import Item, Stages, ahead, at_once, threads
from fastrecon.startup import Terminated

MANIFEST = "manifest.json"
Make = Callable[[Sequence[Item], Callable[[Any], str] | None], "Outcome"]
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


class Full(Exception):
    """Nothing more can be written."""


@dataclass
class Turns:
    """The results that are being written, in the order of their inputs, and what became of those before.

    Attributes:
        tell: hears each report as soon as it is its turn.
        pending: the inputs whose results are not there yet.
    """

    outcome: Outcome
    tell: Callable[[Any], None]
    pending: deque[tuple[Item, Future[Any]]] = field(default_factory=deque)

    def settle(self, most: int) -> None:
        """Hears what is there, and waits until at most so many are pending.

        Raises:
            ValueError: the only input failed.
            Full: the disk is.
        """
        while self.pending and (len(self.pending) > most or self.pending[0][1].done()):
            wait([self.pending[0][1]])
            item, future = self.pending.popleft()
            failure = future.exception()
            if failure is None:
                self.outcome.results.append(future.result())
                self.tell(future.result())
            elif isinstance(failure, Exception):
                self._failed(item.path, failure)
            else:
                raise failure

    def _failed(self, path: Path, e: Exception) -> None:
        if self.outcome.total == 1:
            raise ValueError(console.named(path, e)) from e
        if os.environ.get("FASTRECON_DEBUG") == "1":
            traceback.print_exception(e)
        self.outcome.failed.append((path, e))
        if isinstance(e, OSError) and e.errno in FULL:
            raise Full from e


def each(
    stages: Stages[Any, Any], items: Sequence[Item], line: Callable[[Any], str] | None = None, jobs: int = 0
) -> Outcome:
    """Takes every input through all stages, whatever happens to the others.

    Args:
        stages: what is done with each.
        items: the inputs.
        line: says the report of each in words, in the order of the inputs.
        jobs: inputs that are read ahead, and results that are written behind, of the one that is computed.

    Raises:
        ValueError: the only input failed; or all did.
        KeyboardInterrupt, Terminated: before anything was done.
    """
    outcome = Outcome(len(items))
    if not items:
        return outcome
    jobs = jobs if len(items) > 1 else 0
    with Progress(len(items)) as progress, threads(jobs) as (to_reader, to_writer), contextlib.suppress(Full):
        turns = Turns(outcome, lambda report: None if line is None else progress.say(line(report)))
        try:
            for item, source in ahead(items, to_reader, stages.read, jobs):
                progress.item(item.path.name)
                made = at_once(lambda item=item, source=source: stages.compute(item, source.result(), progress))
                turns.pending.append((item, made if made.exception() else to_writer(stages.write, item, made.result())))
                del source, made  # else the last one read would be kept while others are
                turns.settle(jobs)
            turns.settle(0)
        except (KeyboardInterrupt, Terminated) as e:
            outcome.ended = e
            turns.settle(0)  # what was computed is written
    if not outcome.results:
        outcome.end()
    return outcome


def write_each(
    args: argparse.Namespace, paths: Sequence[Path], ends: Sequence[str], make: Make, line: Callable[[Any], str]
) -> None:
    """Makes the results of each input in --out and tells of each as soon as it is there.

    Args:
        args: with `inputs`, `out`, `json` and what `arguments.add_out` adds; `manifest`, whether to write one.
        paths: the inputs.
        ends: of the names of the results of one input, the last written last.
        make: the results of items, and tells of each by the line that it is given; `each` with its stages, say.
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
    manifest = [folder / MANIFEST] if getattr(args, "manifest", False) else []
    targets = [*manifest, *(f for path in todo for f in files[path])]
    free(targets, args.overwrite or args.skip_existing, "--overwrite or --skip-existing")
    io.output_folder(args.out)
    skipped = [path for path in paths if path not in todo]
    if skipped and not args.json:
        console.say(f"{len(skipped)} of {len(paths)} inputs skipped: their results are in {io.shown(folder)}")
    items = [Item(path, folder / stems[path]) for path in todo]
    outcome = make(items, None if args.json else line)
    for target in manifest:
        before = [_before(path, files[path][-1]) for path in skipped]
        io.write_json(target, [*before, *outcome.results, *outcome.faults()])
    if args.json:
        rows = [{"input": path, "skipped": True, "files": {"report": files[path][-1]}} for path in skipped]
        arguments.answer(args, [*rows, *outcome.results, *outcome.faults()], "")
    outcome.end()


def _before(path: Path, report: Path) -> dict[str, Any]:
    """The row of an input whose results were there: what its report says, without histories."""
    try:
        told = json.loads(report.read_text())
    except (OSError, ValueError):
        told = {}
    kept = {k: v for k, v in told.items() if k != "history"} if isinstance(told, dict) else {}
    return {"input": path, "files": {"report": report}} | kept | {"skipped": True}


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
