"""Tables that `fastrecon reproduce` writes, one a file; each registers itself."""

from fastrecon.cli.tables import haze, padnet_image, picture, slopes
from fastrecon.cli.tables.base import TABLES, Table, Unit, register

__all__ = ["TABLES", "Table", "Unit", "haze", "padnet_image", "picture", "register", "slopes"]
