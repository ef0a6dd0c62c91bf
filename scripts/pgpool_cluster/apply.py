"""`pgpoolctl apply`: what configuration.py renders, compared with the disk, laid down, and loaded by who reads it.

A file of the cluster's own that an administrator has edited stays as it is; the rendered one is put beside it, with
`.new` at its end. What was written is remembered by its hash (paths.APPLIED).
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import certificates, configuration, files, firewall, key_file, paths, pgpool, server, units
from . import key as keys
from .cluster import Service
from .configuration import FOLDER, File, Share
from .errors import ClusterError, ServerError
from .key import ClusterKey, Role
from .record import Record
from .users import Users, changing

UNIT_FILE = "/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf"
_SECRET_LINE = re.compile(r"^(wd_authkey = ).*$", re.MULTILINE)
_LOCK = Path("/run/lock/pgpool2-cluster-apply")
POOL_KEY = server.HOME / ".pgpoolkey"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not as it is to be. `edited`: by hand, so `file` goes beside it. str() is one line about it."""

    file: File
    before: bytes | None
    after: bytes
    edited: bool = False

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.file.path)

    @property
    def target(self) -> Path:
        """Where `after` goes."""
        return self.path.with_name(f"{self.path.name}.new") if self.edited else self.path

    def __str__(self) -> str:
        if self.edited:
            return f"{self.path}: edited by hand, so it is kept; the rendered one is {self.target}"
        return f"{self.path}: {'new' if self.before is None else 'changed'}"

    @property
    def diff(self) -> str:
        """A unified diff; of files that are secrets, only that they differ."""
        if self.file.mode & 0o077 == 0 or self.path.name in ("pcp.conf", "roles.sql"):
            return f"{self}: it holds secrets, which are not shown\n"
        texts = ((text or b"").decode(errors="replace") for text in (self.before, self.after))
        old, new = (_SECRET_LINE.sub(r"\1…", text) for text in texts)
        found = list(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(self.path), str(self.target)))
        return "".join(found) or f"{self}: owner, mode or a secret\n"


@dataclass(frozen=True, slots=True)
class Applied:
    """What was laid down last: path to SHA-256, the users in pool_passwd, and the hash of cluster.yml."""

    files: dict[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    cluster: str = ""

    @classmethod
    def load(cls) -> Applied:
        """Read the memory; one that is not there or damaged is empty."""
        try:
            values = json.loads(paths.APPLIED.read_text(encoding="utf-8"))
            return cls(dict(values["files"]), tuple(values["users"]), str(values["cluster"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def save(self) -> None:
        """Write the memory."""
        values = {"files": self.files, "users": list(self.users), "cluster": self.cluster}
        files.write(paths.APPLIED, json.dumps(values, indent=1, sort_keys=True).encode() + b"\n", 0o600)


def read_key() -> ClusterKey:
    """Return the cluster's key; raises ServerError or UsageError."""
    return key_file.read()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be on this node, and what of it is not yet: `files` and `users` whole, `changes` by path.

    `edited`: files that an administrator has edited, whether or not the rendered one lies beside them already.
    """

    files: tuple[File, ...]
    users: Users
    changes: tuple[Change, ...]
    edited: tuple[Path, ...] = ()


def wanted() -> tuple[tuple[File, ...], Users]:
    """Return all files as they are to be on this node, and the users among them; raises ClusterError."""
    cluster, me, notes = server.this_node_looked_up()
    print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    key = read_key()
    record = Record.load(paths.RECORD)
    came, dropped = record.standbys_came, record.dropped
    facts = server.facts(cluster, me, standbys_came=came, dropped=dropped, upgrading=record.upgrading)
    laid = certificates.Laid.here()
    facts = replace(facts, laid=laid, certified=record.certified, proven=record.proven)
    kept = pgpool.of_another_key(key.fingerprint)
    users = _encrypted_with(Users.load(paths.USERS), pool_key(key))
    rendered = configuration.render(cluster, key, me, facts, paths.templates())
    begun = Service.POSTGRESQL in me.runs and Path(facts.data_directory, "PG_VERSION").exists()
    stubs = {str(Path(facts.data_directory, name)) for name in configuration.STUBS}
    wanted = [file for file in rendered if begun or str(file.path) not in stubs]
    return tuple(_with_users(_kept(file) if kept else file, users) for file in wanted), users


def pool_key(key: ClusterKey) -> str:
    """Return what pool_passwd is encrypted with: a pgpool-II that runs with another key has read that one, for good."""
    return _laid_pool_key() if pgpool.of_another_key(key.fingerprint) else key.pool_key


def _laid_pool_key() -> str:
    return (_read(POOL_KEY) or b"").decode(errors="replace").strip()


def _encrypted_with(users: Users, wanted: str) -> Users:
    """Return the users with entries that this pool key reads: after a change, .pgpoolkey is still the old one."""
    old = _laid_pool_key()
    if not old or old == wanted:
        return replace(users, mark=keys.mark(wanted))
    entries = {name: keys.pool_passwd_entry_again(entry, old, wanted) for name, entry in users.entries.items()}
    return replace(users, entries=entries, mark=keys.mark(wanted))


def _kept(file: File) -> File:
    """Return a file as the pgpool-II that runs with another key needs it: that key, and the roles' entries as laid."""
    there = _read(Path(file.path)) or b""
    if Path(file.path) == POOL_KEY:
        return replace(file, content=there)
    if file.share is not Share.ENTRIES:
        return file
    roles = {line.split(b":", 1)[0] for line in file.content.splitlines()}
    lines = there.splitlines(keepends=True)
    return replace(file, content=b"".join(line for line in lines if line.split(b":", 1)[0] in roles))


def before_pgpool() -> None:
    """Lay down what waited for pgpool-II to end, where a key was applied that it did not run with; it starts then."""
    paths.KEY_OF_PGPOOL.unlink(missing_ok=True)
    laid = paths.laid_fingerprint()
    key = read_key()
    if key.fingerprint == laid and key.pool_key != _laid_pool_key():
        carry_out(plan())
    paths.KEY_OF_PGPOOL.write_text(f"{laid}\n", encoding="ascii")


def _with_users(file: File, users: Users) -> File:
    if file.share is not Share.ENTRIES:
        return file
    text = "".join(f"{name}:{entry}\n" for name, entry in sorted(users.entries.items()))
    return replace(file, content=file.content + text.encode())


def plan() -> Plan:
    """Return what is to be here and is not yet; raises ClusterError, and has changed nothing then."""
    if os.geteuid() != 0:
        raise ServerError("pgpoolctl apply writes below /etc", hint="run it as root")
    applied = Applied.load()
    rendered, users = wanted()
    gone = {*applied.users, *Role} - set(users.entries)  # of the roles, those that this node knows come back
    found = [change for file in rendered if (change := _change(file, applied, gone)) is not None]
    changes = tuple(change for change in found if not change.edited or _read(change.target) != change.after)
    return Plan(rendered, users, changes, tuple(change.path for change in found if change.edited))


def _change(file: File, applied: Applied, gone: set[str]) -> Change | None:
    path = Path(file.path)
    before = _read(path)
    text = (before or b"").decode(errors="surrogateescape")
    if file.share is Share.ENTRIES:
        text = configuration.without_entries(text, gone)
    after = configuration.merged(text, file).encode(errors="surrogateescape")
    if before == after and _status(path) == _owner(file):
        return None
    known = applied.files.get(str(path))
    edited = file.share is Share.WHOLE and before not in (None, after) and known not in (None, _hash(before or b""))
    return Change(file, before, after, edited)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}", hint="put that right, then run pgpoolctl apply") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _status(path: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_uid, found.st_gid, found.st_mode & 0o7777
    return None


def _owner(file: File) -> tuple[int, int, int]:
    try:
        return pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid, file.mode
    except KeyError as error:
        raise ServerError(f"there is no user {file.owner}", hint="apt install postgresql-common") from error


def carry_out(planned: Plan) -> None:
    """Write the files and have them loaded; raises ClusterError.

    Nothing that runs is stopped, but that pgpool-II is restarted for another unit.
    """
    with _locked():
        _make_folders()
        planned = _with_users_of_now(planned)
        applied = Applied.load()
        for change in planned.changes:
            uid, gid, mode = _owner(change.file)
            _make_parent(change.target, (uid, gid))
            files.write(change.target, change.after, mode, (uid, gid))
        for file in planned.files:
            if file.share is Share.WHOLE and Path(file.path) not in planned.edited:
                Path(f"{file.path}.new").unlink(missing_ok=True)
        cluster = _hash(paths.CLUSTER_YML.read_bytes())
        hashes = {str(file.path): _hash_laid(file, applied) for file in planned.files}
        now = Applied(hashes, tuple(sorted(planned.users.entries)), cluster)
        if now != applied:
            now.save()
        if paths.laid_file() != cluster:
            files.write(paths.LAID_FILE, f"{cluster}\n".encode())
    laid = [change for change in planned.changes if not change.edited]
    _load([str(change.path) for change in laid], renewed=cluster != applied.cluster)


def _with_users_of_now(planned: Plan) -> Plan:
    """Return the plan, made again if the users have changed since, and keep its users, encrypted for this key.

    The agent may store another list at any time, and has it laid down after that.
    """
    with changing(paths.USERS):
        known = Users.load(paths.USERS)
        if known.serial != planned.users.serial:
            planned = plan()
        if planned.users != known:
            entry = pwd.getpwnam("postgres")
            planned.users.save(paths.USERS, (entry.pw_uid, entry.pw_gid))
    return planned


def _hash_laid(file: File, applied: Applied) -> str:
    """Return the hash of a file as this program wrote it; of one that was edited since, the hash from before."""
    here = _hash(_read(Path(file.path)) or b"")
    edited = file.share is Share.WHOLE and here != _hash(file.content)
    return applied.files.get(str(file.path), here) if edited else here


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_folders() -> None:
    cluster, me = server.this_node()
    entry = pwd.getpwnam("postgres")
    for folder, mode, owner in (
        (Path(FOLDER), 0o755, (0, 0)),
        (paths.STATE, 0o700, (entry.pw_uid, entry.pw_gid)),
    ):
        if not folder.is_dir():
            folder.mkdir(parents=True)
            os.chown(folder, *owner)
            folder.chmod(mode)
    if cluster.archives(me):
        _make_archive(entry.pw_uid, entry.pw_gid)


def _make_archive(uid: int, gid: int) -> None:
    """It is postgres' alone, also where an administrator has mounted a disk there."""
    folder = paths.ARCHIVE
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, uid, gid)
        folder.chmod(0o700)
    except OSError as error:
        raise ServerError(f"{folder}: {error.strerror}", hint="mend it, then run pgpoolctl apply") from error


def _make_parent(path: Path, owner: tuple[int, int]) -> None:
    if not path.parent.is_dir():
        try:
            path.parent.mkdir(mode=0o700 if path.parent.name == ".ssh" else 0o755, parents=True)
        except OSError as error:
            raise ServerError(f"{path.parent}: {error.strerror}", hint="make it, then run pgpoolctl apply") from error
        os.chown(path.parent, *owner)


def _load(changed: Sequence[str], *, renewed: bool) -> None:
    """Tell those who read the changed files; who does not run is left alone."""
    if not units.booted():
        return
    if UNIT_FILE in changed:
        units.ask("daemon-reload")
    if str(paths.PEERS_NFT) in changed:
        units.ask("reload-or-restart", paths.FIREWALL_UNIT)
    # With another key the agent restarts pgpool-II, once most nodes have it: until then the others would refuse it.
    rekeyed = pgpool.of_another_key(paths.laid_fingerprint())
    if not rekeyed and paths.SERVE.exists() and units.state(paths.PGPOOL_UNIT).active == "active":
        _load_pgpool(changed)
    if any("/etc/ssh/" in path or path.endswith("-cert.pub") for path in changed):
        units.ask("try-reload-or-restart", "ssh.service")
    for unit in dict.fromkeys(filter(None, map(_unit_of, changed))):
        _load_server(unit)
    renewed = renewed or str(paths.HOSTS) in changed
    if renewed and units.state(paths.UNIT).active == "active":
        units.ask("kill", "--signal=HUP", "--kill-whom=main", paths.UNIT)


def _load_server(unit: str) -> None:
    """Have a server read its configuration, also one that already runs while systemd still waits for pg_ctlcluster."""
    active = units.state(unit).active
    if active == "active":
        units.ask("reload", unit)
    elif active == "activating":
        instance = unit.removeprefix("postgresql@").removesuffix(".service")  # ExecReload of the unit, by hand
        with contextlib.suppress(ServerError):  # it does not run yet, and reads the files when it does
            server.run(["/usr/bin/pg_ctlcluster", "--skip-systemctl-redirect", instance, "reload"])


def _load_pgpool(changed: Sequence[str]) -> None:
    if UNIT_FILE in changed:
        units.ask("--no-block", "restart", paths.PGPOOL_UNIT)  # it is up when the watchdog has a leader
    elif any(path.startswith(str(FOLDER)) and not path.endswith("roles.sql") for path in changed):
        units.ask("reload", paths.PGPOOL_UNIT)


def withdraw() -> None:
    """Take back what was laid down; cluster.yml, cluster.key, pool_passwd, this node's memory and archived WAL stay."""
    applied = Applied.load()
    archiving = [name for name in applied.files if b"\narchive_mode = on" in _seen(name)]
    for name in applied.files:
        path = Path(name)
        with contextlib.suppress(ClusterError, OSError):
            _take_back(path)
    firewall.remove()
    paths.APPLIED.unlink(missing_ok=True)
    paths.LAID_FILE.unlink(missing_ok=True)
    for folder in (Path(UNIT_FILE).parent, paths.AUTHORITIES.parent, paths.ARCHIVE):
        with contextlib.suppress(OSError):  # it stays where something is in it
            folder.rmdir()
    units.ask("daemon-reload")
    units.ask("try-reload-or-restart", "ssh.service")
    _load([name for name in applied.files if name.startswith("/etc/postgresql/")], renewed=False)
    for name in archiving:
        unit = _unit_of(name)
        print(f"{unit} keeps all its WAL until it is restarted, as its archive is gone: systemctl restart {unit}")


def _seen(name: str) -> bytes:
    with contextlib.suppress(ClusterError):
        return _read(Path(name)) or b""
    return b""


def _unit_of(path: str) -> str:
    """Return the unit of the server that a file below /etc/postgresql belongs to; "" for another file."""
    match = re.fullmatch(r"/etc/postgresql/(\d+)/([^/]+)/.*", path)
    return f"postgresql@{match[1]}-{match[2]}.service" if match else ""


def _take_back(path: Path) -> None:
    before = _read(path)
    if before is None or path.name == "pool_passwd":
        return
    text = before.decode(errors="surrogateescape")
    rest = configuration.without_block(text)
    if rest == text:
        path.unlink()
    elif not rest.strip() and not str(path).startswith("/etc/postgresql"):
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir() if path.parent.name == ".ssh" else None
    else:
        found = path.stat()
        files.write(path, rest.encode(errors="surrogateescape"), found.st_mode & 0o7777, (found.st_uid, found.st_gid))
