"""What --source takes: tarballs, real git repositories, unpacked trees; and what it does not."""

from __future__ import annotations

import dataclasses
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
from debian.debian_support import Version
from tests.unit.tarballs import DAY, pooled, quiet, release

from pgpool_deb import tarball
from pgpool_deb.errors import MachineError, UsageError
from pgpool_deb.local_source import from_path
from pgpool_deb.pins import Pins
from pgpool_deb.sources import Source

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
def test_a_tarball_is_taken_as_it_is(tmp_path: Path, name: str, stated: str, top: str | None, version: str) -> None:
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


def test_other_bytes_do_not_pass_for_the_pinned_version(pins: Pins, tmp_path: Path) -> None:
    path = release(tmp_path / "pgpool-II-4.6.1.tar.gz", "4.6.1", configure=False)
    lines: list[str] = []
    source = from_path(path, tmp_path / "cache", lines.append, pins)
    assert source.version == f"4.6.1+local20250601.{source.sha256[:8]}"
    assert not source.pinned
    assert "not the pinned tarball" in lines[0]


def test_git_archives_tell_their_commit(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit("4.8devel")
    git(repository.root, "archive", "--prefix=pgpool2-master/", "-o", str(tmp_path / "m.tar.gz"), "HEAD")
    source = from_path(tmp_path / "m.tar.gz", tmp_path / "cache", quiet)
    assert source.version == f"4.8~devel+git20250601.{commit[:8]}"


# --- git checkouts


def git(root: Path, *arguments: str, date: int = DAY) -> str:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=master")
    environment = {**os.environ, "GIT_COMMITTER_DATE": f"{date} +0000", "GIT_AUTHOR_DATE": f"{date} +0000"}
    environment |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *who, *arguments], cwd=root, env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


@dataclasses.dataclass
class Repository:
    root: Path
    cache: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    def commit(self, stated: str, *tags: str, date: int = DAY) -> str:
        (self.root / "configure.ac").write_text(f"AC_INIT([pgpool-II], [{stated}])\n")
        git(self.root, "add", ".")
        git(self.root, "commit", "-q", "--allow-empty", "-m", stated, date=date)
        for tag in tags:
            git(self.root, "tag", tag)
        return git(self.root, "rev-parse", "HEAD")

    def source(self, root: Path | None = None) -> Source:
        return from_path(root or self.root, self.cache, self.lines.append)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.c").write_text("int main;\n")
    git(root, "init", "-q")
    return Repository(root, tmp_path / "cache")


def test_versions_rise_along_a_history_like_upstreams(repository: Repository) -> None:
    history = [
        ("4.6devel", ()),
        ("4.6beta1", ("V4_6_0_BETA1", "V4_6_0_BETA1_RPM")),
        ("4.6beta1", ()),
        ("4.6RC1", ("V4_6_0_RC1",)),
        ("4.6.0", ()),  # configure.ac is raised some commits before the tag
        ("4.6.0", ("V4_6_0",)),
        ("4.6.0", ()),
        ("4.6.1", ("V4_6_1",)),
        ("4.7devel", ()),
    ]
    commits = [repository.commit(stated, *tags, date=DAY + n * 86400) for n, (stated, tags) in enumerate(history)]
    versions = []
    for commit in commits:
        git(repository.root, "checkout", "-q", commit)
        versions.append(repository.source().version)
    assert versions == [
        f"4.6~devel+git20250601.{commits[0][:8]}",
        "4.6.0~beta1",
        f"4.6.0~beta1+git20250603.{commits[2][:8]}",
        "4.6.0~rc1",
        f"4.6.0~untagged+git20250605.{commits[4][:8]}",
        "4.6.0",
        f"4.6.0+git20250607.{commits[6][:8]}",
        "4.6.1",
        f"4.7~devel+git20250609.{commits[8][:8]}",
    ]
    assert sorted(versions, key=Version) == versions


def test_annotated_tags_count(repository: Repository) -> None:
    repository.commit("4.6.1")
    git(repository.root, "tag", "-a", "-m", "release", "V4_6_1")
    assert repository.source().version == "4.6.1"
    repository.commit("4.6.1")
    assert repository.source().version.startswith("4.6.1+git")


def test_a_checkout_is_packed_once(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    one = repository.source()
    assert len(repository.lines) == 1
    for path in repository.root.rglob("*.c"):
        os.utime(path)
    two = repository.source()
    assert len(repository.lines) == 1
    assert one == two
    assert one.date == DAY
    assert one.needs_autoreconf
    assert tarball.check(one.tarball).top == "pgpool2-4.6.1"
    assert one.sha256 == hashlib.sha256(one.tarball.read_bytes()).hexdigest()


def test_a_spoilt_tarball_of_a_checkout_is_made_anew(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    one = repository.source()
    good = one.tarball.read_bytes()
    one.tarball.write_bytes(good[:100])
    assert repository.source() == one
    assert one.tarball.read_bytes() == good


def entries(source: Source) -> list[str]:
    with tarfile.open(source.tarball) as archive:
        return sorted(member.name.partition("/")[2] for member in archive if not member.isdir())


def test_untracked_files_do_not_count(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    (repository.root / "src" / "main.o").touch()
    (repository.root / "config.status").touch()
    source = repository.source()
    assert source.version == "4.6.1"
    assert entries(source) == ["configure.ac", "src/main.c"]


def change_file(root: Path) -> None:
    (root / "src" / "main.c").write_text("int moon;\n")


def remove_file(root: Path) -> None:
    (root / "src" / "main.c").unlink()


def add_file(root: Path) -> None:
    (root / "new.c").touch()
    git(root, "add", "new.c")


def make_executable(root: Path) -> None:
    (root / "src" / "main.c").chmod(0o755)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (change_file, ["configure.ac", "src/main.c"]),
        (remove_file, ["configure.ac"]),
        (add_file, ["configure.ac", "new.c", "src/main.c"]),
        (make_executable, ["configure.ac", "src/main.c"]),
    ],
)
def test_uncommitted_changes_count_and_show(
    repository: Repository, change: Callable[[Path], None], names: list[str]
) -> None:
    commit = repository.commit("4.6.1", "V4_6_1")
    change(repository.root)
    source = repository.source()
    assert source.version.startswith(f"4.6.1+git20250601.{commit[:8]}.dirty")
    assert "uncommitted" in source.origin
    assert entries(source) == names
    git(repository.root, "reset", "-q", "--hard")
    assert repository.source().version == "4.6.1"


def test_two_changes_give_two_versions(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    versions = set()
    for text in ("a", "b", "a"):
        (repository.root / "src" / "main.c").write_text(text)
        versions.add(repository.source().version)
    assert len(versions) == 2


def test_a_worktree_is_a_checkout(repository: Repository, tmp_path: Path) -> None:
    repository.commit("4.6.1", "V4_6_1")
    repository.commit("4.7devel")
    git(repository.root, "worktree", "add", "-q", str(tmp_path / "wt"), "V4_6_1")
    assert repository.source(tmp_path / "wt").version == "4.6.1"


def test_a_shallow_clone_without_tags_is_no_release(repository: Repository, tmp_path: Path) -> None:
    repository.commit("4.6.0", "V4_6_0")
    commit = repository.commit("4.6.1", "V4_6_1")
    git(tmp_path, "clone", "-q", "--depth=1", "--no-tags", f"file://{repository.root}", "clone")
    assert repository.source(tmp_path / "clone").version == f"4.6.1+git20250601.{commit[:8]}"


def test_the_callers_git_variables_do_not_mislead(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("4.6.1", "V4_6_1")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert repository.source().version == "4.6.1"


def test_a_checkout_is_only_read(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    os.utime(repository.root / "src" / "main.c", (1, 1))
    before = (repository.root / ".git" / "index").read_bytes()
    repository.source()
    assert (repository.root / ".git" / "index").read_bytes() == before


def test_a_sparse_checkout_is_refused(repository: Repository) -> None:
    (repository.root / "doc").mkdir()
    (repository.root / "doc" / "x.sgml").touch()
    repository.commit("4.6.1", "V4_6_1")
    git(repository.root, "sparse-checkout", "set", "src")
    with pytest.raises(UsageError, match="sparse checkout"):
        repository.source()


def test_a_repository_without_a_commit_is_refused(repository: Repository) -> None:
    (repository.root / "configure.ac").write_text("AC_INIT([pgpool-II], [4.6.1])\n")
    with pytest.raises(UsageError, match="does not have any commits yet"):
        repository.source()


def test_a_bare_repository_is_refused_with_the_way_on(repository: Repository, tmp_path: Path) -> None:
    repository.commit("4.6.1", "V4_6_1")
    git(tmp_path, "clone", "-q", "--bare", str(repository.root), "bare")
    with pytest.raises(UsageError, match="bare git repository") as caught:
        repository.source(tmp_path / "bare")
    assert "git clone" in caught.value.hint


def test_a_machine_without_git_is_told_so(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.commit("4.6.1", "V4_6_1")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MachineError, match="git is missing"):
        repository.source()


def test_old_tarballs_of_trees_are_forgotten(repository: Repository) -> None:
    repository.commit("4.6.1", "V4_6_1")
    for number in range(12):
        (repository.root / "src" / "main.c").write_text(f"{number}")
        last = repository.source()
    assert last.tarball.exists()
    assert len(list((repository.cache / "trees").glob("*/*.orig.tar.gz"))) == 8


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


def test_an_unpacked_tree_inside_another_repository_is_no_checkout(repository: Repository) -> None:
    repository.commit("4.7devel")
    inner = repository.root / "inner"
    shutil.copytree(repository.root, inner, ignore=shutil.ignore_patterns(".git"))
    assert repository.source(inner).version.startswith("4.7~devel+local")


def test_a_tree_with_only_a_configure_is_one_too(unpacked: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match="changed while it was read"):
        from_path(unpacked, tmp_path / "cache", quiet)
    assert not list((tmp_path / "cache" / "trees").glob("*/*.orig.tar.gz"))


# --- what it does not take


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
    ("make", "said"),
    [
        (lambda tmp_path: tmp_path / "nothing", "nothing: there is no such file or folder"),
        (lambda tmp_path: tmp_path / "nothing" / "below", "there is no such file or folder"),
        (lambda _tmp_path: Path("/dev/null"), "not a tarball"),
        (folder_of_something_else, "x is not the source of pgpool-II"),
        (tarball_of_something_else, "x.tar.gz is not the source of pgpool-II"),
        (strange_version, "states version '4.6.1/../../x'"),
        (truncated, "truncated or damaged"),
    ],
)
def test_what_is_not_taken_is_named(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_path(make(tmp_path), tmp_path / "cache", quiet)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_link_in_a_circle_is_told(tmp_path: Path) -> None:
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
