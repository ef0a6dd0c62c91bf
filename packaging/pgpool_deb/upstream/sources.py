"""The source of pgpool-II: a checked tarball, which comes from pins.py or local_source.py."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgpool_deb.ground import atomic, compiler_caches
from pgpool_deb.ground.errors import ToolkitError

from . import tarball, upstream_version

STATING_FILES = ("configure.ac", "configure")
"""Files that state pgpool-II's version."""


@dataclass(frozen=True, slots=True)
class Source:
    """A complete, checked tarball with one top directory, which dpkg-source accepts under `orig_name`.

    `version` is a Debian upstream version; `sha256` is the tarball's; `date` is in seconds since 1970 (a pin's release
    date, else the commit's or the newest file's); `origin` describes where it comes from. A source that
    `needs_autoreconf` has no configure, so the build makes one in the builder root (debian/build.mk). It also lacks the
    built manual pages and HTML of release tarballs.
    """

    version: str
    tarball: Path
    suffix: str
    sha256: str
    pinned: bool
    date: int
    origin: str
    needs_autoreconf: bool
    proved: bool = False
    """Whether it is a pinned release that passed the tests (sources.toml)."""
    place: str = ""
    """The path that --source named; "" for a pinned release."""

    @property
    def trust(self) -> str:
        """The trust of builds of this source, which selects their compiler cache (compiler_caches.py)."""
        return compiler_caches.PROVED if self.proved else compiler_caches.trust_in(self.place or self.sha256)

    @property
    def orig_name(self) -> str:
        """The file name that dpkg-source requires for the tarball."""
        return f"pgpool2_{self.version}.orig.tar.{self.suffix}"


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a tarball; `stated` is the version in configure.ac, None if that is not pgpool-II's."""

    stated: str | None
    has_configure: bool
    newest: int
    top: str = ""
    commit: str | None = None


def checked(path: Path, sha256: str, cache: Path, refusal: type[ToolkitError]) -> Facts:
    """Return the facts of a tarball, which is checked once for each SHA-256; raises `refusal` if a check fails."""
    record = cache / "checked" / f"{sha256}.json"
    try:
        return Facts(**read_record(record))
    except TypeError:
        contents = tarball.check(path, STATING_FILES, refusal=refusal)
    texts = contents.texts
    stated = upstream_version.stated_in(texts.get("configure.ac"), texts.get("configure"))
    facts = Facts(stated, "configure" in texts, contents.newest, contents.top, contents.commit)
    write_record(record, asdict(facts))
    return facts


def read_record(path: Path) -> dict[str, Any]:
    """Return the record that `write_record` wrote; a missing or damaged record is empty."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record of the cache. A failure is ignored, because a missing record only costs time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, json.dumps(value, sort_keys=True))
