"""Where a repository that is checked lies: in a folder of this machine, or at a URL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import requests

from pgpool_deb import web
from pgpool_deb.download import sha256_of
from pgpool_deb.errors import MachineError, UsageError

from . import inside
from .inside import Lack

LARGEST_INDEX = 256 << 20
"""No index of ours is larger, in bytes."""
_TIMEOUT = 30.0
_BLOCK = 1 << 20
_SUITE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Place(Protocol):
    """Where a repository is."""

    def suites(self) -> list[str]:
        """Return the names of its suites; raises UsageError where it is no repository of ours, and MachineError."""

    def names(self, folder: str) -> list[str] | None:
        """Return the names in a folder, None where the place does not tell; raises MachineError."""

    def read(self, path: str) -> bytes | Lack:
        """Return a small file below it, or why there is none; raises MachineError."""

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of a file below it, or why there is none; raises MachineError.

        No more than `size` bytes and a block are read.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A repository in a folder of this machine."""

    path: Path

    def suites(self) -> list[str]:
        """Return the names of the folders in dists/."""
        names = inside.names(self.path, "dists")
        if not names:
            hint = "it is no repository of ours, or not whole: dists is a symbolic link to current/dists"
            raise UsageError(f"{self.path} has no dists/ with suites", hint=hint)
        return [name for name in names if (self.path / "dists" / name).is_dir()]

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        return inside.names(self.path, folder)

    def read(self, path: str) -> bytes | Lack:
        """Return the contents of a file."""
        return inside.read(self.path, path)

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of a file; of one that is not of this size, the size alone."""
        place = inside.find(self.path, path)
        if isinstance(place, Lack):
            return place
        try:
            found = place.stat().st_size
            return (sha256_of(place) if found == size else ""), found
        except OSError as error:
            raise inside.unreadable(place, error) from error


@dataclass(frozen=True, slots=True)
class Address:
    """A repository at a URL."""

    url: str

    def suites(self) -> list[str]:
        """Return what keyring/suites names: the web has no lists of folders."""
        listed = self.read("keyring/suites")
        if isinstance(listed, Lack):
            raise UsageError(f"{self.url} has no keyring/suites", hint="it is no repository of ours, or not whole")
        names = listed.decode(errors="replace").split()
        if not names or not all(map(_SUITE.fullmatch, names)):
            hint = "it is no repository of ours: does the server answer with a page for what it does not have?"
            raise UsageError(f"{self.url}/keyring/suites names no suites", hint=hint)
        return names

    def names(self, _folder: str) -> None:
        """Return None: the web has no lists of folders."""

    def read(self, path: str) -> bytes | Lack:
        """Return the body of an answer, at most 256 MB."""
        blocks = self._blocks(path)
        if blocks is None:
            return Lack.MISSING
        data = bytearray()
        for block in blocks:
            data += block
            if len(data) > LARGEST_INDEX:
                raise MachineError(f"{self.url}/{path} does not end", hint="this is no index of ours")
        return bytes(data)

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of the body of an answer, as far as it is read."""
        blocks = self._blocks(path)
        if blocks is None:
            return Lack.MISSING
        found, read = hashlib.sha256(), 0
        for block in blocks:
            found.update(block)
            read += len(block)
            if read > size:
                break
        return found.hexdigest(), read

    def _blocks(self, path: str) -> Iterator[bytes] | None:
        """Return the body of an answer in blocks, None where the server has no such file; raises MachineError."""
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(
                f"{self.url} is no address of a web server", hint="a folder, http:// or https:// is checked"
            )
        with self._errors(path):
            answer = web.get(f"{self.url}/{quote(path)}", timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
        if answer.status_code == requests.codes.not_found:
            return None
        if not answer.ok:
            raise MachineError(f"{self.url}/{path}: {answer.status_code} {answer.reason}", hint="see the server's log")
        return self._body(path, answer)

    def _body(self, path: str, answer: requests.Response) -> Iterator[bytes]:
        with self._errors(path):
            yield from answer.iter_content(_BLOCK)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            why = str(error).rpartition(": ")[2].rstrip("\"')")
            raise MachineError(f"{self.url}/{path}: {why}", hint="is the web server up?") from error
