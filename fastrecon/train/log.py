"""The record of a run: log.csv, TensorBoard where it is installed, and one line for people."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

from fastrecon import io

COLUMNS: tuple[str, ...] = ("step", "stage", "rate", "loss", "psnr", "validation_psnr", "seconds")


class Log:
    """log.csv of a run, continued after `step`; TensorBoard too, where it is installed."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "log.csv"
        rows = []
        if step and self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= step]  # later ones will be made again
        with io.atomic(self.path) as file:
            file.write("\r\n".join([",".join(COLUMNS), *(",".join(r.values()) for r in rows), ""]).encode())
        self.board = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row; missing columns stay empty."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        if self.board:
            for name in ("rate", "loss", "psnr", "validation_psnr"):
                if name in row:
                    self.board.add_scalar(name, row[name], row["step"])


def line(row: dict[str, Any]) -> str:
    """A row of the log for people."""
    text = f"{row['stage']}, loss {row['loss']:.3e}" + (f", {row['psnr']:.2f} dB" if "psnr" in row else "")
    return text + (f", validation {row['validation_psnr']:.2f} dB" if "validation_psnr" in row else "")
