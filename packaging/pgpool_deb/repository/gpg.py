"""Run gpg(1) and gpgv(1), and parse the keys that gpg lists."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pgpool_deb.ground.errors import MachineError

_RSA = frozenset({"1", "3"})
_CURVES = frozenset({"19", "22"})
_RSA_BITS = 2048
_OF_THE_AGENT = ("Unmatched parentheses in S-expression", "Cannot allocate memory")
"""Errors of an agent that several gpg processes use at once; a retry succeeds.

On Debian 12 under load, the first occurred twice in a day of tests, but not in 1,680 signatures made to provoke it. No
other error is retried: a smart card counts wrong PINs.
"""
_TRIES = 3
_RETRY_PAUSE_SECONDS = 0.2
_PARTS = ("pub", "sub", "sec", "ssb")
Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A primary key with its subkeys, as `--with-colons` lists them; GnuPG's doc/DETAILS defines the fields."""

    rows: tuple[Row, ...]

    @property
    def fingerprint(self) -> str:
        """The primary key's fingerprint."""
        return next(row[9] for row in self.rows if row[0] == "fpr")

    @property
    def grip(self) -> str:
        """The keygrip of the primary key, under which gpg's agent stores it."""
        return next(row[9] for row in self.rows if row[0] == "grp")

    @property
    def signing(self) -> dict[str, Row]:
        """The primary key and subkeys that can sign, by their fingerprints.

        Revoked keys are left out. So are, in a list of secret keys, those whose secret part is not on this machine.
        """
        parts = ((row, after[9]) for row, after in pairwise(self.rows) if row[0] in _PARTS and after[0] == "fpr")
        return {name: row for row, name in parts if "s" in row[11] and row[14] != "#" and row[1] != "r"}

    def lasting(self, moment: int) -> dict[str, Row]:
        """Return the keys of `signing` that are valid at this time, in seconds since 1970."""
        whole = _lasts(self.rows[0], moment)
        return {name: row for name, row in self.signing.items() if whole and _lasts(row, moment)}

    @property
    def end(self) -> int | None:
        """The time at which it stops signing, in seconds since 1970; None if it never expires.

        It is the earlier of the expiry of the primary key and that of the last key that signs.
        """
        whole, parts = _end(self.rows[0]), [_end(row) for row in self.signing.values()]
        last = None if None in parts else max((one for one in parts if one is not None), default=0)
        return min((one for one in (whole, last) if one is not None), default=None)


def refused_by_apt(row: Row) -> str | None:
    """Return the description of a key algorithm whose signatures apt refuses; None if apt accepts it."""
    bits, algorithm = int(row[2] or 0), row[3]
    if algorithm in _RSA:
        return f"RSA of {bits} bits" if bits < _RSA_BITS else None
    return None if algorithm in _CURVES else "neither RSA nor on an elliptic curve"


def _lasts(row: Row, moment: int) -> bool:
    end = _end(row)
    return int(row[5]) <= moment and (end is None or moment < end)


def _end(row: Row) -> int | None:
    return int(row[6]) if row[6] else None


def run(home: Path | None, words: Sequence[str], given: bytes = b"") -> bytes:
    """Run gpg with this home folder, or the user's own, and return its output.

    Raises MachineError with gpg's last line if it fails.
    """
    for tries in range(1, _TRIES + 1):
        answer = subprocess.run(_command(home, words), input=given, capture_output=True, check=False)
        if answer.returncode == 0:
            return answer.stdout
        lines = answer.stderr.decode(errors="replace").strip().splitlines()
        if tries == _TRIES or not lines or not lines[-1].endswith(_OF_THE_AGENT):
            break
        time.sleep(_RETRY_PAUSE_SECONDS)
    raise MachineError(f"gpg failed: {lines[-1] if lines else answer.returncode}", hint="gpg --list-secret-keys")


def secret_keys(home: Path | None, name: str | None = None) -> list[Listed]:
    """Return the secret keys that match this name, or all; empty if there are none."""
    words = ["--with-colons", "--with-keygrip", "--list-secret-keys", *([name] if name else [])]
    answer = subprocess.run(_command(home, words), capture_output=True, text=True, check=False)
    return list(_grouped(answer.stdout.splitlines()))


def public_keys(keyring: bytes) -> list[Listed]:
    """Return the keys of a keyring; empty if the bytes are no keyring."""
    with tempfile.TemporaryDirectory() as home:
        words = ["--no-keyring", "--with-colons", "--show-keys"]
        answer = subprocess.run(_command(Path(home), words), input=keyring, capture_output=True, check=False)
    return list(_grouped(answer.stdout.decode(errors="replace").splitlines()))


def _grouped(lines: Iterable[str]) -> Iterator[Listed]:
    rows: list[Row] = []
    for line in lines:
        row = line.split(":")
        if row[0] in ("pub", "sec"):
            if rows:
                yield Listed(tuple(rows))
            rows = []
        if rows or row[0] in ("pub", "sec"):
            rows.append(row)
    if rows:
        yield Listed(tuple(rows))


def end_agent(home: Path) -> None:
    """End the daemons that gpg started for a home folder."""
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True, check=False)


@contextmanager
def at_short_path(folder: Path) -> Iterator[Path]:
    """Yield a short path of a folder: gpg's agent creates sockets in it, whose paths have at most 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-key-") as place:
        link = Path(place, "key")
        link.symlink_to(folder)
        try:
            yield link
        finally:
            end_agent(link / "gnupg")


def _command(home: Path | None, words: Sequence[str]) -> list[str]:
    own = ["--homedir", str(home)] if home is not None else []
    return ["gpg", "--batch", "--yes", "--no-tty", "--quiet", *own, *words]


def verified(signed: bytes, keyring: bytes) -> str | None:
    """Return the text that a clear signature by one of the keyring's keys covers; None if there is no valid one.

    As in apt, additional signatures may be by unknown keys, but none may be bad.
    """
    answer = _gpgv(keyring, {"InRelease": signed}, ["--output", "-"])
    return answer.stdout.decode(errors="replace") if _good(answer) else None


def signs(signature: bytes, data: bytes, keyring: bytes) -> bool:
    """Return whether this is a signature of the data by one of the keyring's keys, by the rules of `verified`."""
    return _good(_gpgv(keyring, {"signature": signature, "data": data}))


def _gpgv(keyring: bytes, files: Mapping[str, bytes], words: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in {"keyring.gpg": keyring, **files}.items():
            Path(folder, name).write_bytes(data)
        command = ["gpgv", "--keyring", f"{folder}/keyring.gpg", "--status-fd", "2", *words]
        return subprocess.run([*command, *(f"{folder}/{name}" for name in files)], capture_output=True, check=False)


def _good(answer: subprocess.CompletedProcess[bytes]) -> bool:
    status = answer.stderr.decode(errors="replace")
    return "[GNUPG:] VALIDSIG " in status and "[GNUPG:] BADSIG " not in status
