"""The key in .pgpoolkey and the entries encrypted with it, while pgpool-II still runs with the previous one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tests.unit.cluster.rendered import KEY

from pgpool_cluster.configuration import pool_key
from pgpool_cluster.configuration.rendering.rendered_file import File, FileShare
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.definition import key as keys
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import hands, pgpool, units
from pgpool_cluster.machine.units import UnitState

OLD, NEW = "old pool key", "new pool key"
SAM = keys.pool_passwd_entry("secret", OLD)


@pytest.fixture
def laid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """.pgpoolkey with the old key; this process reads and writes all files itself."""
    found = tmp_path / ".pgpoolkey"
    found.write_text(f"{OLD}\n")
    monkeypatch.setattr(pool_key, "POOL_KEY", found)
    monkeypatch.setattr(hands, "_done", lambda request, _: hands.perform(request))
    (tmp_path / "run").mkdir()  # only root can give a new folder to root
    monkeypatch.setattr(paths, "KEY_OF_PGPOOL", tmp_path / "run" / "key-of-pgpool")
    monkeypatch.setattr(paths, "OLD_KEY_OF_PGPOOL", tmp_path / "old-key-of-pgpool")
    return found


def running(monkeypatch: pytest.MonkeyPatch, active: str = "active") -> None:
    monkeypatch.setattr(units, "state", lambda _: UnitState(active, "success", was_active=True))


@pytest.mark.parametrize(
    ("active", "started_with", "old"),
    [("active", "0000", True), ("reloading", "0000", True), ("inactive", "0000", False),
     ("active", KEY.fingerprint, False), ("active", "", False)],
)  # fmt: skip
def test_the_old_key_applies_until_pgpool_restarts(
    laid: Path, active: str, started_with: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(monkeypatch, active)
    pool_key.mark(started_with)
    assert pgpool.of_another_key(KEY.fingerprint) is old
    assert pool_key.needed(KEY) == (OLD if old else KEY.pool_key)


def test_a_missing_or_odd_pgpoolkey_counts_as_no_key(laid: Path) -> None:
    """postgres could make it a FIFO, and the error would keep the node without configuration."""
    laid.unlink()
    assert pool_key.laid() == ""
    os.mkfifo(laid)
    assert pool_key.laid() == ""


def test_the_users_entries_are_encrypted_again_after_a_key_change(laid: Path) -> None:
    users = Users(3, {"sam": SAM, "kim": "md5of another tool"}, keys.mark(OLD))
    found = pool_key.encrypted_with(users, NEW)
    assert found.entries == {"sam": keys.pool_passwd_entry("secret", NEW), "kim": "md5of another tool"}
    assert (found.serial, found.mark) == (3, keys.mark(NEW))


@pytest.mark.parametrize("content", ["", NEW])
def test_entries_without_a_previous_key_stay_as_they_are(laid: Path, content: str) -> None:
    laid.write_text(content)
    found = pool_key.encrypted_with(Users(3, {"sam": SAM}), NEW)
    assert (found.entries, found.mark) == ({"sam": SAM}, keys.mark(NEW))


def file(path: Path, content: str, share: FileShare = FileShare.WHOLE) -> File:
    return File(PurePosixPath(path), content.encode(), "postgres", "postgres", 0o600, share)


def test_a_pgpool_with_the_old_key_keeps_it_and_its_roles_entries(laid: Path, tmp_path: Path) -> None:
    """With new entries, its logins to PostgreSQL would fail until it restarts."""
    passwd, conf = tmp_path / "pool_passwd", tmp_path / "pgpool.conf"
    passwd.write_text("pgpool_check:AESold\nsam:AESsams\npgpool_recovery:AESold\n")
    conf.write_text("port = 1\n")
    assert pool_key.kept_for(file(laid, f"{NEW}\n")).content == f"{OLD}\n".encode()
    entries = file(passwd, "pgpool_check:AESnew\npgpool_recovery:AESnew\n", FileShare.ENTRIES)
    assert pool_key.kept_for(entries).content == b"pgpool_check:AESold\npgpool_recovery:AESold\n"
    assert pool_key.kept_for(file(conf, "port = 2\n")).content == b"port = 2\n"


def test_the_mark_of_a_started_pgpool_is_for_all_to_read_and_ends_with_it(laid: Path) -> None:
    pool_key.mark("0123456789abcdef")
    assert paths.KEY_OF_PGPOOL.read_text() == "0123456789abcdef\n"
    assert paths.KEY_OF_PGPOOL.stat().st_mode & 0o777 == 0o644
    pool_key.mark("")
    assert not paths.KEY_OF_PGPOOL.exists()


def test_a_mark_that_cannot_be_written_does_not_prevent_the_start_of_pgpool(
    laid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise ServerError("/run: No space left on device", hint="correct that")

    monkeypatch.setattr(hands, "write", full)
    pool_key.mark("0123456789abcdef")
    shown = capsys.readouterr()
    assert "No space left on device" in shown.out + shown.err


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [(None, None, None), ("0123456789abcdef\n", None, "0123456789abcdef\n"), ("../../etc/shadow\n", None, None),
     ("\udcff\n", None, None), ("0123456789abcdef\n", "fedcba9876543210\n", "fedcba9876543210\n")],
    ids=["none", "only old", "not a mark", "not text", "both"],
)  # fmt: skip
def test_the_mark_of_an_older_package_moves_once(
    laid: Path, old: str | None, new: str | None, left: str | None
) -> None:
    """A file that was not text used to stay for ever."""
    if old is not None:
        paths.OLD_KEY_OF_PGPOOL.write_bytes(os.fsencode(old))
    if new is not None:
        pool_key.mark(new.strip())
    pool_key.take_over_marker()
    assert (paths.KEY_OF_PGPOOL.read_text() if paths.KEY_OF_PGPOOL.exists() else None) == left
    assert not paths.OLD_KEY_OF_PGPOOL.exists()
