"""`./invoke update` without a version: report upstream's releases and Debian's advisories missing in sources.toml."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

import requests

from pgpool_deb.ground import web
from pgpool_deb.ground.errors import ExitStatus, MachineError
from pgpool_deb.ground.progress import Report
from pgpool_deb.upstream import upstream_version
from pgpool_deb.upstream.pins import Pins

UPSTREAM = "https://git.postgresql.org/git/pgpool2.git"
DEBIAN = "https://security-tracker.debian.org/tracker/source-package/pgpool2"
_TIMEOUT_SECONDS = 30
_CVE = re.compile(r"\bCVE-([0-9]{4})-[0-9]{4,}\b")

VersionNumber = tuple[int, ...]


def run(pins: Pins, report: Report) -> ExitStatus:
    """Report each piece of news on a line; returns ENVIRONMENT if upstream or Debian does not answer."""
    status = ExitStatus.GOOD
    lines: list[str] = []
    for find in (_new_releases, _new_advisories):
        try:
            lines += find(pins)
        except MachineError as error:
            report(f"warning: {error.message}")
            status = ExitStatus.ENVIRONMENT
    for line in lines:
        report(line)
    if not lines and status is ExitStatus.GOOD:
        report("sources.toml has the newest releases and all advisories of Debian's security tracker")
    return status


def _new_releases(pins: Pins) -> Iterator[str]:
    for version in new_releases(pins):
        yield f"pgpool-II {version} is tagged upstream and not pinned: ./invoke update --pgpool {version}"


def new_releases(pins: Pins) -> list[str]:
    """Return the releases that upstream has tagged and sources.toml does not have; raises MachineError."""
    pinned = {tuple(map(int, pin.version.split("."))) for pin in pins.pins}
    return [".".join(map(str, release)) for release in newer(_tagged(), pinned)]


def newer(tagged: Collection[VersionNumber], pinned: Collection[VersionNumber]) -> list[VersionNumber]:
    """Return the newest release of each branch that is newer than its pins; branches older than all pins have none."""
    newest = max(pinned)
    newest_of: dict[VersionNumber, VersionNumber] = {}
    for release in sorted(tagged):
        branch = release[:2]
        of_branch = [pin for pin in pinned if pin[:2] == branch]
        if release > max(of_branch, default=newest):
            newest_of[branch] = release
    return list(newest_of.values())


def _tagged() -> set[VersionNumber]:
    command = ["git", "ls-remote", "--tags", "--refs", UPSTREAM]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise MachineError(
            f"upstream's tags cannot be read ({UPSTREAM}): {lines[-1] if lines else error}", hint="check the network"
        ) from error
    tags = (upstream_version.parse_tag(line.rpartition("refs/tags/")[2]) for line in answer.stdout.splitlines())
    return {tag.release for tag in tags if tag is not None and tag.stage is None}


def _new_advisories(pins: Pins) -> Iterator[str]:
    for cve in new_cves(pins):
        yield f"{cve} is in Debian's security tracker and not in sources.toml: {DEBIAN}"


def new_cves(pins: Pins) -> list[str]:
    """Return the CVEs that Debian lists and sources.toml does not; raises MachineError.

    CVEs from years before the oldest pin are assumed to be fixed in all pins.
    """
    oldest = min(datetime.fromtimestamp(pin.date, UTC).year for pin in pins.pins)
    known = {cve for advisory in pins.known for cve in advisory.cves}
    named = {match[0] for match in _CVE.finditer(page(DEBIAN)) if int(match[1]) >= oldest}
    return sorted(named - known)


def page(address: str) -> str:
    """Return a page of Debian's security tracker; raises MachineError."""
    try:
        with web.get(address, timeout=_TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            return answer.text
    except requests.RequestException as error:
        reason = str(error).rpartition(": ")[2].rstrip("\"')")
        message = f"Debian's security tracker cannot be read ({address}): {reason}"
        raise MachineError(message, hint="check the network") from error
