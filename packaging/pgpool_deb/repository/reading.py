"""Read a suite as apt does: its signature, its indexes by name and by hash, and the files that they name."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field

from . import findings, gpg, stanzas
from .findings import Finding
from .inside import Lack
from .places import LARGEST_INDEX, Place
from .stanzas import PoolFile, Stanza
from .suites import SUMMARY


@dataclass(slots=True)
class ReadSuite:
    """The packages and sources of a suite's indexes, and their faults; empty if the suite is not signed."""

    name: str
    packages: tuple[Stanza, ...] = ()
    sources: tuple[Stanza, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def files(self) -> dict[str, PoolFile]:
        """All files that the indexes name, by their paths."""
        return {file.path: file for stanza in (*self.packages, *self.sources) for file in stanza.files}


def suite(place: Place, name: str, key: bytes, now: int) -> ReadSuite:
    """Read a suite of a repository, but not the files that it names; raises MachineError if it is unreadable."""
    found = ReadSuite(name)
    folder = f"dists/{name}"
    signed = place.read(f"{folder}/InRelease")
    text = gpg.verified(signed, key) if isinstance(signed, bytes) else None
    if text is None:
        why = signed if isinstance(signed, Lack) else "is not signed by a key in the keyring"
        found.findings.append(Finding(f"{name}: InRelease {why}"))
        return found
    found.findings += findings.of_validity(name, text, now, archived=_archived(place, folder))
    if place.read(f"{folder}/Release") != text.encode():
        found.findings.append(Finding(f"{name}: Release differs from the signed text in InRelease"))
    for path, file in stanzas.listed(text).items():
        if path == SUMMARY:
            found.findings += different(place, f"{folder}/{path}", file)
        if path.endswith(".gz"):
            _index(place, found, path, file)
    return found


def different(place: Place, path: str, file: PoolFile) -> list[Finding]:
    """Return a fault if a file differs from its index entry `file`, else nothing."""
    actual = place.sum(path, file.size)
    if isinstance(actual, Lack):
        return [Finding(f"{path} {actual}")]
    return [] if actual == (file.sha256, file.size) else [Finding(f"{path} does not match its index entry")]


def _index(place: Place, found: ReadSuite, path: str, file: PoolFile) -> None:
    """Add the entries of an index to `found`, and the faults of its copies by name and by hash."""
    folder = f"dists/{found.name}"
    by_hash = f"{folder}/{path.rpartition('/')[0]}/by-hash/SHA256/{file.sha256}"
    found.findings += different(place, f"{folder}/{path}", file)
    data = place.read(by_hash)
    if isinstance(data, Lack) or (hashlib.sha256(data).hexdigest(), len(data)) != (file.sha256, file.size):
        found.findings += different(place, by_hash, file)
    elif (lines := _unpacked(data)) is None:
        found.findings.append(Finding(f"{folder}/{path} is not a gzip file, or is too large"))
    elif "/Contents-" in path:
        found.findings += findings.of_owners(found.name, lines)
    elif path.endswith("/Packages.gz"):
        found.packages = stanzas.merged(found.packages, stanzas.parsed(lines))
    else:
        found.sources = stanzas.merged(found.sources, stanzas.parsed(lines))


def _archived(place: Place, folder: str) -> bool:
    """Return whether suite.json marks the suite as archived; `suite` compares its signed hash afterwards."""
    summary = place.read(f"{folder}/{SUMMARY}")
    try:
        return isinstance(summary, bytes) and json.loads(summary).get("archived", False) is True
    except (ValueError, AttributeError, RecursionError):
        return False


def _unpacked(index: bytes) -> str | None:
    """Return the contents of a gzip file, None if it is none or has more than 256 MiB."""
    packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = packed.decompress(index, LARGEST_INDEX)
    except zlib.error:
        return None
    return data.decode(errors="replace") if packed.eof else None
