"""What pgpool-II is built from: a checked tarball, wherever it comes from (pins.py, local_source.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import atomic, compiler_caches, tarball, upstream_version
from .errors import ToolkitError

Report = Callable[[str], None]

STATING_FILES = ("configure.ac", "configure")
"""Files that state pgpool-II's version."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tarball that dpkg-source takes as `orig_name`: whole, checked, with one top directory.

    `version` is a Debian upstream version; `sha256` is the tarball's; `date` is in seconds since 1970 (a pin's release
    date, else the commit's or the newest file's); `origin` says in a few words where it comes from. With
    `needs_autoreconf` it holds no configure: the build makes it in the builder root. (debian/build.mk;
    such a source also lacks the finished manual pages and HTML that release tarballs hold.)
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
    """It is a pinned release that passed the tests (sources.toml)."""
    place: str = ""
    """The path that --source named; "" for a pinned release."""

    @property
    def trust(self) -> str:
        """Whose builds may leave compiled files for those of this source (compiler_caches.py)."""
        return compiler_caches.PROVED if self.proved else compiler_caches.trust_in(self.place or self.sha256)

    @property
    def orig_name(self) -> str:
        """The file name that dpkg-source wants the tarball to have."""
        return f"pgpool2_{self.version}.orig.tar.{self.suffix}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a tarball says about itself; `stated` is the version in configure.ac, None where it is not pgpool-II's."""

    stated: str | None
    has_configure: bool
    newest: int
    top: str = ""
    commit: str | None = None


def checked(path: Path, sha256: str, cache: Path, refusal: type[ToolkitError]) -> Facts:
    """Return the facts of a tarball, checked once for each sha256."""
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
    """Return what `write_record` wrote; a damaged record is as good as none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record of the cache. One that cannot be written costs time only, here; what needs it will say so."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, json.dumps(value, sort_keys=True))
