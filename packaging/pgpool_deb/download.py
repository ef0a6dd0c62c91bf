"""Download one file from several addresses: resumed, retried, and under its final name only once it is verified."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from . import web
from .errors import MachineError

if TYPE_CHECKING:
    import requests
    import tenacity

Report = Callable[[str], None]
_CHUNK = 16384
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_MOST_TRIES = 50


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for an address (seconds), and how many tries in a row may bring nothing new."""

    connect: float = 5.0
    stall: float = 20.0
    tries: int = 3
    pause: float = 0.5


PATIENCE = Patience()


class Standing(Enum):
    """What an address says about a file: it is there, it is not, or there was no answer to be had."""

    THERE = "there"
    ABSENT = "absent"
    SILENT = "silent"


class _Refused(Exception):  # noqa: N818 - an answer of one address; `fetch` makes the error of them all
    """The address will not send the file; asking again is of no use."""


class _Interrupted(_Refused):
    """The address may send the file, or the rest of it, when it is asked again."""


class _WrongContent(_Refused):
    """The address sent another file."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    destination: Path
    sha256: str
    size: int

    @property
    def part(self) -> Path:
        return self.destination.with_name(self.destination.name + ".part")

    def have(self) -> int:
        """Return how many bytes of the part can be continued from; a part that is too long is removed."""
        try:
            have = self.part.stat().st_size
        except FileNotFoundError:
            return 0
        if have > self.size:
            self.part.unlink()
            return 0
        return have


def is_verified(path: Path, sha256: str, size: int) -> bool:
    """Return whether `path` is a file of `size` bytes with that sha256."""
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fetch(  # noqa: PLR0913 - what is wanted, where from and how
    addresses: Sequence[str],
    destination: Path,
    sha256: str,
    size: int,
    report: Report,
    *,
    patience: Patience = PATIENCE,
) -> None:
    """Download `destination` from the first of `addresses` (http, https or file) that sends it.

    Afterwards `destination` has exactly `size` bytes with that `sha256`; it is renamed into place whole, never seen
    half-written. What arrived of an unfinished download stays in `<destination>.part` and is continued by the next
    try, address or run, whatever ended this one. Two runs at once do not disturb each other.

    Raises MachineError when no address sends the file (with the answer of each), when one sends other content (with
    both sums), and when the disk is full or cannot be written.
    """
    wanted = _Wanted(destination, sha256, size)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            if not is_verified(destination, sha256, size):
                _check_space(wanted)
                _fetch_from_any(addresses, wanted, report, patience)
    except OSError as error:
        raise _disk_error(error, wanted) from error


def _fetch_from_any(addresses: Sequence[str], wanted: _Wanted, report: Report, patience: Patience) -> None:
    answers: list[tuple[str, _Refused]] = []
    for address in addresses:
        report(f"downloading {wanted.destination.name} from {address}")
        try:
            _fetch_from(address, wanted, patience)
        except _Refused as answer:
            answers.append((address, answer))
        else:
            return
    raise _failure(answers, wanted)


def _failure(answers: Sequence[tuple[str, _Refused]], wanted: _Wanted) -> MachineError:
    name = wanted.destination.name
    wrong = [(address, answer) for address, answer in answers if isinstance(answer, _WrongContent)]
    if wrong:
        address, answer = wrong[0]
        return MachineError(
            f"{name}: {address} sent {answer}; expected sha256 {wanted.sha256} ({wanted.size} bytes)",
            hint="a mirror or proxy alters or mixes up files: try another --mirror, or again later",
        )
    said = "; ".join(f"{address}: {answer}" for address, answer in answers) or "no address is known"
    return MachineError(f"{name} could not be downloaded: {said}", hint="try again later, or with another --mirror URL")


def _fetch_from(address: str, wanted: _Wanted, patience: Patience) -> None:
    import tenacity  # noqa: PLC0415 - slow to import, seldom needed

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Interrupted),
        stop=_NoProgress(wanted, patience.tries),
        wait=tenacity.wait_exponential(multiplier=patience.pause, max=8 * patience.pause),
        reraise=True,
    )
    retrying(_try_once, address, wanted, patience)


class _NoProgress:
    """Ends the tries after so many in a row that brought not one byte more.

    A download that is cut off again and again, but goes on, is continued to its end.
    """

    def __init__(self, wanted: _Wanted, tries: int) -> None:
        self._wanted, self._tries = wanted, tries
        self._best, self._in_vain = wanted.have(), 0

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        have = self._wanted.have()
        self._in_vain = 0 if have > self._best else self._in_vain + 1
        self._best = max(have, self._best)
        return self._in_vain >= self._tries or state.attempt_number >= _MOST_TRIES


def _try_once(address: str, wanted: _Wanted, patience: Patience) -> None:
    have = wanted.have()
    if have < wanted.size:
        receive = _receive_local if address.startswith("file:") else _receive
        have = receive(address, wanted, patience)
    _accept(wanted, resumed=have > 0)


def _receive_local(address: str, wanted: _Wanted, _patience: Patience) -> int:
    try:
        source = _local_path(address).open("rb")
    except OSError as error:
        raise _Refused(error.strerror or str(error)) from error
    with source, wanted.part.open("wb") as part:
        shutil.copyfileobj(source, part)
    return 0


def _receive(address: str, wanted: _Wanted, patience: Patience) -> int:
    """Append what the address sends to the part; return how many bytes of the earlier part are still in it."""
    import requests  # noqa: PLC0415 - slow to import, seldom needed
    import urllib3  # noqa: PLC0415 - slow to import, seldom needed

    try:
        with _get(address, wanted.have(), patience) as response:
            offset = _offset(response, wanted)
            _save(response, wanted, offset)
            return offset
    except (requests.TooManyRedirects, requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
        raise _Refused(_reason(error)) from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
        raise _Refused("not an http, https or file address") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Interrupted(_reason(error)) from error


def _get(address: str, offset: int, patience: Patience, last: int | None = None) -> requests.Response:
    # Without "identity" some servers send a .tar.gz as a gzip-encoded .tar: other bytes than the pinned ones.
    headers = {"Accept-Encoding": "identity"}
    if offset or last is not None:
        headers["Range"] = f"bytes={offset}-{'' if last is None else last}"
    return web.get(address, headers=headers, timeout=(patience.connect, patience.stall))


def _offset(response: requests.Response, wanted: _Wanted) -> int:
    """Return where in the file the body begins; raises for an answer that is not (a part of) the file."""
    have = wanted.have()
    if response.status_code == 200:
        return 0  # the whole file: also a server's way to ignore Range
    if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    if response.status_code in (206, 416):
        wanted.part.unlink(missing_ok=True)
        raise _Interrupted(f"{response.status_code}, not the range that was asked for")
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    raise _Interrupted(status) if response.status_code in _TEMPORARY else _Refused(status)


def _save(response: requests.Response, wanted: _Wanted, offset: int) -> None:
    with wanted.part.open("r+b" if offset else "wb") as part:
        if offset:
            part.seek(offset)
            part.truncate()
        total = offset
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            part.write(chunk)
            total += len(chunk)
            if total > wanted.size:
                return
    if total < wanted.size and "Content-Length" not in response.headers:
        raise _Interrupted(f"ended after {total} of {wanted.size} bytes")


def _accept(wanted: _Wanted, *, resumed: bool) -> None:
    actual, size = sha256_of(wanted.part), wanted.part.stat().st_size
    if actual == wanted.sha256 and size == wanted.size:
        wanted.part.replace(wanted.destination)
        return
    wanted.part.unlink()
    answer = f"sha256 {actual} ({'more than ' if size > wanted.size else ''}{min(size, wanted.size)} bytes)"
    # The beginning may have come from an earlier run or another address: then this address gets a chance of its own.
    raise _Interrupted(answer) if resumed else _WrongContent(answer)


def _reason(error: Exception) -> str:
    """Return an error of requests or urllib3 in a few words; theirs name objects and repeat the address."""
    text = repr(error)
    reasons = {
        "NameResolutionError": "its host name is not known here",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "stopped sending",
        "Connection refused": "connection refused",
        "IncompleteRead": "the connection ended in the middle of the file",
        "Connection reset": "the connection was reset",
        "RemoteDisconnected": "the connection was closed without an answer",
        "TooManyRedirects": "too many redirects",
        "SSLError": "its certificate is not accepted",
        "InvalidURL": "not a valid address",
    }
    return next((words for sign, words in reasons.items() if sign in text), type(error).__name__)


def probe(address: str, size: int, patience: Patience) -> Standing:
    """Ask whether `address` has a file of `size` bytes, without downloading it (a GET of its first byte)."""
    import requests  # noqa: PLC0415 - slow to import, seldom needed
    import urllib3  # noqa: PLC0415 - slow to import, seldom needed

    if address.startswith("file:"):
        path = _local_path(address)
        return Standing.THERE if path.is_file() and path.stat().st_size == size else Standing.ABSENT
    try:
        with _get(address, 0, patience, last=0) as response:
            return _standing(response, size)
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        return Standing.SILENT


def _standing(response: requests.Response, size: int) -> Standing:
    if response.status_code in _TEMPORARY:
        return Standing.SILENT
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        # A page that says "no such file" with status 200 has another length than the file.
        total = response.headers.get("Content-Length", "*")
    good = response.status_code in (200, 206) and total in (str(size), "*")
    return Standing.THERE if good else Standing.ABSENT


def _local_path(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    with destination.with_name(destination.name + ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_space(wanted: _Wanted) -> None:
    missing = wanted.size - wanted.have()
    if shutil.disk_usage(wanted.destination.parent).free < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_error(error: OSError, wanted: _Wanted) -> MachineError:
    folder = wanted.destination.parent
    if error.errno not in _NO_SPACE:
        return MachineError(
            f"{wanted.destination} cannot be written: {error.strerror or error}",
            hint=f"the user running this must be able to write to {folder}",
        )
    mount = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_mount())
    needed, free = wanted.size - wanted.have(), shutil.disk_usage(folder).free
    return MachineError(
        f"the file system {mount} is full: {wanted.destination.name} needs {needed} bytes more and {free} are free",
        hint=f"free space on {mount}; what was downloaded is kept and continued",
    )
