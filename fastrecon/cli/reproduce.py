"""`fastrecon reproduce`: the tables of the documentation, measured here."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrecon import io
from fastrecon.cli import arguments, batch, console, reconstruct
from fastrecon.cli.progress import Progress
from fastrecon.cli.tables import TABLES, Table
from fastrecon.cli.tables.base import Row, kept, means, names, same

EPILOG = """examples:
  fastrecon reproduce picture --out tables/picture
  fastrecon reproduce picture --data set11 --side 180 --limit 2 --out tables/picture
  fastrecon reproduce picture --rows inpaint --methods auto fista tikhonov --out tables/inpaint

DIR receives rows.jsonl, a line for each image and cell as soon as it is measured, and from these table.md, table.csv,
table.json and table.png. The same command with the same DIR goes on where it was stopped: rows that are there are not
measured again, others are added to the table."""

ROWS = "rows.jsonl"
FILES = ("table.md", "table.csv", "table.json", "table.png")
METRICS = ("psnr", "ssim")  # whose names are initials


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """The options, those of the table that `words` name among them."""
    parser.epilog = EPILOG
    told = "; ".join(f"{t.name}, {t.summary}" for t in TABLES.values())
    parser.add_argument("table", metavar="NAME", choices=tuple(TABLES), help=told)
    parser.add_argument("--out", type=arguments.name, metavar="DIR", required=True, help="folder of the table")
    arguments.add_overwrite(parser)
    reconstruct.add_seed(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)
    table = next((TABLES[w] for w in words if w in TABLES), None)
    if table is not None:
        table.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measures what is missing, and writes the table of all rows.

    Raises:
        ValueError: --out holds a table that is none of ours, or all cells failed.
    """
    table, folder = TABLES[args.table], Path(args.out)
    batch.apart(args.out, getattr(args, "data", None) or [])
    path = folder / ROWS
    rows = [] if args.overwrite else kept(path)
    batch.free(
        (folder / name for name in FILES), bool(rows) or args.overwrite, "--overwrite, or a folder with its rows"
    )
    other = {str(row["table"]) for row in rows} - {table.name}
    if other:
        raise ValueError(f"--out: expected a folder for the table {table.name}, got one of {', '.join(other)}")
    units = table.units(args)
    io.output_folder(args.out)
    missing = [u for u in units if not any(same(u.key, row) for row in rows)]
    if not args.json and len(missing) < len(units):
        console.say(f"{len(units) - len(missing)} of {len(units)} rows are there already")
    _rewrite(path, rows)
    faults: list[Row] = []
    try:
        with Progress(max(len(missing), 1), "row") as progress, path.open("a", encoding="utf-8") as file:
            for unit in missing:
                progress.item(", ".join(str(v) for v in unit.key.values() if isinstance(v, str)))
                try:
                    row = {"table": table.name} | unit.key | unit.measure()
                except Exception as e:  # of one image or one library: the others are told
                    if os.environ.get("FASTRECON_DEBUG") == "1":
                        raise
                    faults.append(unit.key | {"error": io.reason(e)})
                    continue
                rows.append(row)
                file.write(json.dumps(io.finite(row)) + "\n")
                file.flush()
    finally:
        if rows:
            _write(folder, table, rows)
    if not rows:
        raise ValueError(f"reproduce: expected rows, got an error in each: {faults[0]['error'] if faults else ''}")
    text = table.text(rows)
    arguments.answer(args, {"table": table.name, "means": _means(table, rows), "rows": rows, "failed": faults}, text)
    for fault in faults:
        console.complain(f"fastrecon: {', '.join(str(v) for v in fault.values() if v is not None)}")


def _rewrite(path: Path, rows: Sequence[Row]) -> None:
    """The rows alone, whole lines."""
    with io.atomic(path) as file:
        file.write("".join(json.dumps(io.finite(row)) + "\n" for row in rows).encode())


def _means(table: Table, rows: Sequence[Row]) -> list[dict[str, Any]]:
    line, column, number = table.columns
    found = means(rows, table.columns)
    return [{line: a, column: b, number: mean, "images": count} for (a, b), (mean, count) in found.items()]


def _write(folder: Path, table: Table, rows: Sequence[Row]) -> None:
    """table.md, table.csv, table.json, table.png."""
    from fastrecon import figures

    with io.atomic(folder / FILES[0]) as file:
        file.write((table.text(rows) + "\n").encode())
    columns = list(dict.fromkeys(k for row in rows for k in row))
    io.write_csv(folder / FILES[1], [{k: row.get(k) for k in columns} for row in rows])
    io.write_json(folder / FILES[2], _means(table, rows))
    if table.draw is not None:
        io.write_figure(folder / FILES[3], table.draw(rows))
        return
    line, column, number = table.columns
    cells = {k: mean for k, (mean, _) in means(rows, table.columns).items()}
    label = number.upper() if number in METRICS else number
    drawn = figures.bars(cells, names(rows, line), names(rows, column), label, table.heading)
    io.write_figure(folder / FILES[3], drawn)
