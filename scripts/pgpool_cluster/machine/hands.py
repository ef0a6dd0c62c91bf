"""File operations with the right user: root touches a file only where no other user can interfere.

These are the places whose every ancestor belongs to root alone (ancestors.py). Everywhere else, a helper process that
runs as the owner does the work, so it can touch only what the owner could touch anyway. The helper is forked, runs no
other program, and changes its user permanently, so other processes of that user cannot trace it (prctl(2),
PR_SET_DUMPABLE). Root treats its answers as untrusted: their size and types are checked, and they are written only
where the owner can write.

A process that does not run as root does everything itself, with the rights it has.
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

from ..ground import files, paths
from ..ground.ancestors import MOST_LINKS, forget, intruder, is_shared
from ..ground.errors import ServerError
from ..ground.files import OddFileError, PlainFile

Json = dict[str, Any]
_ANSWER_SECONDS = 30.0
"""Time limit for one answer of the owner's process."""
_TOTAL_SECONDS = 60.0
"""How long one command waits in total for the processes of one owner, who could stop them."""
_LONGEST_LINE_BYTES = 2 * files.LARGEST_BYTES
"""Limit for a request or an answer: a file in base64, and a few words."""


def postgres() -> int:
    """Return the uid of the postgres user; raises ServerError if there is none."""
    try:
        return pwd.getpwnam(paths.POSTGRES).pw_uid
    except KeyError as error:
        raise ServerError("the user postgres does not exist", hint="apt install postgresql-common") from error


def read(path: Path, owner: int | None = None) -> PlainFile | None:
    """Return a plain file as files.read does, None if there is none; raises OddFileError or ServerError.

    `owner`: the user whose process reads the file if root must not; None for postgres.
    """
    answer = _done({"do": "read", "path": _absolute(path)}, owner)
    return _found(path, answer.get("found"))


def write(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file as files.write does; raises ServerError. `owner` is (uid, gid), None for root."""
    uid, gid = owner or (0, 0)
    text = base64.b64encode(content).decode("ascii")
    give = [uid, gid] if owner else None
    _done({"do": "write", "path": _absolute(path), "content": text, "mode": mode, "owner": give}, uid)


def remove(path: Path, owner: int | None = None) -> None:
    """Delete a file, a link or the like if it exists. Raises ServerError."""
    _done({"do": "remove", "path": _absolute(path)}, owner)


def make_folder(path: Path, mode: int, owner: tuple[int, int] = (0, 0), *, again: bool = False) -> None:
    """Create a folder unless it exists; new ancestors get mode 0755. Raises ServerError.

    `again`: a folder that already exists gets this owner and mode as well.
    """
    if owner == (0, 0) and _is_shared(path.parent):
        _make_among_others(path)
        return
    if again:
        path = _past_roots_links(path.absolute())
    request = {"do": "make", "path": _absolute(path), "mode": mode, "owner": list(owner), "again": again}
    _done(request, owner[0])


def _past_roots_links(path: Path) -> Path:
    """Follow the links that only root can have created; stop at another user's link."""
    for _ in range(MOST_LINKS):
        if intruder(path) or not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def _is_shared(folder: Path) -> bool:
    """Return whether a folder belongs to root and all users can write to it, with the sticky bit set, as /tmp."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return bool(is_shared(found) and found.st_mode & stat.S_ISVTX and found.st_uid == 0 and not intruder(folder))


def _make_among_others(path: Path) -> None:
    """Create a folder of root in a shared one, as /run is in some containers; mkdir(2) never adopts an existing one."""
    with _explained(path), contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755)
    forget()
    if why := intruder(path / "file"):
        raise ServerError(f"{path} must belong to root alone: {why}", hint=f"rm -r {path}")


def remove_folder(path: Path, owner: int | None = None) -> None:
    """Delete a folder if it is empty; otherwise do nothing."""
    _done({"do": "remove-folder", "path": _absolute(path)}, owner)


def places(path: Path, owner: int | None = None) -> tuple[str, ...]:
    """Return the real path of a folder and of every link in it; an unreadable folder has no links."""
    found = _done({"do": "places", "path": _absolute(path)}, owner).get("places")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def names(path: Path, owner: int | None = None) -> tuple[str, ...]:
    """Return the sorted names in a folder; an unreadable folder has none."""
    found = _done({"do": "names", "path": _absolute(path)}, owner).get("names")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _found(path: Path, values: object) -> PlainFile | None:
    if values is None:
        return None
    try:
        assert isinstance(values, dict)  # noqa: S101 - an AssertionError is caught below
        numbers = [values[name] for name in ("uid", "gid", "mode")]
        assert all(isinstance(number, int) for number in numbers)  # noqa: S101
        return PlainFile(base64.b64decode(values["content"], validate=True), *numbers)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{path}: its owner's process returned no file", hint="run pgpoolctl apply again") from error


def _done(request: Json, owner: int | None) -> Json:
    """Carry a request out in this process or in the owner's; raises what it raises."""
    path = Path(request["path"])
    why = intruder(path) if os.getuid() == 0 else ""
    if not why:
        return perform(request)
    uid = postgres() if owner is None else owner
    if uid == 0:
        raise ServerError(f"{path}: root does not write there: {why}", hint="chown root and chmod go-w that folder")
    answer = _process(uid).ask(request)
    if "message" in answer:
        kind = OddFileError if answer.get("odd") is True else ServerError
        raise kind(str(answer["message"]), hint=str(answer.get("hint", "")))
    return answer


# The operations, which both root and the owner's process carry out


def perform(request: Json) -> Json:
    """Carry out one request with the rights of this process; raises ServerError."""
    work = _WORK.get(str(request["do"]))
    if work is None:
        raise ServerError(f"{request['do']!r} is not a file operation", hint="reinstall pgpool2-cluster")
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
        raise ServerError(f"{path}: {error.strerror}", hint="correct that, then run pgpoolctl apply") from error


_WORK: dict[str, Callable[[Path, Json], Json]] = {
    "read": _read,
    "write": _write,
    "remove": _remove,
    "make": _make,
    "remove-folder": _remove_folder,
    "places": _places,
    "names": _names,
}


# The owner's process


@dataclass(slots=True)
class _Process:
    """A process of another user that carries out requests, one per line."""

    pid: int
    line: socket.socket
    uid: int

    def ask(self, request: Json) -> Json:
        """Send one request and return the answer; raises ServerError if there is none, or an invalid one."""
        began = time.monotonic()
        try:
            self.line.settimeout(min(_ANSWER_SECONDS, _left(self.uid)))
            self.line.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_received(self.line))
        except (OSError, ValueError) as error:
            self.end()
            why = f"{request['path']}: its owner's process does not answer: {error}"
            raise ServerError(why, hint="run the same command again") from error
        finally:
            _spent[self.uid] = _spent.get(self.uid, 0.0) + time.monotonic() - began
        if not isinstance(answer, dict):
            why = f"{request['path']}: its owner's process sent an invalid answer"
            raise ServerError(why, hint="run the same command again")
        return answer

    def end(self) -> None:
        """Kill the process."""
        _processes.clear()
        self.line.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_processes: dict[int, _Process] = {}
"""Processes by uid; a command needs at most one for each."""
_spent: dict[int, float] = {}
"""Seconds that this command has waited for processes, by uid."""


def _left(uid: int) -> float:
    left = _TOTAL_SECONDS - _spent.get(uid, 0.0)
    if left <= 0:
        raise TimeoutError(f"its answers have taken {_TOTAL_SECONDS:g} s in total")
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
    """Change to another user permanently, and close everything that root has open, including locks and terminals.

    The process has a copy of root's memory, so it must not dump core: some crash handlers give the user of the process
    access to its core.
    """
    os.setsid()
    limit = min(1, abs(resource.getrlimit(resource.RLIMIT_CORE)[1]))  # -1 means unlimited
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))  # with a limit of 1, crash handlers get no core either
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
    while request := _received(line):
        answer: Json
        try:
            answer = perform(json.loads(request))
        except ServerError as error:
            answer = {"message": error.message, "hint": error.hint, "odd": isinstance(error, OddFileError)}
        except Exception as error:
            answer = {"message": f"{type(error).__name__}: {error}", "hint": "run the same command again"}
        line.sendall(json.dumps(answer).encode() + b"\n")


def _received(line: socket.socket) -> bytes:
    """Return one line, b"" if the other end is closed; raises ValueError if the line is too long."""
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        part = line.recv(2**16)
        size += len(part)
        if size > _LONGEST_LINE_BYTES:
            raise ValueError("too many bytes")
        if not part:
            return b""
        parts.append(part)
    return b"".join(parts)
