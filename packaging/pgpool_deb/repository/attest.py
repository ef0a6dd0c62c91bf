"""What is published beside .debs to say what they are and what they were made from: documents and a signed statement.

The statement names every document with its SHA-256, so its signature is theirs: one signature a build, however many
packages it has. Loading this module loads the libraries of the formats, which takes a third of a second.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgpool_deb.pins import Pins
from pgpool_deb.record import Record
from pgpool_deb.releases import Release

from . import cyclonedx_bill, provenance, spdx_bill
from .admission import Upload
from .bill import bills
from .signing import Key
from .stanzas import PoolFile
from .tree import Repository

DOCUMENTS = {".cdx.json": cyclonedx_bill.text, ".spdx.json": spdx_bill.text}
"""What makes the text of a document about a .deb, by what its name has in place of `.deb`."""


def attest(
    repository: Repository, uploads: Sequence[tuple[Release, Upload]], key: Key, moment: int, pins: Pins
) -> None:
    """Publish what there is to say about uploads whose files are in the pool; of each the signature comes last.

    Raises UsageError where a .deb or a source package cannot be read.
    """
    with tempfile.TemporaryDirectory() as place:
        made: list[tuple[Path, PoolFile]] = []
        for release, upload in uploads:
            for path, text in _texts(repository, upload, release, key, moment, pins):
                origin = Path(place, str(len(made)))
                origin.write_text(text, encoding="utf-8")
                made.append((origin, _file(path, text)))
        repository.admit(made)


def _texts(  # noqa: PLR0913, PLR0917 - statements, their subject, their signature and its time
    repository: Repository, upload: Upload, release: Release, key: Key, moment: int, pins: Pins
) -> Iterator[tuple[str, str]]:
    """Yield paths in the pool and texts: of the documents, then of the statement, and its signature."""
    record = Record.read(repository.path / upload.buildinfo.path)
    folder = Path(upload.statement).parent
    documents = []
    for bill in bills(record, upload.files, release.name, pins):
        for suffix, written in DOCUMENTS.items():
            path, text = str(folder / f"{bill.stem}{suffix}"), written(bill)
            documents.append(_file(path, text))
            yield path, text
    statement = provenance.text(provenance.statement(record, release.name, pins, documents))
    yield upload.statement, statement
    yield f"{upload.statement}.asc", key.signature(statement, moment)


def _file(path: str, text: str) -> PoolFile:
    data = text.encode()
    return PoolFile(path, hashlib.sha256(data).hexdigest(), len(data))
