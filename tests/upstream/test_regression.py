"""A draft, not collected yet: upstream's own regression tests against the packages as they are installed.

Its first run on trixie: 47 min, 10 of 73 passed; most others find no pgpool in the prefix that it makes.

They are told that pgpool-II is installed in a prefix, which here is links to where Debian has things. Each test has
a system, a network and processes of its own, so several run side by side.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.cache import Cache
from pgpool_deb.command import Runner
from pgpool_deb.releases import Release
from pgpool_deb.roots import Root, Roots

NEEDED = (
    "bc", "default-jdk-headless", "ed", "iproute2", "iputils-ping", "libdbd-pg-perl", "libpostgresql-jdbc-java",
    "memcached", "net-tools", "openssh-client", "openssh-server", "openssl", "procps", "psmisc",
)  # fmt: skip
PREFIX = "/srv/pgpool"
HOME = "/var/lib/postgresql"
SIDE_BY_SIDE = 4
"""Most of a test's time is waiting."""
SECONDS = 600
INSTALL = f"""
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
printf '127.0.0.1 localhost\\n::1 localhost\\n' >/etc/hosts
apt-get -q update
apt-get install -y -q postgresql-{{major}} {{debs}}
pg_dropcluster {{major}} main
mkdir -p {PREFIX}/etc/sample_scripts {PREFIX}/share {PREFIX}/lib
ln -s /usr/sbin {PREFIX}/bin
ln -s /usr/sbin {PREFIX}/sbin
ln -s /usr/share/pgpool2 {PREFIX}/share/pgpool-II
mkdir /tmp/source
tar -C /tmp/source --strip-components=1 -xf /tarball/{{tarball}}
cp /tmp/source/src/sample/*.sample* {PREFIX}/etc
cp /tmp/source/src/sample/scripts/*.sample {PREFIX}/etc/sample_scripts
cp -r /tmp/source/src/test/regression /srv/regression
rm -r /tmp/source
install -d -o postgres -g postgres -m 700 {HOME}/.ssh
ssh-keygen -q -t ed25519 -N '' -f {HOME}/.ssh/id_ed25519
cp {HOME}/.ssh/id_ed25519.pub {HOME}/.ssh/authorized_keys
echo 'StrictHostKeyChecking accept-new' >{HOME}/.ssh/config
chown -R postgres: {HOME}/.ssh /srv/regression {PREFIX}
"""
RUN = f"""
mkdir -p /run/sshd
/usr/sbin/sshd
install -d -o postgres -g postgres -m 2775 /run/postgresql
memcached -d -u memcache
cd /srv/regression
status=0
runuser -u postgres -- env TERM=dumb HOME={HOME} USER=postgres PATH=/usr/bin:/bin:{PREFIX}/bin ./regress.sh -m noinstall \\
    -i {PREFIX} -p /usr/lib/postgresql/{{major}}/bin -b /usr/lib/postgresql/{{major}}/bin/pgbench \\
    -j /usr/share/java/postgresql.jar -s /var/run/postgresql -t {SECONDS} {{name}} || status=$?
tail -n 60 log/* || :
"""
ENDED = re.compile(r"^testing (\S+?)\.\.\.(?:\x1b\[\d+m)?(ok|failed|timeout|segfault)", re.MULTILINE)


FAILS: dict[str, str] = {}
"""Tests that do not pass, and why; one that does pass must go from here."""
LEAST = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a test of upstream's ended (`ok`, `failed`, `timeout`, or "" where it did not begin), and what it said."""

    word: str
    seconds: float
    output: str


@pytest.fixture(scope="session")
def installed(release: Release, packages: Built, roots: Roots, systems: Path) -> Root:
    """A system of the release with the packages, their prefix, and upstream's tests."""
    root = roots.obtain(release, NEEDED, Runner(systems / "upstream.log"))
    binds = ((packages.folder, "/dist"), (Cache.open().folder("sources"), "/tarball"))
    chroot = Chroot(root, systems / f"upstream-{release.name}", binds)
    tarball = f"pgpool2_{packages.version}.orig.tar.gz"
    chroot.run(INSTALL.format(major=packages.majors[-1], debs=packages.debs, tarball=tarball), network=True)
    return chroot.frozen()


@pytest.fixture(scope="session")
def verdicts(installed: Root, packages: Built, systems: Path) -> dict[str, Verdict]:
    """How each of the tests ended."""
    listing = Chroot(installed, systems / "upstream-list")
    names = listing.run("cd /srv/regression/tests; ls -d */test.sh | cut -d / -f 1").split()
    listing.remove()

    def verdict(name: str) -> Verdict:
        chroot = Chroot(installed, systems / f"upstream-{packages.release.name}-{name}")
        began = time.monotonic()
        answer = chroot.attempt(RUN.format(major=packages.majors[-1], name=name))
        found = ENDED.search(answer.output)
        chroot.remove()
        return Verdict(found[2] if found else "", time.monotonic() - began, answer.output)

    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as workers:
        return dict(zip(names, workers.map(verdict, names), strict=True))


def test_all_but_those_with_a_reason_pass(verdicts: dict[str, Verdict]) -> None:
    for name, one in sorted(verdicts.items()):
        print(f"{name}: {one.word or 'did not begin'} after {one.seconds:.0f} s")
    failed = {name: one.output[-1500:] for name, one in verdicts.items() if one.word != "ok" and name not in FAILS}
    assert failed == {}


def test_every_reason_is_still_true(verdicts: dict[str, Verdict]) -> None:
    assert [name for name in FAILS if name not in verdicts or verdicts[name].word == "ok"] == []


def test_enough_of_them_pass(verdicts: dict[str, Verdict]) -> None:
    passed = sum(one.word == "ok" for one in verdicts.values())
    assert len(verdicts) > 70
    assert passed >= LEAST * len(verdicts), f"{passed} of {len(verdicts)}"
