"""What is known to be wrong with the pgpool-II that is installed on this server, our package or Debian's own.

known-faults.json was made when this package was built; patches.json comes with pgpool2 and says which of our patches it
has. Debian's own package has no such file, and none of them.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
PATCHES = Path("/usr/share/pgpool2/patches.json")
TABLE = Path(__file__).resolve().parents[1] / "known-faults.json"
_PACKAGE = "pgpool2"
_RELATIONS = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}

FIX = "install the pgpool2 that is built together with this pgpool2-cluster"
ADVICE = "install a newer pgpool2, or keep strangers away from 9999/tcp, 9000/tcp and 9694/udp"
ADVICE_DEBIAN = f"{ADVICE}. Debian may have mended them in this revision: apt changelog {_PACKAGE}"


@dataclass(frozen=True, slots=True)
class Installed:
    """The pgpool2 that is installed: its Debian `version`, whether it is our package, and which patches it has."""

    version: str
    own: bool = False
    patches: frozenset[str] = frozenset()
    """Names of the patches that it has, or whose change is upstream's in it."""

    @property
    def upstream(self) -> str:
        """Upstream's version, without epoch and revision."""
        return self.version.rpartition(":")[2].rpartition("-")[0] or self.version


def installed() -> Installed | None:
    """Return the installed pgpool2; None where there is none, or dpkg does not tell now."""
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", _PACKAGE]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    if len(answer) != 2 or answer[0] != "installed":
        return None
    listed = _read(PATCHES)
    return Installed(answer[1], bool(listed), frozenset((*listed.get("patches", ()), *listed.get("upstream", ()))))


def table() -> Json:
    """Return the table that this package was built with; an empty one in a checkout."""
    return _read(TABLE)


def missing(found: Installed, known: Json) -> list[tuple[str, str]]:
    """Return each patch that the cluster relies on and that is not there, with what is missing without it, in order."""
    return [
        (patch["name"], patch["without"])
        for patch in known.get("patches", ())
        if patch["relied_on"] and patch["name"] not in found.patches and _is_for(patch["versions"], found.upstream)
    ]


def advisories(found: Installed, known: Json) -> list[str]:
    """Return what is known to be open, one line an advisory: CVEs, what they are, the version that mends them."""
    mended = {cve for patch in known.get("patches", ()) if patch["name"] in found.patches for cve in patch["mends"]}
    lines = []
    for advisory in known.get("advisories", ()):
        cves = [cve for cve in advisory["cves"] if cve not in mended]
        if cves and _concerns(advisory, found.upstream):
            lines.append(f"{', '.join(cves)} ({advisory['summary']}), fixed in {advisory['fixed_in']}")
    return lines


def _concerns(advisory: Json, upstream: str) -> bool:
    """Tell whether a version is before the one that was mended, and its branch was not mended by itself."""
    return _compares(upstream, "<<", advisory["fixed_in"]) and not any(
        upstream.startswith(f"{backport.rpartition('.')[0]}.") and _compares(upstream, ">=", backport)
        for backport in advisory["backports"]
    )


def _is_for(versions: Sequence[Sequence[Sequence[str]]], upstream: str) -> bool:
    """Tell whether a version is within all limits of one of the lines of series.in."""
    return any(all(_compares(upstream, relation, limit) for relation, limit in limits) for limits in versions)


@functools.cache
def _compares(version: str, relation: str, limit: str) -> bool:
    command = ["dpkg", "--compare-versions", version, _RELATIONS[relation], limit]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
