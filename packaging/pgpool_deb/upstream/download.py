"""Download a file from several addresses, with resumption and retries; only a verified file gets its final name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pgpool_deb.ground import web
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.progress import Report

if TYPE_CHECKING:
    import requests
    import tenacity

_CHUNK_BYTES = 16384
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MAX_TRIES = 50
CERTIFICATE_REFUSED = "its certificate is not accepted"
"""The reason of an address whose authority this machine does not know."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds to wait for an address, and how many tries in a row may bring no new bytes."""

    connect: float = 5.0
    stall: float = 20.0
    tries: int = 3
    pause: float = 0.5


PATIENCE = Patience()


class Availability(Enum):
    """Whether an address has a file: it does, it does not, or it does not answer."""

    THERE = "there"
    ABSENT = "absent"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of an address; `reason` states in a few words why the file is not available, "" if it is."""

    availability: Availability
    reason: str = ""


class _Refused(Exception):  # noqa: N818 - the answer of one address; `fetch` raises an error with all answers
    """The address will not send the file, and a retry is pointless."""


class _Interrupted(_Refused):
    """The address may send the file, or the rest of it, on a retry."""


class _WrongContent(_Refused):
    """The address sent another file."""


@dataclass(frozen=True, slots=True)
class _Target:
    destination: Path
    sha256: str
    size: int

    @property
    def part(self) -> Path:
        return self.destination.with_name(self.destination.name + ".part")

    def received(self) -> int:
        """Return the size of the part to continue from; removes a part that is too long."""
        try:
            have = self.part.stat().st_size
        except FileNotFoundError:
            return 0
        if have > self.size:
            self.part.unlink()
            return 0
        return have


def is_verified(path: Path, sha256: str, size: int) -> bool:
    """Return whether `path` is a file of `size` bytes with this SHA-256."""
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fetch(  # noqa: PLR0913 - the file, its addresses and how to download it
    addresses: Sequence[str],
    destination: Path,
    sha256: str,
    size: int,
    report: Report,
    *,
    patience: Patience = PATIENCE,
) -> None:
    """Download `destination` from the first of `addresses` (http, https or file) that sends it.

    Afterwards `destination` has exactly `size` bytes with this `sha256`. It is renamed into place only when it is
    complete. An unfinished download stays in `<destination>.part`, and the next try, address or run continues it,
    even after kill -9. Concurrent runs do not disturb each other.

    Raises MachineError if no address sends the file (with the answer of each), if one sends other content (with both
    sums), and if the disk is full or cannot be written.
    """
    target = _Target(destination, sha256, size)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            if not is_verified(destination, sha256, size):
                _check_space(target)
                _fetch_from_any(addresses, target, report, patience)
    except OSError as error:
        raise _disk_error(error, target) from error


def _fetch_from_any(addresses: Sequence[str], target: _Target, report: Report, patience: Patience) -> None:
    answers: list[tuple[str, _Refused]] = []
    for address in addresses:
        report(f"downloading {target.destination.name} from {address}")
        try:
            _fetch_from(address, target, patience)
        except _Refused as answer:
            answers.append((address, answer))
        else:
            return
    raise _failure(answers, target)


def _failure(answers: Sequence[tuple[str, _Refused]], target: _Target) -> MachineError:
    name = target.destination.name
    wrong = [(address, answer) for address, answer in answers if isinstance(answer, _WrongContent)]
    if wrong:
        address, answer = wrong[0]
        return MachineError(
            f"{name}: {address} sent {answer}; expected sha256 {target.sha256} ({target.size} bytes)",
            hint="a mirror or proxy sends wrong files: use another with --mirror URL, or try again later",
        )
    causes = "; ".join(f"{address}: {answer}" for address, answer in answers) or "no address is known"
    return MachineError(
        f"{name} cannot be downloaded: {causes}", hint="try again later, or use another mirror with --mirror URL"
    )


def _fetch_from(address: str, target: _Target, patience: Patience) -> None:
    import tenacity  # noqa: PLC0415 - slow to import, seldom needed

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Interrupted),
        stop=_NoProgress(target, patience.tries),
        wait=_pauses(patience),
        reraise=True,
    )
    retrying(_try_once, address, target, patience)


def _pauses(patience: Patience) -> tenacity.wait.wait_base:
    import tenacity  # noqa: PLC0415 - slow to import, seldom needed

    return tenacity.wait_exponential(multiplier=patience.pause, max=8 * patience.pause)


def fetch_unpinned(address: str, destination: Path, *, patience: Patience = PATIENCE) -> None:
    """Download a file whose hash is not known yet from one address; every try starts from the beginning.

    Raises MachineError with the address's answer, and OSError if `destination` cannot be written.
    """
    import tenacity  # noqa: PLC0415 - slow to import, seldom needed

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Interrupted),
        stop=tenacity.stop_after_attempt(patience.tries),
        wait=_pauses(patience),
        reraise=True,
    )
    try:
        retrying(_receive_whole, address, destination, patience)
    except _Refused as answer:
        raise MachineError(f"{address}: {answer}", hint="try again later") from answer


def _receive_whole(address: str, destination: Path, patience: Patience) -> None:
    with _translated_errors(), _get(address, 0, patience) as response:
        if response.status_code != 200:
            raise _refusal(response)
        with destination.open("wb") as stream:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                stream.write(chunk)


class _NoProgress:
    """Ends the tries after `tries` in a row that brought no new bytes.

    A download that breaks off again and again is continued to its end as long as it makes progress.
    """

    def __init__(self, target: _Target, tries: int) -> None:
        self._target, self._tries = target, tries
        self._best, self._fruitless = target.received(), 0

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        have = self._target.received()
        self._fruitless = 0 if have > self._best else self._fruitless + 1
        self._best = max(have, self._best)
        return self._fruitless >= self._tries or state.attempt_number >= _MAX_TRIES


def _try_once(address: str, target: _Target, patience: Patience) -> None:
    have = target.received()
    if have < target.size:
        receive = _receive_local if address.startswith("file:") else _receive
        have = receive(address, target, patience)
    _accept(target, resumed=have > 0)


def _receive_local(address: str, target: _Target, _patience: Patience) -> int:
    try:
        source = _local_path(address).open("rb")
    except OSError as error:
        raise _Refused(error.strerror or str(error)) from error
    with source, target.part.open("wb") as part:
        shutil.copyfileobj(source, part)
    return 0


def _receive(address: str, target: _Target, patience: Patience) -> int:
    """Append the address's data to the part; return how many bytes of the earlier part it still contains."""
    with _translated_errors(), _get(address, target.received(), patience) as response:
        offset = _offset(response, target)
        _save(response, target, offset)
        return offset


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn errors of requests and urllib3 into _Refused or _Interrupted."""
    import requests  # noqa: PLC0415 - slow to import, seldom needed
    import urllib3  # noqa: PLC0415 - slow to import, seldom needed

    try:
        yield
    except (requests.TooManyRedirects, requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
        raise _Refused(_reason(error)) from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as error:
        raise _Refused("not an http, https or file address") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Interrupted(_reason(error)) from error


def _get(address: str, offset: int, patience: Patience, last: int | None = None) -> requests.Response:
    # Without "identity", some servers send a .tar.gz as a gzip-encoded .tar, whose bytes differ from the pinned ones.
    headers = {"Accept-Encoding": "identity"}
    if offset or last is not None:
        headers["Range"] = f"bytes={offset}-{'' if last is None else last}"
    return web.get(address, headers=headers, timeout=(patience.connect, patience.stall))


def _offset(response: requests.Response, target: _Target) -> int:
    """Return the offset in the file at which the body begins; raises for an answer that is not (a part of) it."""
    have = target.received()
    if response.status_code == 200:
        return 0  # the whole file, as from a server that ignores Range
    if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    if response.status_code in (206, 416):
        target.part.unlink(missing_ok=True)
        raise _Interrupted(f"{response.status_code}, not the requested range")
    raise _refusal(response)


def _refusal(response: requests.Response) -> _Refused:
    """Return the error for an HTTP status other than success."""
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    return _Interrupted(status) if response.status_code in _TEMPORARY_STATUSES else _Refused(status)


def _save(response: requests.Response, target: _Target, offset: int) -> None:
    with target.part.open("r+b" if offset else "wb") as part:
        if offset:
            part.seek(offset)
            part.truncate()
        total = offset
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            part.write(chunk)
            total += len(chunk)
            if total > target.size:
                return
    if total < target.size and "Content-Length" not in response.headers:
        raise _Interrupted(f"ended after {total} of {target.size} bytes")


def _accept(target: _Target, *, resumed: bool) -> None:
    actual, size = sha256_of(target.part), target.part.stat().st_size
    if actual == target.sha256 and size == target.size:
        target.part.replace(target.destination)
        return
    target.part.unlink()
    answer = f"sha256 {actual} ({'more than ' if size > target.size else ''}{min(size, target.size)} bytes)"
    # If the beginning came from an earlier run or another address, this address gets a try from the start.
    raise _Interrupted(answer) if resumed else _WrongContent(answer)


def _reason(error: Exception) -> str:
    """Return an error of requests or urllib3 in a few words; their own texts name objects and repeat the address."""
    text = repr(error)
    reasons = {
        "ProxyError": "the proxy of this machine refuses it",
        "NameResolutionError": "its host name cannot be resolved",
        "ConnectTimeout": "the connection timed out",
        "ReadTimeout": "stopped sending",
        "Connection refused": "connection refused",
        "IncompleteRead": "the connection ended in the middle of the file",
        "Connection reset": "the connection was reset",
        "RemoteDisconnected": "the connection was closed without an answer",
        "TooManyRedirects": "too many redirects",
        "SSLError": CERTIFICATE_REFUSED,
        "InvalidURL": "not a valid address",
    }
    return next((words for sign, words in reasons.items() if sign in text), type(error).__name__)


def probe(address: str, size: int, patience: Patience) -> Probe:
    """Ask whether `address` has a file of `size` bytes with a GET of its first byte."""
    import requests  # noqa: PLC0415 - slow to import, seldom needed
    import urllib3  # noqa: PLC0415 - slow to import, seldom needed

    if address.startswith("file:"):
        path = _local_path(address)
        there = path.is_file() and path.stat().st_size == size
        return Probe(Availability.THERE) if there else Probe(Availability.ABSENT, "no such file of that size")
    try:
        with _get(address, 0, patience, last=0) as response:
            return _probed(response, size)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return Probe(Availability.SILENT, _reason(error))


def _probed(response: requests.Response, size: int) -> Probe:
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    if response.status_code in _TEMPORARY_STATUSES:
        return Probe(Availability.SILENT, status)
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        # A page that says "no such file" with status 200 differs from the file in length.
        total = response.headers.get("Content-Length", "*")
    if response.status_code not in (200, 206):
        return Probe(Availability.ABSENT, status)
    if total not in (str(size), "*"):
        return Probe(Availability.ABSENT, f"another file, of {total} bytes")
    return Probe(Availability.THERE)


def _local_path(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    with destination.with_name(destination.name + ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_space(target: _Target) -> None:
    missing = target.size - target.received()
    if shutil.disk_usage(target.destination.parent).free < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_error(error: OSError, target: _Target) -> MachineError:
    folder = target.destination.parent
    if error.errno not in _NO_SPACE:
        return MachineError(
            f"{target.destination} cannot be written: {error.strerror or error}",
            hint=f"run this command as a user who may write to {folder}",
        )
    mount = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_mount())
    needed, free = target.size - target.received(), shutil.disk_usage(folder).free
    return MachineError(
        f"the file system {mount} is full: {target.destination.name} needs {needed} more bytes, and {free} are free",
        hint=f"free space on {mount}; the next run continues the download",
    )
