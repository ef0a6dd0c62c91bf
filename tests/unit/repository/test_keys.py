"""Keys: the project's own, those of files, of GnuPG and of Sequoia, two at once, and those that end."""

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

from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.project import Project
from pgpool_deb.repository import check, gpg, keyring, publish, signing
from pgpool_deb.repository.tree import Repository
from pgpool_deb.small_packages import upload


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
    """GnuPG's verifier and Sequoia's, which apt has since trixie, take a repository's signatures."""
    folder = tmp_path / "repo/dists/trixie-testing"
    output("gpgv", "--keyring", str(key), str(folder / "InRelease"))
    output("gpgv", "--keyring", str(key), str(folder / "Release.gpg"), str(folder / "Release"))
    output("sqv", "--keyring", str(key), str(folder / "Release.gpg"), str(folder / "Release"))


# -- the project's own -------------------------------------------------------------------------------------------------


def exported(data_home: Path, *options: str) -> bytes:
    """Return the subkey that signs, as gpg exports it."""
    home = data_home / "pgpool-deb/archive-key/gnupg"
    with gnupg(home) as command:
        return output(*command, *options, "--export-secret-subkeys", (home.parent / "made").read_text().strip())


def test_the_key_is_told_once_and_its_primary_part_is_not_where_it_signs(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    lines: list[str] = []
    request = publish.Request(tmp_path / "repo", unproved=True, install=False)
    publish.run(checkout, request, lines.append)
    folder = tmp_path / "data/pgpool-deb/archive-key"
    assert "A KEY WAS MADE" in "\n".join(lines)
    assert str(folder / "primary-key.asc") in "\n".join(lines)
    assert (folder.stat().st_mode & 0o777, (folder / "primary-key.asc").stat().st_mode & 0o777) == (0o700, 0o600)
    with gnupg(folder / "gnupg") as command:
        assert b"sec#  ed25519" in output(*command, "--list-secret-keys")


def test_a_key_of_rsa_is_made_for_those_who_must_and_its_signatures_have_no_chance_in_them(
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
    publish.run(checkout, publish.Request(tmp_path / "repo", url=url, unproved=True, install=False), print)
    assert tree(tmp_path / "repo") == first


def test_a_type_is_of_a_key_that_is_made_now(published: Publisher, tmp_path: Path) -> None:
    published()
    published(key_type="ed25519")
    before = tree(tmp_path / "repo")
    with pytest.raises(UsageError, match=r"there is a key already, [0-9A-F]{40}: it is ed25519, not rsa4096\nhint: "):
        published(key_type="rsa4096")
    with pytest.raises(UsageError, match="there is no key type 'rsa1024'\nhint: --key-type ed25519 or rsa4096"):
        published(key_type="rsa1024")
    with pytest.raises(UsageError, match="--key names one"):
        published(key_type="rsa4096", key="0123456789ABCDEF")
    assert tree(tmp_path / "repo") == before


# -- in a file ---------------------------------------------------------------------------------------------------------


def test_a_key_in_a_file_signs_and_is_on_no_disk(published: Publisher, data_home: Path, tmp_path: Path) -> None:
    published()
    (tmp_path / "secret.asc").write_bytes(exported(data_home, "--armor"))
    published(key=str(tmp_path / "secret.asc"))
    (tmp_path / "secret.asc").write_text("nothing")
    with pytest.raises(UsageError, match=r"secret\.asc holds no key"):
        published(key=str(tmp_path / "secret.asc"))


@pytest.mark.parametrize("made_of", ["rsa2048", "rsa3072", "nistp256"])
def test_a_key_that_there_was_before_signs(published: Publisher, tmp_path: Path, made_of: str) -> None:
    published(key=str(secret_key(tmp_path, "old", made_of)))
    verifies(tmp_path, public_key(tmp_path))


@pytest.mark.parametrize(("made_of", "what"), [("rsa1024", "RSA of 1024 bits"), ("dsa2048", "neither RSA nor on an")])
def test_a_key_that_apt_refuses_signs_nothing(published: Publisher, tmp_path: Path, made_of: str, what: str) -> None:
    with pytest.raises(UsageError, match=rf"the key [0-9A-F]{{40}} is {what}.*, which apt refuses\nhint: "):
        published(key=str(secret_key(tmp_path, "weak", made_of)))
    assert Repository.open(tmp_path / "repo").states == ()


def of_sequoia(place: Path, suite: str) -> tuple[Path, Path]:
    """A secret key that sq made, and its certificate, by the command line of bookworm's sq, or of a later one."""
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
    """With sq's own certificate and with the repository's keyring; and the bytes depend on the time alone."""
    key, certificate = of_sequoia(tmp_path, suite)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time())))
    request = publish.Request(tmp_path / "repo", key=str(key), unproved=True, install=False)
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


def test_a_signature_has_the_time_of_the_state_also_where_that_is_the_present_second(tmp_path: Path) -> None:
    """A slow signature would end in the next second; the state's time is what counts."""
    with signing.key(None, FIRST, print) as key:
        for wait in (0.9, 0.94, 0.97, 0.98, 0.99):
            time.sleep((wait - time.time()) % 1)
            moment = int(time.time())
            (tmp_path / "signed").write_text(key.signature("text\n", moment))
            packets = output("gpg", "--homedir", str(tmp_path), "--list-packets", str(tmp_path / "signed")).decode()
            assert f"created {moment}," in packets


# -- two at once -------------------------------------------------------------------------------------------------------


def test_while_two_keys_sign_clients_of_either_are_served(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyring package of the new state has both; a client that knows one key takes the state for good."""
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


def test_two_files_are_two_keys_and_a_new_one_alone_comes_after_both(published: Publisher, tmp_path: Path) -> None:
    old, new = (secret_key(tmp_path, name) for name in ("old", "new"))
    published(key=str(old))
    with pytest.raises(UsageError, match=r"InRelease is not signed by this key\nhint: "):
        published(key=str(new))
    published(key=f"{old},{new}")
    assert len(gpg.public_keys(public_key(tmp_path).read_bytes())) == 2
    published(key=str(new))
    assert len(gpg.public_keys(public_key(tmp_path).read_bytes())) == 1
    with pytest.raises(UsageError, match="holds 0 secret keys"):
        published(key=f"{old},{old}")


def test_another_key_signs_every_suite_and_offers_itself_in_each(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """Though one suite alone has new packages: clients of the others would stay with a key that is gone."""
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
    """The first block of commands below a heading of the how-to."""
    page = Path(__file__).parents[3] / "docs/how-to/publish-a-repository.md"
    text = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    lines = itertools.dropwhile(lambda line: not line.startswith("    "), text.splitlines())
    return "\n".join(itertools.takewhile(lambda line: line.startswith("    "), lines))


def test_a_new_subkey_signs_beside_the_old_one_while_that_lasts(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made by the documented commands; a client of before takes the state, and the keyring package."""
    monkeypatch.delenv("XDG_DATA_HOME")
    request = publish.Request(tmp_path / "repo", unproved=True, install=False)
    with tempfile.TemporaryDirectory() as home:  # the paths of gpg's sockets have 108 bytes at most
        monkeypatch.setenv("HOME", home)
        publish.run(checkout, request, print)
        apt = Apt.new(tmp_path / "apt", tmp_path / "repo")
        apt.versions("pgpool2")
        output("sh", "-euxc", documented("A new subkey"))
        time.sleep(1)  # a state has the time of the second before it is made, and the subkey is younger in its first
        publish.run(checkout, request, print)
        with gnupg(Path(home, ".local/share/pgpool-deb/archive-key/gnupg")) as command:
            (found,) = gpg.secret_keys(Path(command[2]))
        assert (found.rows[0][14], len(found.signing)) == ("#", 2)
    assert len(apt.versions(keyring.NAME)) == 2
    assert signatures(tmp_path) == 2


def test_a_subkey_that_was_revoked_signs_nothing(published: Publisher, tmp_path: Path) -> None:
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


# -- keys that end -----------------------------------------------------------------------------------------------------


def told(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith(("warning: the key", "fault: the key"))]


@pytest.mark.parametrize(("ends", "left"), [("60d", None), ("59d", 59), ("1d", 1)])
def test_publish_warns_sixty_days_before_a_key_ends(
    published: Publisher, tmp_path: Path, ends: str, left: int | None
) -> None:
    lines = published(key=str(secret_key(tmp_path, "old", ends=ends)))
    (fingerprint,) = [one.fingerprint for one in gpg.public_keys(public_key(tmp_path).read_bytes())]
    assert told(lines) == ([] if left is None else [f"warning: the key {fingerprint} signs for {left} days yet"])
    assert ("hint: docs/how-to/publish-a-repository.md: a new subkey" in lines) == (left is not None)


def test_of_two_keys_the_one_that_ends_is_named(published: Publisher, tmp_path: Path) -> None:
    old, new = secret_key(tmp_path, "old", ends="10d"), secret_key(tmp_path, "new")
    first = told(published(key=str(old)))
    assert len(first) == 1
    assert told(published(key=f"{new},{old}")) == [first[0].replace("10 days", "9 days")]


def test_a_key_ends_with_its_primary_key(published: Publisher, tmp_path: Path) -> None:
    with gnupg(tmp_path / "gnupg") as command:
        output(*command, "--quick-generate-key", "short", "ed25519", "cert", "20d")
        fingerprint = gpg.secret_keys(Path(command[2]))[0].fingerprint
        output(*command, "--quick-add-key", fingerprint, "ed25519", "sign", "90d")
        (tmp_path / "short.asc").write_bytes(output(*command, "--armor", "--export-secret-keys"))
    lines = published(key=str(tmp_path / "short.asc"))
    assert told(lines) == [f"warning: the key {fingerprint} signs for 20 days yet"]


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        ("never", ExitStatus.GOOD, ""),
        ("63d", ExitStatus.GOOD, ""),
        ("61d", ExitStatus.GOOD, "warning: the key {} signs for 58 days yet"),
        ("1d", ExitStatus.FAILED, "fault: the key {} has expired"),
    ],
)
def test_check_repository_warns_sixty_days_before_the_key_ends(
    published: Publisher, tmp_path: Path, ends: str, status: ExitStatus, said: str
) -> None:
    """What was published two days ago is looked at now."""
    published(key=str(secret_key(tmp_path, "old", ends=ends)))
    (fingerprint,) = [one.fingerprint for one in gpg.public_keys(public_key(tmp_path).read_bytes())]
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is status, lines
    assert told(lines) == ([said.format(fingerprint)] if said else [])


def test_a_key_that_has_expired_signs_nothing(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(secret_key(tmp_path, "old", ends="1d"))
    published(key=key)
    before = tree(tmp_path / "repo")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    with pytest.raises(UsageError, match=r"does not sign at this time: it has expired, or is younger\nhint: "):
        publish.run(checkout, publish.Request(tmp_path / "repo", key=key, unproved=True, install=False), print)
    assert tree(tmp_path / "repo") == before


@pytest.mark.parametrize("form", ["armored", "base64 in one line"])
def test_a_key_in_the_environment_signs_and_no_program_inherits_it(
    form: str, published: Publisher, data_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpg and its agent are started afterwards, in an environment that has it no more."""
    armored = form == "armored"
    secret = exported(data_home, "--armor") if armored else base64.b64encode(exported(data_home))
    monkeypatch.setenv("ARCHIVE_KEY", secret.decode())
    published(key="env:ARCHIVE_KEY")
    assert "ARCHIVE_KEY" not in os.environ
    assert check.run(str(tmp_path / "repo"), print, install=False) is ExitStatus.GOOD
    with pytest.raises(UsageError, match=r"\$ARCHIVE_KEY is not set"):
        published(key="env:ARCHIVE_KEY")
    monkeypatch.setenv("ARCHIVE_KEY", "a sentence")
    with pytest.raises(UsageError, match=r"\$ARCHIVE_KEY holds no key"):
        published(key="env:ARCHIVE_KEY")
