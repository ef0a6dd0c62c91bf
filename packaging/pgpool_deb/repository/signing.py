"""Keys and signatures, through gpg(1)."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import platformdirs

from pgpool_deb import atomic
from pgpool_deb.errors import MachineError, UsageError

_FINGERPRINT = re.compile(r"(?:0x)?[0-9A-Fa-f]{16,40}")
_USER = "pgpool-deb archive"
PRIMARY_YEARS = "10y"
SUBKEY_YEARS = "3y"
_DAY = 86400
_VARIABLE = "env:"
_ARMOR = b"-----BEGIN PGP "


@dataclass(frozen=True, slots=True)
class Key:
    """What signs: one key, or while clients go over from one to another, both.

    `home` is gpg's folder with them, None for the user's own; `fingerprints` are those of the primary keys. `public`
    has the public keys as apt's Signed-By takes them, without other people's signatures. `expires` is when the first
    key ends to sign, in seconds since 1970; None where none does.
    """

    home: Path | None
    fingerprints: tuple[str, ...]
    public: bytes
    expires: int | None

    def clearsigned(self, text: str, moment: int) -> str:
        """Return InRelease: the text with its signature of this time. Raises MachineError."""
        return _gpg(self.home, [*self._signing(moment), "--clearsign"], text.encode()).decode()

    def signature(self, text: str, moment: int) -> str:
        """Return Release.gpg: the signature alone, armored. Raises MachineError."""
        return _gpg(self.home, [*self._signing(moment), "--armor", "--detach-sign"], text.encode()).decode()

    def days_left(self, moment: int) -> int | None:
        """Return for how many whole days it can sign yet."""
        return None if self.expires is None else (self.expires - moment) // _DAY

    def _signing(self, moment: int) -> list[str]:
        users = [word for fingerprint in self.fingerprints for word in ("--local-user", fingerprint)]
        words = ["--digest-algo", "SHA512", "--no-emit-version", "--no-comments"]
        return ["--faked-system-time", f"{moment}!", *users, *words]


@contextmanager
def key(chosen: str | None, moment: int, report: Callable[[str], None]) -> Iterator[Key]:
    """Yield the key that was chosen.

    That is a file, a variable of the environment (`env:NAME`), fingerprints in the user's keyring (by commas), or the
    project's own, which is made on first use, as of `moment`. Raises UsageError for a key that cannot sign then,
    MachineError where gpg fails.
    """
    if chosen is None:
        with _at_short_path(_own(moment, report)) as folder:
            yield _found(folder / "gnupg", (folder / "made").read_text(encoding="ascii").split(), moment)
    elif chosen.startswith(_VARIABLE):
        name = chosen.removeprefix(_VARIABLE)
        with _imported(f"${name}", _taken(name), moment) as found:
            yield found
    elif Path(chosen).is_file():
        with _imported(chosen, Path(chosen).read_bytes(), moment) as found:
            yield found
    else:
        yield _found(None, chosen.split(","), moment)


def _own(moment: int, report: Callable[[str], None]) -> Path:
    """Return the folder of the project's own key, made where there is none."""
    folder = Path(platformdirs.user_data_dir("pgpool-deb")) / "archive-key"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed left: no signature is of it
        (folder / "gnupg").mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        with _at_short_path(folder) as place:
            fingerprint = _make(place / "gnupg", place / "primary-key.asc", moment)
        atomic.write(folder / "made", f"{fingerprint}\n")
        for line in _told(folder, fingerprint):
            report(line)
    return folder


@contextmanager
def _at_short_path(folder: Path) -> Iterator[Path]:
    """Yield another path of a folder: gpg's agent has its sockets in there, whose paths have 108 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-key-") as place:
        link = Path(place, "key")
        link.symlink_to(folder)
        try:
            yield link
        finally:
            _end_agent(link / "gnupg")


def _make(home: Path, primary: Path, moment: int) -> str:
    """Make a key whose primary key is in a file of its own, and whose subkey signs; return its fingerprint."""
    at = ["--faked-system-time", f"{moment}!", "--passphrase", ""]
    _gpg(home, [*at, "--quick-generate-key", _USER, "ed25519", "cert", PRIMARY_YEARS])
    (fingerprint,) = _fingerprints(_listed(home, None))[:1]
    _gpg(home, [*at, "--quick-add-key", fingerprint, "ed25519", "sign", SUBKEY_YEARS])
    with os.fdopen(os.open(primary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(_gpg(home, ["--passphrase", "", "--armor", "--export-secret-keys", fingerprint]))
    grip = next(row[9] for row in _listed(home, fingerprint) if row[0] == "grp")
    (home / "private-keys-v1.d" / f"{grip}.key").unlink()
    return fingerprint


def _told(folder: Path, fingerprint: str) -> list[str]:
    return [
        "A KEY WAS MADE that signs repositories of this machine's user.",
        f"  fingerprint  {fingerprint}",
        f"  {folder / 'gnupg'} has the subkey that signs, without a passphrase. It stays on this machine.",
        f"  {folder / 'primary-key.asc'} is the primary key. Copy it to two places that are not on a network,",
        "  then remove it here: it makes the next subkey, and a new key's clients know it by the old one's signature.",
        "  Without it the repository ends with its subkey, and every client has to be told of another key by hand.",
    ]


def _found(home: Path | None, names: Sequence[str], moment: int) -> Key:
    """Return the keys of these identifiers; raises UsageError where one is not there, or cannot sign at this time."""
    fingerprints: list[str] = []
    ends: list[int] = []
    for name in names:
        if not _FINGERPRINT.fullmatch(name):
            hint = "--key takes a fingerprint of your gpg keyring, a file with a secret key, or env:NAME"
            raise UsageError(f"{name!r} is neither a key's fingerprint nor a file", hint=hint)
        rows = _listed(home, name)
        if not _fingerprints(rows):
            raise UsageError(f"there is no secret key {name}", hint="gpg --list-secret-keys shows those that there are")
        fingerprints.append(_fingerprints(rows)[0])
        able = [row for row in rows if row[0] in ("sec", "ssb") and "s" in row[11] and row[14] != "#"]
        lasting = [row for row in able if int(row[5]) <= moment and not (row[6] and int(row[6]) <= moment)]
        if not lasting:
            why = "does not sign at this time: it has expired, or is younger" if able else "has no part here that signs"
            raise UsageError(f"the key {name} {why}", hint="docs/how-to/publish-a-repository.md: a new subkey")
        if all(row[6] for row in lasting):
            ends.append(max(int(row[6]) for row in lasting))
    public = _gpg(home, ["--export-options", "export-minimal", "--export", *fingerprints])
    return Key(home, tuple(fingerprints), public, min(ends, default=None))


def _taken(name: str) -> bytes:
    """Take the key out of a variable of the environment, so that no program that is started later inherits it.

    It is armored, or the exported bytes in base64: some platforms hide a secret in logs only where it is one line.
    """
    text = os.environ.pop(name, "").strip().encode()
    if not text:
        raise UsageError(f"${name} is not set: no key to sign with", hint="--key env:NAME takes the key from $NAME")
    if text.startswith(_ARMOR):
        return text + b"\n"
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        hint = "gpg --armor --export-secret-subkeys ID, or without --armor, through base64 -w0"
        raise UsageError(f"${name} holds no key", hint=hint) from error


@contextmanager
def _imported(origin: str, exported: bytes, moment: int) -> Iterator[Key]:
    """Yield the key that was exported to `origin`, in a folder of memory that goes with the block.

    It never lies on a disk.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of this process below it
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-key-", dir=memory) as place:
        home = Path(place)
        try:
            _gpg(home, ["--import"], exported)
            fingerprints = _fingerprints(_listed(home, None))
            if len(fingerprints) != 1:
                hint = "gpg --export-secret-subkeys ID"
                raise UsageError(f"{origin} holds {len(fingerprints)} secret keys", hint=hint)
            yield _found(home, fingerprints, moment)
        finally:
            _end_agent(home)


def _end_agent(home: Path) -> None:
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True, check=False)


def _listed(home: Path | None, name: str | None) -> list[list[str]]:
    """Return gpg's rows of secret keys, by colons."""
    words = ["--with-colons", "--with-keygrip", "--list-secret-keys", *([name] if name else [])]
    answer = subprocess.run(_command(home, words), capture_output=True, text=True, check=False)
    return [line.split(":") for line in answer.stdout.splitlines()]


def _fingerprints(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the fingerprints of the primary keys among the rows."""
    return [after[9] for row, after in pairwise(rows) if row[0] == "sec" and after[0] == "fpr"]


def _command(home: Path | None, words: Sequence[str]) -> list[str]:
    own = ["--homedir", str(home)] if home is not None else []
    return ["gpg", "--batch", "--yes", "--no-tty", "--quiet", *own, *words]


def _gpg(home: Path | None, words: Sequence[str], given: bytes = b"") -> bytes:
    """Return what gpg writes; raises MachineError with its last line where it fails."""
    answer = subprocess.run(_command(home, words), input=given, capture_output=True, check=False)
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip().splitlines()
        raise MachineError(f"gpg failed: {said[-1] if said else answer.returncode}", hint="gpg --list-secret-keys")
    return answer.stdout


def verified(signed: bytes, keyring: bytes) -> str | None:
    """Return what a clear signature of one of the keyring's keys covers, None where there is none.

    As apt has it, a second signature may be of a key that is not known, but none may be wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        trusted, message = Path(folder, "keyring.gpg"), Path(folder, "InRelease")
        trusted.write_bytes(keyring)
        message.write_bytes(signed)
        words = ["gpgv", "--keyring", str(trusted), "--status-fd", "2", "--output", "-", str(message)]
        answer = subprocess.run(words, capture_output=True, check=False)
    told = answer.stderr.decode(errors="replace")
    good = "[GNUPG:] VALIDSIG " in told and "[GNUPG:] BADSIG " not in told
    return answer.stdout.decode(errors="replace") if good else None
