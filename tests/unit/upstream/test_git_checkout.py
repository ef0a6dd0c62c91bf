"""Git checkouts and worktrees as --source: their versions sort as upstream's, and broken ones are refused."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from debian.debian_support import Version
from tests.unit.upstream.repositories import Repository, git
from tests.unit.upstream.tarballs import DAY, quiet

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.upstream import tarball
from pgpool_deb.upstream.local_source import from_path
from pgpool_deb.upstream.sources import Source


def test_git_archives_contain_their_commit(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit("4.8devel")
    git(repository.root, "archive", "--prefix=pgpool2-master/", "-o", str(tmp_path / "m.tar.gz"), "HEAD")
    source = from_path(tmp_path / "m.tar.gz", tmp_path / "cache", quiet)
    assert source.version == f"4.8~devel+git20250601.{commit[:8]}"


def test_versions_increase_along_a_history_like_upstreams(repository: Repository) -> None:
    history = [
        ("4.6devel", ()),
        ("4.6beta1", ("V4_6_0_BETA1", "V4_6_0_BETA1_RPM")),
        ("4.6beta1", ()),
        ("4.6RC1", ("V4_6_0_RC1",)),
        ("4.6.0", ()),  # upstream raises configure.ac some commits before the tag
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


def test_a_damaged_tarball_of_a_checkout_is_packed_again(repository: Repository) -> None:
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


def test_a_shallow_clone_without_tags_is_not_a_release(repository: Repository, tmp_path: Path) -> None:
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


def test_a_bare_repository_is_refused_with_a_hint(repository: Repository, tmp_path: Path) -> None:
    repository.commit("4.6.1", "V4_6_1")
    git(tmp_path, "clone", "-q", "--bare", str(repository.root), "bare")
    with pytest.raises(UsageError, match="bare git repository") as caught:
        repository.source(tmp_path / "bare")
    assert "git clone" in caught.value.hint


def test_a_missing_git_is_reported(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
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
