"""What a table is: cells, each measured on its own, so that a table begun is one that can be gone on with."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments

Row = dict[str, Any]
Key = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Unit:
    """A cell of a table, of one image.

    Attributes:
        key: what it is: the text and numbers that begin its row, and by which it is found again.
        measure: the rest of its row.
    """

    key: Key
    measure: Callable[[], Row]


@dataclass(frozen=True)
class Further:
    """A further number of a table's rows: its column there, what stands above its means, digits, and whether less is
    better; None: neither is."""

    column: str
    heading: str
    digits: int = 2
    less: bool | None = False


@dataclass(frozen=True)
class Table:
    """A table by name.

    Attributes:
        name, summary: for the command line.
        add_arguments: the options that it has beside those of all tables.
        units: from these options all that is to be measured, in an order of which any beginning is of use.
        columns: of rows: (line, column, number) of the table, say ("problem", "method", "psnr").
        heading: above it.
        also: further numbers, each with a table of its own below.
        less, digits: of the number, as of Further.
        draw: the figure of all rows; None: bars.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    units: Callable[[argparse.Namespace], list[Unit]]
    columns: tuple[str, str, str]
    heading: str
    also: tuple[Further, ...] = ()
    less: bool = False
    digits: int = 2
    draw: Callable[[Sequence[Row]], Any] | None = None

    def text(self, rows: Sequence[Row]) -> str:
        """All of it."""
        line, column, _ = self.columns
        parts = [markdown(rows, self.columns, self.heading, self.digits, self.less)]
        for n in self.also:
            parts.append(markdown(rows, (line, column, n.column), n.heading, n.digits, n.less))
        return "\n\n".join(parts)


TABLES: dict[str, Table] = {}


def register(table: Table) -> Table:
    """Makes a table one of `fastrecon reproduce`."""
    TABLES[table.name] = table
    return table


def kept(path: Path) -> list[Row]:
    """The rows of a table that was begun; none where the file is not there. A last line cut short is left out.

    Raises:
        ValueError: another line is no row.
    """
    if not path.exists():
        return []
    lines, rows = path.read_text().splitlines(), []
    for k, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif k < len(lines) - 1:
            raise ValueError(f"{io.shown(path)}: expected a row of a table in each line, got another in line {k + 1}")
    return rows


def same(key: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a row is that of a unit."""
    return all(k in row and row[k] == v for k, v in key.items())


def means(rows: Sequence[Row], columns: tuple[str, str, str]) -> dict[tuple[str, str], tuple[float, int]]:
    """The mean of the number, and of how many rows, by line and column; rows without number do not count."""
    line, column, number = columns
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get(number) is not None:
            found.setdefault((str(row[line]), str(row[column])), []).append(float(row[number]))
    return {k: (sum(v) / len(v), len(v)) for k, v in found.items()}


def names(rows: Iterable[Row], column: str) -> list[str]:
    """What stands in a column, each once."""
    return list(dict.fromkeys(str(row[column]) for row in rows))


def markdown(
    rows: Sequence[Row], columns: tuple[str, str, str], heading: str, digits: int = 2, less: bool | None = False
) -> str:
    """The table as text: means, the best of each line in bold if there is a best, and how many images where these
    differ."""
    lines, heads = names(rows, columns[0]), names(rows, columns[1])
    cells = means(rows, columns)
    most = max((count for _, count in cells.values()), default=0)
    text = [heading, "", f"| {columns[0]} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for line in lines:
        here = {h: cells[line, h] for h in heads if (line, h) in cells}
        whole = [mean for mean, count in here.values() if count == most]
        best = None if less is None or not whole else (min if less else max)(whole)

        def cell(head: str, here: dict[str, tuple[float, int]] = here, best: float | None = best) -> str:
            if head not in here:
                return "-"
            mean, count = here[head]
            told = f"{mean:.{digits}f}" if mean != best else f"**{mean:.{digits}f}**"
            return told if count == most else f"{told} ({count})"

        text.append(f"| {line} | " + " | ".join(cell(h) for h in heads) + " |")
    return "\n".join([*text, "", f"Means over {most} image{'s' if most != 1 else ''}."])


def add_pictures(
    parser: argparse.ArgumentParser, bundled: Sequence[str], what: str = "folders of pictures, picture files",
    noun: str = "images",
) -> None:  # fmt: skip
    """--data and --limit: `what` is measured, by default images that come with scikit-image."""
    parser.add_argument(
        "--data", nargs="+", type=arguments.name, metavar="DIR", default=[io.BUNDLED + name for name in bundled],
        help=f"{what}, or {arguments.BUNDLED_HELP} (default: {' '.join(bundled)} of those)",
    )  # fmt: skip
    parser.add_argument("--limit", type=arguments.integer(1, 10**6), metavar="N", help=f"the first N {noun} only")


def middle(pixels: Any, side: int) -> Any:
    """The side x side pixels in the middle, or as many as there are."""
    h, w = (min(side, n) for n in pixels.shape[:2])
    top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return pixels[top : top + h, left : left + w].copy()
