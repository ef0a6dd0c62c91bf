"""Suites of a state: read them from the previous state, and write their indexes and signatures to the new one."""

from __future__ import annotations

import bisect
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from debian.debian_support import Version

from pgpool_deb.ground.errors import UsageError

from . import gpg, inside, stanzas
from .indexer import compressed
from .inside import Lack
from .signing import Key
from .stanzas import Indexed, PoolFile, Stanza

VALID_DAYS = 30
"""The days from signing a suite to its Valid-Until."""
RENEWED_DAYS = 20
"""Every publish signs a suite again if it has fewer days than this until Valid-Until."""
_DAY = 24 * 3600
_LIKE = "restore the file from an earlier state in snapshot/"
SUMMARY = "suite.json"
TESTING = "testing"
"""The suffix of the names of suites for packages that still have to be tested."""
_SERVER_MODULE = re.compile(r"postgresql-(\d+)-pgpool2")


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version of a source package in a suite, and the PostgreSQL majors that it has modules for."""

    source: str
    version: str
    majors: tuple[int, ...]

    @property
    def order(self) -> tuple[str, Version]:
        """The sort key of rows."""
        return self.source, _version(self.version)


@lru_cache(maxsize=4096)
def _version(text: str) -> Version:
    return Version(text)


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of a suite (suite.json), stored so that readers need not parse the indexes. `rows` are sorted."""

    name: str
    release: str
    unproved: tuple[str, ...]
    rows: tuple[PublishedVersion, ...]
    newest: dict[str, str]
    keyring: str
    archived: bool


@dataclass(slots=True)
class Suite:
    """A suite; `contents` is by architecture, `unproved` holds the titles of packages that no matrix has proved."""

    name: str
    release: str
    packages: tuple[Stanza, ...] = ()
    sources: tuple[Stanza, ...] = ()
    contents: dict[str, str] = field(default_factory=dict)
    unproved: tuple[str, ...] = ()
    rows: tuple[PublishedVersion, ...] = ()
    newest: dict[str, str] = field(default_factory=dict)
    """The newest version of each package, by its name."""
    keyring: str = ""
    """The hash of the contents of its newest keyring package."""
    archived: bool = False
    """Its release is past its end of life: nothing is added, and it has no Valid-Until."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures of its packages and Contents; an architecture is never removed."""
        found = {stanza.architecture for stanza in self.packages} - {"all"}
        return tuple(sorted(found | set(self.contents))) or ("amd64",)

    @property
    def places(self) -> set[str]:
        """The paths of all its .debs and .dscs."""
        return {stanza.place for stanza in (*self.packages, *self.sources)}

    @property
    def files(self) -> tuple[PoolFile, ...]:
        """All files that its indexes name."""
        return tuple(file for stanza in (*self.packages, *self.sources) for file in stanza.files)

    def grow(self, added: Indexed) -> None:
        """Add packages that the suite lacks; apart from the merging, the cost depends only on their number."""
        self.packages = stanzas.merged(self.packages, added.packages)
        self.sources = stanzas.merged(self.sources, added.sources)
        for architecture, lines in added.contents.items():
            there = self.contents.get(architecture, "")
            self.contents[architecture] = stanzas.merged_contents(there, lines)
        majors: dict[str, list[int]] = {}
        for one in added.packages:
            if module := _SERVER_MODULE.fullmatch(one.package):
                majors.setdefault(one.version, []).append(int(module[1]))
        rows = list(self.rows)
        for source in added.sources:
            row = PublishedVersion(source.package, source.version, tuple(sorted(majors.get(source.version, ()))))
            bisect.insort(rows, row, key=lambda row: row.order)
        self.rows = tuple(rows)
        self.newest = stanzas.newest(added.packages, self.newest)

    def indexes(self) -> dict[str, str]:
        """Return the texts of its indexes by their uncompressed paths."""
        found = {"main/source/Sources": stanzas.written(self.sources)}
        for architecture in self.architectures:
            own = (one for one in self.packages if one.architecture in (architecture, "all"))
            found[f"main/binary-{architecture}/Packages"] = stanzas.written(own)
            found[f"main/Contents-{architecture}"] = self.contents.get(architecture, "")
        return found


def named(state: Path | None) -> dict[str, str]:
    """Return the suites of a state by their names, each with its release."""
    return {one.name: one.release for one in summaries(state)}


def summaries(state: Path | None) -> tuple[Summary, ...]:
    """Return the summaries of the suites of a state; raises UsageError if one cannot be read."""
    if state is None:
        return ()
    return tuple(_summary(state / "dists" / name) for name in inside.names(state, "dists"))


def files_named(state: Path) -> set[str]:
    """Return the paths of all files that the suites of a state name; raises UsageError if one is damaged."""
    return {file.path for name, release in named(state).items() for file in read(state, name, release).files}


def verified(state: Path | None, name: str, release: str, key: Key) -> Suite:
    """Return a suite of a state, an empty one if the state lacks it.

    Raises UsageError if it is damaged, or if its InRelease is not signed by the key.
    """
    if state is not None and (state / "dists" / name).is_dir():
        _verify(state, name, key)
    return read(state, name, release)


def ends_soon(state: Path, name: str, moment: int) -> bool:
    """Return whether a suite has fewer than 20 days until Valid-Until."""
    found = stanzas.valid_until(_read(state / "dists" / name, "Release").decode(errors="replace"))
    return found is not None and (found - moment) // _DAY < RENEWED_DAYS


def read(state: Path | None, name: str, release: str) -> Suite:
    """Return a suite of a state, an empty one if the state lacks it; raises UsageError if it is damaged."""
    suite = Suite(name, release)
    folder = state / "dists" / name if state is not None else None
    if folder is None or not folder.is_dir():
        return suite
    indexes = listed(folder)
    for path, file in indexes.items():
        if path.endswith("/Packages.gz"):
            suite.packages = stanzas.merged(suite.packages, stanzas.parsed(_index(folder, path, file)))
        elif path.endswith("/Sources.gz"):
            suite.sources = stanzas.parsed(_index(folder, path, file))
        elif path.endswith(".gz"):
            suite.contents[path.partition("Contents-")[2].removesuffix(".gz")] = _index(folder, path, file)
    _checked(folder, SUMMARY, indexes.get(SUMMARY))
    summary = _summary(folder)
    suite.unproved, suite.rows, suite.newest = summary.unproved, summary.rows, summary.newest
    suite.keyring, suite.archived = summary.keyring, summary.archived
    return suite


def write(state: Path, suite: Suite, key: Key, moment: int) -> None:
    """Write a suite's indexes, Release, InRelease and Release.gpg below a new state."""
    folder = state / "dists" / suite.name
    named: dict[str, bytes] = {}
    for path, text in suite.indexes().items():
        named[path] = text.encode()
        named[f"{path}.gz"] = compressed(text)
        _write(folder / f"{path}.gz", named[f"{path}.gz"])
    rows = [[row.source, row.version, list(row.majors)] for row in suite.rows]
    newest = dict(sorted(suite.newest.items()))
    summary = {
        "release": suite.release,
        "unproved": list(suite.unproved),
        "rows": rows,
        "newest": newest,
        "keyring": suite.keyring,
        **({"archived": True} if suite.archived else {}),
    }
    named[SUMMARY] = (json.dumps(summary) + "\n").encode()  # listed in Release, so the signature covers it
    _write(folder / SUMMARY, named[SUMMARY])
    _sign(folder, suite, named, key, moment)


def _sign(folder: Path, suite: Suite, named: Mapping[str, bytes], key: Key, moment: int) -> None:
    description = stanzas.described(suite.release, suite.name, suite.unproved, archived=suite.archived)
    valid_until = None if suite.archived else moment + VALID_DAYS * _DAY
    text = stanzas.ReleaseFields(suite.name, description, suite.architectures, moment, valid_until).text(named)
    _write(folder / "Release", text.encode())
    _write(folder / "Release.gpg", key.signature(text, moment).encode())
    _write(folder / "InRelease", key.clearsigned(text, moment).encode())


def listed(folder: Path) -> dict[str, PoolFile]:
    """Return the indexes that the Release of a suite in this folder names; raises UsageError if Release is missing."""
    return stanzas.listed(_read(folder, "Release").decode(errors="replace"))


def _verify(state: Path, name: str, key: Key) -> None:
    """Raise UsageError if a suite's InRelease is not signed by this key, or if Release has another text."""
    folder = state / "dists" / name
    text = gpg.verified(_read(folder, "InRelease"), key.public)
    if text is None or text.encode() != _read(folder, "Release"):
        hint = "pass the key that signed it with --key, or restore the suite from an earlier state in snapshot/"
        raise UsageError(f"{folder / 'InRelease'} is not signed by this key", hint=hint)


def _summary(folder: Path) -> Summary:
    try:
        found = json.loads(_read(folder, SUMMARY))
        rows = tuple(
            PublishedVersion(str(name), str(version), tuple(map(int, majors)))
            for name, version, majors in found["rows"]
        )
        newest = {str(name): str(version) for name, version in found["newest"].items()}
        unproved = tuple(map(str, found["unproved"]))
        archived = found.get("archived", False) is True
        return Summary(folder.name, str(found["release"]), unproved, rows, newest, str(found["keyring"]), archived)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder / SUMMARY) from error


def _index(folder: Path, path: str, file: PoolFile) -> str:
    return gzip.decompress(_checked(folder, path, file)).decode()


def _checked(folder: Path, path: str, file: PoolFile | None) -> bytes:
    """Return a file of a suite; raises UsageError if its SHA-256 is not the one in Release."""
    data = _read(folder, path)
    if file is None or hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(folder / path)
    return data


def _read(folder: Path, path: str) -> bytes:
    """Return a file of a suite.

    Raises UsageError if it is missing, not a regular file, or outside the repository, MachineError if it is unreadable.
    """
    data = inside.read(folder.parents[1], f"dists/{folder.name}/{path}")
    if isinstance(data, Lack):
        raise UsageError(f"{folder / path} {data}", hint=_LIKE)
    return data


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged", hint=_LIKE)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
