"""`./invoke check-repository`: check a repository in a folder or at a URL as apt does, and report coming expiries."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pgpool_deb.boxes import machine
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, State

from . import documents, findings, reading
from .findings import Finding, FindingKind, Packages
from .inside import Lack
from .keyring import NAME
from .places import Address, Folder, Place
from .reading import ReadSuite
from .suites import TESTING
from .trial import Trials, offered


def run(where: str, report: Report, *, project: Project | None = None, install: bool = True) -> ExitStatus:
    """Check a repository and report one line per finding; return FAILED if there is a fault.

    The checks cover every suite's signature, validity, indexes (by name and by hash) and every file that they name,
    each .deb's documents with their signed statement, the key's expiry, and the order of versions across releases. No
    two packages may own a path. With a `project`, every suite of a release in its table is also installed (trial.py).
    Raises UsageError or MachineError if the repository cannot be read.
    """
    machine.require(machine.REPOSITORIES, install=install, report=report)
    place: Place
    if "://" in where and not where.startswith("file://"):
        where = where.rstrip("/")
        place = Address(where)
    else:
        where = str(Path(unquote(where.removeprefix("file://")) if "://" in where else where).absolute())
        place = Folder(Path(where))
    key = place.read(f"keyring/{NAME}.gpg")
    if key is Lack.MISSING:
        raise UsageError(
            f"{where} has no keyring/{NAME}.gpg", hint="check the path; ./invoke publish creates a repository"
        )
    if isinstance(key, Lack):
        raise UsageError(
            f"{where}/keyring/{NAME}.gpg {key}", hint="restore keyring, which is a symbolic link to current/keyring"
        )
    check = Check(place, key, report)
    packages = check.suites()
    if project is not None:
        machine.require(machine.for_roots(), install=install, report=report)
        check.tried(where, packages, project)
    return check.end()


@dataclass(slots=True)
class Check:
    """One check of a repository, which reports the findings and counts the faults."""

    place: Place
    key: bytes
    report: Report
    faults: int = 0
    found: int = 0
    """The number of suites."""
    files: int = 0
    """The number of files that their indexes name."""

    def suites(self) -> Packages:
        """Check every suite and every file that they name, and return the packages of each suite."""
        now = int(time.time())
        self._say(findings.of_keys(self.key, now))
        suites = []
        for name in self.place.suites():
            suites.append(reading.suite(self.place, name, self.key, now))
            self._say(suites[-1].findings)
        files = {path: file for suite in suites for path, file in suite.files.items()}
        for path, file in files.items():
            self._say(reading.different(self.place, path, file))
        self._say(self._documents(suites))
        packages = {suite.name: suite.packages for suite in suites}
        self._say(findings.of_versions(packages))
        self.found, self.files = len(suites), len(files)
        return packages

    def _documents(self, suites: Sequence[ReadSuite]) -> Iterator[Finding]:
        architectures = documents.architectures(suites)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each build waits for a gpgv
            for found in pool.map(
                lambda build: documents.of_build(self.place, build, architectures, self.key), documents.builds(suites)
            ):
                yield from found

    def tried(self, where: str, packages: Packages, project: Project) -> None:
        """Install, upgrade and remove the packages of each suite with apt; report suites of unknown releases."""
        table = ReleaseTable.load(project.releases)
        releases = {release.name: release for release in table.releases if release.state is not State.ARCHIVED}
        trials = Trials.begin(where, self.key)
        for suite, own in packages.items():
            release = releases.get(suite.removesuffix(f"-{TESTING}"))
            if release is None:
                self.report(
                    f"{suite}: not tested: {project.releases.name} lists no such release, or lists it as archived"
                )
                continue
            offer = offered(own)
            if failure := trials.failure(suite, release, offer):
                self._say([Finding(f"{suite}: {failure}")])
            else:
                self.report(f"{suite}: {len(offer.newest)} packages installed and purged, {len(offer.before)} upgraded")

    def end(self) -> ExitStatus:
        """Report the numbers of suites, files and faults, and return the exit status."""
        self.report(f"{self.found} suites, {self.files} files, {self.faults} faults")
        return ExitStatus.FAILED if self.faults else ExitStatus.GOOD

    def _say(self, found: Iterable[Finding]) -> None:
        for one in found:
            self.faults += one.kind is FindingKind.FAULT
            self.report(one.line)
