"""Keys that sign a repository: the project's own, or keys from the user's keyring, files or the environment."""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.progress import Report

from . import gpg, own_key
from .own_key import KeyType

WARNED_DAYS = 60
"""Warn if a key expires in fewer days than this."""
_FINGERPRINT = re.compile(r"(?:0x)?[0-9A-Fa-f]{16,40}")
_DAY = 86400
_VARIABLE = "env:"
_SHOWN = 80
"""The number of characters of a wrong --key that a message repeats."""
_ARMOR = b"-----BEGIN PGP "
_TICK_SECONDS = 0.05
"""More than a timer tick of Linux, which is at most 10 ms (CONFIG_HZ, time(7))."""


@dataclass(frozen=True, slots=True)
class Key:
    """The keys that sign: one, or two during a key change.

    `home` is their gpg home folder, None for the user's own. `public` holds the public keys in the format of apt's
    Signed-By, without third-party signatures. `ends` holds the expiry of each key by the fingerprint of its primary
    key, in seconds since 1970, or None if it never expires. `parts` holds the fingerprints of every subkey that signs,
    so that clients with only the older subkey can verify signatures until it expires.
    """

    home: Path | None
    public: bytes
    ends: Mapping[str, int | None]
    parts: tuple[str, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the primary keys."""
        return tuple(self.ends)

    def clearsigned(self, text: str, moment: int) -> str:
        """Return InRelease: the text, clear-signed with this time (s since 1970). Raises MachineError if gpg fails."""
        return gpg.run(self.home, [*self._signing(moment), "--clearsign"], text.encode()).decode()

    def signature(self, text: str, moment: int) -> str:
        """Return Release.gpg: the detached signature, armored. Raises MachineError if gpg fails."""
        return gpg.run(self.home, [*self._signing(moment), "--armor", "--detach-sign"], text.encode()).decode()

    def _signing(self, moment: int) -> list[str]:
        _leave(moment)
        users = [word for fingerprint in self.parts for word in ("--local-user", f"{fingerprint}!")]
        words = ["--digest-algo", "SHA512", "--no-emit-version", "--no-comments"]
        return ["--faked-system-time", f"{moment}!", *users, *words]


def _leave(moment: int) -> None:
    """Wait until `moment` and the second before it are over.

    gpg does not freeze its clock at a time that equals the present when it starts (gnupg_set_time in
    common/gettime.c). A signature that is finished a second later would then contain that second, and other bytes.
    gpg reads time(2), whose clock is up to a timer tick behind that of time.time().
    """
    while moment - 1 <= time.time() < moment + 1 + _TICK_SECONDS:
        time.sleep(_TICK_SECONDS)


def ending(ends: Mapping[str, int | None], moment: int) -> dict[str, int]:
    """Return the whole days until expiry, by fingerprint, of the keys that expire within 60 days."""
    left = {name: (end - moment) // _DAY for name, end in ends.items() if end is not None}
    return {name: days for name, days in left.items() if days < WARNED_DAYS}


@contextmanager
def key(chosen: str | None, moment: int, report: Report, wanted: KeyType | None = None) -> Iterator[Key]:
    """Yield the keys of --key.

    `chosen` is a comma-separated list of files, environment variables (`env:NAME`), or fingerprints in the user's
    keyring. None chooses the project's own key. On first use, that key is created with the type `wanted` and the date
    `moment`. Raises UsageError for a key that cannot sign at `moment` or that apt refuses, MachineError if gpg fails.
    """
    if chosen is None:
        folder = own_key.obtained(wanted, moment, report)
        with gpg.at_short_path(folder) as place:
            yield _found(place / "gnupg", own_key.fingerprints(folder), moment)
        return
    if wanted is not None:
        raise UsageError(
            "--key and --key-type exclude each other", hint="--key-type applies only to a key that publish creates"
        )
    names = [chosen] if _is_file(chosen) else chosen.split(",")
    if all(name.startswith(_VARIABLE) or _is_file(name) for name in names):
        with _imported([(name, _exported(name)) for name in names], moment) as found:
            yield found
    else:
        yield _found(None, chosen.split(","), moment)


def _found(home: Path | None, names: Sequence[str], moment: int) -> Key:
    """Return the keys with these fingerprints; raises UsageError if one is missing or cannot sign at this time."""
    ends: dict[str, int | None] = {}
    parts: list[str] = []
    for name in names:
        if not _FINGERPRINT.fullmatch(name):
            hint = "--key takes a fingerprint in your gpg keyring, a file with a secret key, or env:NAME"
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
            raise UsageError(f"{shown!r} is neither a fingerprint nor a file", hint=hint)
        listed = gpg.secret_keys(home, name)
        if not listed:
            raise UsageError(f"no secret key {name} in the gpg keyring", hint="gpg --list-secret-keys lists your keys")
        found = listed[0]
        lasting = found.lasting(moment)
        if not lasting:
            able = bool(found.signing)
            why = "has expired, or is dated in the future" if able else "has no signing subkey in this keyring"
            raise UsageError(
                f"the key {name} {why}", hint="to create a new subkey, see docs/how-to/publish-a-repository.md"
            )
        for row in (found.rows[0], *lasting.values()):
            if what := gpg.refused_by_apt(row):
                hint = "use Ed25519, or RSA with at least 2048 bits; see docs/how-to/publish-a-repository.md, The key"
                raise UsageError(f"the key {name} is {what}, which apt rejects", hint=hint)
        ends[found.fingerprint] = found.end
        parts += lasting
    public = gpg.run(home, ["--export-options", "export-minimal", "--export", *ends])
    return Key(home, public, ends, tuple(parts))


def _exported(name: str) -> bytes:
    """Return the exported key in a file or an environment variable."""
    if name.startswith(_VARIABLE):
        return _taken(name.removeprefix(_VARIABLE))
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise MachineError(
            f"{name}: {error.strerror}", hint="run this command as a user with read permission for the key"
        ) from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # for example, a whole key is too long for a path
        return False


def _taken(name: str) -> bytes:
    """Return the key in an environment variable, and unset the variable so that child processes do not inherit it.

    The key is armored, or the exported bytes are in base64: some platforms mask a secret in logs only if it is one
    line.
    """
    text = os.environ.pop(name, "").strip().encode()
    if not text:
        raise UsageError(f"${name} is not set or empty", hint="put the key into the variable that --key env:NAME names")
    if text.startswith(_ARMOR):
        return text + b"\n"
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        hint = "export it with gpg --armor --export-secret-subkeys ID, or encode the binary export with base64 -w0"
        raise UsageError(f"${name} contains no key", hint=hint) from error


@contextmanager
def _imported(exported: Sequence[tuple[str, bytes]], moment: int) -> Iterator[Key]:
    """Import exported keys into a temporary folder, and yield them; the folder is removed after the block.

    The folder is in memory (/dev/shm) if that is writable, so that the keys are never written to a disk.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of this process below it
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-key-", dir=memory) as place:
        home = Path(place)
        try:
            for number, (origin, data) in enumerate(exported, start=1):
                if not gpg.public_keys(data):
                    hint = "export the key with gpg --export-secret-subkeys ID, armored or binary"
                    raise UsageError(f"{origin} contains no key", hint=hint)
                gpg.run(home, ["--import"], data)
                count = len(gpg.secret_keys(home)) - number + 1
                if count != 1:
                    raise UsageError(
                        f"{origin} contains {count} secret keys",
                        hint="export one key with gpg --export-secret-subkeys ID",
                    )
            yield _found(home, [one.fingerprint for one in gpg.secret_keys(home)], moment)
        finally:
            gpg.end_agent(home)
