"""Root and postgres are two people: root touches a file only where no other user can put anything in its way.

That is where every ancestor is root's alone (ancestors.py). Everywhere else a process that *is* the owner does the
work: it can touch nothing that the owner could not touch anyway. It is forked, does not run another program, and
changes its user for good, so no other process of that user may trace it (prctl(2), PR_SET_DUMPABLE). Root takes its
answers as the owner's word: bounded, typed, and written back only where the owner writes.

A process that is not root does everything itself, with the rights it has.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import pwd
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .ancestors import MOST_LINKS, forget, intruder, is_shared
from .errors import ServerError
from .files import Found, OddFileError

Json = dict[str, Any]
_SECONDS = 30.0
"""How long the owner's process may take for an answer."""
_SECONDS_IN_ALL = 60.0
"""How long one command waits for the processes of one owner, and the owner can stop them."""
_LONGEST = 2 * files.LARGEST
"""Bytes of a request or an answer: a file in base64, and some words."""


def postgres() -> int:
    """Return the uid of the postgres user; raises ServerError where there is none."""
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError as error:
        raise ServerError("there is no user postgres", hint="apt install postgresql-common") from error


def read(path: Path, owner: int | None = None) -> Found | None:
    """Return a plain file, as files.read does, None for none; raises OddFileError, or ServerError.

    `owner`: whose process reads it where root must not; None for postgres.
    """
    answer = _done({"do": "read", "path": _absolute(path)}, owner)
    return _found(path, answer.get("found"))


def write(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Put a whole file at `path`, as files.write does, or raise ServerError; `owner` is (uid, gid), None for root."""
    uid, gid = owner or (0, 0)
    text = base64.b64encode(content).decode("ascii")
    give = [uid, gid] if owner else None
    _done({"do": "write", "path": _absolute(path), "content": text, "mode": mode, "owner": give}, uid)


def remove(path: Path, owner: int | None = None) -> None:
    """Delete a file, a link or the like; one that is not there is no error. Raises ServerError."""
    _done({"do": "remove", "path": _absolute(path)}, owner)


def make_folder(path: Path, mode: int, owner: tuple[int, int] = (0, 0), *, again: bool = False) -> None:
    """Make a folder that does not exist; its ancestors get mode 0755. Raises ServerError.

    `again`: a folder that exists gets this owner and mode, too.
    """
    if owner == (0, 0) and _is_shared(path.parent):
        _make_among_others(path)
        return
    if again:
        path = _past_roots_links(path.absolute())
    request = {"do": "make", "path": _absolute(path), "mode": mode, "owner": list(owner), "again": again}
    _done(request, owner[0])


def _past_roots_links(path: Path) -> Path:
    """Return what links that only root can have made lead to; another user's link ends the way."""
    for _ in range(MOST_LINKS):
        if intruder(path) or not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def _is_shared(folder: Path) -> bool:
    """Tell whether all may write in a folder of root's, but rename and delete only what is theirs, as in /tmp."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return bool(is_shared(found) and found.st_mode & stat.S_ISVTX and found.st_uid == 0 and not intruder(folder))


def _make_among_others(path: Path) -> None:
    """Make a folder of root's in a shared one, as /run is in some containers: mkdir(2) takes nothing that is there."""
    with _explained(path), contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755)
    forget()
    if why := intruder(path / "file"):
        raise ServerError(f"{path} is to be root's alone: {why}", hint=f"rm -r {path}")


def remove_folder(path: Path, owner: int | None = None) -> None:
    """Delete a folder that is empty; any other stays, without an error."""
    _done({"do": "remove-folder", "path": _absolute(path)}, owner)


def places(path: Path, owner: int | None = None) -> tuple[str, ...]:
    """Return where a path and what the links in it point to really are; a folder that cannot be read has none."""
    found = _done({"do": "places", "path": _absolute(path)}, owner).get("places")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def names(path: Path, owner: int | None = None) -> tuple[str, ...]:
    """Return the names in a folder, in their order; one that cannot be read has none."""
    found = _done({"do": "names", "path": _absolute(path)}, owner).get("names")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _found(path: Path, values: object) -> Found | None:
    if values is None:
        return None
    try:
        assert isinstance(values, dict)  # noqa: S101 - an AssertionError is caught below
        numbers = [values[name] for name in ("uid", "gid", "mode")]
        assert all(isinstance(number, int) for number in numbers)  # noqa: S101
        return Found(base64.b64decode(values["content"], validate=True), *numbers)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{path}: its owner's process gave no file", hint="pgpoolctl apply tries again") from error


def _done(request: Json, owner: int | None) -> Json:
    """Have a request carried out by the process that may; raises what it raises."""
    path = Path(request["path"])
    why = intruder(path) if os.getuid() == 0 else ""
    if not why:
        return perform(request)
    uid = postgres() if owner is None else owner
    if uid == 0:
        raise ServerError(f"{path}: root writes nothing there: {why}", hint="chown root, and chmod go-w, that folder")
    answer = _process(uid).ask(request)
    if "message" in answer:
        kind = OddFileError if answer.get("odd") is True else ServerError
        raise kind(str(answer["message"]), hint=str(answer.get("hint", "")))
    return answer


# What is done, by root or by the owner's process: pure of whose hand it is.


def perform(request: Json) -> Json:
    """Carry one request out with the rights of this process; raises ServerError."""
    work = _WORK.get(str(request["do"]))
    if work is None:
        raise ServerError(f"{request['do']!r} is nothing that is done to a file", hint="reinstall pgpool2-cluster")
    return work(Path(request["path"]), request)


def _read(path: Path, _: Json) -> Json:
    found = files.read(path)
    if found is None:
        return {}
    text = base64.b64encode(found.content).decode("ascii")
    return {"found": {"content": text, "uid": found.uid, "gid": found.gid, "mode": found.mode}}


def _write(path: Path, request: Json) -> Json:
    owner = request["owner"]
    content = base64.b64decode(request["content"])
    files.write(path, content, int(request["mode"]), (owner[0], owner[1]) if owner else None)
    return {}


def _remove(path: Path, _: Json) -> Json:
    with _explained(path):
        path.unlink(missing_ok=True)
    return {}


def _make(path: Path, request: Json) -> Json:
    uid, gid = request["owner"]
    with _explained(path):
        if path.is_dir() and not request["again"]:
            return {}
        for folder in reversed(path.parents):
            if not folder.is_dir():
                folder.mkdir(mode=0o755)
        path.mkdir(mode=0o700, exist_ok=request["again"])
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(handle, uid, gid)
            os.fchmod(handle, request["mode"])
        finally:
            os.close(handle)
    return {}


def _remove_folder(path: Path, _: Json) -> Json:
    with contextlib.suppress(OSError):
        path.rmdir()
    return {}


def _places(path: Path, _: Json) -> Json:
    found = [path, *(entry for entry in _entries(path) if entry.is_symlink())]
    return {"places": [os.path.realpath(entry) for entry in found]}


def _names(path: Path, _: Json) -> Json:
    return {"names": sorted(entry.name for entry in _entries(path))}


def _entries(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(path.iterdir())
    return []


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}", hint="put that right, then run pgpoolctl apply") from error


_WORK: dict[str, Callable[[Path, Json], Json]] = {
    "read": _read,
    "write": _write,
    "remove": _remove,
    "make": _make,
    "remove-folder": _remove_folder,
    "places": _places,
    "names": _names,
}


# The owner's process.


@dataclass(slots=True)
class _Process:
    """A process of another user's that carries requests out, one a line."""

    pid: int
    line: socket.socket
    uid: int

    def ask(self, request: Json) -> Json:
        """Have one request carried out; raises ServerError where the process says nothing, or nonsense."""
        began = time.monotonic()
        try:
            self.line.settimeout(min(_SECONDS, _left(self.uid)))
            self.line.sendall(json.dumps(request).encode() + b"\n")
            said = _received(self.line)
            answer = json.loads(said)
        except (OSError, ValueError) as error:
            self.end()
            why = f"{request['path']}: its owner's process does not answer: {error}"
            raise ServerError(why, hint="run the same command again") from error
        finally:
            _spent[self.uid] = _spent.get(self.uid, 0.0) + time.monotonic() - began
        if not isinstance(answer, dict):
            raise ServerError(f"{request['path']}: its owner's process talks nonsense", hint="run it again")
        return answer

    def end(self) -> None:
        """End the process."""
        _processes.clear()
        self.line.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_processes: dict[int, _Process] = {}
"""By uid: one is enough for all that a command does."""
_spent: dict[int, float] = {}
"""Seconds that this command has waited for the processes of a uid."""


def _left(uid: int) -> float:
    left = _SECONDS_IN_ALL - _spent.get(uid, 0.0)
    if left <= 0:
        raise TimeoutError(f"no patience is left after {_SECONDS_IN_ALL:g} s")
    return left


def _process(uid: int) -> _Process:
    if uid not in _processes:
        _processes[uid] = _forked(uid)
        atexit.register(_end, os.getpid())
    return _processes[uid]


def _end(parent: int) -> None:
    if os.getpid() == parent:
        for process in list(_processes.values()):
            process.end()


def _forked(uid: int) -> _Process:
    entry = pwd.getpwuid(uid)
    mine, theirs = socket.socketpair()
    pid = os.fork()
    if pid != 0:
        theirs.close()
        return _Process(pid, mine, uid)
    try:
        _become(entry, theirs.fileno())
        _serve(theirs)
    finally:
        os._exit(0)


def _become(entry: pwd.struct_passwd, keep: int) -> None:
    """Become somebody else for good, without anything that root has open: locks and terminals among it.

    It has root's memory, so it leaves no core: some programs that take cores give them to the user of the process.
    """
    os.setsid()
    limit = min(1, abs(resource.getrlimit(resource.RLIMIT_CORE)[1]))  # -1: there is no limit
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))  # a byte is none, for programs that take cores, too
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    os.umask(0o077)
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _serve(line: socket.socket) -> None:
    while said := _received(line):
        answer: Json
        try:
            answer = perform(json.loads(said))
        except ServerError as error:
            answer = {"message": error.message, "hint": error.hint, "odd": isinstance(error, OddFileError)}
        except Exception as error:
            answer = {"message": f"{type(error).__name__}: {error}", "hint": "run the same command again"}
        line.sendall(json.dumps(answer).encode() + b"\n")


def _received(line: socket.socket) -> bytes:
    """Return one line, "" where the other end is gone; raises ValueError for one that is too long."""
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        part = line.recv(2**16)
        size += len(part)
        if size > _LONGEST:
            raise ValueError("too many bytes")
        if not part:
            return b""
        parts.append(part)
    return b"".join(parts)
