"""Tarballs and unpacked trees as --source; test_git_checkout.py tests git."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.upstream.repositories import Repository
from tests.unit.upstream.tarballs import DAY, pooled, quiet, release

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.upstream import tarball
from pgpool_deb.upstream.local_source import from_path
from pgpool_deb.upstream.pins import Pins

# --- tarballs


@pytest.mark.parametrize(
    ("name", "stated", "top", "version"),
    [
        ("pgpool-II-4.7.2.tar.gz", "4.7.2", None, "4.7.2"),
        ("pgpool-II-4.7.2.tar.xz", "4.7.2", None, "4.7.2"),
        ("x.tar.bz2", "4.7.2", "pgpool2-V4_7_2", "4.7.2"),
        ("V4_7_0_RC1.tgz", "4.7RC1", "top", "4.7.0~rc1"),
        ("master.tar.gz", "4.8devel", "pgpool2-master", "4.8~devel+local20250601."),
        ("V4_7_STABLE.tar.gz", "4.7.2", "pgpool2-V4_7_STABLE", "4.7.2+local20250601."),
    ],
)
def test_a_tarball_is_used_unchanged(tmp_path: Path, name: str, stated: str, top: str | None, version: str) -> None:
    path = release(tmp_path / name, "4.7.2", stated, top=top)
    source = from_path(path, tmp_path / "cache", quiet)
    assert source.version.startswith(version)
    assert source.version == version or version.endswith(".")
    assert source.tarball == path
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.suffix == {".xz": "xz", ".bz2": "bz2"}.get(path.suffix, "gz")
    assert (source.pinned, source.date, source.needs_autoreconf) == (False, DAY, False)
    assert from_path(path, tmp_path / "cache", quiet) == source


def test_a_tarball_without_configure_needs_autoreconf(tmp_path: Path) -> None:
    path = release(tmp_path / "pgpool-II-4.6.1.tar.gz", "4.6.1", configure=False)
    assert from_path(path, tmp_path / "cache", quiet).needs_autoreconf


def test_the_pinned_tarball_by_any_name_is_the_pinned_version(pins: Pins, tmp_path: Path) -> None:
    path = shutil.copy(pooled(tmp_path, "4.6.1"), tmp_path / "x.tar.gz")
    source = from_path(Path(path), tmp_path / "cache", quiet, pins)
    assert (source.version, source.pinned, source.date) == ("4.6.1", True, DAY + 12 * 3600)


def test_other_bytes_do_not_count_as_the_pinned_version(pins: Pins, tmp_path: Path) -> None:
    path = release(tmp_path / "pgpool-II-4.6.1.tar.gz", "4.6.1", configure=False)
    lines: list[str] = []
    source = from_path(path, tmp_path / "cache", lines.append, pins)
    assert source.version == f"4.6.1+local20250601.{source.sha256[:8]}"
    assert not source.pinned
    assert "not the pinned tarball" in lines[0]


# --- unpacked trees


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    path = release(tmp_path / "r.tar.gz", "4.6.1")
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)
    return tmp_path / "pgpool-II-4.6.1"


def test_an_unpacked_tree_gets_a_version_of_its_content(unpacked: Path, tmp_path: Path) -> None:
    one = from_path(unpacked, tmp_path / "cache", quiet)
    assert one.version.startswith("4.6.1+local20250601.")
    assert (one.date, one.pinned, one.needs_autoreconf) == (DAY, False, False)
    os.utime(unpacked / "src" / "main.c")
    assert from_path(unpacked, tmp_path / "cache", quiet) == one
    (unpacked / "src" / "main.c").write_text("changed")
    assert from_path(unpacked, tmp_path / "cache", quiet).version != one.version


def test_an_unpacked_tree_inside_another_repository_is_not_a_checkout(repository: Repository) -> None:
    repository.commit("4.7devel")
    inner = repository.root / "inner"
    shutil.copytree(repository.root, inner, ignore=shutil.ignore_patterns(".git"))
    assert repository.source(inner).version.startswith("4.7~devel+local")


def test_a_tree_with_only_a_configure_is_accepted(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "configure.ac").unlink()
    assert from_path(unpacked, tmp_path / "cache", quiet).version.startswith("4.6.1+local")


def test_results_of_an_earlier_build_are_refused(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "config.status").touch()
    with pytest.raises(UsageError, match="earlier build") as caught:
        from_path(unpacked, tmp_path / "cache", quiet)
    assert "distclean" in caught.value.hint


def test_a_tree_that_changes_while_it_is_read_is_refused(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tarball.write

    def change_then_write(*arguments: Any) -> str:
        (unpacked / "src" / "main.c").write_text("changed meanwhile")
        return write(*arguments)

    monkeypatch.setattr(tarball, "write", change_then_write)
    with pytest.raises(UsageError, match="changed while it was being read"):
        from_path(unpacked, tmp_path / "cache", quiet)
    assert not list((tmp_path / "cache" / "trees").glob("*/*.orig.tar.gz"))


# --- refused sources


def folder_of_something_else(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "configure.ac").write_text("AC_INIT([postgresql], [17])\n")
    return tmp_path / "x"


def strange_version(tmp_path: Path) -> Path:
    return release(tmp_path / "x.tar.gz", "4.6.1", "4.6.1/../../x")


def truncated(tmp_path: Path) -> Path:
    path = release(tmp_path / "x.tar.gz", "4.6.1")
    os.truncate(path, path.stat().st_size // 2)
    return path


def tarball_of_something_else(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("top/README"))
    return path


@pytest.mark.parametrize(
    ("make", "output"),
    [
        (lambda tmp_path: tmp_path / "nothing", "nothing: no such file or folder"),
        (lambda tmp_path: tmp_path / "nothing" / "below", "no such file or folder"),
        (lambda _tmp_path: Path("/dev/null"), "not a tarball"),
        (folder_of_something_else, "x is not pgpool-II's source"),
        (tarball_of_something_else, "x.tar.gz is not pgpool-II's source"),
        (strange_version, "states version '4.6.1/../../x'"),
        (truncated, "truncated or damaged"),
    ],
)
def test_a_wrong_source_is_named(tmp_path: Path, make: Callable[[Path], Path], output: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_path(make(tmp_path), tmp_path / "cache", quiet)
    assert output in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_link_loop_is_reported(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="cannot be read"):
        from_path(tmp_path / "loop", tmp_path / "cache", quiet)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "src" / "main.c").chmod(0)
    with pytest.raises(UsageError, match=r"main\.c cannot be read: Permission denied"):
        from_path(unpacked, tmp_path / "cache", quiet)


def test_the_record_of_a_check_survives_damage(tmp_path: Path) -> None:
    path = release(tmp_path / "pgpool-II-4.6.1.tar.gz", "4.6.1")
    one = from_path(path, tmp_path / "cache", quiet)
    (record,) = (tmp_path / "cache" / "checked").iterdir()
    record.write_text(json.dumps({"stated": "4.9.9"}))
    assert from_path(path, tmp_path / "cache", quiet) == one
