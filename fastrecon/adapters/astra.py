"""ASTRA's geometries as operators: `radon_from_astra`. ASTRA itself is not needed: its geometries are dictionaries."""

from typing import Any

import numpy as np

from fastrecon.checks import expect
from fastrecon.operators import Radon

OP = "radon_from_astra"


def radon_from_astra(proj_geom: dict[str, Any], vol_geom: dict[str, Any]) -> Radon:
    """The operator of an ASTRA scanner, with its order of angles and detectors, and its unit of length.

    Args:
        proj_geom: of astra.create_proj_geom, type "parallel" or "fanflat".
        vol_geom: of astra.create_vol_geom, with square pixels; its window may lie anywhere.

    Raises:
        ValueError: the geometry is another.
    """
    kind = proj_geom.get("type") if isinstance(proj_geom, dict) else None
    expect(kind in ("parallel", "fanflat"), OP, "proj_geom", "a geometry of type parallel or fanflat", kind)
    fits = isinstance(vol_geom, dict) and {"GridRowCount", "GridColCount"} <= vol_geom.keys()
    expect(fits, OP, "vol_geom", "a geometry of create_vol_geom in two dimensions", vol_geom)
    rows, columns = int(vol_geom["GridRowCount"]), int(vol_geom["GridColCount"])
    window = vol_geom.get("option", {})
    left, right = (float(window.get(f"WindowM{e}X", s * columns / 2)) for e, s in (("in", -1), ("ax", 1)))
    low, high = (float(window.get(f"WindowM{e}Y", s * rows / 2)) for e, s in (("in", -1), ("ax", 1)))
    pixel, other = (right - left) / columns, (high - low) / rows
    expect(abs(pixel - other) <= 1e-6 * pixel, OP, "vol_geom", "square pixels", (pixel, other))
    centre = high / pixel - 0.5, -left / pixel - 0.5  # row and column of the origin
    more: dict[str, Any] = {}
    if kind == "fanflat":
        more = {
            "geometry": "fan",
            "source_distance": float(proj_geom["DistanceOriginSource"]),
            "detector_distance": float(proj_geom["DistanceOriginDetector"]),
        }
    angles = np.asarray(proj_geom["ProjectionAngles"], dtype=np.float64)
    count, width = int(proj_geom["DetectorCount"]), float(proj_geom["DetectorWidth"])
    return Radon((rows, columns), angles, count, width, pixel=pixel, centre=centre, **more)  # type: ignore[arg-type]
