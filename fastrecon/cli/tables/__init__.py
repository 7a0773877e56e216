"""Tables that `fastrecon reproduce` writes, one a file; each registers itself."""

from fastrecon.cli.tables import (
    dladmm,
    error_controlled,
    haze,
    lda,
    lda_courses,
    lda_mri,
    padnet_image,
    photographs,
    picture,
    sgp,
    slopes,
)
from fastrecon.cli.tables.base import TABLES, Table, Unit, register

__all__ = [
    "TABLES",
    "Table",
    "Unit",
    "dladmm",
    "error_controlled",
    "haze",
    "lda",
    "lda_courses",
    "lda_mri",
    "padnet_image",
    "photographs",
    "picture",
    "register",
    "sgp",
    "slopes",
]
