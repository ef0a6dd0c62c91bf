"""Where a repository that is checked lies: in a folder of this machine, or at a URL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests

from pgpool_deb import web
from pgpool_deb.errors import MachineError, UsageError

LARGEST_INDEX = 256 << 20
"""No index of ours is larger, in bytes."""
_TIMEOUT = 30.0
_BLOCK = 1 << 20


class Place(Protocol):
    """Where a repository is."""

    def suites(self) -> list[str]:
        """Return the names of its suites."""

    def read(self, path: str) -> bytes | None:
        """Return a small file below it, None where it is missing; raises MachineError."""

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file below it, None where it is missing; raises MachineError.

        No more than `size` bytes and a block are read.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A repository in a folder of this machine."""

    path: Path

    def suites(self) -> list[str]:
        """Return the names of the folders in dists/."""
        return sorted(one.name for one in (self.path / "dists").iterdir() if one.is_dir())

    def read(self, path: str) -> bytes | None:
        """Return the contents of a file."""
        place = self.path / path
        if self.path.resolve() not in place.resolve().parents:
            raise UsageError(f"{place} leads out of the repository", hint="remove the symbolic link")
        return place.read_bytes() if place.is_file() else None

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of a file."""
        place = self.path / path
        if self.path.resolve() not in place.resolve().parents:
            raise UsageError(f"{place} leads out of the repository", hint="remove the symbolic link")
        if not place.is_file():
            return None
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), place.stat().st_size


@dataclass(frozen=True, slots=True)
class Address:
    """A repository at a URL."""

    url: str

    def suites(self) -> list[str]:
        """Return what keyring/suites names: the web has no lists of folders."""
        listed = self.read("keyring/suites")
        if listed is None:
            raise UsageError(f"{self.url} has no keyring/suites", hint="it is no repository of ours, or not whole")
        return listed.decode(errors="replace").split()

    def read(self, path: str) -> bytes | None:
        """Return the body of an answer, at most 256 MB."""
        blocks = self._blocks(path)
        if blocks is None:
            return None
        data = bytearray()
        for block in blocks:
            data += block
            if len(data) > LARGEST_INDEX:
                raise MachineError(f"{self.url}/{path} does not end", hint="this is no index of ours")
        return bytes(data)

    def sum(self, path: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size of the body of an answer, as far as it is read."""
        blocks = self._blocks(path)
        if blocks is None:
            return None
        found, read = hashlib.sha256(), 0
        for block in blocks:
            found.update(block)
            read += len(block)
            if read > size:
                break
        return found.hexdigest(), read

    def _blocks(self, path: str) -> Iterator[bytes] | None:
        try:
            answer = web.get(f"{self.url}/{path}", timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
        except requests.RequestException as error:
            raise MachineError(f"{self.url}/{path}: {error}", hint="is the web server up?") from error
        if answer.status_code == requests.codes.not_found:
            return None
        if not answer.ok:
            raise MachineError(f"{self.url}/{path}: {answer.status_code} {answer.reason}", hint="see the server's log")
        return answer.iter_content(_BLOCK)
