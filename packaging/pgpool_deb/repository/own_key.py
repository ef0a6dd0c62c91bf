"""The project's own key: created on first use, with the primary key stored apart from the subkey that signs."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path

import platformdirs

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.progress import Report

from . import gpg

_USER = "pgpool-deb archive"
PRIMARY_YEARS = "10y"
SUBKEY_YEARS = "3y"


class KeyType(StrEnum):
    """The algorithm of a key; the values are gpg's names."""

    ED25519 = "ed25519"
    RSA4096 = "rsa4096"

    @classmethod
    def parse(cls, name: str) -> KeyType:
        """Return the type of this name; raises UsageError with a list of the types if there is none."""
        try:
            return cls(name)
        except ValueError as error:
            raise UsageError(f"unknown key type: {name}", hint=f"--key-type {' or '.join(cls)}") from error


def obtained(wanted: KeyType | None, moment: int, report: Report) -> Path:
    """Return the folder of the key, and create the key if there is none.

    gnupg/ has the subkey that signs, and `made` the fingerprints of the primary keys. A new key is of the type `wanted`
    (Ed25519 by default) and dated `moment`. Raises UsageError if a key of another type exists, MachineError if gpg
    fails or the folder cannot be written.
    """
    folder = Path(platformdirs.user_data_dir("pgpool-deb")) / "archive-key"
    if (folder / "made").exists():
        if wanted is not None:
            _refuse_another_type(folder, wanted)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run, and never used to sign
    try:
        (folder / "gnupg").mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        hint = "set $XDG_DATA_HOME to another folder, or use another key with --key"
        raise MachineError(f"{folder}: {error.strerror}", hint=hint) from error
    with gpg.at_short_path(folder) as place:
        fingerprint = _make(place / "gnupg", place / "primary-key.asc", wanted or KeyType.ED25519, moment)
    atomic.write(folder / "made", f"{fingerprint}\n")
    for line in _told(folder, fingerprint):
        report(line)
    return folder


def fingerprints(folder: Path) -> list[str]:
    """Return the fingerprints of the primary keys that sign: one, or two during a key change."""
    return (folder / "made").read_text(encoding="ascii").split()


def _refuse_another_type(folder: Path, wanted: KeyType) -> None:
    newest = fingerprints(folder)[-1]
    with gpg.at_short_path(folder) as place:
        rows = [one.rows[0] for one in gpg.secret_keys(place / "gnupg", newest)]
    found = {f"rsa{row[2]}" if row[3] == "1" else row[16] for row in rows}
    if wanted not in found:
        hint = "to change the key, see docs/how-to/publish-a-repository.md, Another key"
        raise UsageError(f"the key {newest} already exists, and is {' '.join(found)}, not {wanted}", hint=hint)


def _make(home: Path, primary: Path, made_of: KeyType, moment: int) -> str:
    """Create a key whose subkey signs, move its primary key to the file `primary`, and return its fingerprint."""
    at = ["--faked-system-time", f"{moment}!", "--passphrase", ""]
    gpg.run(home, [*at, "--quick-generate-key", _USER, made_of, "cert", PRIMARY_YEARS])
    fingerprint = gpg.secret_keys(home)[0].fingerprint
    gpg.run(home, [*at, "--quick-add-key", fingerprint, made_of, "sign", SUBKEY_YEARS])
    with os.fdopen(os.open(primary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(gpg.run(home, ["--passphrase", "", "--armor", "--export-secret-keys", fingerprint]))
    (home / "private-keys-v1.d" / f"{gpg.secret_keys(home, fingerprint)[0].grip}.key").unlink()
    return fingerprint


def _told(folder: Path, fingerprint: str) -> list[str]:
    return [
        "CREATED A KEY that signs the repositories of this user.",
        f"  fingerprint  {fingerprint}",
        f"  {folder / 'gnupg'} contains the signing subkey, without a passphrase. Keep it on this machine.",
        f"  {folder / 'primary-key.asc'} is the primary key. Copy it to two places off the network,",
        "  then remove it here. You need it to create the next subkey, and to certify a new key.",
        "  If it is lost when the subkey expires, an administrator must install another key on every server.",
    ]
