"""Findings of check-repository: faults, and warnings about faults to come. Pure, except for running gpg."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from debian.debian_support import Version

from pgpool_deb.ground.errors import printable

from . import gpg, signing, stanzas
from .stanzas import Stanza

_DAY = 24 * 3600
_SUITE_DAYS = 10
"""Warn if Valid-Until is closer than this, in days; every publish renews a suite with fewer than 20 days left."""
Packages = Mapping[str, Sequence[Stanza]]
"""The packages of each suite, by its name."""


class FindingKind(StrEnum):
    """The severity of a finding: a present fault, or one that will occur soon."""

    FAULT = "fault"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of check-repository."""

    text: str
    kind: FindingKind = FindingKind.FAULT

    @property
    def line(self) -> str:
        """The line to print."""
        return f"{self.kind}: {printable(self.text)}"


def of_keys(keyring: bytes, now: int) -> Iterator[Finding]:
    """Yield a fault if no key of a keyring signs or if one has expired, and a warning for one with < 60 days left."""
    ends = {one.fingerprint: one.end for one in gpg.public_keys(keyring) if one.signing}
    if not ends:
        yield Finding("no key in the keyring can sign")
    for fingerprint, left in signing.ending(ends, now).items():
        if left < 0:
            yield Finding(f"the key {fingerprint} has expired")
        else:
            yield Finding(f"the key {fingerprint} expires in {left} days", FindingKind.WARNING)


def of_validity(suite: str, release: str, now: int, *, archived: bool) -> Iterator[Finding]:
    """Yield a fault if apt refuses a Release text as expired, and a warning if it has < 10 days left.

    The Release text of an archived suite has no Valid-Until and never expires.
    """
    end = stanzas.valid_until(release)
    if end is None:
        if not archived:
            yield Finding(f"{suite}: Release has no Valid-Until, so apt would accept an outdated state")
        return
    left = end - now
    if left < 0:
        yield Finding(f"{suite}: Valid-Until passed {-left // _DAY} days ago, and apt rejects the suite")
    elif left < _SUITE_DAYS * _DAY:
        yield Finding(
            f"{suite}: Valid-Until passes in {left // _DAY} days; the next publish re-signs the suite",
            FindingKind.WARNING,
        )


def of_owners(suite: str, contents: str) -> Iterator[Finding]:
    """Yield a fault for each path that two packages own according to a suite's Contents."""
    for line in contents.splitlines():
        path, _, owners = line.rpartition(" ")
        if "," in owners:
            yield Finding(f"{suite}: {owners.replace(',', ' and ')} both contain /{path}")


def of_versions(packages: Packages) -> Iterator[Finding]:
    """Yield a fault for each package that is newer in an older release, which blocks its upgrade to the next one."""
    for first, second in pairwise(sorted(packages, key=lambda name: _order(name, packages[name]))):
        if first.partition("-")[1:] != second.partition("-")[1:]:
            continue
        newest = {name: stanzas.newest(packages[name]) for name in (first, second)}
        for package, version in newest[first].items():
            later = newest[second].get(package)
            if later is not None and Version(later) < Version(version):
                yield Finding(f"{package}: {version} in {first} is newer than {later} in {second}")


def _order(suite: str, packages: Sequence[Stanza]) -> tuple[str, int]:
    """Return the sort key of a suite: its kind, then its release number, from the +debN of its versions."""
    numbers = (re.search(r"[+]deb(\d+)[+]", stanza.version) for stanza in packages)
    return suite.partition("-")[2], max((int(one[1]) for one in numbers if one), default=0)
