"""Read the kernel's table of neighbours: the link-layer address behind each network address."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...ground import programs
from ...ground.errors import ServerError

_IP_SECONDS = 5.0


def neighbours() -> Mapping[str, str]:
    """Return the link-layer addresses of the hosts that this machine has reached on its links; raises ServerError."""
    text = programs.run(["ip", "-json", "neighbour"], seconds=_IP_SECONDS)
    try:
        rows = json.loads(text or "[]")
        found = {str(row["dst"]): str(row["lladdr"]).lower() for row in rows if "lladdr" in row}
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"ip prints {text[:80]!r}", hint="ip -json neighbour") from error
    return found
