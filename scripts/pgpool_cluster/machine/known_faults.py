"""Known faults of the pgpool-II that is installed on this server, be it our package or Debian's own.

known-faults.json is created when this package is built. patches.json comes with our pgpool2 and lists the patches that
it contains. Debian's own package has neither that file nor the patches.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ground import paths, ports, programs
from ..ground.programs import ProgramError

TABLE = Path(__file__).resolve().parents[2] / "known-faults.json"
_PACKAGE = "pgpool2"
_DPKG_SECONDS = 10.0
_RELATIONS = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}

FIX = "install the pgpool2 that is built together with this pgpool2-cluster"
ADVICE = (
    f"install a newer pgpool2, or restrict access to {ports.POOL}/tcp, {ports.WATCHDOG}/tcp and {ports.HEARTBEAT}/udp"
)
ADVICE_DEBIAN = f"{ADVICE}. Debian may have fixed them in this revision: apt changelog {_PACKAGE}"


@dataclass(frozen=True, slots=True)
class Installed:
    """The installed pgpool2: its Debian `version`, whether it is our package, and its patches."""

    version: str
    own: bool = False
    patches: frozenset[str] = frozenset()
    """Names of the patches that it contains, including those that upstream has merged."""

    @property
    def upstream(self) -> str:
        """The upstream version, without epoch and revision."""
        return self.version.rpartition(":")[2].rpartition("-")[0] or self.version


def installed() -> Installed | None:
    """Return the installed pgpool2; None if there is none, or dpkg-query fails."""
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", _PACKAGE]
    try:
        answer = programs.run(command, seconds=_DPKG_SECONDS).split()
    except ProgramError:
        return None
    if len(answer) != 2 or answer[0] != "installed":
        return None
    listed = _read(paths.PATCHES)
    return Installed(answer[1], bool(listed), frozenset((*listed.get("patches", ()), *listed.get("upstream", ()))))


def missing(found: Installed) -> list[tuple[str, str]]:
    """Return each missing patch that the cluster relies on, and what does not work without it, in order."""
    return [
        (patch["name"], patch["without"])
        for patch in _table().get("patches", ())
        if patch["relied_on"] and patch["name"] not in found.patches and _is_for(patch["versions"], found.upstream)
    ]


def advisories(found: Installed) -> list[str]:
    """Return one line for each open advisory: its CVEs, a summary, and the version that fixes it."""
    known = _table()
    fixed = {cve for patch in known.get("patches", ()) if patch["name"] in found.patches for cve in patch["mends"]}
    lines = []
    for advisory in known.get("advisories", ()):
        cves = [cve for cve in advisory["cves"] if cve not in fixed]
        if cves and _concerns(advisory, found.upstream):
            lines.append(f"{', '.join(cves)} ({advisory['summary']}), fixed in {advisory['fixed_in']}")
    return lines


def _concerns(advisory: dict[str, Any], upstream: str) -> bool:
    """Return whether a version is older than the fixed one, and its own branch has no backport of the fix."""
    return _compares(upstream, "<<", advisory["fixed_in"]) and not any(
        upstream.startswith(f"{backport.rpartition('.')[0]}.") and _compares(upstream, ">=", backport)
        for backport in advisory["backports"]
    )


def _is_for(versions: Sequence[Sequence[Sequence[str]]], upstream: str) -> bool:
    """Return whether a version satisfies all limits of one of the lines of series.in."""
    return any(all(_compares(upstream, relation, limit) for relation, limit in limits) for limits in versions)


@functools.cache
def _compares(version: str, relation: str, limit: str) -> bool:
    command = ["dpkg", "--compare-versions", version, _RELATIONS[relation], limit]
    return programs.attempt(command, seconds=_DPKG_SECONDS).returncode == 0


def _table() -> dict[str, Any]:
    """Return the table that this package was built with; in a checkout, it is empty."""
    return _read(TABLE)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
