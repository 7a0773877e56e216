"""deepinv itself, in the versions whose classes the adapters know."""

from typing import Any

from fastrecon.adapters._peer import peer

dinv: Any = peer("deepinv", "0.5", "0.6")
