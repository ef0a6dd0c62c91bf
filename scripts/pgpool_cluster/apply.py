"""`pgpoolctl apply`: compare what configuration.py renders with the disk, write the changes, reload the services.

If an administrator has edited one of the cluster's own files, `apply` keeps it and writes the rendered file beside it
as `.new`. It records a hash of every file it writes (paths.MEMORY), where only root can write.

A process that runs as postgres reads and writes the files in folders of postgres (hands.py). A file that cannot be
written, or whose place is taken by something other than a plain file, is refused and reported; the others are written.
"""

from __future__ import annotations

import contextlib
import difflib
import grp
import hashlib
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import (
    ancestors,
    before,
    certificates,
    configuration,
    files,
    firewall,
    hands,
    keep,
    key_file,
    log,
    matching,
    own,
    paths,
    pgpool,
    plain,
    rendered_file,
    rendered_paths,
    server,
    server_facts,
    units,
)
from . import key as keys
from .cluster import Service
from .errors import ClusterError, ServerError
from .files import OddFileError, PlainFile
from .key import ClusterKey, Role
from .memory import Applied, unit_of
from .record import Record
from .rendered_file import File, FileShare
from .rendered_paths import FOLDER
from .users import Users, changing

UNIT_FILE = str(rendered_paths.PGPOOL_DROP_IN)
_SECRET_LINE = re.compile(r"^(wd_authkey = ).*$", re.MULTILINE)
_LOCK = paths.ROOTS_RUN / "apply.lock"
_LOCK_SECONDS = 30.0
"""How long to wait for another `apply`; shorter than the start timeout of the agent's unit."""
POOL_KEY = server.HOME / ".pgpoolkey"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that differs from its rendered version; str() gives one line about it.

    `edited`: an administrator has edited it, so the rendered version goes beside it.
    `strange`: its content may be an administrator's, so it is kept beside the new file as `.old`.
    """

    file: File
    before: bytes | None
    after: bytes
    edited: bool = False
    strange: bool = False

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.file.path)

    @property
    def target(self) -> Path:
        """The path that `after` is written to."""
        return self.path.with_name(f"{self.path.name}.new") if self.edited else self.path

    def __str__(self) -> str:
        if self.edited:
            return f"{self.path}: edited by hand, so it is kept; the rendered file is {self.target}"
        kept = f"; the previous file is {self.old}" if self.strange else ""
        return f"{self.path}: {'new' if self.before is None else 'changed'}{kept}"

    @property
    def old(self) -> Path:
        """The path that keeps the previous content of a `strange` file."""
        return self.path.with_name(f"{self.path.name}.old")

    @property
    def diff(self) -> str:
        """A unified diff; for a file that holds secrets, only one line saying that it differs."""
        if self.file.mode & 0o077 == 0 or self.path.name in ("pcp.conf", "roles.sql"):
            return f"{self}: it holds secrets, so no diff is shown\n"
        texts = ((text or b"").decode(errors="replace") for text in (self.before, self.after))
        old, new = (_SECRET_LINE.sub(r"\1…", text) for text in texts)
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(self.path), str(self.target))
        return plain.shown("".join(lines)) or f"{self}: owner, mode or a secret\n"


def read_key() -> ClusterKey:
    """Return the cluster's key; raises ServerError or UsageError."""
    return key_file.read()


@dataclass(frozen=True, slots=True)
class Plan:
    """The intended state of this node and the changes that lead there.

    `files`, `users`: the complete intended state. `changes`: the files that differ from it.
    `edited`: files that an administrator has edited, even if the rendered version already lies beside them.
    `odd`: files that cannot be written, for the reasons in `refused`; they do not stop the others.
    """

    files: tuple[File, ...]
    users: Users
    changes: tuple[Change, ...]
    edited: tuple[Path, ...] = ()
    odd: tuple[Path, ...] = ()
    refused: tuple[ServerError, ...] = ()


def wanted() -> tuple[tuple[File, ...], Users]:
    """Return the rendered files of this node, and the users that they include; raises ClusterError."""
    cluster, me, notes = server.this_node_looked_up()
    for note in notes:
        log.warning(note, stream=sys.stderr)
    key = read_key()
    record = Record.load(paths.RECORD)
    came, dropped = record.standbys_came, record.dropped
    facts = server.facts(cluster, me, standbys_came=came, dropped=dropped, upgrading=record.upgrading)
    laid = certificates.Laid.here()
    facts = replace(
        facts,
        laid=laid,
        certified=record.certified,
        proven=record.proven,
        own_database=record.own_database,
        below_home=_is_below_home(facts.data_directory, facts.home),
        own=_own(facts, member=record.system is not None),
        needs=matching.plain(record.needs),
        libraries=tuple(filter(plain.is_parameter, record.libraries)),
        logical=record.logical,
    )
    kept = pgpool.of_another_key(key.fingerprint)
    users = _encrypted_with(Users.load(paths.USERS), pool_key(key))
    rendered = configuration.render(cluster, key, me, facts, paths.templates())
    before.refuse(cluster, me, facts, rendered)
    begun = Service.POSTGRESQL in me.runs and files.kind(Path(facts.data_directory, "PG_VERSION")) != 0
    stubs = {str(Path(facts.data_directory, name)) for name in rendered_paths.STUBS}
    wanted = [file for file in rendered if begun or str(file.path) not in stubs]
    return tuple(_with_users(_kept(file) if kept else file, users) for file in wanted), users


def _own(facts: server_facts.ServerFacts, *, member: bool) -> own.Own:
    """Return the settings from the server's own files that the cluster honours."""
    there = _content(rendered_paths.drop_in(facts.postgresql)) if member else None
    return facts.own if there is None else keep.held(facts.own, dict(own.lines(there.decode(errors="replace"))))


def _is_below_home(data: str, home: str) -> bool:
    """Return whether ProtectHome= would hide PostgreSQL's data, or the home of postgres, from our units."""
    used = [os.path.realpath(home)]
    if data:
        used += [*hands.places(Path(data)), *hands.places(Path(data, "pg_tblspc"))]
    return any(place.startswith(("/home/", "/root/", "/run/user/")) for place in used)


def pool_key(key: ClusterKey) -> str:
    """Return the key that pool_passwd must be encrypted with.

    A running pgpool-II reads .pgpoolkey only at start-up, so the old key applies until it restarts.
    """
    return _laid_pool_key() if pgpool.of_another_key(key.fingerprint) else key.pool_key


def _laid_pool_key() -> str:
    with contextlib.suppress(OddFileError):
        return (_content(POOL_KEY) or b"").decode(errors="replace").strip()
    return ""


def _encrypted_with(users: Users, wanted: str) -> Users:
    """Return the users with entries encrypted for `wanted`; after a key change, .pgpoolkey still holds the old key."""
    old = _laid_pool_key()
    if not old or old == wanted:
        return replace(users, mark=keys.mark(wanted))
    entries = {name: keys.pool_passwd_entry_again(entry, old, wanted) for name, entry in users.entries.items()}
    return replace(users, entries=entries, mark=keys.mark(wanted))


def _kept(file: File) -> File:
    """Return a file as a pgpool-II that still runs with the old key needs it: old .pgpoolkey, old role entries."""
    there = _content(Path(file.path)) or b""
    if Path(file.path) == POOL_KEY:
        return replace(file, content=there)
    if file.share is not FileShare.ENTRIES:
        return file
    roles = {line.split(b":", 1)[0] for line in file.content.splitlines()}
    lines = there.splitlines(keepends=True)
    return replace(file, content=b"".join(line for line in lines if line.split(b":", 1)[0] in roles))


def before_pgpool() -> None:
    """ExecStartPre= of pgpool2: apply changes deferred because pgpool-II was running with the previous cluster key."""
    _mark("")
    laid = paths.laid_fingerprint()
    key = read_key()
    if key.fingerprint == laid and key.pool_key != _laid_pool_key():
        tell(carry_out(plan()))
    _mark(laid)


def take_over_marker() -> None:
    """Move the key mark of a running pgpool-II from where an older package kept it, a folder of postgres.

    Without the mark, the agent would not know that a new key requires a restart of this pgpool-II.
    """
    old = paths.OLD_KEY_OF_PGPOOL
    if not os.path.lexists(old):
        return
    with contextlib.suppress(ServerError, ValueError):
        found = hands.read(old)
        if found and not paths.KEY_OF_PGPOOL.exists() and re.fullmatch(r"[0-9a-f]{16}\n", found.text):
            _mark(found.text.strip())
        hands.remove(old)


def _mark(key: str) -> None:
    """Record the fingerprint of the key that pgpool-II starts with, "" to clear it; an error is only reported."""
    marker = paths.KEY_OF_PGPOOL
    try:
        hands.make_folder(marker.parent, 0o755)
        if key:
            hands.write(marker, f"{key}\n".encode(), 0o644)
        else:
            hands.remove(marker, 0)
    except ServerError as error:
        tell([error])


def _with_users(file: File, users: Users) -> File:
    if file.share is not FileShare.ENTRIES:
        return file
    text = "".join(f"{name}:{entry}\n" for name, entry in sorted(users.entries.items()))
    return replace(file, content=file.content + text.encode())


def plan() -> Plan:
    """Compare the rendered files with the disk and return the changes; changes nothing. Raises ClusterError."""
    if os.geteuid() != 0:
        raise ServerError("pgpoolctl apply writes below /etc", hint="run it as root")
    applied = Applied.load()
    claimed = Applied() if applied.files else _claimed()
    rendered, users = wanted()
    # The rendered file adds back the roles that this node may know.
    gone = {*applied.users, *claimed.users, *Role} - set(users.entries)
    changes: list[Change] = []
    edited: list[Path] = []
    refused: dict[Path, ServerError] = {}
    for file in rendered:
        try:
            change = _change(file, applied, claimed, gone)
            if change is not None and change.edited:
                edited.append(change.path)
            if change is not None and (not change.edited or _content(change.target, file) != change.after):
                changes.append(change)
        except ServerError as error:
            refused[Path(file.path)] = error
    return Plan(rendered, users, tuple(changes), tuple(edited), tuple(refused), tuple(refused.values()))


def _change(file: File, applied: Applied, claimed: Applied, gone: set[str]) -> Change | None:
    path = Path(file.path)
    known = applied.files.get(str(path))
    there = _there(file, replaceable=known is None)
    before = there.content if there else None
    text = (before or b"").decode(errors="surrogateescape")
    if file.share is FileShare.ENTRIES:
        text = rendered_file.without_entries(text, gone)
    after = rendered_file.merged(text, file).encode(errors="surrogateescape")
    if there and before == after and (there.uid, there.gid, there.mode) == _owner(file):
        return None
    differs = file.share is FileShare.WHOLE and before not in (None, after)
    # Only postgres vouches for a claimed hash. It can make us keep a file, or replace one while keeping `.old`.
    remembered = claimed.files.get(str(path)) if known is None else known
    edited = differs and remembered not in (None, _hash(before or b""))
    return Change(file, before, after, edited, strange=differs and not edited and known is None)


def _there(file: File, *, replaceable: bool) -> PlainFile | None:
    """Return the file on disk; raises OddFileError if it is not a plain file, unless `apply` may simply replace it."""
    path = Path(file.path)
    uid, _, _ = _owner(file)
    why = ancestors.intruder(path) if uid == 0 else ""
    if why:
        hint = "chown root and chmod go-w that folder"
        raise ServerError(f"{path} belongs to root and is not written: {why}", hint=hint)
    # postgres owns postgresql.conf, and could name any folder there.
    if path.name in rendered_paths.STUBS and not ancestors.intruder(path):
        hint = f"correct data_directory in postgresql.conf, or chown -R postgres: {path.parent} if the data is there"
        raise ServerError(f"{path} belongs to postgres and is not written to a folder of root", hint=hint)
    try:
        return hands.read(path, uid)
    except OddFileError:
        if replaceable and file.share is FileShare.WHOLE and files.kind(path) != stat.S_IFDIR:
            return None
        raise


def _content(path: Path, file: File | None = None) -> bytes | None:
    """Return the content of a file, None if there is none; raises ServerError."""
    found = hands.read(path, _owner(file)[0] if file else None)
    return found.content if found else None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _owner(file: File) -> tuple[int, int, int]:
    try:
        return pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid, file.mode
    except KeyError as error:
        raise ServerError(f"there is no user {file.owner}", hint="apt install postgresql-common") from error


def tell(refused: Iterable[ServerError]) -> None:
    """Print one line for each file that was not written; under a unit, the journal receives it."""
    for error in refused:
        log.error(plain.shown(f"pgpoolctl: {error.message}; hint: {error.hint}"), stream=sys.stderr)


def carry_out(planned: Plan) -> tuple[ServerError, ...]:
    """Write the files, reload the services, and return the errors of files that could not be written.

    Raises ClusterError if nothing could be done. No service is stopped; a changed unit file restarts pgpool-II.
    """
    with _locked():
        _make_folders()
        planned = _with_users_of_now(planned)
        applied = Applied.load()
        laid, refused = _lay(planned)
        cluster = paths.file_hash()
        now = Applied(_remembered(planned, laid, applied), tuple(sorted(planned.users.entries)), cluster)
        if now != applied:
            with contextlib.suppress(ServerError) if refused else contextlib.nullcontext():
                now.save()
        if not refused and paths.laid_file() != cluster:
            hands.write(paths.LAID_FILE, f"{cluster}\n".encode(), 0o644)
    _load([str(change.path) for change in laid if not change.edited], renewed=cluster != applied.cluster)
    return refused


def _lay(planned: Plan) -> tuple[list[Change], tuple[ServerError, ...]]:
    """Write the changes; return those that were written, and the errors of the others.

    An error in a folder of root, such as a full disk, concerns the whole machine, so the first one ends the loop.
    """
    laid, refused = [], list(planned.refused)
    for change in planned.changes:
        try:
            _write(change)
        except ServerError as error:
            refused.append(error)
            if not ancestors.intruder(change.target):
                break
        else:
            laid.append(change)
    for file in planned.files:
        beside = Path(f"{file.path}.new")
        if file.share is FileShare.WHOLE and Path(file.path) not in planned.edited and os.path.lexists(beside):
            with contextlib.suppress(ServerError):
                hands.remove(beside, _owner(file)[0])
    needed = {str(file.path) for file in planned.files}
    for name in rendered_paths.DROP_INS:
        if name in Applied.load().files and name not in needed:
            hands.remove(Path(name), 0)
            units.ask("daemon-reload")
    return laid, tuple(refused)


def _write(change: Change) -> None:
    uid, gid, mode = _owner(change.file)
    parent = change.target.parent
    if files.kind(parent) != stat.S_IFDIR:
        hands.make_folder(parent, 0o700 if parent.name == ".ssh" else 0o755, (uid, gid))
    if change.strange and change.before is not None:
        hands.write(change.old, change.before, mode, (uid, gid))
    hands.write(change.target, change.after, mode, (uid, gid))


def _with_users_of_now(planned: Plan) -> Plan:
    """Save the plan's users, encrypted for this key; if the user list has changed since, make a new plan first.

    The agent may store another list at any time, and requests an `apply` afterwards.
    """
    with changing(paths.USERS):
        known = Users.load(paths.USERS)
        if known.serial != planned.users.serial:
            planned = plan()
        if planned.users != known:
            entry = pwd.getpwnam("postgres")
            planned.users.save(paths.USERS, (entry.pw_uid, entry.pw_gid))
    return planned


def _remembered(planned: Plan, laid: Sequence[Change], applied: Applied) -> dict[str, str]:
    """Return the hashes of all files written; an edited or refused file keeps its earlier hash."""
    left = {str(change.path) for change in planned.changes} - {str(change.path) for change in laid}
    left |= {str(path) for path in (*planned.edited, *planned.odd)}
    hashes = {str(file.path): _hash(file.content) for file in planned.files}
    return {path: applied.files.get(path, now) if path in left else now for path, now in hashes.items()}


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock that only root can open; raises ServerError if another `apply` holds it for _LOCK_SECONDS."""
    hands.make_folder(_LOCK.parent, 0o755)
    why = ancestors.intruder(_LOCK)
    if why:
        raise ServerError(f"{_LOCK} is no safe lock: {why}", hint=f"rm -r {_LOCK.parent}; pgpoolctl apply")
    handle = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        why = f"another pgpoolctl apply has been running for {_LOCK_SECONDS:g} s"
        files.lock(handle, _LOCK, why, seconds=_LOCK_SECONDS)
        yield
    finally:
        os.close(handle)


def _make_folders() -> None:
    cluster, me = server.this_node()
    entry = pwd.getpwnam("postgres")
    for folder, mode, owner in (
        (Path(FOLDER), 0o755, (0, 0)),
        (paths.STATE, 0o700, (entry.pw_uid, entry.pw_gid)),
    ):
        hands.make_folder(folder, mode, owner)
    take_over_marker()
    if cluster.archives(me):
        _make_archive(entry.pw_uid, entry.pw_gid)


def _make_archive(uid: int, gid: int) -> None:
    """Create the archive folder for postgres alone, or make it so if an administrator has mounted a disk there."""
    hands.make_folder(paths.ARCHIVE, 0o700, (uid, gid), again=True)


def _load(changed: Sequence[str], *, renewed: bool) -> None:
    """Reload the services that read the changed files, if they are running."""
    if not units.booted():
        return
    drop_ins = [path for path in changed if path in rendered_paths.DROP_INS]
    if UNIT_FILE in changed or drop_ins:
        units.ask("daemon-reload")
    if str(paths.PEERS_NFT) in changed:
        units.ask("reload-or-restart", paths.FIREWALL_UNIT)
    if drop_ins and units.state(paths.UNIT).active == "active":
        units.ask("--no-block", "restart", paths.UNIT)  # a unit's view of the file system is fixed when it starts
    # After a key change the agent restarts pgpool-II, once most nodes have the key: until then they would refuse it.
    rekeyed = pgpool.of_another_key(paths.laid_fingerprint())
    if not rekeyed and paths.SERVE.exists():
        _load_pgpool(changed)
    if any("/etc/ssh/" in path or path.endswith("-cert.pub") for path in changed):
        units.ask("try-reload-or-restart", "ssh.service")
    # The certificate lies outside of the server's own folder, so a new one concerns every server.
    read = [*changed, *(Applied.load().files if str(paths.SERVER_CERTIFICATE) in changed else ())]
    for unit in dict.fromkeys(filter(None, map(unit_of, read))):
        _load_server(unit)
    renewed = renewed or str(paths.HOSTS) in changed
    if renewed and units.state(paths.UNIT).active == "active":
        units.ask("kill", "--signal=HUP", "--kill-whom=main", paths.UNIT)


def _load_server(unit: str) -> None:
    """Reload a server's configuration, even while it is running and systemd still waits for pg_ctlcluster."""
    active = units.state(unit).active
    if active == "active":
        units.ask("reload", unit)
    elif active == "activating":
        instance = unit.removeprefix("postgresql@").removesuffix(".service")  # what ExecReload= of the unit runs
        with contextlib.suppress(ServerError):  # a server that is not running yet reads the files when it starts
            server.run(["/usr/bin/pg_ctlcluster", "--skip-systemctl-redirect", instance, "reload"])


def _load_pgpool(changed: Sequence[str]) -> None:
    if UNIT_FILE in changed:
        if units.state(paths.PGPOOL_UNIT).active == "active":
            # The restart completes only when the watchdog has a leader.
            units.ask("--no-block", "restart", paths.PGPOOL_UNIT)
    elif any(path.startswith(str(FOLDER)) and not path.endswith("roles.sql") for path in changed):
        units.reload(paths.PGPOOL_UNIT)  # a starting pgpool-II has read its configuration before it waits for a leader


def withdraw() -> None:
    """Remove the written files; cluster.yml, cluster.key, pool_passwd, this node's record and archived WAL stay."""
    applied = Applied.load()
    laid = [name for name in (applied.files or _claimed().files) if could_be_ours(Path(name))]
    archiving = [name for name in laid if b"\narchive_mode = on" in _seen(name)]
    for name in laid:
        for path in (Path(name), Path(f"{name}.new"), Path(f"{name}.old")):
            with contextlib.suppress(ClusterError):
                _take_back(path)
    firewall.remove()
    for path in (paths.MEMORY, paths.LAID_FILE, paths.OLD_MEMORY, paths.DERIVED_KEY):
        with contextlib.suppress(ServerError):
            hands.remove(path)
    drop_ins = (Path(name).parent for name in (UNIT_FILE, *rendered_paths.DROP_INS))
    for folder in (*drop_ins, paths.AUTHORITIES.parent, paths.ARCHIVE):
        hands.remove_folder(folder)  # keeps a folder that is not empty
    units.ask("daemon-reload")
    units.ask("try-reload-or-restart", "ssh.service")
    _load([name for name in laid if name.startswith("/etc/postgresql/")], renewed=False)
    for name in archiving:
        unit = unit_of(name)
        log.warning(f"{unit} keeps all its WAL until it restarts: its archive is gone; systemctl restart {unit}")


def _seen(name: str) -> bytes:
    with contextlib.suppress(ClusterError):
        return _content(Path(name)) or b""
    return b""


def _claimed() -> Applied:
    """Return the hashes that an older package kept in a folder of postgres, limited to files that `apply` can write.

    postgres could have changed them, so they only ever justify leaving a file alone.
    """
    claimed = Applied.claimed()
    return replace(claimed, files={name: said for name, said in claimed.files.items() if could_be_ours(Path(name))})


def could_be_ours(path: Path) -> bool:
    """Return whether `apply` writes this file on some server, so that `withdraw` may delete it.

    The recorded paths alone do not justify a deletion: a file in a folder of root must be one that is rendered.
    """
    if ancestors.intruder(path):
        return path.name in rendered_paths.IN_OTHERS_FOLDERS  # a process of postgres deletes it
    rendered = (*rendered_paths.IN_ROOTS_FOLDERS, *rendered_paths.DROP_INS, UNIT_FILE)
    return str(path.parent) == str(FOLDER) or str(path) in rendered


def _take_back(path: Path) -> None:
    there = hands.read(path)
    if there is None or path.name == "pool_passwd":
        return
    text = there.content.decode(errors="surrogateescape")
    rest = rendered_file.without_block(text)
    if rest == text:
        hands.remove(path)
    elif not rest.strip() and not str(path).startswith("/etc/postgresql"):
        hands.remove(path)
        if path.parent.name == ".ssh":
            hands.remove_folder(path.parent)
    else:
        owner = (there.uid, there.gid)
        if ancestors.intruder(path):
            owner = (hands.postgres(), pwd.getpwnam("postgres").pw_gid)
        hands.write(path, rest.encode(errors="surrogateescape"), there.mode, owner)
