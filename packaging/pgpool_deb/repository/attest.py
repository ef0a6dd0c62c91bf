"""What is published beside .debs to say what they are and what they were made from: documents and a signed statement.

The statement names every document with its SHA-256, so its signature is theirs: one signature a build, however many
packages it has. Loading this module loads the libraries of the formats, which takes a third of a second.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """Publish what there is to say about uploads whose files are in the pool; signatures come last.

    Raises UsageError where a .deb or a source package cannot be read.
    """
    texts: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a gpg signs while the next documents are made
        signatures = {}
        for release, upload in uploads:
            record = Record.read(repository.path / upload.buildinfo.path)
            documents = _documents(record, upload, release, pins)
            files = [_file(path, text) for path, text in documents.items()]
            statement = provenance.text(provenance.statement(record, release.name, pins, files))
            texts |= documents | {upload.statement: statement}
            signatures[f"{upload.statement}.asc"] = pool.submit(key.signature, statement, moment)
        texts |= {path: signed.result() for path, signed in signatures.items()}
    with tempfile.TemporaryDirectory() as place:
        made = []
        for number, (path, text) in enumerate(texts.items()):
            origin = Path(place, str(number))
            origin.write_text(text, encoding="utf-8")
            made.append((origin, _file(path, text)))
        repository.admit(made)


def _documents(record: Record, upload: Upload, release: Release, pins: Pins) -> dict[str, str]:
    """Return the documents about the .debs of an upload, by their paths in the pool."""
    folder = Path(upload.statement).parent
    return {
        str(folder / f"{bill.stem}{suffix}"): made(bill)
        for bill in bills(record, upload.files, release.name, pins)
        for suffix, made in DOCUMENTS.items()
    }


def _file(path: str, text: str) -> PoolFile:
    data = text.encode()
    return PoolFile(path, hashlib.sha256(data).hexdigest(), len(data))
