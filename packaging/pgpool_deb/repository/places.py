"""Read a repository that is checked, in a folder of this machine or at a URL."""

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

from pgpool_deb.ground import web
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.upstream.download import sha256_of

from . import inside
from .inside import Lack

LARGEST_INDEX = 256 << 20
"""An upper limit for the size of our indexes, in bytes."""
_TIMEOUT = 30.0
_BLOCK = 1 << 20
_SUITE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Place(Protocol):
    """The location of a repository."""

    def suites(self) -> list[str]:
        """Return the names of its suites.

        Raises UsageError if it is not one of our repositories, MachineError if it cannot be read.
        """

    def names(self, folder: str) -> list[str] | None:
        """Return the names in a folder, None if the place cannot list folders; raises MachineError if unreadable."""

    def read(self, path: str) -> bytes | Lack:
        """Return the contents of a small file, or the reason why there is none; raises MachineError if unreadable."""

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of a file, or the reason why there is none; raises MachineError if unreadable.

        It reads at most `size` bytes and one block of 1 MiB.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A repository in a folder of this machine."""

    path: Path

    def suites(self) -> list[str]:
        """Return the names of the folders in dists/."""
        names = inside.names(self.path, "dists")
        if not names:
            hint = "check the path; in a repository, dists is a symbolic link to current/dists"
            raise UsageError(f"{self.path} has no suites in dists/", hint=hint)
        return [name for name in names if (self.path / "dists" / name).is_dir()]

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        return inside.names(self.path, folder)

    def read(self, path: str) -> bytes | Lack:
        """Return the contents of a file."""
        return inside.read(self.path, path)

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of a file; the SHA-256 is empty if the size is another one."""
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
        """Return the names in keyring/suites: HTTP cannot list folders."""
        listed = self.read("keyring/suites")
        if isinstance(listed, Lack):
            raise UsageError(
                f"{self.url} has no keyring/suites", hint="check the URL; ./invoke publish creates a repository"
            )
        names = listed.decode(errors="replace").split()
        if not names or not all(map(_SUITE.fullmatch, names)):
            hint = "check the URL; does the server send an HTML page instead of status 404?"
            raise UsageError(f"{self.url}/keyring/suites is not a list of suites", hint=hint)
        return names

    def names(self, _folder: str) -> None:
        """Return None: HTTP cannot list folders."""

    def read(self, path: str) -> bytes | Lack:
        """Return the body of a response; raises MachineError if it has more than 256 MiB."""
        blocks = self._blocks(path)
        if blocks is None:
            return Lack.MISSING
        data = bytearray()
        for block in blocks:
            data += block
            if len(data) > LARGEST_INDEX:
                raise MachineError(
                    f"{self.url}/{path} is larger than {LARGEST_INDEX >> 20} MiB",
                    hint="check the URL: indexes are smaller",
                )
        return bytes(data)

    def sum(self, path: str, size: int) -> tuple[str, int] | Lack:
        """Return SHA-256 and size of the part of a response body that is read."""
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
        """Return the body of a response in blocks, None if the server has no such file.

        Raises UsageError if the URL is not of a web server, MachineError if the request fails.
        """
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(
                f"{self.url} is not a URL of a web server", hint="name a folder, or an http:// or https:// URL"
            )
        with self._errors(path):
            answer = web.get(f"{self.url}/{quote(path)}", timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
        if answer.status_code == requests.codes.not_found:
            return None
        if not answer.ok:
            raise MachineError(
                f"{self.url}/{path}: {answer.status_code} {answer.reason}", hint="read the web server's log"
            )
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
