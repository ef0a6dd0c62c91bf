"""Trials of a suite: apt installs, upgrades and removes all of its packages in a clean root of its release.

The root's only sources are Debian's archive and this repository. A package that depends on anything else, or that
overwrites a file of a Debian package, therefore fails here before it fails on a server.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from debian.debian_support import Version

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.builds.plan import machine_architecture
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, Runner
from pgpool_deb.ground.releases import Release

from .keyring import NAME, SOURCES, sources
from .stanzas import Stanza

PLACE = "/srv/repository"
"""The path at which a local repository is mounted in the root."""
_SHARED = ("/var/lib/apt/lists", "/var/cache/apt/archives")
"""Folders that roots share with each other; a trial has its own, to read its own lists."""
_DEBUG = "-dbgsym"
_REASON = re.compile(r"E: |dpkg: error |\s+trying to overwrite ")
"""The beginnings of lines in which apt and dpkg report the cause of a failure."""
_UNMET = re.compile(r"\s*(?:(\S+) : |\s{2,})((?:Pre-)?Depends: .*)")
"""A line of apt's list of unmet dependencies; a package's second dependency has no name before it."""
_SCRIPT = """
printf '127.0.0.1 localhost\\n127.0.1.1 trial\\n' >/etc/hosts
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
cp /trial/key /usr/share/keyrings/{keyring}.gpg
cp /trial/sources {list}
apt='apt-get -y -q -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold'
echo 'STEP read the suite with apt'
$apt update
{steps}
echo 'STEP find remaining packages'
dpkg --audit
dpkg-query -W -f '${{db:Status-Abbrev}}${{binary:Package}}\\n' {names} 2>/dev/null | grep -v '^un' && exit 1 || true
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """The packages to test of a suite: the newest version of each, and the previous one if there is one."""

    newest: Mapping[str, str]
    before: Mapping[str, str]


def offered(stanzas: Iterable[Stanza]) -> Offer:
    """Return the packages to test of a suite, without -dbgsym packages, which only add files of their own."""
    newest: dict[str, str] = {}
    before: dict[str, str] = {}
    ordered = sorted(stanzas, key=lambda one: one.package)
    for package, group in groupby(ordered, key=lambda one: one.package):
        versions = sorted({one.version for one in group}, key=Version)
        if not package.endswith(_DEBUG):
            newest[package] = versions[-1]
            if len(versions) > 1:
                before[package] = versions[-2]
    return Offer(newest, before)


def script(offer: Offer) -> str:
    """Return the shell script of a trial; it prints a line that begins with STEP before each step."""
    steps = []
    if offer.before:
        steps += ["echo 'STEP install the previous version'", f"$apt install {_pinned(offer.before)}"]
    verb = "upgrade to" if offer.before else "install"
    steps += [f"echo 'STEP {verb} the newest version'", f"$apt install {_pinned(offer.newest)}"]
    names = " ".join(offer.newest)
    steps += ["echo 'STEP purge all packages'", f"$apt purge {names}"]
    return _SCRIPT.format(steps="\n".join(steps), names=names, keyring=NAME, list=SOURCES)


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials of a repository: `where` is its URL or the path of its folder, `key` has its public keys."""

    where: str
    key: bytes
    cache: Cache
    roots: Roots

    @classmethod
    def begin(cls, where: str, key: bytes) -> Trials:
        """Return trials of a repository in roots of the cache."""
        cache = Cache.open()
        return cls(where, key, cache, Roots(cache, machine_architecture(), lambda: archive.find_archive(None)))

    def failure(self, suite: str, release: Release, offer: Offer) -> str | None:
        """Test the packages of a suite; return the failed step with apt's reason, None if every step succeeded.

        Raises MachineError if the root cannot be created.
        """
        log = self.cache.folder("logs") / f"trial-{suite}.log"
        lines: list[str] = []
        runner = Runner(log)
        root = self.roots.obtain(release, (), runner)
        with tempfile.TemporaryDirectory(prefix="pgpool-deb-trial-") as folder:
            place = Path(folder)
            (place / "key").write_bytes(self.key)
            local = "://" not in self.where
            text = sources(f"file://{PLACE}" if local else self.where, suite)
            (place / "sources").write_text(text, encoding="utf-8")
            binds = [one for one in self.roots.apt_binds(release) if one[1] not in _SHARED]
            binds += [(place, "/trial"), *([(Path(self.where), PLACE)] if local else [])]
            runner.on_line = lines.append
            try:
                self.roots.run_in(root, ["sh", "-euc", script(offer)], runner, binds=binds)
            except CommandFailed:
                return f"{fault_of(lines)} (log: {log})"
        return None


def _pinned(versions: Mapping[str, str]) -> str:
    return " ".join(f"{package}={version}" for package, version in versions.items())


def fault_of(output: Iterable[str]) -> str:
    """Return the last step of a trial's output, and the cause of its failure that apt or dpkg reports.

    apt's list of unmet dependencies also has those that could be met; one that no package can meet goes first.
    """
    step, lines = "prepare the root", list[str]()
    for line in output:
        if line.startswith("STEP "):
            step, lines = line.removeprefix("STEP "), []
        else:
            lines.append(line)
    unmet = _unmet(lines)
    impossible = [one for one in unmet if "not installable" in one]
    other = [line.removeprefix("E: ").strip() for line in lines if _REASON.match(line)]
    return f"{step}: {next(iter([*impossible, *unmet, *other]), 'it failed')}"


def _unmet(lines: Iterable[str]) -> list[str]:
    """Return apt's unmet dependencies, each with its alternatives on one line: `package : Depends: ...`."""
    found: list[str] = []
    package, more = "", False
    for line in lines:
        if more:
            found[-1] += f" {line.strip()}"
        elif match := _UNMET.match(line):
            package = match[1] or package
            found.append(f"{package} : {match[2].rstrip()}")
        more = bool(found) and line.rstrip().endswith(" or")
    return found
