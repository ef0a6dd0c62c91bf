"""Reading a suite as apt does: its signature, its indexes by name and by hash, and what they name."""

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
    """What a suite's indexes name, and what is wrong with them; a suite that is not signed names nothing."""

    name: str
    packages: tuple[Stanza, ...] = ()
    sources: tuple[Stanza, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def files(self) -> dict[str, PoolFile]:
        """All files that the indexes name, by their paths."""
        return {file.path: file for stanza in (*self.packages, *self.sources) for file in stanza.files}


def suite(place: Place, name: str, key: bytes, now: int) -> ReadSuite:
    """Return what a suite of a repository has; the files that it names are not read. Raises MachineError."""
    found = ReadSuite(name)
    folder = f"dists/{name}"
    signed = place.read(f"{folder}/InRelease")
    text = gpg.verified(signed, key) if isinstance(signed, bytes) else None
    if text is None:
        why = signed if isinstance(signed, Lack) else "is not signed by the key of the keyring"
        found.findings.append(Finding(f"{name}: InRelease {why}"))
        return found
    found.findings += findings.of_validity(name, text, now, archived=_archived(place, folder))
    if place.read(f"{folder}/Release") != text.encode():
        found.findings.append(Finding(f"{name}: Release says something else than InRelease"))
    for path, file in stanzas.listed(text).items():
        if path == SUMMARY:
            found.findings += different(place, f"{folder}/{path}", file)
        if path.endswith(".gz"):
            _index(place, found, path, file)
    return found


def different(place: Place, path: str, file: PoolFile) -> list[Finding]:
    """Return what is wrong with a file, of which `file` says what it should be; nothing where it is that."""
    told = place.sum(path, file.size)
    if isinstance(told, Lack):
        return [Finding(f"{path} {told}")]
    return [] if told == (file.sha256, file.size) else [Finding(f"{path} has other bytes than its index says")]


def _index(place: Place, found: ReadSuite, path: str, file: PoolFile) -> None:
    """Add what an index names, and what is wrong with it under its name and under its hash."""
    folder = f"dists/{found.name}"
    by_hash = f"{folder}/{path.rpartition('/')[0]}/by-hash/SHA256/{file.sha256}"
    found.findings += different(place, f"{folder}/{path}", file)
    data = place.read(by_hash)
    if isinstance(data, Lack) or (hashlib.sha256(data).hexdigest(), len(data)) != (file.sha256, file.size):
        found.findings += different(place, by_hash, file)
    elif (lines := _unpacked(data)) is None:
        found.findings.append(Finding(f"{folder}/{path} is no gzip file, or too large"))
    elif "/Contents-" in path:
        found.findings += findings.of_owners(found.name, lines)
    elif path.endswith("/Packages.gz"):
        found.packages = stanzas.merged(found.packages, stanzas.parsed(lines))
    else:
        found.sources = stanzas.merged(found.sources, stanzas.parsed(lines))


def _archived(place: Place, folder: str) -> bool:
    """Tell whether a suite says that its release is past its end; that what says so is signed is seen later."""
    summary = place.read(f"{folder}/{SUMMARY}")
    try:
        return isinstance(summary, bytes) and json.loads(summary).get("archived", False) is True
    except (ValueError, AttributeError, RecursionError):
        return False


def _unpacked(index: bytes) -> str | None:
    """Return what a gzip file holds, None where it is none, or holds more than 256 MB."""
    packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = packed.decompress(index, LARGEST_INDEX)
    except zlib.error:
        return None
    return data.decode(errors="replace") if packed.eof else None
