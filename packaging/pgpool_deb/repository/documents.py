"""Check published documents: bills of materials, and the signed statements that name them.

A statement covers one build of a source package, and names the .debs and their documents with SHA-256. The repository
itself builds the keyring package from the files of keyring/, so that package has no documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pgpool_deb.builds.statement import CYCLONEDX, SIGNATURE, SPDX, STATEMENT, Statement

from . import gpg
from .findings import Finding
from .inside import Lack
from .keyring import NAME
from .places import Place
from .reading import ReadSuite
from .stanzas import PoolFile

_COMMON = ("amd64", "arm64", "all")
"""Architectures that may occur in the name of a statement at a URL, besides those of the packages."""


@dataclass(slots=True)
class Build:
    """The .debs and source files of one version of a source package, by their names in `folder`."""

    folder: str
    version: str
    debs: dict[str, PoolFile] = field(default_factory=dict)
    files: dict[str, PoolFile] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The prefix of the names of its statements."""
        return f"{self.folder.rpartition('/')[2]}_{self.version}_"


def builds(suites: Iterable[ReadSuite]) -> list[Build]:
    """Return the builds whose .debs the suites name, each once."""
    found: dict[tuple[str, str], Build] = {}
    for suite in suites:
        for path, file in suite.files.items():
            folder, _, name = path.rpartition("/")
            if name.endswith((".deb", ".dsc")) and not folder.endswith(f"/{NAME}"):
                version = name.removesuffix(".dsc").split("_")[1] if "_" in name else ""
                build = found.setdefault((folder, version), Build(folder, version))
                (build.debs if name.endswith(".deb") else build.files)[name] = file
    return [build for build in found.values() if build.debs]


def architectures(suites: Iterable[ReadSuite]) -> list[str]:
    """Return the architectures that may occur in the names of the suites' statements, the likely ones first."""
    own = {package.architecture for suite in suites for package in suite.packages}
    return [*sorted(own - {"all"}), *(name for name in _COMMON if name not in own or name == "all")]


def of_build(place: Place, build: Build, architectures: Sequence[str], key: bytes) -> list[Finding]:
    """Return a fault for each document of a build that is missing, foreign, changed or extra; raises MachineError."""
    return list(_Walk(place, build, place.names(build.folder)).findings(architectures, key))


@dataclass(slots=True)
class _Walk:
    """One check of the documents of a build; `listed` holds the names in its folder, None if unknown (at a URL)."""

    place: Place
    build: Build
    listed: Collection[str] | None
    covered: set[str] = field(default_factory=set)
    """The .debs that statements name."""
    expected: set[str] = field(default_factory=set)
    """The expected names of the build's documents, statements and signatures."""
    legible: bool = True

    def findings(self, architectures: Sequence[str], key: bytes) -> Iterator[Finding]:
        for name in self._statements(architectures):
            if self.listed is None and self.covered >= set(self.build.debs):
                break
            data = self.place.read(self._path(name))
            if data is not Lack.MISSING:
                yield from self._statement(name, data, key)
        without = sorted(set(self.build.debs) - self.covered)
        if not self.legible:
            return  # the files that it names are unknown
        for deb in without:
            yield Finding(f"{self._path(deb)} has no statement: no {self.build.stem}*{STATEMENT} names it")
            yield from (one for name in _documents(deb) for one in self._missing(name))
        if not without:
            yield from self._extra()

    def _statements(self, architectures: Sequence[str]) -> list[str]:
        """Return the names of the build's statements; at a URL, the possible names."""
        if self.listed is None:
            return [f"{self.build.stem}{architecture}{STATEMENT}" for architecture in architectures]
        return [name for name in self.listed if name.startswith(self.build.stem) and name.endswith(STATEMENT)]

    def _statement(self, name: str, data: bytes | Lack, key: bytes) -> Iterator[Finding]:
        self.expected |= {name, f"{name}{SIGNATURE}"}
        path = self._path(name)
        if isinstance(data, Lack):
            self.legible = False
            yield Finding(f"{path} {data}")
            return
        signature = self.place.read(f"{path}{SIGNATURE}")
        if isinstance(signature, Lack):
            yield Finding(f"{path}{SIGNATURE} {signature}")
        elif not gpg.signs(signature, data, key):
            yield Finding(f"{path}{SIGNATURE} is not a signature of {name} by a key in the keyring")
        try:
            statement = Statement.parse(data)
        except ValueError as error:
            self.legible = False
            yield Finding(f"{path} is not a valid statement: {error}")
            return
        self.covered |= set(statement.subjects) & set(self.build.debs)
        yield from self._compared(path, statement)
        yield from self._beside(name, statement)

    def _compared(self, path: str, statement: Statement) -> Iterator[Finding]:
        """Yield the differences between a statement and the indexes about a .deb or the source package."""
        for name, sha256 in statement.subjects.items():
            file = self.build.debs.get(name)
            if file is None:
                yield Finding(f"{path} names {name}, which is in no suite")
            elif file.sha256 != sha256:
                yield Finding(f"{path} and Packages have different SHA-256 values of {name}")
        for name, sha256 in statement.materials.items():
            if name in self.build.files and self.build.files[name].sha256 != sha256:
                yield Finding(f"{path} and Sources have different SHA-256 values of {name}")

    def _beside(self, statement: str, contents: Statement) -> Iterator[Finding]:
        """Yield faults of the files that a statement names, or should name, as byproducts."""
        about = {name: deb for deb in contents.subjects for name in _documents(deb)}
        self.expected |= set(about)
        for name, deb in about.items():
            if name not in contents.byproducts:
                yield Finding(f"{self._path(statement)} does not name {name}")
                yield from self._missing(name)
            elif found := self._different(name, contents.byproducts[name], contents.subjects[deb], statement):
                yield found
        record = f"{statement.removesuffix(STATEMENT)}.buildinfo"
        for name, sha256 in contents.byproducts.items():
            if name == record:
                if found := self._different(name, sha256, "", statement):
                    yield found
            elif name not in about:
                yield Finding(f"{self._path(statement)} names {name}, which describes none of its packages")

    def _different(self, name: str, sha256: str, about: str, statement: str) -> Finding | None:
        """Return the fault of a file, None if it has none.

        `sha256` is the file's SHA-256 in the statement; `about` is that of its .deb.
        """
        data = self.place.read(self._path(name))
        if isinstance(data, Lack):
            return Finding(f"{self._path(name)} {data}")
        if hashlib.sha256(data).hexdigest() != sha256:
            return Finding(f"{self._path(name)} does not match its SHA-256 in {statement}")
        if about.encode() not in data:
            return Finding(f"{self._path(name)} describes another .deb: it lacks the SHA-256 of this one")
        return None

    def _missing(self, name: str) -> Iterator[Finding]:
        self.expected.add(name)
        if isinstance(lack := self.place.read(self._path(name)), Lack):
            yield Finding(f"{self._path(name)} {lack}")

    def _extra(self) -> Iterator[Finding]:
        """Yield documents of this version that no statement names; `prune` handles those of unpublished versions."""
        for name in self.listed or ():
            ours = name.endswith((CYCLONEDX, SPDX, STATEMENT, f"{STATEMENT}{SIGNATURE}"))
            if ours and f"_{self.build.version}_" in name and name not in self.expected:
                yield Finding(f"{self._path(name)} is extra: no statement names it")

    def _path(self, name: str) -> str:
        return f"{self.build.folder}/{name}"


def _documents(deb: str) -> list[str]:
    return [f"{deb.removesuffix('.deb')}{suffix}" for suffix in (CYCLONEDX, SPDX)]
