"""Root or postgres touches a file, depending on its folder; odd files in its place do no harm."""

from __future__ import annotations

import ast
import json
import os
import pty
import pwd
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pytest

from pgpool_cluster.configuration import apply, changes, laid_files, node_files, pool_key, reloading, withdraw
from pgpool_cluster.configuration.rendering import rendered_paths
from pgpool_cluster.configuration.rendering.rendered_file import File, FileShare
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.ground import ancestors, files, paths, programs
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import hands, server, units
from pgpool_cluster.machine.record import Record

PACKAGE = Path(hands.__file__).parents[1]
OPENS = frozenset(
    {"open", "fdopen", "mkstemp", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "mkdir", "makedirs",
     "unlink", "rename", "renames", "rmdir", "removedirs", "rmtree", "chmod", "chown", "lchown", "fchown", "fchmod",
     "symlink", "symlink_to", "link", "hardlink_to", "mkfifo", "mknod", "truncate"}
)  # fmt: skip
BY_THE_AGENT = frozenset(
    (
        "archive", "archive_command", "channel", "copying", "copy_target", "data_directory", "diverged", "history_file",
        "local_watch", "message_catalogs", "neighbours", "pgpool_service", "pool_children", "postgresql", "postmaster",
        "process_watch", "server_log", "wal_files",
    )
)  # fmt: skip
"""Modules of the agent and its hooks, which run as postgres."""
ALLOWED = {
    ("files", "read"): "carries out what hands.py has found a hand for",
    ("files", "write"): "the same",
    ("files", "sweep"): "run by the agent, in its own folder",
    ("files", "sync_folder"): "of `write`",
    ("hands", "_remove"): "in the process of the owner, or where every ancestor is root's",
    ("hands", "_make"): "the same",
    ("hands", "_remove_folder"): "the same",
    ("hands", "_make_among_others"): "mkdir(2), which is exclusive, and a check of what came of it",
    ("hands", "_become"): "/dev/null",
    ("key_file", "text"): "reads cluster.key in /etc/pgpool2, which is root's",
    ("key_file", "_kept"): "reads a file in /etc/pgpool2/cluster, which is root's",
    ("apply", "_locked"): "opens the lock after the check of its ancestors",
    ("users", "changing"): "opens a folder in /var/lib, and nothing in it",
    ("paths", "laid_fingerprint"): "reads a file in /etc/pgpool2/cluster, which is root's",
    ("paths", "laid_file"): "the same",
    ("paths", "root_certificate"): "the same",
    ("paths", "file_hash"): "reads cluster.yml in /etc/pgpool2, which is root's",
    ("addresses", "laid"): "reads a file in /etc/pgpool2/cluster, which is root's",
    ("cluster_file", "load"): "reads cluster.yml in /etc/pgpool2, which is root's",
    ("server", "facts"): "reads sshd's public host key in /etc/ssh",
    ("pgpool", "of_another_key"): "reads the marker of before-pgpool, which is root's",
    ("pgpool", "listens"): "/proc",
    ("paths", "database"): "reads a file in /etc/pgpool2/cluster, which is root's",
    ("doors", "_account"): "reads shadow in /etc, which is root's",
    ("doors", "_include"): "reads sshd_config in /etc/ssh, which is root's",
    ("known_faults", "_read"): "reads what packages have in /usr/share, which is root's",
    ("units", "_catches"): "reads /proc, which is the kernel's",
    ("roles", "rendered"): "run by the agent",
    ("check_certificates", "of_node"): "the same",
}


def intruder(path: Path) -> str:
    """Clear the cache of folders, which the tests change."""
    ancestors.forget()
    return ancestors.intruder(path)


def opening(module: Path) -> Iterator[tuple[str, str]]:
    """Return the functions of a module that open, create, rename or delete a file directly."""
    tree = ast.parse(module.read_text())
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and opens(call.func):
                yield module.stem, function.name


def opens(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in OPENS
    if not isinstance(function, ast.Attribute):
        return False
    of = function.value.id if isinstance(function.value, ast.Name) else ""
    if of == "os":
        return function.attr in OPENS | {"replace", "remove"}
    if of == "shutil":
        return function.attr not in ("which", "disk_usage")
    return of != "hands" and function.attr in OPENS


def test_code_that_runs_as_root_opens_and_deletes_only_through_hands() -> None:
    found = {one for module in PACKAGE.rglob("*.py") if module.stem not in BY_THE_AGENT for one in opening(module)}
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "allowed for nothing"


def test_code_that_runs_as_root_writes_with_a_check() -> None:
    """files.write checks nothing; only processes without more rights than the folder's owner may use it."""
    for name in (
        "apply",
        "changes",
        "laid_files",
        "memory",
        "node_files",
        "pool_key",
        "reloading",
        "seed",
        "withdraw",
        "upgrade",
        "verbs",
        "units",
        "server",
    ):
        (module,) = PACKAGE.rglob(f"{name}.py")
        assert "files.write(" not in module.read_text(), name


@pytest.mark.parametrize(
    ("mode", "fits"), [(0o755, True), (0o700, True), (0o775, False), (0o757, False), (0o1777, False)]
)
def test_a_folder_that_others_can_write_to_is_not_roots(tmp_path: Path, mode: int, fits: bool) -> None:
    place = tmp_path / "folder"
    place.mkdir()
    os.chown(place, -1, 1 if os.getuid() == 0 else -1)
    place.chmod(mode)
    assert (intruder(place / "file") == "") is fits
    assert intruder(place / "a" / "b" / "file") == "" or not fits


def test_an_access_control_list_on_a_folder_of_root_counts(tmp_path: Path) -> None:
    """Its mask replaces the group's mode bits, so other users can write although the group is root."""
    none, nobody = 0xFFFFFFFF, 65534
    entries = ((1, 7, none), (2, 7, nobody), (4, 5, none), (16, 7, none), (32, 5, none))
    own = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.chown(tmp_path, -1, 0 if os.getuid() == 0 else -1)
    try:
        os.setxattr(tmp_path, "system.posix_acl_access", own)
    except OSError:
        pytest.skip("no lists on this file system")
    assert tmp_path.stat().st_mode & 0o070 == 0o070
    assert "other users can write to" in intruder(tmp_path / "file")


def test_a_sticky_shared_folder_may_be_an_ancestor(tmp_path: Path) -> None:
    (tmp_path / "shared" / "own").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    assert intruder(tmp_path / "shared" / "own" / "file") == ""
    assert "other users can create" in intruder(tmp_path / "shared" / "missing" / "file")
    (tmp_path / "shared").chmod(0o777)
    assert "other users can write to" in intruder(tmp_path / "shared" / "own" / "file")


def test_root_creates_its_folder_in_a_shared_one_and_adopts_no_other(machine: Server) -> None:
    shared = machine.place / "run"
    shared.mkdir()
    shared.chmod(0o1777)
    for _ in range(2):
        hands.make_folder(shared / "own", 0o755)
        hands.write(shared / "own" / "marker", b"x", 0o600)
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", machine.postgres.pw_uid, -1)
    (shared / "link").symlink_to(machine.home)
    for name in ("theirs", "link"):
        with pytest.raises(ServerError, match="must belong to root alone"):
            hands.make_folder(shared / name, 0o755)


def test_links_of_root_are_followed_and_their_targets_checked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("../" + tmp_path.name + "/real")
    assert intruder(tmp_path / "link" / "file") == ""
    (tmp_path / "real").chmod(0o777)
    assert str(tmp_path / "real") in intruder(tmp_path / "link" / "file")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "too many" in intruder(tmp_path / "round" / "file")


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "dangling"])
def test_odd_files_are_neither_read_nor_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "record.json"
    made: dict[str, Callable[[], None]] = {
        "link": lambda: place.symlink_to("/etc/passwd"),
        "fifo": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "dangling": lambda: place.symlink_to("nowhere"),
    }
    made[kind]()
    with pytest.raises(files.OddFileError, match=str(place)):
        files.read(place)
    with pytest.raises(ServerError, match=str(place)):
        Record.load(place)
    assert Users.load(place) == Users()


@pytest.mark.parametrize(
    ("name", "value"), [("proven", 5), ("term", "9"), ("held", 1), ("dropped", "pg2"), ("system", "7"), ("excuse", [])]
)
def test_a_record_of_other_types_is_damaged(tmp_path: Path, name: str, value: object) -> None:
    Record(system=7, proven="x").save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == Record(system=7, proven="x")
    whole = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**whole, name: value}))
    with pytest.raises(ServerError, match="cannot be read"):
        Record.load(tmp_path / "record.json")


def test_an_endless_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_BYTES", 10)
    (tmp_path / "file").write_bytes(b"x" * 11)
    with pytest.raises(files.OddFileError, match="is larger than"):
        files.read(tmp_path / "file")


def test_a_users_list_that_would_add_lines_to_pool_passwd_is_ignored() -> None:
    for name, entry in (("app", "AESx\npgpool_check:AESy"), ("a:b", "x"), ("a\nb", "x"), ("app", "x:y")):
        with pytest.raises(ValueError, match="entries"):
            Users.of({"serial": 1, "entries": {name: entry}, "mark": "m"})


# As root, with a folder of another user


def other() -> pwd.struct_passwd:
    """A user that is not root."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("no other user")


class Server:
    """/etc/pgpool2/cluster and cron.hourly of root, and the home of postgres, below a folder that all can enter."""

    def __init__(self, place: Path) -> None:
        self.place, self.postgres = place, other()
        self.etc, self.cron, self.home = place / "etc", place / "cron.hourly", place / "home"
        self.secret = place / "shadow"
        for folder in (self.etc, self.cron, self.home):
            folder.mkdir(mode=0o755)
        os.chown(self.home, self.postgres.pw_uid, self.postgres.pw_gid)
        self.secret.write_text("root:secret\n")
        self.secret.chmod(0o600)
        (self.cron / "job").write_text("#!/bin/sh\n")
        self.port = 9999

    def file(self, path: Path, share: FileShare, owner: str = "postgres") -> File:
        content = f"port = {self.port}\n" if share is not FileShare.ENTRIES else "pgpool_check:AESx\n"
        return File(PurePosixPath(path), content.encode(), owner, owner, 0o600, share)

    def wanted(self) -> tuple[tuple[File, ...], Users]:
        return (
            self.file(self.home / ".pgpass", FileShare.BLOCK),
            self.file(self.home / ".pgpoolkey", FileShare.WHOLE),
            self.file(self.home / ".ssh" / "authorized_keys", FileShare.BLOCK),
            self.file(self.etc / "pgpool.conf", FileShare.WHOLE, "root"),
            self.file(self.etc / "pool_passwd", FileShare.ENTRIES),
        ), Users()

    def owner(self, file: File) -> tuple[int, int, int]:
        return (0, 0, file.mode) if file.owner == "root" else (self.postgres.pw_uid, self.postgres.pw_gid, file.mode)

    def apply(self) -> list[str]:
        """Run `apply` and return its refusals."""
        return [error.message for error in apply.carry_out(changes.plan())]

    def sums(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Files of root that `apply` must not touch."""
        found = {}
        for path in (self.secret, *self.cron.iterdir()):
            status = path.lstat()
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, path.read_bytes())
        return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if os.getuid() != 0:
        pytest.skip("only root can change its user")
    place = Path(tempfile.mkdtemp())  # other users cannot enter pytest's own folders
    place.chmod(0o755)
    ancestors.forget()
    found = Server(place)
    monkeypatch.setattr(hands, "postgres", lambda: found.postgres.pw_uid)
    for name in ("MEMORY", "LAID_FILE", "CLUSTER_YML"):
        monkeypatch.setattr(paths, name, found.etc / name.lower())
    for name in ("USERS", "OLD_MEMORY", "STATE", "SERVE"):
        monkeypatch.setattr(paths, name, found.home / f".{name.lower()}")
    paths.CLUSTER_YML.touch()
    monkeypatch.setattr(node_files, "render", found.wanted)
    monkeypatch.setattr(laid_files, "owner_of", found.owner)
    monkeypatch.setattr(apply, "_make_folders", lambda: None)
    monkeypatch.setattr(reloading, "reload", lambda *_, **__: None)
    monkeypatch.setattr(apply, "_with_users_of_now", lambda planned: planned)
    monkeypatch.setattr(apply, "_LOCK", found.etc / "lock")
    monkeypatch.setattr(laid_files, "FOLDER", PurePosixPath(found.etc))
    yield found
    hands._end(os.getpid())
    shutil.rmtree(place)


def test_each_file_belongs_to_its_owner_and_root_creates_none_of_postgres(machine: Server) -> None:
    assert machine.apply() == []
    for file in machine.wanted()[0]:
        status = Path(file.path).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == machine.owner(file)
    assert (machine.home / ".ssh").stat().st_uid == machine.postgres.pw_uid
    assert (machine.home / ".ssh").stat().st_mode & 0o7777 == 0o700
    assert changes.plan().changes == ()


def _ln(target: Path) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


@pytest.mark.parametrize("kind", ["link to a secret", "FIFO", "folder", "its folder"])
@pytest.mark.parametrize("again", [False, True])
def test_an_odd_file_in_the_home_of_postgres_harms_no_file_of_root(machine: Server, kind: str, again: bool) -> None:
    if again:
        machine.apply()
    before = machine.sums()
    for name in (".pgpass", ".pgpoolkey"):
        place = machine.home / name
        place.unlink(missing_ok=True)
        if kind == "link to a secret":
            place.symlink_to(machine.secret)
        elif kind == "FIFO":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
    if kind == "its folder":
        subprocess.run(["rm", "-rf", machine.home / ".ssh"], check=True)
        (machine.home / ".ssh").symlink_to(machine.cron)
    machine.port = 8888
    refused = machine.apply()
    assert machine.sums() == before
    assert (machine.etc / "pgpool.conf").read_text() == "port = 8888\n", "one odd file keeps the others from nothing"
    name = ".ssh/authorized_keys" if kind == "its folder" else ".pgpass"
    assert any(f"{machine.home / name}" in line for line in refused), refused
    assert not paths.LAID_FILE.exists() or again
    assert b"root:secret" not in b"".join(path.read_bytes() for path in machine.home.iterdir() if path.is_file()
                                          and not path.is_symlink())  # fmt: skip


def test_a_hard_link_keeps_its_other_name_untouched(machine: Server) -> None:
    (machine.home / ".pgpoolkey").hardlink_to(machine.secret)
    before = machine.sums()
    assert len(machine.apply()) == 1, "postgres cannot read it"
    assert machine.sums() == before


def test_racing_with_links_gains_nothing(machine: Server) -> None:
    before = machine.sums()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(machine.postgres.pw_gid)
        os.setuid(machine.postgres.pw_uid)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for name, target in ((".ssh", machine.cron), (".pgpoolkey", machine.secret), (".pgpass", machine.secret)):
                with suppress(OSError):
                    (machine.home / name).rename(machine.home / f"{name}.{time.monotonic_ns()}")
                with suppress(OSError):
                    (machine.home / name).symlink_to(target)
        os._exit(0)
    try:
        for _ in range(20):
            machine.port += 1
            machine.apply()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert machine.sums() == before


def test_a_file_of_root_is_not_written_to_a_folder_of_postgres(
    machine: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (machine.file(machine.home / "unit.conf", FileShare.WHOLE, "root"),), Users()
    monkeypatch.setattr(node_files, "render", lambda: wanted)
    (refused,) = machine.apply()
    assert f"{machine.home} belongs to {machine.postgres.pw_name}" in refused
    assert not (machine.home / "unit.conf").exists()


def test_a_forged_memory_deletes_nothing(machine: Server) -> None:
    roots = machine.place / "authorized_keys"
    roots.write_text("root's\n")
    forged = {str(path): "" for path in (roots, machine.secret, machine.cron / "job", paths.CLUSTER_YML)}
    paths.OLD_MEMORY.write_text(json.dumps({"files": forged, "users": [], "cluster": ""}))
    assert set(laid_files.claimed().files) <= {str(paths.CLUSTER_YML)}, "this test has it in the cluster's own folder"
    assert not laid_files.could_be_ours(roots)
    paths.OLD_MEMORY.write_text(json.dumps({"files": {"/x\0": "", "/etc/..": "", "x": ""}, "users": [], "cluster": ""}))
    assert laid_files.claimed().files == {}


def test_the_owners_process_has_nothing_of_root(machine: Server) -> None:
    hands.read(machine.home / "nothing")
    (process,) = hands._processes.values()
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert f"Uid:\t{machine.postgres.pw_uid}\t{machine.postgres.pw_uid}\t" in status
    assert "CapEff:\t0000000000000000" in status
    assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) == 4, "its line, and /dev/null three times"
    assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0, "no other process of this user may trace it"
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    assert next(line.split()[4:6] for line in limits if line.startswith("Max core")) == ["1", "1"], "and it has no core"
    assert os.getsid(process.pid) == process.pid, "root's terminal is not its own"


def test_a_stopped_owners_process_is_not_waited_for_endlessly(machine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "_ANSWER_SECONDS", 0.2)
    hands.read(machine.home / "nothing")
    (process,) = hands._processes.values()
    os.kill(process.pid, 19)
    with pytest.raises(ServerError, match="does not answer"):
        hands.read(machine.home / "nothing")
    assert hands.read(machine.home / "nothing") is None


def test_the_processes_of_one_owner_share_a_time_limit(machine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(hands, "_TOTAL_SECONDS", 1.5)
    monkeypatch.setattr(hands, "_spent", {})
    began = time.monotonic()
    for _ in range(20):
        os.kill(hands._process(machine.postgres.pw_uid).pid, 19)
        with pytest.raises(ServerError, match="does not answer"):
            hands.read(machine.home / "nothing")
    assert time.monotonic() - began < 15


def test_a_link_of_postgres_behind_a_link_of_root_is_not_followed(machine: Server) -> None:
    """A link of root may lead to a disk for the archive in a folder that postgres can change."""
    (machine.home / "disk").symlink_to(machine.cron)
    (machine.etc / "archive").symlink_to(machine.home / "disk")
    with pytest.raises(ServerError, match=r"home/disk"):
        hands.make_folder(machine.etc / "archive", 0o700, machine.owner(machine.wanted()[0][0])[:2], again=True)
    assert (machine.cron.stat().st_uid, machine.cron.stat().st_mode & 0o777) == (0, 0o755)


def test_a_link_of_root_is_followed(machine: Server) -> None:
    (machine.place / "disk").mkdir()
    (machine.etc / "archive").symlink_to("../disk")
    hands.make_folder(machine.etc / "archive", 0o700, machine.owner(machine.wanted()[0][0])[:2], again=True)
    assert (machine.place / "disk").stat().st_uid == machine.postgres.pw_uid
    assert (machine.etc / "archive").is_symlink()


def test_a_program_that_root_runs_as_postgres_gets_no_environment_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can change its user")
    monkeypatch.setenv("SECRET_OF_ROOT", "hush")
    words = [word.replace("postgres", other().pw_name) for word in server.as_postgres()]
    words = [word if not word.startswith("--regid") else f"--regid={other().pw_gid}" for word in words]
    said = programs.run([*words, "env"])
    assert "PATH=" in said
    assert "hush" not in said


def test_a_program_that_root_runs_as_postgres_gets_no_terminal_of_root() -> None:
    """Other processes of postgres can trace it, and make it type into its terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        said = programs.run(["sh", "-c", "(: </dev/tty) 2>/dev/null && echo terminal || echo none"])
        os._exit(0 if said == "none\n" else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


# The meaning of "edited by hand" without a memory of root


def test_after_an_upgrade_an_edited_file_stays_and_no_other_counts_as_edited(machine: Server) -> None:
    conf = machine.etc / "pgpool.conf"
    conf.write_text("port = 7777\n")
    paths.OLD_MEMORY.write_text(json.dumps({"files": {str(conf): "0" * 64}, "users": [], "cluster": ""}))
    os.chown(paths.OLD_MEMORY, machine.postgres.pw_uid, -1)
    machine.apply()
    assert conf.read_text() == "port = 7777\n"
    assert (machine.etc / "pgpool.conf.new").read_text() == "port = 9999\n"
    assert not paths.OLD_MEMORY.exists()
    machine.apply()
    assert conf.read_text() == "port = 7777\n"


@pytest.mark.parametrize("claim", [True, False])
def test_a_file_replaced_without_a_memory_of_root_is_kept_beside(machine: Server, claim: bool) -> None:
    conf = machine.etc / "pgpool.conf"
    conf.write_text("port = 7777\n")
    if claim:
        found = {str(conf): laid_files.hash_of(b"port = 7777\n")}
        paths.OLD_MEMORY.write_text(json.dumps({"files": found, "users": [], "cluster": ""}))
        os.chown(paths.OLD_MEMORY, machine.postgres.pw_uid, -1)
    planned = changes.plan()
    assert f"{conf}: changed; the previous file is {conf}.old" in map(str, planned.changes)
    apply.carry_out(planned)
    assert conf.read_text() == "port = 9999\n"
    assert (machine.etc / "pgpool.conf.old").read_text() == "port = 7777\n"


def test_the_removal_deletes_the_written_files_and_nothing_else(
    machine: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", machine.place / "archive")
    monkeypatch.setattr(rendered_paths, "UNIT_FILE", str(machine.place / "unit" / "unit.conf"))
    monkeypatch.setattr(rendered_paths, "DROP_INS", ())
    monkeypatch.setattr(programs, "run", lambda _: "")
    monkeypatch.setattr(units, "ask", lambda *_: None)
    (machine.home / ".pgpass").write_text("mine\n")
    os.chown(machine.home / ".pgpass", machine.postgres.pw_uid, machine.postgres.pw_gid)
    (machine.etc / "pgpool.conf").write_text("port = 7777\n")
    before = machine.sums()
    machine.apply()
    withdraw.delete_files()
    assert machine.sums() == before
    assert sorted(path.name for path in machine.home.iterdir()) == [".pgpass"]
    assert (machine.home / ".pgpass").read_text() == "mine\n"
    assert sorted(path.name for path in machine.etc.iterdir()) == ["cluster_yml", "lock", "pool_passwd"]


def test_a_pgpool_that_an_older_package_started_keeps_its_mark(
    machine: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "OLD_KEY_OF_PGPOOL", machine.home / "key-of-pgpool")
    monkeypatch.setattr(paths, "KEY_OF_PGPOOL", machine.place / "run" / "key-of-pgpool")
    for content, taken in (("../../etc\n", False), ("0123456789abcdef\n", True), ("fedcba9876543210\n", False)):
        paths.OLD_KEY_OF_PGPOOL.write_text(content)
        os.chown(paths.OLD_KEY_OF_PGPOOL, machine.postgres.pw_uid, -1)
        pool_key.take_over_marker()
        assert not paths.OLD_KEY_OF_PGPOOL.exists()
        assert paths.KEY_OF_PGPOOL.exists() is (taken or content.startswith("f"))
    assert paths.KEY_OF_PGPOOL.read_text() == "0123456789abcdef\n"
    assert paths.KEY_OF_PGPOOL.parent.stat().st_uid == 0


def test_the_lock_is_not_waited_for_endlessly(machine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_LOCK_SECONDS", 0.1)
    with apply._locked():
        assert apply._LOCK.stat().st_mode & 0o7777 == 0o600
        with pytest.raises(ServerError, match="another pgpoolctl apply"):
            machine.apply()
    assert machine.apply() == []


def test_the_names_of_written_files_are_those_that_may_be_removed() -> None:
    assert set(rendered_paths.STUBS) < rendered_paths.IN_OTHERS_FOLDERS
