"""Check packages before publishing: they must be complete, ours, for their release, not outdated, and proved."""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Changes
from debian.debian_support import Version

from pgpool_deb.builds.statement import SIGNATURE, STATEMENT
from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.releases import Release
from pgpool_deb.runs import matrix
from pgpool_deb.runs.proof import lacking
from pgpool_deb.upstream.download import sha256_of

from .stanzas import PoolFile, Stanza
from .suites import Summary

SOURCES = ("pgpool2", "pgpool2-cluster")
_AGAIN = "./invoke build-deb rebuilds it"


@dataclass(frozen=True, slots=True)
class Upload:
    """The files that one .changes in `folder` names, including itself; their paths are those in the pool."""

    folder: Path
    source: str
    version: str
    files: tuple[PoolFile, ...]

    @property
    def buildinfo(self) -> PoolFile:
        """The record of its build."""
        return next(file for file in self.files if file.path.endswith(".buildinfo"))

    @property
    def statement(self) -> str:
        """The pool path of its provenance statement."""
        return f"{self.buildinfo.path.removesuffix('.buildinfo')}{STATEMENT}"

    @property
    def signature(self) -> str:
        """The pool path of the statement's signature."""
        return f"{self.statement}{SIGNATURE}"

    @property
    def title(self) -> str:
        """The name and version, as shown in messages."""
        return f"{self.source} {self.version}"


def uploads(folder: Path, release: Release) -> tuple[Upload, ...]:
    """Return the uploads of dist/<release>/, one for each .changes file.

    Raises UsageError if there is none, or if one is not of this project and release or is incomplete.
    """
    found = sorted(folder.glob("*.changes"))
    if not found:
        raise UsageError(
            f"{folder} contains no .changes file", hint=f"./invoke build-deb --release {release.name} builds them"
        )
    return tuple(_upload(path, release) for path in found)


def _upload(path: Path, release: Release) -> Upload:
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"{path} is not a regular file", hint=_AGAIN)
    try:
        changes = Changes(path.read_text(encoding="utf-8"))
        source, version = str(changes["Source"]), str(changes["Version"])
        rows = [(row["name"], row["sha256"], int(row["size"])) for row in changes["Checksums-Sha256"]]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a valid .changes file: {error}", hint=_AGAIN) from error
    if source not in SOURCES:
        raise UsageError(
            f"{path}: {source} is not a source package of this project", hint=f"publish only {' and '.join(SOURCES)}"
        )
    if f"+deb{release.number}+" not in f"{version}+":
        raise UsageError(
            f"{path}: {version} is not for {release.name}", hint=f"its versions end in +deb{release.number}+N"
        )
    files = []
    for name, sha256, size in rows:
        if "/" in name or name.startswith("."):
            raise UsageError(f"{path} lists {name!r}, which is not a plain file name", hint=_AGAIN)
        there = path.with_name(name)
        if not _is_whole(there, size):
            raise UsageError(f"{there} is missing or has the wrong size", hint=_AGAIN)
        files.append(PoolFile(f"{pool_folder(source)}/{name}", sha256, size))
    if not any(name.endswith(".buildinfo") for name, _, _ in rows):
        raise UsageError(f"{path} lists no .buildinfo, so the build cannot be reproduced", hint=_AGAIN)
    own = PoolFile(f"{pool_folder(source)}/{path.name}", sha256_of(path), path.stat().st_size)
    return Upload(path.parent, source, version, (*files, own))


def _is_whole(path: Path, size: int) -> bool:
    """Return whether `path` is a regular file of this size, not a link."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def pool_folder(source: str) -> str:
    """Return the folder of a source package's files, laid out like Debian's pool."""
    letter = source[:4] if source.startswith("lib") else source[:1]
    return f"pool/main/{letter}/{source}"


def refuse_older(new: Iterable[PoolFile], newest: Mapping[str, str], suite: str) -> None:
    """Raise UsageError if a .deb is older than the suite's newest of that package.

    The package and its version are parsed from the file name.
    """
    for file in new:
        if not file.path.endswith(".deb"):
            continue
        package, version = Path(file.path).name.split("_")[:2]
        before = newest.get(package)
        if before is not None and Version(version) < Version(before):
            raise UsageError(
                f"{package} {version} is older than {before} in {suite}",
                hint="publish a newer version: apt does not downgrade, and every published version stays available",
            )


def refuse_archived(told: Iterable[Summary], releases: Collection[str]) -> None:
    """Raise UsageError if a suite of one of these releases is archived."""
    for suite in told:
        if suite.archived and suite.release in releases:
            raise UsageError(
                f"{suite.name} is archived: its release has reached end of life",
                hint="name other releases with --release; the packages in the suite stay installable",
            )


def refuse_two(uploads: Iterable[Upload]) -> None:
    """Raise UsageError if two .changes have different SHA-256 for a file.

    Builds for two architectures share their .dsc, so both .changes name it.
    """
    known: dict[str, str] = {}
    for upload in uploads:
        for file in upload.files:
            if known.setdefault(file.path, file.sha256) != file.sha256:
                name = Path(file.path).name
                raise UsageError(
                    f"{upload.folder}: two .changes files have different checksums of {name}",
                    hint="remove the older .changes file",
                )


def refuse_misnamed(debs: Iterable[PoolFile], packages: Iterable[Stanza]) -> None:
    """Raise UsageError if a file is not a Debian package, or if its file name does not match its control fields."""
    found = {one.place: one for one in packages}
    for file in debs:
        name, stanza = Path(file.path).name, found.get(file.path)
        if stanza is None:
            raise UsageError(f"{name} is not a Debian package", hint=_AGAIN)
        own = f"{stanza.package}_{stanza.version.rpartition(':')[2]}_{stanza.architecture}.deb"
        if name != own:
            raise UsageError(f"{name} contains the package {own.removesuffix('.deb')}", hint=_AGAIN)


def refuse_damaged(path: Path, file: PoolFile) -> None:
    """Raise UsageError if a file's SHA-256 differs from the one in its .changes."""
    if sha256_of(path) != file.sha256:
        raise UsageError(f"{path} is damaged: its SHA-256 differs from the one in its .changes file", hint=_AGAIN)


def unproved(uploads: Sequence[Upload], release: Release, report: Path) -> list[str]:
    """Return one line, "TITLE: REASON", for each upload that the last matrix has not proved.

    A proof is for exact bytes. The matrix report lists the SHA-256 of each .deb that it tested. Every stage must have
    passed or had nothing to test.
    """
    try:
        results = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
        cells = [cell for cell in results["cells"] if cell.get("release") == release.name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{one.title}: no matrix report was found" for one in uploads]
    if not cells:
        return [f"{one.title}: the last matrix did not test {release.name}" for one in uploads]
    for cell in cells:
        if what := lacking(cell, matrix.PROOF):
            return [f"{one.title}: {what} in the last matrix" for one in uploads]
    tried = {sha256 for cell in cells for sha256 in cell.get("files", {}).values()}
    return [
        f"{one.title}: the last matrix tested other builds of it"
        for one in uploads
        if not all(file.sha256 in tried for file in one.files if file.path.endswith(".deb"))
    ]
