"""The files that apply writes, keeps and removes."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from pgpool_cluster.cli import command_line
from pgpool_cluster.configuration import apply, changes, laid_files, node_files, reloading, withdraw
from pgpool_cluster.configuration.rendering import rendered_file, rendered_paths
from pgpool_cluster.configuration.rendering.rendered_file import File, FileShare
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.ground import ancestors, log, paths, programs
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import hands, units


class Disk:
    """A folder in place of /etc, and the rendered files for it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.conf = place / "pgpool.conf"
        self.hba = place / "pg_hba.conf"
        self.passwd = place / "pool_passwd"
        self.users = Users()
        self.port = 9999

    def wanted(self) -> tuple[tuple[File, ...], Users]:
        whole = File(PurePosixPath(self.conf), f"port = {self.port}\n".encode(), "me", "me", 0o640)
        block = File(PurePosixPath(self.hba), b"hostssl all\n", "me", "me", 0o640, FileShare.BLOCK)
        entries = File(PurePosixPath(self.passwd), b"pgpool_check:AESx\n", "me", "me", 0o600, FileShare.ENTRIES)
        return (block, whole, node_files.with_users(entries, self.users)), self.users

    def apply(self) -> list[str]:
        planned = changes.plan()
        apply.carry_out(planned)
        return [change.path.name for change in planned.changes]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk(tmp_path)
    me = (os.getuid(), os.getgid())
    for name in ("MEMORY", "OLD_MEMORY", "USERS", "STATE", "SERVE"):
        monkeypatch.setattr(paths, name, tmp_path / f".{name.lower()}")
    (tmp_path / "cluster.yml").touch()
    monkeypatch.setattr(paths, "LAID_FILE", tmp_path / "laid")
    monkeypatch.setattr(paths, "CLUSTER_YML", tmp_path / "cluster.yml")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(node_files, "render", found.wanted)
    monkeypatch.setattr(laid_files, "owner_of", lambda file: (*me, file.mode))
    monkeypatch.setattr(apply, "_make_folders", lambda: None)
    monkeypatch.setattr(reloading, "reload", lambda *_, **__: None)
    monkeypatch.setattr(apply, "_LOCK", tmp_path / ".lock")
    monkeypatch.setattr(laid_files, "FOLDER", PurePosixPath(tmp_path))
    return found


def test_a_second_apply_changes_nothing(disk: Disk) -> None:
    disk.hba.write_text("local all all peer\n")
    assert disk.apply() == ["pg_hba.conf", "pgpool.conf", "pool_passwd"]
    assert disk.apply() == []
    assert disk.conf.stat().st_mode & 0o777 == 0o640
    text = disk.hba.read_text()
    assert text.startswith(rendered_file.BEGIN)
    assert text.endswith("local all all peer\n")


def test_an_edited_file_is_kept_and_the_rendered_one_is_written_beside_it(disk: Disk) -> None:
    disk.apply()
    disk.conf.write_text("port = 7777\n")
    disk.port = 8888
    disk.apply()
    beside = disk.place / "pgpool.conf.new"
    assert disk.conf.read_text() == "port = 7777\n"
    assert beside.read_text() == "port = 8888\n"
    assert disk.apply() == []
    assert changes.plan().edited == (disk.conf,)
    disk.conf.unlink()
    disk.apply()
    assert disk.conf.read_text() == "port = 8888\n"
    assert not beside.exists()


def test_a_wrong_mode_is_corrected(disk: Disk) -> None:
    disk.apply()
    disk.passwd.chmod(0o644)
    assert disk.apply() == ["pool_passwd"]
    assert disk.passwd.stat().st_mode & 0o777 == 0o600


def test_users_come_and_go_and_an_administrators_own_lines_stay(disk: Disk) -> None:
    disk.passwd.write_text("old_app:md5abc\n")
    disk.users = Users().with_entry("app", "AESy")
    disk.apply()
    assert disk.passwd.read_text().splitlines() == ["pgpool_check:AESx", "app:AESy", "old_app:md5abc"]
    disk.users = disk.users.with_entry("app", None)
    disk.apply()
    assert disk.passwd.read_text().splitlines() == ["pgpool_check:AESx", "old_app:md5abc"]


def test_roles_that_a_node_no_longer_has_leave_pool_passwd(disk: Disk) -> None:
    """A witness used to have the superuser's password."""
    disk.passwd.write_text("pgpool_recovery:AESr\npgpool_replication:AESp\npgpool_check:AESold\napp:AESapp\n")
    disk.apply()
    assert disk.passwd.read_text() == "pgpool_check:AESx\napp:AESapp\n"


def test_text_that_postgres_wrote_into_a_file_cannot_control_a_terminal(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.conf.write_text("\x1b]0;x\x07local \udcff\u202e\n", errors="surrogateescape")
    shown = "".join(change.diff for change in changes.plan().changes)
    assert "-?]0;x?local \ufffd?\n" in shown
    log.refusals([ServerError("\x1b[2J", hint="\x9b2J")])
    assert capsys.readouterr().err == "pgpoolctl: ?[2J; hint: ?2J\n"

    def fails(_: list[str]) -> int:
        raise ServerError("\x1b[2J", hint="\udcff")

    monkeypatch.setattr("pgpool_cluster.configuration.seed.run", fails)
    command_line.main(["seed"])
    assert capsys.readouterr().err == "pgpoolctl: ?[2J\nhint: ?\n"


def test_a_data_directory_of_root_gets_no_stub_of_postgres(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """postgres can change data_directory in postgresql.conf."""
    stub = File(PurePosixPath(disk.place / "recovery_1st_stage"), b"#!/bin/sh\n", "me", "me", 0o700)
    monkeypatch.setattr(node_files, "render", lambda: ((stub,), Users()))
    assert "not written to a folder of root" in changes.plan().refused[0].message
    apply.carry_out(changes.plan())
    assert not Path(stub.path).exists()


def test_secrets_are_not_shown(disk: Disk) -> None:
    shown = "".join(change.diff for change in changes.plan().changes)
    assert "port = 9999" in shown
    assert "AESx" not in shown


def test_a_link_is_replaced_not_followed(disk: Disk) -> None:
    stranger = disk.place / "stranger"
    stranger.write_text("precious\n")
    disk.conf.symlink_to(stranger)
    disk.apply()
    assert stranger.read_text() == "precious\n"
    assert not disk.conf.is_symlink()


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_the_archive_is_postgres_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", tmp_path / "archive")
    if mode != 0o700:
        paths.ARCHIVE.mkdir(mode=mode)
    for _ in range(2):
        apply._make_archive(os.getuid(), os.getgid())
        assert paths.ARCHIVE.stat().st_mode & 0o7777 == 0o700


def test_an_archive_that_cannot_be_created_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", tmp_path / "archive")
    paths.ARCHIVE.touch()
    with pytest.raises(ServerError, match="archive: "):
        apply._make_archive(os.getuid(), os.getgid())


@pytest.mark.parametrize("holds", [True, False])
def test_withdraw_keeps_archived_wal_and_says_that_a_restart_is_needed(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], holds: bool
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", disk.place / "archive")
    monkeypatch.setattr(units, "ask", lambda *_: None)
    monkeypatch.setattr(rendered_paths, "UNIT_FILE", str(disk.place / "unit"))
    monkeypatch.setattr(programs, "run", lambda _: "")
    monkeypatch.setattr(withdraw, "unit_of", lambda path: "postgresql@17-main.service" * path.endswith("pgpool.conf"))
    paths.ARCHIVE.mkdir()
    if holds:
        (paths.ARCHIVE / "000000010000000000000001").touch()
    disk.apply()
    disk.conf.write_text("# PostgreSQL\narchive_mode = on\n")
    withdraw.delete_files()
    assert paths.ARCHIVE.exists() is holds
    assert "systemctl restart postgresql@17-main.service" in capsys.readouterr().out
    withdraw.delete_files()
    assert capsys.readouterr().out == ""


def test_users_that_were_stored_since_the_plan_are_kept(disk: Disk) -> None:
    """`apply` used to write back the list that it had read earlier, so a user created in between was lost."""
    disk.users = Users(3, {"app": "AESa"}, "m")
    planned = changes.plan()
    disk.users = Users(4, {"app": "AESa", "report": "AESr"}, "m")
    disk.users.save(paths.USERS)
    apply.carry_out(planned)
    assert Users.load(paths.USERS) == disk.users
    assert "report:AESr" in disk.passwd.read_text()


@pytest.mark.parametrize("intruder", ["", "the folder belongs to postgres"])
def test_a_full_disk_is_reported_once_and_an_odd_file_delays_no_other(
    disk: Disk, intruder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(path: Path, *_: object) -> None:
        written.append(path)
        if path in (disk.conf, paths.MEMORY):
            raise ServerError(f"{path}: No space left on device", hint="free some space")

    planned = changes.plan()
    monkeypatch.setattr(hands, "write", write)
    monkeypatch.setattr(ancestors, "intruder", lambda path: intruder if path == disk.conf else "")
    refused = apply.carry_out(planned)
    assert [str(disk.conf) in error.message for error in refused] == [True]
    assert (disk.passwd in written) == bool(intruder)
