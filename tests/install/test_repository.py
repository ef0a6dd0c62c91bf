"""apt on a clean root with our repository: it installs unchanged packages, and refuses changed files and keys."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.install.repositories import OFFLINE, UPDATE, URL, complaints, lines, pasted, seen_from

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import keyring, publish
from pgpool_deb.repository.tree import Repository


@pytest.fixture(scope="module")
def repository(project: Project, packages: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A repository of the packages, published to testing two hours ago and to stable now."""
    place = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(place / "data"))
        for suite, age in (("testing", 7200), ("stable", 60)):
            patch.setenv("SOURCE_DATE_EPOCH", str(int(time.time()) - age))
            request = publish.PublishRequest(
                place / "repository", suite, (packages.release.name,), url=URL, unproved=True, install=True
            )
            publish.run(project, request, print)
        yield Repository.open(place / "repository")


@pytest.fixture
def system(server: Root, on: Callable[[Root], Chroot], repository: Repository, tmp_path: Path) -> Chroot:
    """A system that sees a copy of the repository, with the source from the lines to paste."""
    copy = tmp_path / "repository"
    shutil.copytree(repository.path, copy, symlinks=True)
    return seen_from(on(server), copy)


def test_apt_accepts_the_repository_without_complaints(system: Chroot, repository: Repository, packages: Built) -> None:
    assert complaints(pasted(system, repository, packages.release.name)) == []
    policy = system.run("apt-cache policy pgpool2")
    assert f"Candidate: {packages.debian_version}" in policy
    answer = system.attempt(f"apt-get install -y -q pgpool2 {keyring.NAME} </dev/null")
    assert (answer.status, answer.questions) == (0, []), answer.output
    assert system.run("dpkg-query -W -f '${Version}' pgpool2") == packages.debian_version


def test_an_earlier_state_is_a_repository_too(system: Chroot, repository: Repository, packages: Built) -> None:
    first, _ = repository.states
    pasted(system, repository, packages.release.name)
    there, suite = f"{URL}/snapshot/{first.name}", f"{packages.release.name}-testing"
    change = f"s,^URIs: .*,URIs: {there},; s,^Suites: .*,Suites: {suite},"
    system.run(f"sed -i '{change}' /etc/apt/sources.list.d/pgpool-deb.sources; {UPDATE}")
    system.run(f"apt-get install -y -q pgpool2={packages.debian_version}")


def flipped(path: Path) -> None:
    """Change one byte in the middle of a file, after breaking its hard link."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("InRelease", "BADSIG|manipulated|is not signed"),
        ("main/binary-*/**/*", "Hash Sum mismatch"),
    ],
)
def test_a_changed_index_is_refused_with_the_reason(
    system: Chroot, repository: Repository, packages: Built, what: str, reason: str
) -> None:
    suite = packages.release.name
    for path in (system.binds[-1][0] / "dists" / suite).glob(what):
        if path.is_file():  # each index exists by name and by hash
            flipped(path)
    setup = lines(repository, suite)[:2]
    answer = system.attempt("\n".join([OFFLINE, *setup, f"{UPDATE} 2>&1"]))
    assert answer.status != 0, answer.output
    assert re.search(reason, answer.output), answer.output


def test_a_changed_package_is_refused_with_the_reason(system: Chroot, repository: Repository, packages: Built) -> None:
    pasted(system, repository, packages.release.name)
    (deb,) = (system.binds[-1][0] / "pool").rglob(f"pgpool2_{packages.debian_version}_*.deb")
    flipped(deb)
    answer = system.attempt("apt-get install -y -q pgpool2 2>&1")
    assert answer.status != 0
    assert "Hash Sum mismatch" in answer.output, answer.output


def test_a_key_with_another_hash_than_announced_is_refused(system: Chroot, packages: Built) -> None:
    fetch, *_ = keyring.lines(URL, packages.release.name, b"another key")
    answer = system.attempt(f"{fetch} 2>&1")
    assert answer.status != 0
    assert "Hash Sum mismatch" in answer.output, answer.output
    system.run(f"test ! -e /usr/share/keyrings/{keyring.NAME}.gpg")
