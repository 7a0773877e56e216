"""Reports: JSON, CSV and figures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrecon.io.files import atomic, encodable, shown


def finite(value: Any) -> Any:
    """`value` as JSON can say it: NaN and Inf as None, paths by their names, bytes that are no text as \\xff."""
    if isinstance(value, dict):
        return {encodable(str(k)): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, str | Path):
        return encodable(str(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as JSON, numbers that JSON cannot say as null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    with atomic(path) as f:
        f.write(text.encode())


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows with the same keys as CSV.

    Raises:
        ValueError: there is no row to name the columns.
    """
    import csv
    import io

    if not rows:
        raise ValueError(f"{shown(path)}: expected rows to write, got none")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as f:
        f.write(encodable(text.getvalue()).encode())


def write_figure(path: str | Path, figure: Any, dpi: int = 150) -> None:
    """Writes a matplotlib Figure as PNG."""
    with atomic(path) as f:
        figure.savefig(f, format="png", dpi=dpi)
