"""Bills of materials: the identity, dependencies and sources of a .deb, for the CycloneDX and SPDX documents.

A bill is derived only from files published beside the .deb, so it is identical on every machine and at every time.
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

from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.ground.errors import UsageError
from pgpool_deb.packages.origin import Debian, DscFile, Origin
from pgpool_deb.upstream.pins import Pins

from .licences import Licences, declared
from .stanzas import PoolFile

AUTHOR = "pgpool-deb"
"""The tool that a document names as its author, and the vendor in the package URLs of our packages."""
_NEEDED = ("Pre-Depends", "Depends")
_USEFUL = ("Recommends", "Suggests")
_PERSON = re.compile(r"(?P<name>[^<]*?)\s*(?:<(?P<mail>[^>]*)>)?\s*")


@dataclass(frozen=True, slots=True)
class Dependency:
    """A package that a .deb depends on, recommends or suggests.

    `clause` is the clause of debian/control, including alternatives. `version` is set for packages of the same build,
    and otherwise empty.
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
class BilledSource:
    """The source package that .debs were built from; `address` is the URL of upstream's tarball, "" if unknown."""

    name: str
    version: str
    dsc: DscFile
    purl: str
    origin: Origin
    debian: Debian
    address: str
    licences: Licences


@dataclass(frozen=True, slots=True)
class Bill:
    """The facts about one .deb; `built` is the time at which its build ended, and the time of its documents."""

    name: str
    version: str
    file: DscFile
    purl: str
    maintainer: str
    summary: str
    homepage: str
    dependencies: tuple[Dependency, ...]
    source: BilledSource
    buildinfo: DscFile
    built: datetime

    @property
    def identity(self) -> uuid.UUID:
        """The unique identifier of its documents, derived from the .deb and its .buildinfo."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.file.sha256} {self.buildinfo.sha256}")

    @property
    def stem(self) -> str:
        """The file name without `.deb`; the names of its documents begin with it."""
        return self.file.name.removesuffix(".deb")


def bills(
    record: BuildRecord,
    source: BilledSource,
    files: Iterable[PoolFile],
    controls: Mapping[str, Mapping[str, str]],
    release: str,
) -> Iterator[Bill]:
    """Yield a bill for each .deb of an upload that was built from `source`.

    `controls` holds the debian/control fields by the file names of the .debs. Raises UsageError if the record lacks
    the build date.
    """
    if record.built is None:
        raise UsageError(f"{record.path} has no Build-Date", hint="./invoke build-deb rebuilds it")
    sums = {Path(file.path).name: file.sha256 for file in files}
    buildinfo = DscFile(record.path.name, sums[record.path.name])
    own = {name: controls[name] for name in sorted(sums) if name.endswith(".deb")}
    siblings = {one["Package"]: (_purl(one, release), one["Version"]) for one in own.values()}
    for name, control in own.items():
        yield Bill(
            name=control["Package"],
            version=control["Version"],
            file=DscFile(name, sums[name]),
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
    """Return the name and the address of a Maintainer field, each "" if missing."""
    found = _PERSON.fullmatch(maintainer)
    return (found["name"], found["mail"] or "") if found else ("", "")


def source_of(record: BuildRecord, release: str, pins: Pins) -> BilledSource:
    """Return the source package beside a .buildinfo; raises UsageError if it cannot be read."""
    origin = Origin.read(record.dsc)
    debian = origin.debian()
    return BilledSource(
        name=record.source,
        version=record.version,
        dsc=DscFile(record.dsc.name, record.sums[record.dsc.name]),
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
    """Return a version encoded for package URLs; cached, as all packages of a build have the same version."""
    return PackageURL("deb", AUTHOR, "any", version).to_string().partition("@")[2]


@lru_cache(maxsize=1024)
def _of_debian(name: str, release: str) -> str:
    return PackageURL("deb", "debian", name, qualifiers={"distro": release}).to_string()


def _dependencies(
    control: Mapping[str, str], siblings: Mapping[str, tuple[str, str]], release: str
) -> Iterator[Dependency]:
    """Yield each package that is named, once, with the strongest field that names it."""
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
