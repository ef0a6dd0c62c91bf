"""What is published beside .debs to say what they are and what they were made from: documents and a signed statement.

The statement names every document with its SHA-256, so its signature is theirs: one signature a build, however many
packages it has. Loading this module loads SPDX' list of licences, which takes a tenth of a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pgpool_deb.pins import Pins
from pgpool_deb.record import Record
from pgpool_deb.releases import Release

from . import cyclonedx_bill, provenance, spdx_bill
from .admission import Upload
from .bill import Source, bills, source_of
from .signing import Key
from .stanzas import PoolFile, Stanza
from .tree import Repository

DOCUMENTS = {".cdx.json": cyclonedx_bill.text, ".spdx.json": spdx_bill.text}
"""What makes the text of a document about a .deb, by what its name has in place of `.deb`."""

_SIGNING = 4
"""How many gpg sign at once: each waits for the agent half of its time."""


def attest(  # noqa: PLR0913 - what is told, of what, by whom and when
    repository: Repository,
    uploads: Sequence[tuple[Release, Upload]],
    *,
    stanzas: Mapping[str, Stanza],
    key: Key,
    moment: int,
    pins: Pins,
) -> None:
    """Publish what there is to say about uploads whose files are in the pool; signatures come last.

    `stanzas` are those of their .debs, by their paths; each has one, as the suite has it. Raises UsageError where a
    source package cannot be read.
    """
    with ThreadPoolExecutor(_SIGNING) as pool:  # gpg signs while the next documents are made
        made: list[tuple[bytes, PoolFile]] = []
        signatures: dict[str, Future[str]] = {}
        for release, upload in uploads:
            record = Record.read(repository.path / upload.buildinfo.path)
            source = source_of(record, release.name, pins)
            documents = list(_documents(record, source, upload, _controls(upload, stanzas), release))
            files = [file for _, file in documents]
            statement = provenance.text(provenance.statement(record, source, release.name, files))
            made += [*documents, _made(upload.statement, statement)]
            signatures[f"{upload.statement}.asc"] = pool.submit(key.signature, statement, moment)
        made += [_made(path, signed.result()) for path, signed in signatures.items()]
    repository.admit(made)


def _controls(upload: Upload, stanzas: Mapping[str, Stanza]) -> dict[str, dict[str, str]]:
    """Return the fields of debian/control of each .deb of an upload, by its name."""
    paths = [file.path for file in upload.files if file.path.endswith(".deb")]
    return {Path(path).name: stanzas[path].fields for path in paths}


def _documents(
    record: Record, source: Source, upload: Upload, controls: Mapping[str, Mapping[str, str]], release: Release
) -> Iterator[tuple[bytes, PoolFile]]:
    """Yield the documents about the .debs of an upload."""
    folder = Path(upload.statement).parent
    for bill in bills(record, source, upload.files, controls, release.name):
        for suffix, text in DOCUMENTS.items():
            yield _made(f"{folder}/{bill.stem}{suffix}", text(bill))


def _made(path: str, text: str) -> tuple[bytes, PoolFile]:
    data = text.encode()
    return data, PoolFile(path, hashlib.sha256(data).hexdigest(), len(data))
