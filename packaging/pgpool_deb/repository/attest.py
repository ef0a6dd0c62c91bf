"""Publish bills of materials and a signed provenance statement beside the .debs.

The statement names every document with its SHA-256, so its signature also covers the documents. A build needs one
signature, regardless of its number of packages. Importing this module loads the SPDX licence list, which takes 0.1 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.builds.statement import CYCLONEDX, SPDX
from pgpool_deb.ground.releases import Release
from pgpool_deb.upstream.pins import Pins

from . import cyclonedx_bill, provenance, spdx_bill
from .admission import Upload
from .bill import BilledSource, bills, source_of
from .signing import Key
from .stanzas import PoolFile, Stanza
from .tree import Repository

DOCUMENTS = {CYCLONEDX: cyclonedx_bill.text, SPDX: spdx_bill.text}
"""The function that renders each document about a .deb, by the suffix that replaces `.deb` in its name."""

_SIGNING = 4
"""The number of concurrent gpg processes: each spends half of its time waiting for the agent."""


def attest(  # noqa: PLR0913 - facts, files, key and time
    repository: Repository,
    uploads: Sequence[tuple[Release, Upload]],
    *,
    stanzas: Mapping[str, Stanza],
    key: Key,
    moment: int,
    pins: Pins,
) -> None:
    """Publish the documents and statements of uploads whose files are in the pool; signatures are added last.

    `stanzas` holds the suite's stanza of each of their .debs, by its path. Raises UsageError if a source package
    cannot be read.
    """
    with ThreadPoolExecutor(_SIGNING) as pool:  # gpg signs while the next documents are made
        made: list[tuple[bytes, PoolFile]] = []
        signatures: dict[str, Future[str]] = {}
        for release, upload in uploads:
            record = BuildRecord.read(repository.path / upload.buildinfo.path)
            source = source_of(record, release.name, pins)
            documents = list(_documents(record, source, upload, _controls(upload, stanzas), release))
            files = [file for _, file in documents]
            statement = provenance.text(provenance.statement(record, source, release.name, files))
            made += [*documents, PoolFile.of(upload.statement, statement.encode())]
            signatures[upload.signature] = pool.submit(key.signature, statement, moment)
        made += [PoolFile.of(path, signed.result().encode()) for path, signed in signatures.items()]
    repository.admit(made)


def _controls(upload: Upload, stanzas: Mapping[str, Stanza]) -> dict[str, dict[str, str]]:
    """Return the debian/control fields of each .deb of an upload, by its file name."""
    paths = [file.path for file in upload.files if file.path.endswith(".deb")]
    return {Path(path).name: stanzas[path].fields for path in paths}


def _documents(
    record: BuildRecord,
    source: BilledSource,
    upload: Upload,
    controls: Mapping[str, Mapping[str, str]],
    release: Release,
) -> Iterator[tuple[bytes, PoolFile]]:
    """Yield the documents about the .debs of an upload."""
    folder = Path(upload.statement).parent
    for bill in bills(record, source, upload.files, controls, release.name):
        for suffix, text in DOCUMENTS.items():
            yield PoolFile.of(f"{folder}/{bill.stem}{suffix}", text(bill).encode())
