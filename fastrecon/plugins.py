"""Parts from other packages: modules that they name as entry points of the group `fastrecon.plugins`."""

from importlib.metadata import entry_points

GROUP = "fastrecon.plugins"


def load() -> None:
    """Imports them, so that they register their problems, methods, models and recipes.

    Raises:
        ImportError: one cannot be imported; the line names it.
    """
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as e:  # whatever another's module trips over
            raise ImportError(f"{GROUP}: {entry.name}: expected a module that can be imported, got {e}") from e
