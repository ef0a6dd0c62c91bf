"""Upgrades from Debian's pgpool2 and back, and from an older one of ours, without questions or lost configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Root

DEBIANS = "apt-get install -y -q --allow-downgrades $(ls /var/cache/apt/archives/*pgpool*.deb)"
EDIT = r"""
sed -i 's/^#\?num_init_children.*/num_init_children = 7/' /etc/pgpool2/pgpool.conf
grep -q '^num_init_children = 7' /etc/pgpool2/pgpool.conf
echo 'operator:e8a48653851e28c69d0506508fb27fc5' >>/etc/pgpool2/pcp.conf
echo 'host all all 10.0.0.0/8 scram-sha-256' >>/etc/pgpool2/pool_hba.conf
echo 'alice:md5abc' >>/etc/pgpool2/pool_passwd
"""
CONFIGURATION = "cd /etc/pgpool2; sha256sum pgpool.conf pcp.conf pool_hba.conf pool_passwd"


def install(system: Chroot, command: str) -> None:
    """Install at a terminal, without any question."""
    answer = system.attended(command)
    assert answer.questions == [], answer.output
    assert answer.status == 0, answer.output


def ours(packages: Built) -> str:
    return f"apt-get install -y -q --allow-downgrades {packages.debs}"


def versions(system: Chroot) -> str:
    return system.run("dpkg-query -W -f '${Version} ${db:Status-Abbrev}' pgpool2")


@pytest.mark.parametrize("edited_in", ["debians", "ours"])
def test_over_debians_own_and_back_with_edited_configuration(
    server: Root, on: Callable[[Root], Chroot], packages: Built, edited_in: str
) -> None:
    system = on(server)
    install(system, DEBIANS)
    debians = versions(system)
    if edited_in == "debians":
        system.run(EDIT)
    else:
        install(system, ours(packages))
        system.run(EDIT)
        install(system, DEBIANS)
    edited = system.run(CONFIGURATION)
    expected = f"{packages.debian_version} ii"
    for command, version in ((ours(packages), expected), (DEBIANS, debians), (ours(packages), expected)):
        install(system, command)
        assert versions(system) == version
        assert system.run(CONFIGURATION) == edited
    assert system.run("stat -c %a /etc/pgpool2/pcp.conf") == "640"


def test_over_debians_own_and_back_with_nothing_edited(
    server: Root, on: Callable[[Root], Chroot], packages: Built
) -> None:
    system = on(server)
    for command in (DEBIANS, ours(packages), DEBIANS, ours(packages)):
        install(system, command)
    system.run("cmp /usr/share/pgpool2/pgpool.conf /etc/pgpool2/pgpool.conf")
    install(system, "apt-get purge -y -q *pgpool*")
    assert system.run("find / -xdev -path /var/cache -prune -o -path /dist -prune -o -name '*pgpool*' -print") == ""


def test_a_later_version_with_other_defaults_keeps_edits(
    server: Root, on: Callable[[Root], Chroot], packages: Built
) -> None:
    system = on(server)
    install(system, ours(packages))
    system.run(EDIT)
    edited = system.run(CONFIGURATION)
    system.run(
        "dpkg-deb -R /dist/pgpool2_*.deb /later; cd /later; sed -i 's/^Version: .*/&+later/' DEBIAN/control;"
        "sed -i 's/^port = 9999/port = 9998/' usr/share/pgpool2/pgpool.conf; dpkg-deb -b /later /later.deb"
    )
    install(system, "apt-get install -y -q /later.deb")
    assert system.run(CONFIGURATION) == edited
    assert "port = 9998" in system.run("cat /etc/pgpool2/pgpool.conf.ucf-dist")


def test_these_tests_detect_a_question(server: Root, on: Callable[[Root], Chroot]) -> None:
    """A conffile that both the administrator and the package have changed makes dpkg ask."""
    system = on(server)
    system.run(
        "mkdir -p /asks/DEBIAN /asks/etc; cd /asks; echo /etc/asks.conf >DEBIAN/conffiles; echo one >etc/asks.conf;"
        "printf 'Package: asks\\nVersion: 1\\nArchitecture: all\\nMaintainer: A <a@a>\\nDescription: asks\\n' "
        ">DEBIAN/control; dpkg-deb -b /asks /one.deb; echo two >etc/asks.conf; sed -i 's/: 1/: 2/' DEBIAN/control;"
        "dpkg-deb -b /asks /two.deb; dpkg -i /one.deb; echo edited >/etc/asks.conf"
    )
    answer = system.attended("dpkg -i /two.deb", patience=5)
    assert answer.status != 0
    assert answer.questions
