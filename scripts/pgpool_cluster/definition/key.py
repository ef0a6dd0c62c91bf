"""cluster.key: the one secret, and every credential derived from it.

A credential is HKDF-SHA256 (RFC 5869) of the key, with its purpose as `info`. Nodes with the same key derive the same
credentials without communication, and a leaked credential reveals nothing about the key or the others.
docs/explanation/cluster-key.md lists the labels. Changing a label changes a password in every existing cluster, so the
labels contain a version.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives import hashes, padding  # type: ignore[import-not-found,unused-ignore]
from cryptography.hazmat.primitives.ciphers import (  # type: ignore[import-not-found,unused-ignore]
    Cipher,
    algorithms,
    modes,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # type: ignore[import-not-found,unused-ignore]

from ..ground.errors import UsageError

KEY_BYTES = 32
_KEY_LETTERS = 43  # 32 bytes in base64 without padding
SHORTEST_CHARACTERS = 12
"""Minimum length of a key that `generate` has not made."""
_OURS = "pgpool2-cluster-"
PREFIX = "pgpool2-cluster-key-1:"
WORDS = "pgpool2-cluster-words-2:"
"""Starts a line with an administrator's own words.

Words have the same salt in every cluster, because a node has only this line when it processes debconf's answer. The
cluster's name is no alternative: it is `main` nearly everywhere, and renaming a cluster would change its key.
"""
_WORDS_1 = "pgpool2-cluster-words-1:"
"""Starts a line with words in the format of older packages, which did not write a prefix."""
_SCRAM_ITERATIONS = 4096  # PostgreSQL's own (SCRAM_SHA_256_DEFAULT_ITERATIONS)
_SCRAM_SALT_BYTES = 16
LONGEST_PASSWORD_CHARACTERS = 79
"""Maximum length of a user's password. pgpool-II 4.3 to 4.7 read 128 characters of a pool_passwd value
(MAX_TOKEN_LEN), which is `AES` and the base64 of whole blocks of 16 bytes: 131 characters for a password of 80.
"""
LONGEST_ENTRY_CHARACTERS = 128
_MOST_HEARTBEAT_KEYS = 2
"""That of the present cluster key and, while the cluster key is being changed, that of the former one."""
HINT = "`pgpoolctl key generate` prints a new one; put the same line on every node"


class Role(StrEnum):
    """The database roles that the cluster itself uses to log in."""

    RECOVERY = "pgpool_recovery"
    REPLICATION = "pgpool_replication"
    CHECK = "pgpool_check"


DATABASE = "pgpool_cluster"
"""The roles' own database; a REVOKE, a connection limit or a rename in other databases does not affect them."""
PCP_USER = "pgpool_pcp"


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """The secret of a cluster; repr() does not show it."""

    secret: bytes = field(repr=False)

    def derive(self, purpose: str, length: int = 32) -> bytes:
        """Return `length` bytes (at most 8160) derived for `purpose` alone."""
        info = f"pgpool2-cluster 1 {purpose}".encode()
        return bytes(HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(self.secret))

    def password(self, role: str) -> str:
        """Return the password of a role: 43 letters, digits, `-` and `_` (256 bits)."""
        return _letters(self.derive(f"password {role}"))

    @property
    def pcp_password(self) -> str:
        """The password of PCP_USER."""
        return _letters(self.derive("pcp"))

    @property
    def watchdog_key(self) -> str:
        """pgpool-II's wd_authkey: 64 hexadecimal digits."""
        return self.derive("watchdog").hex()

    @property
    def pool_key(self) -> str:
        """The key in .pgpoolkey that encrypts pool_passwd: 43 characters."""
        return _letters(self.derive("pool_passwd"))

    @property
    def heartbeat_key(self) -> str:
        """The key that authenticates the heartbeats between agents: 64 hexadecimal digits."""
        return self.derive("heartbeat").hex()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal on nodes with the same key and reveal nothing else about it."""
        return self.derive("fingerprint", 8).hex()

    def scram_verifier(self, role: str, password: str) -> str:
        """Return the value in pg_authid for `role`; the salt is derived from key and role, so all nodes agree."""
        salt = self.derive(f"scram salt {role}", _SCRAM_SALT_BYTES)
        return scram_verifier(password, salt, _SCRAM_ITERATIONS)

    def pool_passwd_entry(self, password: str) -> str:
        """Return the value of a pool_passwd line, as `pg_enc` writes it."""
        return pool_passwd_entry(password, self.pool_key)


def mark(pool_key: str) -> str:
    """Return 16 hexadecimal digits that distinguish pool keys and reveal nothing else about them."""
    return hmac.digest(pool_key.encode("ascii", "replace"), b"mark", "sha256")[:8].hex()


def heartbeat_keys(text: str) -> tuple[str, ...]:
    """Return the keys in the text of paths.HEARTBEAT_KEY, the newest first; () for an invalid text."""
    lines = text.split()
    valid = len(lines) <= _MOST_HEARTBEAT_KEYS and all(re.fullmatch(r"[0-9a-f]{64}", line) for line in lines)
    return tuple(lines) if valid else ()


def generate() -> str:
    """Return a new key as the one line of cluster.key, without its newline."""
    return PREFIX + _letters(secrets.token_bytes(KEY_BYTES))


def parse(text: str, file: str, *, laid: str = "") -> ClusterKey:
    """Return the key in the file's text; raises UsageError, which never quotes the text.

    `laid`: fingerprint of the key in use here. Words without a prefix are read in the format of older packages, but
    only if they give that key; otherwise they are refused. Deriving a key from words takes 0.3 s and 128 MB.
    """
    line = one_line(text, file)
    if not is_words(line):
        return ClusterKey(_random(line, file))
    cost, words = _cost(line, file)
    found = ClusterKey(cost.derive(words))
    if not line.startswith(_OURS) and found.fingerprint != laid:
        raise UsageError(
            f"{file}:1: the words lack the prefix that selects the key derivation",
            hint=f"put {WORDS} before them in a new cluster, {_WORDS_1} if other nodes have no prefix; or: {HINT}",
        )
    return found


def one_line(text: str, file: str) -> str:
    """Return the single line of the text; raises UsageError for more or fewer lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise UsageError(f"{file}: {len(lines)} lines instead of one", hint=HINT)
    return lines[0]


def for_file(answer: str, file: str) -> str:
    """Return the line of cluster.key for an administrator's answer; raises UsageError for an invalid answer."""
    line = one_line(answer, file)
    if not is_words(line):
        _random(line, file)
        return line
    if not line.startswith((WORDS, _WORDS_1)):
        line = f"{WORDS}{line}"
    _cost(line, file)
    return line


def is_words(line: str) -> bool:
    """Return whether a line has an administrator's own words rather than a random key."""
    return not line.startswith(PREFIX)


def is_cheap(line: str) -> bool:
    """Return whether a line has words in the format of older packages, which makes guessing cheaper than necessary."""
    return is_words(line) and not line.startswith(WORDS)


def _random(line: str, file: str) -> bytes:
    letters = line.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_-]*", letters):
        raise UsageError(f"{file}:1: the cluster key has invalid characters", hint=HINT)
    secret = base64.urlsafe_b64decode(letters + "=") if len(letters) == _KEY_LETTERS else b""
    if _letters(secret) != letters:
        reason = f"the cluster key is cut off or mistyped ({len(letters)} characters, not {_KEY_LETTERS})"
        raise UsageError(f"{file}:1: {reason}", hint=HINT)
    return secret


@dataclass(frozen=True, slots=True)
class _Cost:
    """How to derive a key from words, which may be weak: scrypt (RFC 7914) with `n`, r = 8, p = 1."""

    salt: bytes
    n: int

    def derive(self, words: str) -> bytes:
        memory = 2 * 128 * 8 * self.n
        return hashlib.scrypt(words.encode("ascii"), salt=self.salt, n=self.n, r=8, p=1, dklen=KEY_BYTES, maxmem=memory)


_FIRST = _Cost(b"pgpool2-cluster 1", 1 << 14)
_SECOND = _Cost(b"pgpool2-cluster 2", 1 << 17)


def _cost(line: str, file: str) -> tuple[_Cost, str]:
    """Return how to derive the key from a line, and the words in the line; raises UsageError for unsuitable words."""
    if line.startswith(WORDS):
        words = line.removeprefix(WORDS).strip()
        _refuse(words, file)
        if _is_guessed(words):
            hint = f"{_LEAST_WORDS} random words, six are better; or: {HINT}"
            raise UsageError(f"{file}:1: the cluster key can be guessed: fewer than {_LEAST_WORDS} words", hint=hint)
        return _SECOND, words
    if line.startswith(_OURS) and not line.startswith(_WORDS_1):
        raise UsageError(f"{file}:1: the cluster key has an unknown format", hint=HINT)
    words = line.removeprefix(_WORDS_1).strip()
    _refuse(words, file)
    return _FIRST, words


def _refuse(words: str, file: str) -> None:
    if len(words) < SHORTEST_CHARACTERS or not words.isascii() or not words.isprintable():
        reason = f"the cluster key is too short, or not plain ASCII: {SHORTEST_CHARACTERS} characters or more"
        raise UsageError(f"{file}:1: {reason}", hint=HINT)


_LEAST_WORDS = 5
"""Minimum number of different words."""
_LEAST_LENGTH, _LEAST_DIFFERENT = 32, 10
"""Minimum length, and number of different characters, of a line that is one random word."""


def _is_guessed(words: str) -> bool:
    """Return whether a line is neither five different words nor a long random one, as from `openssl rand -hex 32`."""
    if len(set(words.split())) > 1:
        return len({word for word in words.split() if len(word) > 2}) < _LEAST_WORDS
    return len(words) < _LEAST_LENGTH or len(set(words)) < _LEAST_DIFFERENT


def scram_verifier(password: str, salt: bytes, iterations: int) -> str:
    """Return a SCRAM-SHA-256 verifier as in pg_authid.rolpassword (RFC 5803); `password` is ASCII."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode("ascii") for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"


def pool_passwd_entry(password: str, pool_key: str) -> str:
    """Return `AES…` as pg_enc of pgpool-II 4.3 to 4.7 does: AES-256-CBC (src/utils/ssl_utils.c).

    pgpool-II derives key and initialisation vector with EVP_BytesToKey: SHA-1, one round, no salt. Equal passwords
    therefore give equal entries, and the file must be kept secret.
    """
    encryptor = _cipher(pool_key).encryptor()
    padder = padding.PKCS7(128).padder()
    padded = padder.update(password.encode()) + padder.finalize()
    return "AES" + base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode("ascii")


def _cipher(pool_key: str) -> Any:  # noqa: ANN401 - cryptography is not on build machines
    material = b""
    block = b""
    while len(material) < 48:
        block = hashlib.sha1(block + pool_key.encode("ascii"), usedforsecurity=False).digest()
        material += block
    return Cipher(algorithms.AES(material[:32]), modes.CBC(material[32:48]))


def pool_passwd_entry_again(entry: str, old: str, new: str) -> str:
    """Re-encrypt a pool_passwd value from the key `old` to `new`; return it unchanged if `old` cannot decrypt it."""
    try:
        decryptor = _cipher(old).decryptor()
        padded = decryptor.update(base64.b64decode(entry.removeprefix("AES"), validate=True)) + decryptor.finalize()
        unpadder = padding.PKCS7(128).unpadder()
        password = (unpadder.update(padded) + unpadder.finalize()).decode("ascii")
    except ValueError:
        return entry
    return pool_passwd_entry(password, new)


def pcp_conf_entry(password: str) -> str:
    """Return the value in pcp.conf for a password, as pg_md5 prints it; pgpool-II supports only MD5 there."""
    return hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()


def _letters(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
