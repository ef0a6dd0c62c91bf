"""What check-repository finds: a line for each fault, and for each that is to come. Pure, but for gpg."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from debian.debian_support import Version

from pgpool_deb.errors import printable

from . import gpg, signing, stanzas
from .stanzas import Stanza

_DAY = 24 * 3600
_SUITE_DAYS = 10
"""With fewer days until Valid-Until, a warning is due: any publish signs with 20 left."""
Packages = Mapping[str, Sequence[Stanza]]
"""The packages of each suite, by its name."""


class Kind(StrEnum):
    """Whether something is wrong, or will be soon."""

    FAULT = "fault"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that check-repository has to say."""

    text: str
    kind: Kind = Kind.FAULT

    @property
    def line(self) -> str:
        """The line that is printed."""
        return f"{self.kind}: {printable(self.text)}"


def of_keys(keyring: bytes, now: int) -> Iterator[Finding]:
    """Yield a fault where no key of a keyring signs, or one has expired; a warning where one expires within 60 days."""
    ends = {one.fingerprint: one.end for one in gpg.public_keys(keyring) if one.signing}
    if not ends:
        yield Finding("no key of the keyring signs")
    for fingerprint, left in signing.ending(ends, now).items():
        if left < 0:
            yield Finding(f"the key {fingerprint} has expired")
        else:
            yield Finding(f"the key {fingerprint} signs for {left} days yet", Kind.WARNING)


def of_validity(suite: str, release: str, now: int, *, archived: bool) -> Iterator[Finding]:
    """Yield a fault where apt refuses a Release text, a warning where it soon will; an archived suite never ends."""
    end = stanzas.valid_until(release)
    if end is None:
        if not archived:
            yield Finding(f"{suite}: it has no Valid-Until: apt cannot tell an old state from the newest")
        return
    left = end - now
    if left < 0:
        yield Finding(f"{suite}: apt refuses it since {-left // _DAY} days: Valid-Until has passed")
    elif left < _SUITE_DAYS * _DAY:
        yield Finding(f"{suite}: apt refuses it in {left // _DAY} days; any publish signs it anew", Kind.WARNING)


def of_owners(suite: str, contents: str) -> Iterator[Finding]:
    """Yield a fault for each path that two packages own, by a suite's Contents."""
    for line in contents.splitlines():
        path, _, owners = line.rpartition(" ")
        if "," in owners:
            yield Finding(f"{suite}: /{path} is in {owners.replace(',', ' and ')}")


def of_versions(packages: Packages) -> Iterator[Finding]:
    """Yield a fault for each package that is newer in an older release: servers go over to the next by upgrading."""
    for first, second in pairwise(sorted(packages, key=lambda name: _order(name, packages[name]))):
        if first.partition("-")[1:] != second.partition("-")[1:]:
            continue
        newest = {name: stanzas.newest(packages[name]) for name in (first, second)}
        for package, version in newest[first].items():
            later = newest[second].get(package)
            if later is not None and Version(later) < Version(version):
                yield Finding(f"{package}: {version} of {first} is newer than {later} of {second}")


def _order(suite: str, packages: Sequence[Stanza]) -> tuple[str, int]:
    """Return what suites are sorted by: their kind, then their release by the +debN of its versions."""
    numbers = (re.search(r"[+]deb(\d+)[+]", stanza.version) for stanza in packages)
    return suite.partition("-")[2], max((int(one[1]) for one in numbers if one), default=0)
