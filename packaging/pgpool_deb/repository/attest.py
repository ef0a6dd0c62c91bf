"""What is published beside .debs to say what they are and what they were made from: documents and a signed statement.

The statement names every document with its SHA-256, so its signature is theirs: one signature a build, however many
packages it has. Loading this module loads SPDX' list of licences, which takes a tenth of a second.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgpool_deb.errors import UsageError
from pgpool_deb.pins import Pins
from pgpool_deb.record import Record
from pgpool_deb.releases import Release

from . import cyclonedx_bill, provenance, spdx_bill
from .admission import Upload
from .bill import bills
from .signing import Key
from .stanzas import PoolFile, Stanza
from .tree import Repository

DOCUMENTS = {".cdx.json": cyclonedx_bill.text, ".spdx.json": spdx_bill.text}
"""What makes the text of a document about a .deb, by what its name has in place of `.deb`."""


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

    `stanzas` are those of their .debs, by their paths. Raises UsageError where a source package or a .deb cannot be
    read.
    """
    texts: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a gpg signs while the next documents are made
        signatures = {}
        for release, upload in uploads:
            record = Record.read(repository.path / upload.buildinfo.path)
            documents = _documents(record, upload, _controls(upload, stanzas), release, pins)
            files = [_file(path, text) for path, text in documents.items()]
            statement = provenance.text(provenance.statement(record, release.name, pins, files))
            texts |= documents | {upload.statement: statement}
            signatures[f"{upload.statement}.asc"] = pool.submit(key.signature, statement, moment)
        texts |= {path: signed.result() for path, signed in signatures.items()}
    repository.admit((text.encode(), _file(path, text)) for path, text in texts.items())


def _controls(upload: Upload, stanzas: Mapping[str, Stanza]) -> dict[str, dict[str, str]]:
    """Return the fields of debian/control of each .deb of an upload, by its name."""
    paths = [file.path for file in upload.files if file.path.endswith(".deb")]
    if absent := [path for path in paths if path not in stanzas]:
        raise UsageError(
            f"{Path(absent[0]).name} cannot be read as a package", hint="./invoke build-deb builds it anew"
        )
    return {Path(path).name: stanzas[path].fields for path in paths}


def _documents(
    record: Record, upload: Upload, controls: Mapping[str, Mapping[str, str]], release: Release, pins: Pins
) -> dict[str, str]:
    """Return the documents about the .debs of an upload, by their paths in the pool."""
    folder = Path(upload.statement).parent
    return {
        str(folder / f"{bill.stem}{suffix}"): made(bill)
        for bill in bills(record, upload.files, controls, release.name, pins)
        for suffix, made in DOCUMENTS.items()
    }


def _file(path: str, text: str) -> PoolFile:
    data = text.encode()
    return PoolFile(path, hashlib.sha256(data).hexdigest(), len(data))
