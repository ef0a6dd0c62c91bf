"""The clean root of a release with all that tests install from below /var/cache/apt.

The archive is used once per release. After that, the tests have no network, so packages can come only from the release
and from dist/.
"""

from __future__ import annotations

from pathlib import Path

from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.errors import MachineError

SERVERS = "systemd systemd-sysv dbus openssh-server iproute2 iputils-ping iputils-arping nftables"
"""Packages that every Debian server has."""
DEBIANS = "apt-cache search --names-only '^(pgpool2|libpgpool-dev|postgresql-[0-9]+-pgpool2)$' | cut -d ' ' -f 1"
INDEX = """
cd {place}
for deb in *.deb; do
    dpkg-deb -f "$deb"
    echo "Filename: ./$deb"
    echo "Size: $(stat -c %s "$deb")"
    echo "SHA256: $(sha256sum "$deb" | cut -d ' ' -f 1)"
    echo
done >Packages
"""
"""Makes the folder {place} an apt source of its .debs."""
ALONE = f"""
{INDEX.format(place="/var/cache/apt/archives")}
find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec mv {{}} {{}}.off ';'
echo 'deb [trusted=yes] file:/var/cache/apt/archives ./' >/etc/apt/sources.list.d/debian.list
"""
"""Limits Debian's packages to the fetched ones. `apt-get update` then needs no network."""
YES = """
echo 'APT::Get { Assume-Yes "true"; allow-downgrades "true"; };' >/etc/apt/apt.conf.d/90-yes
"""
"""Answers every question of apt with yes."""
FETCH = """
printf '127.0.0.1 localhost\\n::1 localhost\\n127.0.1.1 builder\\n' >/etc/hosts
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
fetch='apt-get -q -y -o Acquire::Retries=3 -o Acquire::http::Timeout=30'
$fetch update
$fetch install --download-only /dist/*.deb postgresql-{major} postgresql {servers} unattended-upgrades
$fetch install --download-only $({debians})
$fetch install --download-only $(apt-cache search --names-only '^libfaketime$' | cut -d ' ' -f 1)
"""


def fetched(root: Root, place: Path, packages: Built) -> Root:
    """Return `root` with current lists of apt and the fetched packages. Raises MachineError if apt fails."""
    chroot = Chroot(root, place, ((packages.folder, "/dist"),))
    answer = chroot.attempt(FETCH.format(major=packages.majors[-1], servers=SERVERS, debians=DEBIANS), network=True)
    if answer.status != 0:
        error = next((line for line in answer.output.splitlines() if line.startswith("E:")), f"status {answer.status}")
        raise MachineError(
            f"{packages.release.name}: {error.removeprefix('E: ')}", hint="check that the mirror of apt is reachable"
        )
    return chroot.frozen()
