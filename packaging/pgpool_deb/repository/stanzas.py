"""Parse, merge and render the indexes of a suite: Packages, Sources, Contents and Release. Pure.

New stanzas are merged into an index, so the cost of a publish grows mainly with the number of new packages. Stanzas and
lines of Contents are sorted by path, so an index depends on its contents and not on the order of publishing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from debian.debian_support import Version

_TIME = "%a, %d %b %Y %H:%M:%S UTC"
_FIELD = re.compile(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_ASKED = re.compile(r"^(Package|Version|Architecture|Filename|Directory): (.*)$", re.MULTILINE)
_OF_FILE = re.compile(r"^(Filename|SHA256|Size): (.*)$", re.MULTILINE)
_DSC = re.compile(r"^ .* (\S+\.dsc)$", re.MULTILINE)
_NAMED = 100
"""The maximum number of unproved packages that a description names."""
_CHECKSUM = re.compile(r"^ ([0-9a-f]{64}) +(\d+) +(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PoolFile:
    """A file that an index names: its path below the repository, SHA-256 and size in bytes."""

    path: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: str, data: bytes) -> tuple[bytes, PoolFile]:
        """Return these bytes with the entry that describes them."""
        return data, cls(path, hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class Stanza:
    """A paragraph of Packages or Sources, without the empty line after it, and its most used fields.

    `place` is the path of its .deb or .dsc; it identifies the stanza and is its sort key.
    """

    text: str
    package: str
    version: str
    architecture: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Stanza:
        """Parse a stanza."""
        found = dict(_ASKED.findall(text))
        place = found.get("Filename") or f"{found.get('Directory', '')}/{_DSC.search(text)[1]}"  # type: ignore[index]
        return cls(text, found["Package"], found["Version"], found.get("Architecture", ""), place)

    @property
    def fields(self) -> dict[str, str]:
        """All its fields by name, including those of debian/control."""
        return dict(_FIELD.findall(self.text))

    @property
    def files(self) -> tuple[PoolFile, ...]:
        """The files that it names: the .deb, or all files of a source package."""
        found = dict(_OF_FILE.findall(self.text))
        if "Filename" in found:
            return (PoolFile(found["Filename"], found["SHA256"], int(found["Size"])),)
        sums = self.text.partition("\nChecksums-Sha256:")[2]
        listed = re.split(r"\n(?! )", sums, maxsplit=1)[0] + "\n"
        folder = self.place.rpartition("/")[0]
        return tuple(
            PoolFile(f"{folder}/{name}", sha256, int(size)) for sha256, size, name in _CHECKSUM.findall(listed)
        )


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index of some files of the pool: stanzas of .debs and of .dscs, and lines of Contents by architecture."""

    packages: tuple[Stanza, ...] = ()
    sources: tuple[Stanza, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)


def parsed(index: str) -> tuple[Stanza, ...]:
    """Return the stanzas of an index."""
    return tuple(Stanza.parse(text) for text in index.strip("\n").split("\n\n") if text)


def merged(*indexes: Iterable[Stanza]) -> tuple[Stanza, ...]:
    """Return all stanzas in their order, each once; of two with the same place, the later one replaces the earlier."""
    found = {stanza.place: stanza for index in indexes for stanza in index}
    return tuple(found[place] for place in sorted(found))


def newest(stanzas: Iterable[Stanza], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the newest version of each package by its name, including those of `before`."""
    found = dict(before or {})
    for stanza in stanzas:
        known = found.get(stanza.package)
        if known is None or _is_older(known, stanza.version):
            found[stanza.package] = stanza.version
    return found


@lru_cache(maxsize=4096)
def _is_older(one: str, other: str) -> bool:
    """Compare versions; cached, because the packages of one source mostly share their version."""
    return one != other and Version(one) < Version(other)


def written(stanzas: Iterable[Stanza]) -> str:
    """Return the text of an index."""
    return "".join(f"{stanza.text}\n\n" for stanza in stanzas)


def merged_contents(*texts: str) -> str:
    """Return the union of Contents indexes; each line names the sorted packages of a path, each once."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for line in text.splitlines():
            path, _, packages = line.rpartition(" ") if " " in line else line.rpartition("\t")
            found.setdefault(path.strip(), set()).update(packages.strip().split(","))
    return "".join(f"{path} {','.join(sorted(found[path]))}\n" for path in sorted(found))


@dataclass(frozen=True, slots=True)
class ReleaseFields:
    """The fields of Release other than the list of indexes; times in seconds since 1970."""

    suite: str
    description: str
    architectures: tuple[str, ...]
    date: int
    valid_until: int | None
    """None if apt accepts it without a time limit."""
    origin: str = "pgpool-deb"

    def text(self, indexes: Mapping[str, bytes]) -> str:
        """Return the text of Release; `indexes` holds their bytes by their paths below the suite's folder."""
        lines = [
            f"Origin: {self.origin}", f"Label: {self.origin}", f"Suite: {self.suite}", f"Codename: {self.suite}",
            f"Date: {_rfc(self.date)}",
            *([] if self.valid_until is None else [f"Valid-Until: {_rfc(self.valid_until)}"]), "Acquire-By-Hash: yes",
            f"Architectures: {' '.join(self.architectures)}", "Components: main", f"Description: {self.description}",
            "SHA256:",
        ]  # fmt: skip
        sums = [f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}" for path, data in sorted(indexes.items())]
        return "\n".join([*lines, *sums]) + "\n"


def described(release: str, suite: str, unproved: Sequence[str], *, archived: bool = False) -> str:
    """Return the description of a suite, which names at most 100 unproved packages; suite.json names all of them.

    The description is one line of Release, and gpg truncates lines of more than 20,000 characters in clear-signed text.
    """
    title = "tested" if suite == release else "to be tested"
    if archived:
        title = "archived: the release has reached end of life and gets no new packages"
    more = f" and {len(unproved) - _NAMED} more" if len(unproved) > _NAMED else ""
    unproved_note = f"; not proved: {', '.join(unproved[:_NAMED])}{more}" if unproved else ""
    return f"pgpool-II for Debian {release}, {title}{unproved_note}"


def listed(release: str) -> dict[str, PoolFile]:
    """Return the indexes that a Release text names, by their paths below the suite's folder."""
    sums = release.partition("\nSHA256:")[2]
    return {path: PoolFile(path, sha256, int(size)) for sha256, size, path in _CHECKSUM.findall(sums)}


def valid_until(release: str) -> int | None:
    """Return the Valid-Until of a Release text, in seconds since 1970; None if it has none."""
    found = re.search(r"^Valid-Until: (.*)$", release, re.MULTILINE)
    return int(datetime.strptime(found[1], _TIME).replace(tzinfo=UTC).timestamp()) if found else None


def _rfc(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime(_TIME)
