"""The page at /: plain HTML, which needs nothing from elsewhere and is allowed nothing from there."""

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from fastrecon.problems.base import PROBLEMS
from fastrecon.solvers.methods import METHODS

HTML = resources.files("fastrecon.serving").joinpath("page.html").read_text("utf-8")


def _hash(tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; img-src blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def problems() -> list[dict[str, Any]]:
    """The problems and the methods of each, as plain facts."""
    return [
        {"name": p.name, "summary": p.summary, "methods": [m for m in p.methods if m in METHODS]}
        for p in PROBLEMS.values()
    ]
