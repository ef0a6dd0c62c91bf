"""Add uploads to the pool and to a suite: published files stay, and files that differ from them are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.progress import Report

from . import admission, growing, indexer, suites
from .admission import Upload
from .pool import Found
from .stanzas import Indexed, PoolFile
from .suites import Suite
from .tree import Repository

_RECORDS = (".changes", ".buildinfo")


def new(
    repository: Repository, suite: Suite, uploads: Sequence[Upload], unproved: Sequence[str], report: Report
) -> tuple[Upload, ...]:
    """Return the uploads that the suite lacks or lists as unproved though they are now proved.

    Reports and skips uploads with a file that is already published with other bytes.
    """
    found = []
    proved = set(suite.unproved) - set(unproved)
    known = suite.places
    for upload in uploads:
        if other := next((file for file in upload.files if _published_as_other(repository, file)), None):
            report(f"{upload.title} is already published with a different {Path(other.path).name}, and is skipped")
            report(
                "hint: to publish the new build, raise `revision` in packaging/releases.toml or the project's version"
            )
        elif upload.title in proved or any(
            file.path.endswith((".deb", ".dsc")) and file.path not in known for file in upload.files
        ):
            found.append(upload)
    return tuple(found)


def grow(repository: Repository, suite: Suite, uploads: Sequence[Upload], unproved: Sequence[str]) -> None:
    """Add the files of uploads to the pool, and their stanzas to the suite; raises UsageError if one is refused."""
    admission.refuse_two(uploads)
    files = {file.path: file for upload in uploads for file in upload.files}
    known = suite.places
    added = [file for path, file in files.items() if path.endswith((".deb", ".dsc")) and path not in known]
    admission.refuse_older(added, suite.newest, suite.name)
    of = {file.path: upload for upload in uploads for file in upload.files}
    absent = [
        (of[path].folder / Path(path).name, file)
        for path, file in files.items()
        if not _published(repository, of[path], file)
    ]
    for origin, file in absent:
        admission.refuse_damaged(origin, file)
    repository.admit(absent)
    parts = [file for path, file in files.items() if not path.endswith(_RECORDS)]
    if added:
        found = indexer.index(repository.path, parts, suite.contents)
        admission.refuse_misnamed((file for file in parts if file.path.endswith(".deb")), found.packages)
        packages = tuple(one for one in found.packages if one.place not in known)
        sources = tuple(one for one in found.sources if one.place not in known)
        growing.grow(repository.path, suite, Indexed(packages, sources, found.contents))
    proved = {upload.title for upload in uploads} - set(unproved)
    suite.unproved = tuple(sorted({*suite.unproved, *unproved} - proved))


def told_of(repository: Repository, upload: Upload) -> bool:
    """Return whether the pool has the signed provenance statement of an upload, which is never replaced."""
    return repository.state is not None and (repository.path / upload.signature).exists()


def _published(repository: Repository, upload: Upload, file: PoolFile) -> bool:
    """Return whether the pool has a file; raises UsageError if another one of its name has been published.

    A different file that no state names was left by a killed publish. It is removed together with the signature of its
    statement. A .changes or .buildinfo counts as published if its .dsc is: the first one stays, even if a later build
    of the same packages has another.
    """
    found = repository.find(file)
    if found is Found.OTHER:
        record = file.path.endswith(_RECORDS)
        path = f"{file.path.rpartition('_')[0]}.dsc" if record else file.path
        if any(path in suites.files_named(state) for state in reversed(repository.states)):
            if record:
                return True
            raise UsageError(
                f"{Path(file.path).name} is already published with different contents",
                hint="raise `revision` in packaging/releases.toml or the project's version",
            )
        (repository.path / upload.signature).unlink(missing_ok=True)
        repository.drop(file)
    return found is Found.SAME


def _published_as_other(repository: Repository, file: PoolFile) -> bool:
    """Return whether a file is published with other bytes; ignores .changes and .buildinfo, as the first ones stay."""
    if file.path.endswith(_RECORDS) or repository.find(file) is not Found.OTHER:
        return False
    return any(file.path in suites.files_named(state) for state in reversed(repository.states))
