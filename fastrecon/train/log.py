"""The record of a run: log.csv, TensorBoard where it is installed, and one line for people."""

import csv
import importlib.util
import io as text_io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.io import reason

VALIDATION = "validation_"  # before the name of the task's metric: a column
FIRST = "validation_psnr"  # the column of all metrics once, of those that should be small with the other sign


class Log:
    """log.csv of a run, continued after `step`; TensorBoard too, where it is installed.

    Args:
        folder: of the run.
        step: the last one whose row stays.
        metric: what validation measures, which names its column.
        sign: 1 if more of it is better, else -1.
    """

    def __init__(self, folder: Path, step: int, metric: str = "psnr", sign: int = 1):
        self.path, self.sign = folder / "log.csv", sign
        self.columns = ("step", "stage", "rate", "loss", "psnr", VALIDATION + metric, "seconds")
        rows = list(self._kept(step)) if step and self.path.is_file() else []
        with io.atomic(self.path) as file:
            file.write(b"".join(map(self._line, [dict(zip(self.columns, self.columns, strict=True)), *rows])))
        self.board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def _kept(self, step: int) -> Iterator[dict[str, str]]:
        """The whole rows up to `step`: later ones will be made again; a line that a kill cut off is not one."""
        text = self.path.read_bytes().replace(b"\0", b"").decode(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        for row in csv.DictReader(text_io.StringIO(whole, newline="")):
            complete = None not in row and None not in row.values()
            if complete and row.get("step", "").isdecimal() and int(row["step"]) <= step:
                if FIRST in row and FIRST not in self.columns and row[FIRST]:
                    row[self.columns[5]] = f"{self.sign * float(row[FIRST])}"
                yield {name: row.get(name, "") for name in self.columns}

    def _line(self, row: dict[str, Any]) -> bytes:
        text = text_io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerow(row)
        return text.getvalue().encode()

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row in one piece; missing columns stay empty.

        Raises:
            OSError: one line that names the file.
        """
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(self._line(row))
        except OSError as error:
            raise OSError(f"train: {self.path}: cannot be written ({reason(error)})") from error
        if self.board:
            for name in ("rate", "loss", "psnr", self.columns[5]):
                if name in row:
                    self.board.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        """Writes what TensorBoard still holds."""
        if self.board:
            self.board.close()


def line(row: dict[str, Any]) -> str:
    """A row of the log for people."""
    text = f"{row['stage']}, loss {row['loss']:.3e}" + (f", {row['psnr']:.2f} dB" if "psnr" in row else "")
    for name, value in row.items():
        if name.startswith(VALIDATION) and value is not None:
            kept = ": not kept" if math.isnan(value) else ""
            text += f", validation {name.removeprefix(VALIDATION).upper()} {value:.2f} dB{kept}"
    return text
