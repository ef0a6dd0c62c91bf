"""Bills of materials: what a .deb is, what it needs, and what it was built from, as CycloneDX and SPDX tell it.

A bill is made of what is published beside the .deb, so it is the same wherever and whenever it is made.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from debian.deb822 import PkgRelation
from packageurl import PackageURL

from pgpool_deb.errors import UsageError
from pgpool_deb.origin import Archive, Debian, Origin
from pgpool_deb.pins import Pins
from pgpool_deb.record import Record

from .licences import Licences, declared
from .stanzas import PoolFile

AUTHOR = "pgpool-deb"
"""The tool that made a document, and the vendor in the package URLs of our packages."""
_NEEDED = ("Pre-Depends", "Depends")
_USEFUL = ("Recommends", "Suggests")
_PERSON = re.compile(r"(?P<name>[^<]*?)\s*(?:<(?P<mail>[^>]*)>)?\s*")


@dataclass(frozen=True, slots=True)
class Dependency:
    """A package that a .deb declares to need, or to be more useful with.

    `clause` is what debian/control says, alternatives included; `version` is that of a package of the same build, else
    empty.
    """

    name: str
    field: str
    clause: str
    purl: str
    version: str

    @property
    def needed(self) -> bool:
        """Whether the package cannot be installed without it, or without an alternative to it."""
        return self.field in _NEEDED


@dataclass(frozen=True, slots=True)
class Source:
    """The source package that .debs were built from; `address` is where upstream has its tarball, "" if not known."""

    name: str
    version: str
    dsc: Archive
    purl: str
    origin: Origin
    debian: Debian
    address: str
    licences: Licences


@dataclass(frozen=True, slots=True)
class Bill:
    """What is told of one .deb; `built` is when the build ended, the time of the documents, too."""

    name: str
    version: str
    file: Archive
    purl: str
    maintainer: str
    summary: str
    homepage: str
    dependencies: tuple[Dependency, ...]
    source: Source
    buildinfo: Archive
    built: datetime

    @property
    def identity(self) -> uuid.UUID:
        """What tells these documents from all others: it follows from the .deb and the record of its build."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.file.sha256} {self.buildinfo.sha256}")

    @property
    def stem(self) -> str:
        """The name of its file without the suffix, which its documents have, too."""
        return self.file.name.removesuffix(".deb")


def bills(
    record: Record, source: Source, files: Iterable[PoolFile], controls: Mapping[str, Mapping[str, str]], release: str
) -> Iterator[Bill]:
    """Yield a bill for each .deb of an upload, whose source package this is.

    `controls` are the fields of debian/control by the names of the .debs. Raises UsageError where the record does not
    say when they were built.
    """
    if record.built is None:
        raise UsageError(f"{record.path} does not say when it was built", hint="./invoke build-deb builds it anew")
    sums = {Path(file.path).name: file.sha256 for file in files}
    buildinfo = Archive(record.path.name, sums[record.path.name])
    own = {name: controls[name] for name in sorted(sums) if name.endswith(".deb")}
    siblings = {one["Package"]: (_purl(one, release), one["Version"]) for one in own.values()}
    for name, control in own.items():
        yield Bill(
            name=control["Package"],
            version=control["Version"],
            file=Archive(name, sums[name]),
            purl=siblings[control["Package"]][0],
            maintainer=control.get("Maintainer", ""),
            summary=control.get("Description", "").partition("\n")[0],
            homepage=control.get("Homepage", ""),
            dependencies=tuple(_dependencies(control, siblings, release)),
            source=source,
            buildinfo=buildinfo,
            built=record.built,
        )


def person(maintainer: str) -> tuple[str, str]:
    """Return the name and the address of a Maintainer field, each "" where it has none."""
    found = _PERSON.fullmatch(maintainer)
    return (found["name"], found["mail"] or "") if found else ("", "")


def source_of(record: Record, release: str, pins: Pins) -> Source:
    """Return the source package that lies beside a .buildinfo; raises UsageError where it cannot be read."""
    origin = Origin.read(record.dsc)
    debian = origin.debian()
    return Source(
        name=record.source,
        version=record.version,
        dsc=Archive(record.dsc.name, record.sums[record.dsc.name]),
        purl=_purl({"Package": record.source, "Version": record.version, "Architecture": "source"}, release),
        origin=origin,
        debian=debian,
        address=origin.address(pins),
        licences=declared(debian.copyright),
    )


def _purl(control: Mapping[str, str], release: str) -> str:
    place, _, qualifiers = _of_any_version(control["Package"], control["Architecture"], release).partition("?")
    return f"{place}@{_in_purl(control['Version'])}?{qualifiers}"


@lru_cache(maxsize=1024)
def _of_any_version(name: str, architecture: str, release: str) -> str:
    return PackageURL("deb", AUTHOR, name, qualifiers={"arch": architecture, "distro": release}).to_string()


@lru_cache(maxsize=16)
def _in_purl(version: str) -> str:
    """Return a version as package URLs have it; all packages of a build have the same."""
    return PackageURL("deb", AUTHOR, "any", version).to_string().partition("@")[2]


@lru_cache(maxsize=1024)
def _of_debian(name: str, release: str) -> str:
    return PackageURL("deb", "debian", name, qualifiers={"distro": release}).to_string()


def _dependencies(
    control: Mapping[str, str], siblings: Mapping[str, tuple[str, str]], release: str
) -> Iterator[Dependency]:
    """Yield each package that is named, once: with the field that binds most."""
    seen: set[str] = set()
    for field in (*_NEEDED, *_USEFUL):
        for name, clause in _relations(control[field]) if field in control else ():
            if name not in seen:
                seen.add(name)
                purl, version = siblings.get(name) or (_of_debian(name, release), "")
                yield Dependency(name, field, clause, purl, version)


@lru_cache(maxsize=1024)
def _relations(text: str) -> tuple[tuple[str, str], ...]:
    """Return the packages that a field names, each with its clause."""
    clauses = PkgRelation.parse_relations(text)
    return tuple((str(one["name"]), PkgRelation.str([clause])) for clause in clauses for one in clause if one["name"])
