"""The credentials derived from cluster.key, checked with the programs that use them."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import shutil
import subprocess
from pathlib import Path

import pytest

from pgpool_cluster.configuration import key_file
from pgpool_cluster.configuration.rendering import ssh
from pgpool_cluster.definition.cluster import Node, Service
from pgpool_cluster.definition.key import (
    PREFIX,
    WORDS,
    ClusterKey,
    Role,
    for_file,
    generate,
    heartbeat_keys,
    is_cheap,
    parse,
    pcp_conf_entry,
    pool_passwd_entry,
    pool_passwd_entry_again,
    scram_verifier,
)
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import UsageError

KEY = ClusterKey(bytes(range(32)))
GOOD = PREFIX + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
OTHER = ClusterKey(bytes(32))
PG1 = Node(0, "pg1", "10.0.0.1", 5432, 1.0, frozenset(Service))
PG2 = Node(1, "pg2", "10.0.0.2", 5432, 1.0, frozenset(Service))


def credentials(key: ClusterKey) -> list[str]:
    """Return every secret and every fingerprint of a cluster."""
    return [
        *(key.password(role) for role in Role),
        *(key.scram_verifier(role, "same") for role in Role),
        key.pcp_password,
        key.watchdog_key,
        key.heartbeat_key,
        key.pool_key,
        key.fingerprint,
        ssh.host_authority(key).public_line,
        *(ssh.user_key(key, node).public_line for node in (PG1, PG2)),
    ]


def test_all_credentials_differ_from_each_other() -> None:
    assert len(set(credentials(KEY))) == len(credentials(KEY))


def test_equal_keys_give_equal_credentials_and_other_keys_none_of_them() -> None:
    assert credentials(KEY) == credentials(ClusterKey(bytes(range(32))))
    assert not set(credentials(KEY)) & set(credentials(OTHER))


def test_derived_credentials_stay_the_same_in_later_versions() -> None:
    """Other values here would change every password of existing clusters."""
    assert KEY.fingerprint == "2381a3415557b925"
    assert KEY.password(Role.REPLICATION) == "5LbnUkGX2nGpsG5KeGCqCU2PuqU_N7c08YsUB6Y98d4"


def test_a_generated_key_can_be_read_and_is_new_each_time() -> None:
    assert parse(GOOD, "cluster.key") == KEY
    first, second = generate(), generate()
    assert parse(first + "\n", "cluster.key") != parse(second, "cluster.key")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 lines"),
        (f"{GOOD}\n{GOOD}", "2 lines"),
        ("secret", "too short"),
        (GOOD[:-1], "cut off or mistyped"),
        (GOOD + "A", "cut off or mistyped"),
        (PREFIX + "A" * 42 + "B", "cut off or mistyped"),
        (PREFIX + "A" * 42 + "é", "characters"),
        (PREFIX + "A" * 42 + "$", "characters"),
        ("correct horse battery staple six seven", "lack the prefix that selects"),
        ("pgpool2-cluster-words-3:correct horse battery staple six", "the cluster key has an unknown format"),
        (f"{WORDS}correct horse battery staple", "fewer than 5 words"),
        (f"{WORDS}one one one one one one two three", "fewer than 5 words"),
        (f"{WORDS}a b c d e f g h i j", "fewer than 5 words"),
        (f"{WORDS}correcthorsebatterystaple", "fewer than 5 words"),
        (f"{WORDS}{'abcd' * 20}", "fewer than 5 words"),
        (f"{WORDS}correct horse battery staple sechs \N{LATIN SMALL LETTER U WITH DIAERESIS}ber", "not plain ASCII"),
    ],
)
def test_a_bad_key_is_refused_without_being_shown(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse(text, "cluster.key")
    letters = text.removeprefix(PREFIX).strip()
    assert not letters or letters not in str(caught.value)
    assert caught.value.__cause__ is None or letters not in str(caught.value.__cause__)


def test_repr_does_not_show_a_key() -> None:
    assert str(KEY.secret) not in repr(KEY)
    assert "seed" not in repr(ssh.user_key(KEY, PG1))


def test_a_scram_verifier_agrees_with_rfc_7677() -> None:
    """Our server key gives the server signature in the example of RFC 7677, section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = scram_verifier("pencil", salt, 4096)
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    message = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    server_key = base64.b64decode(verifier.rsplit(":", 1)[1])
    assert base64.b64encode(hmac.digest(server_key, message.encode(), "sha256")) == (
        b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


def test_pool_passwd_and_pcp_conf_agree_with_the_output_of_pgpools_programs() -> None:
    """From pg_enc and pg_md5 of pgpool-II 4.6.1."""
    assert pool_passwd_entry("secret", "thekey") == "AESjxddJAjYgkQUsTBNWr1WEg=="
    assert pcp_conf_entry("secret") == "5ebe2294ecd0e0f08eab7690d2a6ee69"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_ssh_keygen_reads_the_private_key(tmp_path: Path) -> None:
    pair = ssh.user_key(KEY, PG1)
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(pair.private_file)
    answer = subprocess.run(["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True)
    assert answer.stdout == f"{pair.public_line} pgpool2-cluster pg1\n"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_ssh_keygen_reads_the_host_certificate(tmp_path: Path) -> None:
    host_key = ssh.KeyPair(bytes(32), "host").public_line
    (tmp_path / "host-cert.pub").write_text(ssh.host_certificate(KEY, PG1, f"{host_key} root@pg1\n"))
    command = ["ssh-keygen", "-L", "-f", str(tmp_path / "host-cert.pub")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "host certificate" in answer
    assert answer.split("Principals:")[1].split("Critical")[0].split() == ["pg1", "10.0.0.1"]


@pytest.mark.parametrize("line", ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 &&&&"])
def test_an_invalid_host_key_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="not an ed25519 public key"):
        ssh.host_certificate(KEY, PG1, line)


def test_users_passwords_are_re_encrypted_for_a_new_key() -> None:
    entry = pool_passwd_entry("secret", "old key")
    assert pool_passwd_entry_again(entry, "old key", "new key") == pool_passwd_entry("secret", "new key")
    assert pool_passwd_entry_again("md5abc", "old key", "new key") == "md5abc"


# An administrator's own words

SIX_WORDS = "correct horse battery staple violin anchor"
IN_USE = "ebb427fe190900e1"
"""The fingerprint of SIX_WORDS since the first version."""


def test_each_guess_at_words_costs_128_mb() -> None:
    """The host certificate contains the authority, so a host that reaches port 22 could test guesses offline."""
    expected = hashlib.scrypt(SIX_WORDS.encode(), salt=b"pgpool2-cluster 2", n=2**17, r=8, p=1, dklen=32, maxmem=2**28)
    assert parse(f"{WORDS}{SIX_WORDS}", "cluster.key") == ClusterKey(expected)
    assert parse(f"{WORDS} {SIX_WORDS}\n", "cluster.key") == ClusterKey(expected)


def test_words_in_use_keep_giving_the_same_key() -> None:
    assert parse(SIX_WORDS, "cluster.key", laid=IN_USE).fingerprint == IN_USE
    assert parse(f"pgpool2-cluster-words-1:{SIX_WORDS}", "cluster.key").fingerprint == IN_USE
    assert is_cheap(SIX_WORDS)
    assert not is_cheap(f"{WORDS}{SIX_WORDS}")
    assert not is_cheap(GOOD)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (SIX_WORDS, f"{WORDS}{SIX_WORDS}"),
        ("31f2a6c95e0d4b7788c1a0e9d3f4b552", f"{WORDS}31f2a6c95e0d4b7788c1a0e9d3f4b552"),
        (f"pgpool2-cluster-words-1:{SIX_WORDS}", f"pgpool2-cluster-words-1:{SIX_WORDS}"),
        (GOOD, GOOD),
    ],
)
def test_an_answer_becomes_a_line_with_a_prefix(answer: str, line: str) -> None:
    assert for_file(answer, "pgpool2-cluster/key") == line


@pytest.mark.parametrize("answer", ["correct horse battery staple", "qwerty", GOOD[:-1], f"{WORDS}one two three"])
def test_an_answer_that_can_be_guessed_is_refused(answer: str) -> None:
    with pytest.raises(UsageError) as refused:
        for_file(answer, "pgpool2-cluster/key")
    assert "pgpoolctl key generate" in refused.value.hint
    assert answer.removeprefix(WORDS).removeprefix(PREFIX) not in str(refused.value)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CLUSTER_KEY", "DERIVED_KEY", "FINGERPRINT"):
        monkeypatch.setattr(paths, name, tmp_path / "etc" / name)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def test_a_key_is_derived_from_words_only_once_and_a_random_key_needs_no_cache(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.CLUSTER_KEY.write_text(f"{WORDS}{SIX_WORDS}\n")
    found = key_file.read()
    monkeypatch.setattr(hashlib, "scrypt", None)
    assert key_file.read() == found
    assert (etc / "DERIVED_KEY").stat().st_mode & 0o777 == 0o600
    assert SIX_WORDS not in (etc / "DERIVED_KEY").read_text()
    paths.CLUSTER_KEY.write_text(GOOD)
    assert key_file.read() == KEY


DERIVED = functools.cache(hashlib.scrypt)
"""scrypt itself, which takes a third of a second, once for the same words."""


@pytest.mark.parametrize("damage", ["", "half", "x y z", "0" * 64 + " AAAA"])
def test_a_cached_key_counts_only_for_its_own_line(etc: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(hashlib, "scrypt", DERIVED)
    paths.CLUSTER_KEY.write_text(f"{WORDS}{SIX_WORDS}\n")
    found = key_file.read()
    (etc / "DERIVED_KEY").write_text(damage)
    assert key_file.read() == found
    paths.CLUSTER_KEY.write_text(f"{WORDS}{SIX_WORDS} more\n")
    assert key_file.read() != found


def test_bare_words_in_use_still_work_after_a_removal(etc: Path) -> None:
    paths.CLUSTER_KEY.write_text(f"{SIX_WORDS}\n")
    with pytest.raises(UsageError, match="have no prefix") as refused:
        key_file.read()
    assert WORDS in refused.value.hint
    (etc / "FINGERPRINT").write_text(f"{IN_USE}\n")
    assert key_file.read().fingerprint == IN_USE
    (etc / "FINGERPRINT").unlink()
    assert key_file.read().fingerprint == IN_USE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{'a' * 64}\n", ("a" * 64,)),
        (f"{'b' * 64}\n{'a' * 64}\n", ("b" * 64, "a" * 64)),
        ("", ()),
        (f"{'a' * 63}\n", ()),
        (f"{'A' * 64}\n", ()),
        (f"{'a' * 64}\nx\n", ()),
        ("\n".join("abc"[number] * 64 for number in range(3)), ()),
    ],
)
def test_only_a_valid_list_of_heartbeat_keys_is_used(text: str, found: tuple[str, ...]) -> None:
    assert heartbeat_keys(text) == found
    assert heartbeat_keys(KEY.heartbeat_key) == (KEY.heartbeat_key,)
