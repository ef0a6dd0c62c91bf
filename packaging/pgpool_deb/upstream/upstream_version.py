"""Derive Debian upstream versions of pgpool-II from the version that a source states.

    AC_INIT 4.6.1, tag V4_6_1          4.6.1
    AC_INIT 4.7RC1, tag V4_7_0_RC1     4.7.0~rc1
    AC_INIT 4.8devel                   4.8~devel
    commits after that, or no tag      4.6.1+git20250601.0a1b2c3d
    commits before the tag they state  4.6.2~untagged+git20250601.0a1b2c3d ("~git" would be below 4.6.2~rc1)
    with uncommitted changes           …+git20250601.0a1b2c3d.dirty9f8e7d6c
    neither released nor in git        4.6.1+local20250601.9f8e7d6c

They sort by development order (deb-version(7)): devel < alpha < beta < rc < release < later commits < next release.
The versions of two commits of one day differ, but their hashes decide which sorts first.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

_STATED = re.compile(r"([0-9]+(?:\.[0-9]+){1,3})(?:[-_.~]?(devel|alpha|beta|rc)([0-9]*))?", re.IGNORECASE)
_TAG = re.compile(r"V([0-9]+(?:_[0-9]+){1,3})(?:_(ALPHA|BETA|RC)([0-9]*))?")
_NAMED = re.compile(
    r"(?:pgpool(?:-II|2)?[-_])?V?([0-9]+(?:[._][0-9]+){1,3}(?:[-_.~]?(?:alpha|beta|rc)[0-9]*)?)(?:\.orig)?(?:\.t\w+(?:\.\w+)?)?",
    re.IGNORECASE,
)
_AC_INIT = re.compile(r"^\s*AC_INIT\(\s*\[?\s*pgpool-II\s*\]?\s*,\s*\[?\s*([^\]\s,)]+)", re.MULTILINE)
_CONFIGURE = re.compile(r"^PACKAGE_NAME='pgpool-II'$.*?^PACKAGE_VERSION='([^'\n]+)'$", re.MULTILINE | re.DOTALL)


class PreRelease(StrEnum):
    """The kind of a version before its release."""

    DEVEL = "devel"
    ALPHA = "alpha"
    BETA = "beta"
    RC = "rc"


@dataclass(frozen=True, slots=True)
class UpstreamVersion:
    """A version that upstream has named; `stage` is None for a release. `str()` is a valid Debian upstream version."""

    release: tuple[int, ...]
    stage: PreRelease | None = None
    number: int | None = None

    def __str__(self) -> str:
        release = ".".join(map(str, self.release))
        if self.stage is None:
            return release
        return f"{release}~{self.stage}{'' if self.number is None else self.number}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of a git checkout; `dirty` is a SHA-256 of the content if it has uncommitted changes.

    `tags` are the names of all tags on the commit. `before_tag` means that this repository has a tag of the stated
    version, but not on an ancestor of the commit. `date` is in seconds since 1970.
    """

    commit: str
    date: int
    tags: Collection[str] = ()
    before_tag: bool = False
    dirty: str | None = None


def parse(text: str) -> UpstreamVersion | None:
    """Return the version that AC_INIT states ("4.6.1", "4.7RC1", "4.8devel"), None if it has another form."""
    match = _STATED.fullmatch(text)
    return _version(match[1].split("."), match[2], match[3]) if match else None


def parse_tag(tag: str) -> UpstreamVersion | None:
    """Return the version that a tag of upstream's repository names ("V4_7_0_RC1"), None for any other tag."""
    match = _TAG.fullmatch(tag)
    return _version(match[1].split("_"), match[2], match[3]) if match else None


def _version(release: list[str], stage: str | None, number: str | None) -> UpstreamVersion:
    # Upstream writes 4.7RC1 in configure.ac and V4_7_0_RC1 in the tag: both are 4.7.0~rc1. A devel version never gets
    # a tag and stays 4.8~devel, which sorts below all versions of 4.8.0.
    numbers = tuple(map(int, release))
    parsed = PreRelease(stage.lower()) if stage else None
    if parsed is PreRelease.DEVEL:
        numbers = numbers[:2] if numbers[2:] == (0,) else numbers
    elif len(numbers) == 2:
        numbers = (*numbers, 0)
    return UpstreamVersion(numbers, parsed, int(number) if number else None)


def stated_in(configure_ac: str | None, configure: str | None) -> str | None:
    """Return the version that pgpool-II's configure.ac or configure states; None if neither is pgpool-II's."""
    match = (configure_ac and _AC_INIT.search(configure_ac)) or (configure and _CONFIGURE.search(configure))
    return match[1] if match else None


def is_named_in(version: UpstreamVersion, name: str) -> bool:
    """Return whether a file or folder name such as "pgpool-II-4.6.1" or "pgpool2_4.7.0~rc1.orig" names `version`.

    No name can name a devel version, because all of upstream's commits share one until the next release.
    """
    match = _NAMED.fullmatch(name)
    return match is not None and parse(match[1].replace("_", ".")) == version


def of_commit(stated: UpstreamVersion, snapshot: Snapshot) -> str:
    """Return the Debian upstream version of a git checkout that states `stated`."""
    if snapshot.dirty is None and stated in map(parse_tag, snapshot.tags):
        return str(stated)
    base = f"{stated}~untagged" if snapshot.before_tag else str(stated)
    version = f"{base}+git{day(snapshot.date)}.{snapshot.commit[:8]}"
    return version if snapshot.dirty is None else f"{version}.dirty{snapshot.dirty[:8]}"


def of_local_content(stated: UpstreamVersion, date: int, digest: str) -> str:
    """Return the Debian upstream version of a source that is neither a release nor in git; `digest` is its SHA-256."""
    return f"{stated}+local{day(date)}.{digest[:8]}"


def day(date: int) -> str:
    """Return the day (UTC) of `date`, in seconds since 1970, as YYYYMMDD."""
    return time.strftime("%Y%m%d", time.gmtime(date))
