"""The record of a run: log.csv, TensorBoard where it is installed, and one line for people."""

import csv
import importlib.util
import io as text_io
import math
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.io import reason
from fastrecon.train.objective import Score

VALIDATION = "validation_"  # before the name of the metric: a column
COLUMNS = ("step", "stage", "rate", "loss", "psnr", "validation", "seconds")  # until a validation names its metric
SCORE = COLUMNS.index("validation")


class Log:
    """log.csv of a run, continued after `step`; TensorBoard too, where it is installed.

    Args:
        folder: of the run.
        step: the last one whose row stays.
    """

    def __init__(self, folder: Path, step: int):
        self.path, self.columns, rows = folder / "log.csv", COLUMNS, []
        if step and self.path.is_file():
            named, rows = self._kept(step)
            self.columns = named or COLUMNS
        self._rewrite(rows)
        self.board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def _kept(self, step: int | float = math.inf) -> tuple[tuple[str, ...], list[dict[str, str]]]:
        """The columns, and the whole rows up to `step`: later ones will be made again; a line cut off is none."""
        text = self.path.read_bytes().replace(b"\0", b"").decode(errors="replace")
        reader, rows = csv.DictReader(text_io.StringIO(text[: text.rfind("\n") + 1], newline="")), []
        for row in reader:
            complete = None not in row and None not in row.values()
            if complete and row.get("step", "").isdecimal() and int(row["step"]) <= step:
                rows.append(row)
        names = tuple(reader.fieldnames or ())
        return names if names[:SCORE] == COLUMNS[:SCORE] and len(names) == len(COLUMNS) else (), rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        header = dict(zip(self.columns, self.columns, strict=True))
        with io.atomic(self.path) as file:
            file.write(b"".join(self._line({k: row.get(k, "") for k in self.columns}) for row in (header, *rows)))

    def _rename(self, score: Score) -> None:
        """Gives the column of the score its metric's name. Every metric was once kept as PSNR, with its sign."""
        old, new = self.columns[SCORE], VALIDATION + score.metric
        _, rows = self._kept()
        self.columns = (*COLUMNS[:SCORE], new, *COLUMNS[SCORE + 1 :])
        for row in rows:
            text = row.get(old, "")
            flipped = text and old == VALIDATION + "psnr" and not score.higher_is_better
            row[new] = f"{-float(text)}" if flipped else text
        self._rewrite(rows)

    def _line(self, row: dict[str, Any]) -> bytes:
        text = text_io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerow(row)
        return text.getvalue().encode()

    def write(self, row: dict[str, Any], score: Score | None = None) -> None:
        """Adds a row in one piece; missing columns stay empty. The first `score` names its column.

        Raises:
            OSError: one line that names the file.
        """
        try:
            if score and self.columns[SCORE] != VALIDATION + score.metric:
                self._rename(score)
            with self.path.open("ab", buffering=0) as file:
                file.write(self._line(row))
        except OSError as error:
            raise OSError(f"train: {self.path}: cannot be written ({reason(error)})") from error
        if self.board:
            for name in ("rate", "loss", "psnr", self.columns[SCORE]):
                if name in row:
                    self.board.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        """Writes what TensorBoard still holds."""
        if self.board:
            self.board.close()


def line(row: dict[str, Any]) -> str:
    """A row of the log for people."""
    text = f"{row['stage']}, " if row["stage"] else ""
    text += f"loss {row['loss']:.3e}" + (f", {row['psnr']:.2f} dB" if "psnr" in row else "")
    for name, value in row.items():
        if name.startswith(VALIDATION) and value is not None:
            kept = ": not kept" if math.isnan(value) else ""
            metric = name.removeprefix(VALIDATION)
            told = f"{metric} {value:.4f}" if metric == "error" else f"{metric.upper()} {value:.2f} dB"
            text += f", validation {told}{kept}"
    return text
