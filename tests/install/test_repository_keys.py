"""A server's apt during a key change of a repository: in time, and too late."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.install.repositories import AUDITED, UPDATE, URL, Client, complaints, lines, pasted
from tests.unit.repository.keys import gnupg, output, secret_key

from pgpool_deb.ground.project import Project
from pgpool_deb.repository import gpg, keyring, publish
from pgpool_deb.repository.tree import Repository

Signer = Callable[..., Repository]
INSTALLED = f"dpkg-query -W -f '${{Version}}' {keyring.NAME}"
UNKNOWN_KEY = "NO_PUBKEY|Missing key|not available"


@pytest.fixture
def signed(project: Project, packages: Built, tmp_path: Path) -> Iterator[Signer]:
    """Publishes to the release's suite, signed with these key files: first with the packages, then as a renewal."""
    moments = iter(range(int(time.time()) - 3600, int(time.time()), 60))
    with pytest.MonkeyPatch.context() as patch:

        def sign(*keys: Path) -> Repository:
            patch.setenv("SOURCE_DATE_EPOCH", str(next(moments)))
            to = tmp_path / "repository"
            releases = () if to.exists() else (packages.release.name,)
            request = publish.PublishRequest(
                to, "stable", releases, ",".join(map(str, keys)), URL, unproved=True, renew=not releases
            )
            publish.run(project, request, print)
            return Repository.open(to)

        yield sign


def held(chroot: Chroot) -> str:
    """Return the hash of the key that a system trusts."""
    return chroot.run(f"sha256sum /usr/share/keyrings/{keyring.NAME}.gpg").partition(" ")[0]


def upgraded(chroot: Chroot) -> None:
    """Update and upgrade without a complaint or a question of apt."""
    assert complaints(chroot.run(f"{AUDITED} 2>&1")) == []
    answer = chroot.attempt("apt-get upgrade -y -q </dev/null 2>&1")
    assert (answer.status, answer.questions, complaints(answer.output)) == (0, [], []), answer.output


def another_key(place: Path) -> list[tuple[Path, ...]]:
    """The signing keys during a key change: the old key, both, the new key."""
    old, new = secret_key(place, "old"), secret_key(place, "new")
    return [(old,), (old, new), (new,)]


def another_subkey(place: Path) -> list[tuple[Path, ...]]:
    """The signing subkeys during a change within one key: the old subkey, both, the new subkey."""
    files = [place / f"{name}.asc" for name in ("old", "both", "new")]
    with gnupg(place / "gnupg") as command:
        output(*command, "--quick-generate-key", "archive", "ed25519", "cert", "never")
        fingerprint = gpg.secret_keys(Path(command[2]))[0].fingerprint
        for file in files[:2]:
            output(*command, "--quick-add-key", fingerprint, "ed25519", "sign", "never")
            file.write_bytes(output(*command, "--armor", "--export-secret-subkeys", fingerprint))
        subkey = list(gpg.secret_keys(Path(command[2]))[0].signing)[1]
        files[2].write_bytes(output(*command, "--armor", "--export-secret-subkeys", f"{subkey}!"))
    return [(file,) for file in files]


@pytest.mark.parametrize("stages", [another_key, another_subkey])
def test_a_client_of_the_old_key_moves_to_the_new_one(
    client: Client, packages: Built, signed: Signer, tmp_path: Path, stages: Callable[[Path], list[tuple[Path, ...]]]
) -> None:
    """`apt upgrade` suffices while both keys sign; a client that missed that is refused; the line to paste helps."""
    suite = packages.release.name
    first, *later = stages(tmp_path)
    repository = signed(*first)
    there, late = client(repository), client(repository)
    for one in (there, late):
        assert complaints(pasted(one, repository, suite)) == []
        one.run(f"apt-get install -y -q {keyring.NAME}")
    versions, keys = [there.run(INSTALLED)], [held(there)]

    for keys_then in later:
        signed(*keys_then)
        upgraded(there)
        versions.append(there.run(INSTALLED))
        keys.append(held(there))
    assert len(set(versions)) == len(set(keys)) == 3

    answer = late.attempt(f"{UPDATE} 2>&1")
    assert re.search(UNKNOWN_KEY, "\n".join(complaints(answer.output))), answer.output
    assert held(late) == keys[0]
    fetch, *_ = lines(repository, suite)
    late.run(fetch)
    upgraded(late)
    assert (late.run(INSTALLED), held(late)) == (versions[-1], keys[-1])


@pytest.mark.parametrize("made_of", ["rsa4096", "rsa2048"])
def test_apt_accepts_an_rsa_key(client: Client, packages: Built, signed: Signer, tmp_path: Path, made_of: str) -> None:
    repository = signed(secret_key(tmp_path, "rsa", made_of))
    system = client(repository)
    assert complaints(pasted(system, repository, packages.release.name)) == []
    assert packages.debian_version in system.run("apt-cache policy pgpool2")
