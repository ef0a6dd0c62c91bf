"""Keys: the project's own, keys in files, from GnuPG and Sequoia, two at once, and expiring ones."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import FIRST, Publisher, tree, versions
from tests.unit.repository.keys import gnupg, output, secret_key

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, gpg, keyring, publish, signing
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import upload


def inrelease(tmp_path: Path, suite: str = "trixie-testing") -> Path:
    return tmp_path / "repo/dists" / suite / "InRelease"


def public_key(tmp_path: Path) -> Path:
    return tmp_path / "repo/keyring" / f"{keyring.NAME}.gpg"


def signatures(tmp_path: Path) -> int:
    path = tmp_path / "repo/dists/trixie-testing/Release.gpg"
    return output("gpg", "--homedir", str(tmp_path), "--batch", "--list-packets", str(path)).count(
        b":signature packet:"
    )


def verifies(tmp_path: Path, key: Path) -> None:
    """Verify a repository's signatures with GnuPG's gpgv and with Sequoia's sqv, which apt uses since trixie."""
    folder = tmp_path / "repo/dists/trixie-testing"
    output("gpgv", "--keyring", str(key), str(folder / "InRelease"))
    output("gpgv", "--keyring", str(key), str(folder / "Release.gpg"), str(folder / "Release"))
    output("sqv", "--keyring", str(key), str(folder / "Release.gpg"), str(folder / "Release"))


# -- the project's own -------------------------------------------------------------------------------------------------


def exported(data_home: Path, *options: str) -> bytes:
    """Return the signing subkey, exported by gpg."""
    home = data_home / "pgpool-deb/archive-key/gnupg"
    with gnupg(home) as command:
        return output(*command, *options, "--export-secret-subkeys", (home.parent / "made").read_text().strip())


def test_a_new_key_is_reported_and_its_primary_key_is_stored_apart(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    lines: list[str] = []
    request = publish.PublishRequest(tmp_path / "repo", unproved=True, install=False)
    publish.run(checkout, request, lines.append)
    folder = tmp_path / "data/pgpool-deb/archive-key"
    assert "CREATED A KEY" in "\n".join(lines)
    assert str(folder / "primary-key.asc") in "\n".join(lines)
    assert (folder.stat().st_mode & 0o777, (folder / "primary-key.asc").stat().st_mode & 0o777) == (0o700, 0o600)
    with gnupg(folder / "gnupg") as command:
        assert b"sec#  ed25519" in output(*command, "--list-secret-keys")


def test_an_rsa_key_can_be_created_and_its_signatures_are_deterministic(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    published(key_type="rsa4096")
    with gnupg(tmp_path / "data/pgpool-deb/archive-key/gnupg") as command:
        listed = output(*command, "--list-secret-keys").decode()
    assert "sec#  rsa4096" in listed
    assert "ssb   rsa4096" in listed
    verifies(tmp_path, public_key(tmp_path))
    first = tree(tmp_path / "repo")
    (tmp_path / "repo").rename(tmp_path / "before")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST))
    url = f"file://{tmp_path / 'repo'}"
    publish.run(checkout, publish.PublishRequest(tmp_path / "repo", url=url, unproved=True, install=False), print)
    assert tree(tmp_path / "repo") == first


def test_a_key_type_applies_only_to_a_new_key(published: Publisher, tmp_path: Path) -> None:
    published()
    published(key_type="ed25519")
    before = tree(tmp_path / "repo")
    with pytest.raises(UsageError, match=r"the key [0-9A-F]{40} already exists, and is ed25519, not rsa4096\nhint: "):
        published(key_type="rsa4096")
    with pytest.raises(UsageError, match="unknown key type: rsa1024\nhint: --key-type ed25519 or rsa4096"):
        published(key_type="rsa1024")
    with pytest.raises(UsageError, match="--key and --key-type exclude each other"):
        published(key_type="rsa4096", key="0123456789ABCDEF")
    assert tree(tmp_path / "repo") == before


# -- in a file ---------------------------------------------------------------------------------------------------------


def test_a_key_in_a_file_signs(published: Publisher, data_home: Path, tmp_path: Path) -> None:
    published()
    (tmp_path / "secret.asc").write_bytes(exported(data_home, "--armor"))
    published(key=str(tmp_path / "secret.asc"))
    (tmp_path / "secret.asc").write_text("nothing")
    with pytest.raises(UsageError, match=r"secret\.asc contains no key"):
        published(key=str(tmp_path / "secret.asc"))


@pytest.mark.parametrize("made_of", ["rsa2048", "rsa3072", "nistp256"])
def test_an_existing_key_signs(published: Publisher, tmp_path: Path, made_of: str) -> None:
    published(key=str(secret_key(tmp_path, "old", made_of)))
    verifies(tmp_path, public_key(tmp_path))


@pytest.mark.parametrize(("made_of", "what"), [("rsa1024", "RSA of 1024 bits"), ("dsa2048", "neither RSA nor on an")])
def test_a_key_that_apt_refuses_signs_nothing(published: Publisher, tmp_path: Path, made_of: str, what: str) -> None:
    with pytest.raises(UsageError, match=rf"the key [0-9A-F]{{40}} is {what}.*, which apt rejects\nhint: "):
        published(key=str(secret_key(tmp_path, "weak", made_of)))
    assert Repository.open(tmp_path / "repo").states == ()


def of_sequoia(place: Path, suite: str) -> tuple[Path, Path]:
    """Create a secret key and its certificate with sq; bookworm's sq has another command line than later ones."""
    key, certificate = place / "sq.pgp", place / "sq-certificate.pgp"
    if b"--export" in output("sq", "key", "generate", "--help"):
        output("sq", "key", "generate", "--userid", "archive", "--cipher-suite", suite, "--export", str(key))
        output("sq", "key", "extract-cert", "--output", str(certificate), str(key))
    else:
        made = ["--userid", "archive", "--own-key", "--without-password", "--cipher-suite", suite]
        output("sq", "key", "generate", *made, "--output", str(key), "--rev-cert", str(place / "revoked.pgp"))
        output("sq", "key", "delete", "--cert-file", str(key), "--output", str(certificate))
    return key, certificate


@pytest.mark.parametrize("suite", ["cv25519", "rsa4k"])
def test_a_key_that_sequoia_made_signs_for_both_verifiers(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    """They verify with sq's own certificate and with the repository's keyring. The bytes depend only on the time."""
    key, certificate = of_sequoia(tmp_path, suite)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time())))
    request = publish.PublishRequest(tmp_path / "repo", key=str(key), unproved=True, install=False)
    publish.run(checkout, request, print)
    verifies(tmp_path, public_key(tmp_path))
    (tmp_path / "plain.pgp").write_bytes(
        output("gpg", "--homedir", str(tmp_path), "--dearmor", "--output", "-", str(certificate))
    )
    verifies(tmp_path, tmp_path / "plain.pgp")
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.GOOD, lines
    first = tree(tmp_path / "repo")
    shutil.rmtree(tmp_path / "repo")
    publish.run(checkout, request, print)
    assert tree(tmp_path / "repo") == first


def test_a_signature_has_the_time_of_the_state_even_if_that_is_the_present_second(tmp_path: Path) -> None:
    """A slow gpg finishes in the next second; the signature must still have the state's time."""
    with signing.key(None, FIRST, print) as key:
        for wait in (0.9, 0.94, 0.97, 0.98, 0.99):
            time.sleep((wait - time.time()) % 1)
            moment = int(time.time())
            (tmp_path / "signed").write_text(key.signature("text\n", moment))
            packets = output("gpg", "--homedir", str(tmp_path), "--list-packets", str(tmp_path / "signed")).decode()
            assert f"created {moment}," in packets


# -- two at once -------------------------------------------------------------------------------------------------------


def test_clients_with_either_key_accept_a_state_that_two_keys_signed(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyring package of the new state has both keys, and a client that has only one of them accepts the state."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    published()
    old = public_key(tmp_path).read_bytes()
    folder = tmp_path / "data/pgpool-deb/archive-key"
    with gnupg(folder / "gnupg") as command:
        output(*command, "--quick-generate-key", "new", "ed25519", "sign")
        fingerprint = gpg.secret_keys(Path(command[2]), "new")[0].fingerprint
        new = output(*command, "--export", fingerprint)
    with (folder / "made").open("a") as made:
        made.write(f"{fingerprint}\n")
    published()
    signed = inrelease(tmp_path).read_bytes()
    assert gpg.verified(signed, old)
    assert gpg.verified(signed, new)
    assert not gpg.verified(signed.replace(b"Origin: pgpool-deb", b"Origin: else"), old + new)
    assert len([one for one in versions(tmp_path / "repo", "trixie-testing") if one[0] == keyring.NAME]) == 2


def test_two_files_are_two_keys_and_the_new_one_signs_alone_only_after_both(
    published: Publisher, tmp_path: Path
) -> None:
    old, new = (secret_key(tmp_path, name) for name in ("old", "new"))
    published(key=str(old))
    with pytest.raises(UsageError, match=r"InRelease is not signed by this key\nhint: "):
        published(key=str(new))
    published(key=f"{old},{new}")
    assert len(gpg.public_keys(public_key(tmp_path).read_bytes())) == 2
    published(key=str(new))
    assert len(gpg.public_keys(public_key(tmp_path).read_bytes())) == 1
    with pytest.raises(UsageError, match="contains 0 secret keys"):
        published(key=f"{old},{old}")


def test_another_key_signs_every_suite_and_is_offered_in_each(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """Suites without new packages need the new key, too, or their clients would keep a key that no longer signs."""
    upload(checkout.dist / "bookworm", "4.7.2-50+deb12+1")
    old, new = (secret_key(tmp_path, name) for name in ("old", "new"))
    published(key=str(old))
    published(key=f"{old},{new}", releases=("bookworm",))
    assert gpg.verified(inrelease(tmp_path).read_bytes(), public_key(tmp_path).read_bytes())
    assert len([one for one in versions(tmp_path / "repo", "trixie-testing") if one[0] == keyring.NAME]) == 2
    published(key=str(new), releases=("bookworm",))
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.GOOD, lines


def documented(heading: str) -> str:
    """Return the first block of commands below a heading of the how-to."""
    page = Path(__file__).parents[3] / "docs/how-to/publish-a-repository.md"
    text = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    lines = itertools.dropwhile(lambda line: not line.startswith("    "), text.splitlines())
    return "\n".join(itertools.takewhile(lambda line: line.startswith("    "), lines))


def test_a_new_subkey_signs_beside_the_old_one_until_that_expires(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented commands create it, and an existing client accepts the state and the keyring package."""
    monkeypatch.delenv("XDG_DATA_HOME")
    request = publish.PublishRequest(tmp_path / "repo", unproved=True, install=False)
    with tempfile.TemporaryDirectory() as home:  # the paths of gpg's sockets have at most 108 bytes
        monkeypatch.setenv("HOME", home)
        publish.run(checkout, request, print)
        apt = Apt.new(tmp_path / "apt", tmp_path / "repo")
        apt.versions("pgpool2")
        output("sh", "-euxc", documented("A new subkey"))
        time.sleep(1)  # a state is dated 1 s before the publish, when the subkey must already exist
        publish.run(checkout, request, print)
        with gnupg(Path(home, ".local/share/pgpool-deb/archive-key/gnupg")) as command:
            (found,) = gpg.secret_keys(Path(command[2]))
        assert (found.rows[0][14], len(found.signing)) == ("#", 2)
    assert len(apt.versions(keyring.NAME)) == 2
    assert signatures(tmp_path) == 2


def test_a_revoked_subkey_signs_nothing(published: Publisher, tmp_path: Path) -> None:
    with gnupg(tmp_path / "gnupg") as command:
        output(*command, "--quick-generate-key", "old", "ed25519", "cert")
        fingerprint = gpg.secret_keys(Path(command[2]))[0].fingerprint
        for _ in range(2):
            output(*command, "--quick-add-key", fingerprint, "ed25519", "sign")
        typed = "key 1\nrevkey\ny\n0\n\ny\nsave\n"
        edit = [*command, "--pinentry-mode", "loopback", "--no-batch", "--no-tty", "--command-fd", "0"]
        subprocess.run([*edit, "--edit-key", fingerprint], input=typed.encode(), check=True, capture_output=True)
        (tmp_path / "old.asc").write_bytes(output(*command, "--armor", "--export-secret-keys"))
    published(key=str(tmp_path / "old.asc"))
    assert signatures(tmp_path) == 1
    verifies(tmp_path, public_key(tmp_path))


# -- keys that expire --------------------------------------------------------------------------------------------------


def told(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith(("warning: the key", "fault: the key"))]


@pytest.mark.parametrize(("ends", "left"), [("60d", None), ("59d", 59), ("1d", 1)])
def test_publish_warns_sixty_days_before_a_key_expires(
    published: Publisher, tmp_path: Path, ends: str, left: int | None
) -> None:
    lines = published(key=str(secret_key(tmp_path, "old", ends=ends)))
    (fingerprint,) = [one.fingerprint for one in gpg.public_keys(public_key(tmp_path).read_bytes())]
    assert told(lines) == ([] if left is None else [f"warning: the key {fingerprint} expires in {left} days"])
    assert ("hint: to create a new subkey, see docs/how-to/publish-a-repository.md" in lines) == (left is not None)


def test_the_warning_names_the_expiring_one_of_two_keys(published: Publisher, tmp_path: Path) -> None:
    old, new = secret_key(tmp_path, "old", ends="10d"), secret_key(tmp_path, "new")
    first = told(published(key=str(old)))
    assert len(first) == 1
    assert told(published(key=f"{new},{old}")) == [first[0].replace("10 days", "9 days")]


def test_a_key_expires_with_its_primary_key(published: Publisher, tmp_path: Path) -> None:
    with gnupg(tmp_path / "gnupg") as command:
        output(*command, "--quick-generate-key", "short", "ed25519", "cert", "20d")
        fingerprint = gpg.secret_keys(Path(command[2]))[0].fingerprint
        output(*command, "--quick-add-key", fingerprint, "ed25519", "sign", "90d")
        (tmp_path / "short.asc").write_bytes(output(*command, "--armor", "--export-secret-keys"))
    lines = published(key=str(tmp_path / "short.asc"))
    assert told(lines) == [f"warning: the key {fingerprint} expires in 20 days"]


@pytest.mark.parametrize(
    ("ends", "status", "expected"),
    [
        ("never", ExitStatus.GOOD, ""),
        ("63d", ExitStatus.GOOD, ""),
        ("61d", ExitStatus.GOOD, "warning: the key {} expires in 58 days"),
        ("1d", ExitStatus.FAILED, "fault: the key {} has expired"),
    ],
)
def test_check_repository_warns_sixty_days_before_the_key_expires(
    published: Publisher, tmp_path: Path, ends: str, status: ExitStatus, expected: str
) -> None:
    """The repository was published two days ago, and is checked now."""
    published(key=str(secret_key(tmp_path, "old", ends=ends)))
    (fingerprint,) = [one.fingerprint for one in gpg.public_keys(public_key(tmp_path).read_bytes())]
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is status, lines
    assert told(lines) == ([expected.format(fingerprint)] if expected else [])


def test_an_expired_key_signs_nothing(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(secret_key(tmp_path, "old", ends="1d"))
    published(key=key)
    before = tree(tmp_path / "repo")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    with pytest.raises(UsageError, match=r"has expired, or is dated in the future\nhint: "):
        publish.run(checkout, publish.PublishRequest(tmp_path / "repo", key=key, unproved=True, install=False), print)
    assert tree(tmp_path / "repo") == before


@pytest.mark.parametrize("form", ["armored", "base64 in one line"])
def test_a_key_in_the_environment_signs_and_no_program_inherits_it(
    form: str, published: Publisher, data_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpg and its agent start after the key has been removed from the environment."""
    armored = form == "armored"
    secret = exported(data_home, "--armor") if armored else base64.b64encode(exported(data_home))
    monkeypatch.setenv("ARCHIVE_KEY", secret.decode())
    published(key="env:ARCHIVE_KEY")
    assert "ARCHIVE_KEY" not in os.environ
    assert check.run(str(tmp_path / "repo"), print, install=False) is ExitStatus.GOOD
    with pytest.raises(UsageError, match=r"\$ARCHIVE_KEY is not set"):
        published(key="env:ARCHIVE_KEY")
    monkeypatch.setenv("ARCHIVE_KEY", "a sentence")
    with pytest.raises(UsageError, match=r"\$ARCHIVE_KEY contains no key"):
        published(key="env:ARCHIVE_KEY")
