"""The keyring of a repository: its public key and .sources, as files and as a package in each suite."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from pgpool_deb.packages.debianize import MAINTAINER
from pgpool_deb.upstream.download import sha256_of

from . import growing, indexer
from .signing import Key
from .stanzas import PoolFile
from .suites import Suite
from .tree import Repository

NAME = "pgpool-deb-archive-keyring"
SOURCES = "/etc/apt/sources.list.d/pgpool-deb.sources"
CONTROL = """Package: {name}
Version: {version}
Architecture: all
Maintainer: {maintainer}
Section: misc
Priority: optional
Multi-Arch: foreign
Description: archive key and apt source of the pgpool-deb repository
 This package contains the OpenPGP key that signs the pgpool-deb repository, and
 the .sources file for apt. Upgrades of this package install the next key before
 the current one expires.
"""
LICENSE = Path(__file__).parents[3] / "LICENSE"
"""The licence of this project, which also covers the package's files."""


def sources(url: str, suite: str) -> str:
    """Return the .sources of a suite, for /etc/apt/sources.list.d."""
    return (
        f"Types: deb deb-src\nURIs: {url}\nSuites: {suite}\nComponents: main\n"
        f"Signed-By: /usr/share/keyrings/{NAME}.gpg\n"
    )


def lines(url: str, suite: str, key: bytes) -> list[str]:
    """Return the commands that an administrator pastes to add a suite to apt and to install a cluster from it.

    apt-helper is part of apt; a minimal server has neither curl nor wget. It downloads as root, because apt's own user
    cannot write to the target folders, and apt would print a warning.
    """
    fetch = f"/usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file {url}/keyring"
    return [
        f"{fetch}/{NAME}.gpg /usr/share/keyrings/{NAME}.gpg SHA256:{hashlib.sha256(key).hexdigest()}",
        f"{fetch}/{suite}.sources {SOURCES}",
        f"apt-get update && apt-get install {NAME} pgpool2-cluster",
    ]


def offer(repository: Repository, suite: Suite, number: int, key: Key, moment: int) -> None:
    """Add a new version of the keyring package to a suite if the key or the URL changed.

    `number` is the number of the Debian release. Versions rise with it, and a testing suite's version sorts below that
    of the stable suite.
    """
    text = sources(repository.url, suite.name)
    held = digest(key.public, repository.url, suite.name)
    if held == suite.keyring:
        return
    testing = "" if suite.name == suite.release else "~testing"
    version = f"{datetime.fromtimestamp(moment, UTC):%Y.%m.%d.%H%M%S}+deb{number}{testing}"
    with tempfile.TemporaryDirectory() as place:
        path = _package(Path(place), version, text, key.public, moment)
        file = PoolFile(f"pool/main/p/{NAME}/{path.name}", sha256_of(path), path.stat().st_size)
        repository.admit([(path, file)])
    growing.grow(repository.path, suite, indexer.index(repository.path, [file], suite.contents))
    suite.keyring = held


def digest(key: bytes, url: str, suite: str) -> str:
    """Return the hash of the contents of a suite's keyring package."""
    return hashlib.sha256(key + sources(url, suite).encode()).hexdigest()


def _package(place: Path, version: str, text: str, key: bytes, moment: int) -> Path:
    """Build the package; its bytes depend only on the arguments."""
    tree = place / "tree"
    files = {
        "DEBIAN/control": CONTROL.format(name=NAME, version=version, maintainer=MAINTAINER).encode(),
        "DEBIAN/conffiles": f"{SOURCES}\n".encode(),
        f"usr/share/keyrings/{NAME}.gpg": key,
        f"usr/share/doc/{NAME}/copyright": LICENSE.read_bytes(),
        SOURCES.removeprefix("/"): text.encode(),
    }
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
        (tree / path).chmod(0o644)
    for folder in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    made = place / f"{NAME}_{version}_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(moment)})
    return made


def held(state: Path) -> bytes | None:
    """Return the public key of a state, None if it has none."""
    path = state / "keyring" / f"{NAME}.gpg"
    return path.read_bytes() if path.is_file() else None


def lay_down(state: Path, url: str, key: Key, suites: Collection[str]) -> None:
    """Write keyring/ of a state: the public key, the .sources of each suite, and their names."""
    folder = state / "keyring"
    folder.mkdir()
    (folder / f"{NAME}.gpg").write_bytes(key.public)
    (folder / "suites").write_text("".join(f"{suite}\n" for suite in suites), encoding="utf-8")
    for suite in suites:
        (folder / f"{suite}.sources").write_text(sources(url, suite), encoding="utf-8")
