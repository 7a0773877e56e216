"""The right of one run to write into a folder: two at once would overwrite each other's files."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fastrecon import io
from fastrecon.train import checkpoint

LOCK, HOLDER = ".run.lock", ".run.json"
MODEL, LOG = "model.safetensors", "log.csv"


class Claim:
    """A lock on a run's folder. The kernel lifts it when the process ends, however it ends.

    It rests on flock: over NFS that holds between machines only where the server's lock service runs. The lock's file
    stays in the folder and means nothing by itself.

    Args:
        folder: of the run.
        wanted: false in processes that write nothing.
    """

    def __init__(self, folder: Path, wanted: bool = True):
        self.folder, self.wanted = folder, wanted
        self._lock = FileLock(folder / LOCK, timeout=0)
        self._made: list[Path] = []  # folders that were not there before, the innermost first

    def take(self) -> None:
        """Makes the folder if necessary and locks it; a second time does nothing.

        Raises:
            ValueError: it cannot be written to, or another run holds it; the line says which.
        """
        if not self.wanted or self._lock.is_locked:
            return
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        io.output_folder(self.folder)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"train: --out: expected a folder that no other run uses, got {str(self.folder)!r},"
                f" which {_holder(self.folder)} is training in"
            ) from None
        except OSError as error:
            raise ValueError(f"train: --out: {self.folder / LOCK}: cannot be locked ({error.strerror})") from error
        self._sweep()
        io.write_json(self.folder / HOLDER, {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})

    def _sweep(self) -> None:
        """Removes what a run that was killed while writing left under temporary names."""
        for name in (checkpoint.NAME, checkpoint.PREVIOUS, MODEL, LOG, HOLDER):
            for left in self.folder.glob(f".{name}.*tmp"):
                with contextlib.suppress(OSError):
                    left.unlink()

    def release(self) -> None:
        """Lets others in; a new folder into which nothing has been written goes again."""
        if self._lock.is_locked and self._made and {p.name for p in self.folder.iterdir()} <= {LOCK, HOLDER}:
            with contextlib.suppress(OSError):
                (self.folder / HOLDER).unlink(missing_ok=True)
                (self.folder / LOCK).unlink(missing_ok=True)  # whoever waits for it sees that it is gone
                for made in self._made:
                    made.rmdir()
        elif self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()


def _holder(folder: Path) -> str:
    """The other run, as far as it is known."""
    import json

    try:
        found: Any = json.loads((folder / HOLDER).read_bytes())
        return f"process {int(found['pid'])}, since {str(found['since'])[:19]},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
