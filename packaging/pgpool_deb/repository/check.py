"""`./invoke check-repository`: what apt would find of a repository, in a folder or at a URL, and for how long."""

from __future__ import annotations

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import requests
from debian.debian_support import Version

from pgpool_deb import machine, web
from pgpool_deb.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.project import Project
from pgpool_deb.releases import ReleaseTable, State

from . import gpg, signing, stanzas
from .keyring import NAME
from .stanzas import PoolFile, Stanza
from .states import Report
from .suites import SUMMARY, TESTING
from .trial import Trials, offered

_DAY = 24 * 3600
_SUITE_DAYS = 10
_TIMEOUT = 30.0
_BLOCK = 1 << 20
_LARGEST_INDEX = 256 << 20


class Place(Protocol):
    """Where a repository is."""

    def suites(self) -> list[str]:
        """Return the names of its suites."""

    def read(self, path: str) -> bytes | None:
        """Return a small file below it, None where it is missing; raises MachineError."""

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file below it, None where it is missing; raises MachineError.

        No more than `size` bytes and a block are read.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A repository in a folder of this machine."""

    path: Path

    def suites(self) -> list[str]:
        """Return the names of the folders in dists/."""
        return sorted(one.name for one in (self.path / "dists").iterdir() if one.is_dir())

    def read(self, path: str) -> bytes | None:
        """Return the contents of a file."""
        place = self.path / path
        if self.path.resolve() not in place.resolve().parents:
            raise UsageError(f"{place} leads out of the repository", hint="remove the symbolic link")
        return place.read_bytes() if place.is_file() else None

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file."""
        place = self.path / path
        if self.path.resolve() not in place.resolve().parents:
            raise UsageError(f"{place} leads out of the repository", hint="remove the symbolic link")
        if not place.is_file():
            return None
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), place.stat().st_size


@dataclass(frozen=True, slots=True)
class Address:
    """A repository at a URL."""

    url: str

    def suites(self) -> list[str]:
        """Return what keyring/suites names: the web has no lists of folders."""
        listed = self.read("keyring/suites")
        if listed is None:
            raise UsageError(f"{self.url} has no keyring/suites", hint="it is no repository of ours, or not whole")
        return listed.decode(errors="replace").split()

    def read(self, path: str) -> bytes | None:
        """Return the body of an answer, at most 256 MB."""
        blocks = self._blocks(path)
        if blocks is None:
            return None
        data = bytearray()
        for block in blocks:
            data += block
            if len(data) > _LARGEST_INDEX:
                raise MachineError(f"{self.url}/{path} does not end", hint="this is no index of ours")
        return bytes(data)

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of the body of an answer, as far as it is read."""
        blocks = self._blocks(path)
        if blocks is None:
            return None
        found, read = hashlib.sha256(), 0
        for block in blocks:
            found.update(block)
            read += len(block)
            if read > size:
                break
        return found.hexdigest(), read

    def _blocks(self, path: str) -> Iterator[bytes] | None:
        try:
            answer = web.get(f"{self.url}/{path}", timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
        except requests.RequestException as error:
            raise MachineError(f"{self.url}/{path}: {error}", hint="is the web server up?") from error
        if answer.status_code == requests.codes.not_found:
            return None
        if not answer.ok:
            raise MachineError(f"{self.url}/{path}: {answer.status_code} {answer.reason}", hint="see the server's log")
        return answer.iter_content(_BLOCK)


def run(where: str, report: Report, *, project: Project | None = None, install: bool = True) -> ExitStatus:
    """Check a repository and say what is wrong with it: FAILED where something is, with one line each.

    Checked are every suite's signature, validity, indexes (by name and by hash) and every file that they name, the
    key's end, the order of versions across releases, and that no two packages own a path. With a `project`, every
    suite of a release of its table is tried, too (trial.py). Raises UsageError and MachineError where that cannot be
    looked at.
    """
    machine.require(machine.REPOSITORIES, install=install, report=report)
    place: Place
    if "://" in where and not where.startswith("file://"):
        where = where.rstrip("/")
        place = Address(where)
    else:
        where = str(Path(where.removeprefix("file://")).absolute())
        place = Folder(Path(where))
    key = place.read(f"keyring/{NAME}.gpg")
    if key is None:
        raise UsageError(f"{where} has no keyring/{NAME}.gpg", hint="it is no repository of ours, or not whole")
    check = Check(place, key, report)
    packages = check.suites()
    if project is not None:
        machine.require(machine.for_roots(), install=install, report=report)
        check.tried(where, packages, project)
    return check.end()


@dataclass(slots=True)
class Check:
    """One run over a repository."""

    place: Place
    key: bytes
    report: Report
    faults: int = 0
    found: int = 0
    """How many suites there are."""
    files: dict[str, PoolFile] = field(default_factory=dict)

    def suites(self) -> dict[str, tuple[Stanza, ...]]:
        """Check all that can be read, and return the packages of each suite."""
        self._key()
        packages = {name: self._suite(name) for name in self.place.suites()}
        for file in self.files.values():
            self._same(file.path, file)
        self._versions(packages)
        self.found = len(packages)
        return packages

    def tried(self, where: str, packages: Mapping[str, Sequence[Stanza]], project: Project) -> None:
        """Have apt install, upgrade and remove what each suite offers; says which suite is of no release of ours."""
        table = ReleaseTable.load(project.releases)
        releases = {release.name: release for release in table.releases if release.state is not State.ARCHIVED}
        trials = Trials.begin(where, self.key)
        for suite, own in packages.items():
            release = releases.get(suite.removesuffix(f"-{TESTING}"))
            if release is None:
                self.report(f"{suite}: not tried: no release of {project.releases.name} that is not archived")
                continue
            offer = offered(own)
            if failure := trials.failure(suite, release, offer):
                self._fault(f"{suite}: {failure}")
            else:
                self.report(f"{suite}: {len(offer.newest)} packages install and go, {len(offer.before)} upgrade")

    def end(self) -> ExitStatus:
        """Say how much was checked, and return the exit status."""
        self.report(f"{self.found} suites, {len(self.files)} files, {self.faults} faults")
        return ExitStatus.FAILED if self.faults else ExitStatus.GOOD

    def _fault(self, line: str) -> None:
        self.faults += 1
        self.report(f"fault: {line}")

    def _key(self) -> None:
        ends = {one.fingerprint: one.end for one in gpg.public_keys(self.key) if one.signing}
        if not ends:
            self._fault("no key of the keyring signs")
        for fingerprint, left in signing.ending(ends, int(time.time())).items():
            if left < 0:
                self._fault(f"the key {fingerprint} has expired")
            else:
                self.report(f"warning: the key {fingerprint} signs for {left} days yet")

    def _suite(self, name: str) -> tuple[Stanza, ...]:
        """Check a suite's Release and indexes, and return its packages; all its files are looked at later."""
        folder = f"dists/{name}"
        signed = self.place.read(f"{folder}/InRelease")
        text = gpg.verified(signed, self.key) if signed is not None else None
        if text is None:
            self._fault(
                f"{name}: InRelease is {'missing' if signed is None else 'not signed by the key of the keyring'}"
            )
            return ()
        self._times(name, text, archived=self._archived(folder))
        if self.place.read(f"{folder}/Release") != text.encode():
            self._fault(f"{name}: Release says something else than InRelease")
        packages: tuple[Stanza, ...] = ()
        for path, file in stanzas.listed(text).items():
            if path == SUMMARY:
                self._same(f"{folder}/{path}", file)
            if not path.endswith(".gz"):
                continue
            parent = path.rpartition("/")[0]
            self._same(f"{folder}/{path}", file)
            if (index := self._same(f"{folder}/{parent}/by-hash/SHA256/{file.sha256}", file)) is None:
                continue
            if (lines := _unpacked(index)) is None:
                self._fault(f"{folder}/{path} is no gzip file, or too large")
                continue
            if "/Contents-" in path:
                self._owners(name, lines)
                continue
            found = stanzas.parsed(lines)
            self.files |= {one.path: one for stanza in found for one in stanza.files}
            if path.endswith("/Packages.gz"):
                packages = stanzas.merged(packages, found)
        return packages

    def _same(self, path: str, file: PoolFile) -> bytes | None:
        """Return a small file that is as its index says; otherwise say what is wrong with it."""
        if path.startswith("pool/"):
            found = self.place.sum(path, file.size)
            data = b""
        else:
            data = self.place.read(path) or b""
            found = (hashlib.sha256(data).hexdigest(), len(data)) if data else None
        if found is None:
            self._fault(f"{path} is missing")
        elif found != (file.sha256, file.size):
            self._fault(f"{path} has other bytes than its index says")
        else:
            return data
        return None

    def _archived(self, folder: str) -> bool:
        """Tell whether a suite says that its release is past its end; that what says so is signed is seen later."""
        try:
            return json.loads(self.place.read(f"{folder}/{SUMMARY}") or b"{}").get("archived", False) is True
        except (ValueError, AttributeError):
            return False

    def _times(self, name: str, release: str, *, archived: bool) -> None:
        end = stanzas.valid_until(release)
        if end is None:
            if not archived:
                self._fault(f"{name}: it has no Valid-Until: apt cannot tell an old state from the newest")
            return
        left = end - int(time.time())
        if left < 0:
            self._fault(f"{name}: apt refuses it since {-left // _DAY} days: Valid-Until has passed")
        elif left < _SUITE_DAYS * _DAY:
            self.report(f"warning: {name}: apt refuses it in {left // _DAY} days; any publish signs it anew")

    def _owners(self, name: str, lines: str) -> None:
        for line in lines.splitlines():
            path, _, owners = line.rpartition(" ")
            if "," in owners:
                self._fault(f"{name}: /{path} is in {owners.replace(',', ' and ')}")

    def _versions(self, packages: dict[str, tuple[Stanza, ...]]) -> None:
        """See that a package is not newer in an older release: a server goes over to the next one by upgrading."""
        for first, second in pairwise(sorted(packages, key=_number(packages))):
            if first.partition("-")[1:] != second.partition("-")[1:]:
                continue
            newest = {name: stanzas.newest(packages[name]) for name in (first, second)}
            for package, version in newest[first].items():
                later = newest[second].get(package)
                if later is not None and Version(later) < Version(version):
                    self._fault(f"{package}: {version} of {first} is newer than {later} of {second}")


def _number(packages: dict[str, tuple[Stanza, ...]]) -> Callable[[str], tuple[str, int]]:
    """Return the key that suites are sorted by: their kind, then their release by the +debN of its versions."""

    def key(name: str) -> tuple[str, int]:
        numbers = (re.search(r"[+]deb(\d+)[+]", stanza.version) for stanza in packages[name])
        return name.partition("-")[2], max((int(one[1]) for one in numbers if one), default=0)

    return key


def _unpacked(index: bytes) -> str | None:
    """Return what a gzip file holds, None where it is none, or holds more than 256 MB."""
    packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = packed.decompress(index, _LARGEST_INDEX)
    except zlib.error:
        return None
    return data.decode(errors="replace") if packed.eof else None
