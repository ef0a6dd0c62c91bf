"""Remove, reinstall, purge: the configuration stays until the purge, and nothing stays after it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.install.daemon import with_pgpool

from pgpool_deb.boxes.roots import Root

LOGS = r"apt|dpkg\.log|alternatives\.log"
BOOKKEEPING = rf"^/(dist|tmp|etc/ld\.so\.cache|var/(cache|lib/(dpkg|apt|ucf|postgresql/[0-9]+)|log/({LOGS})))(/|$)"
FILES = f"find / -xdev | grep -vE '{BOOKKEEPING}' | sort"
REMEMBERED = re.compile("/pgpool_status|/memq_lock_file|deb-systemd-helper|/multi-user.target.wants/")
"""Files that stay until the purge: the daemon's data, and debhelper's record of the enabled unit."""


@pytest.fixture(scope="module")
def life(server: Root, on: Callable[[Root], Chroot], packages: Built) -> dict[str, str]:
    """File lists and configuration during the life of an installation with use and edits."""
    system = on(server)
    major = packages.majors[-1]
    system.run(f"pg_ctlcluster {major} main start; pg_ctlcluster {major} main stop")
    story = {"before": system.run(FILES)}
    install = f"apt-get install -y -q {packages.every_deb}"
    system.run(install)
    used = with_pgpool(system, major, "ask -p 9999")
    assert used.status == 0, used.output
    system.run("echo '# edited' | tee -a /etc/pgpool2/pgpool.conf /etc/pgpool2/pcp.conf; touch /etc/default/pgpool2")
    story["installed"] = system.run(FILES)
    configuration = "sha256sum /etc/pgpool2/*.conf"
    story["edited"] = system.run(configuration)
    system.run("apt-get remove -y -q '*pgpool*'")
    story["removed"] = system.run(f"{FILES} | grep pgpool")
    story["kept"] = system.run(configuration)
    again = system.attended(install)
    assert (again.status, again.questions) == (0, []), again.output
    story["again"] = system.run(configuration)
    system.run("apt-get purge -y -q '*pgpool*'")
    story["purged"] = system.run(FILES)
    story["ucf"] = system.run("cat /var/lib/ucf/hashfile /var/lib/ucf/registry /var/lib/dpkg/statoverride")
    return story


def test_a_removed_package_leaves_its_configuration_and_nothing_else(life: dict[str, str]) -> None:
    left = [line for line in life["removed"].splitlines() if not line.startswith(("/etc/pgpool2", "/etc/default/"))]
    assert [line for line in left if not REMEMBERED.search(line)] == []
    assert life["kept"] == life["edited"]


def test_a_reinstalled_package_asks_nothing_and_finds_its_configuration(life: dict[str, str]) -> None:
    assert life["again"] == life["edited"]


def test_the_purge_leaves_nothing_behind(life: dict[str, str]) -> None:
    before, installed, purged = (set(life[moment].splitlines()) for moment in ("before", "installed", "purged"))
    assert not [line for line in before if "pgpool" in line]
    assert "/etc/pgpool2/pgpool.conf" in installed - before
    assert "/var/log/postgresql/pgpool_status" in installed - before
    assert sorted(purged - before) == []
    assert sorted(before - purged) == []
    assert "pgpool" not in life["ucf"]


def test_these_tests_detect_files_that_a_package_leaves_behind(server: Root, on: Callable[[Root], Chroot]) -> None:
    system = on(server)
    system.run(
        "mkdir -p /leaves/DEBIAN /leaves/usr; cd /leaves; echo it >usr/own;"
        "printf 'Package: leaves\\nVersion: 1\\nArchitecture: all\\nMaintainer: A <a@a>\\nDescription: leaves\\n' "
        ">DEBIAN/control; printf '#!/bin/sh\\necho it >/var/lib/left\\n' >DEBIAN/postinst; chmod 755 DEBIAN/postinst;"
        "dpkg-deb -b /leaves /leaves.deb; rm -r /leaves"
    )
    before = set(system.run(FILES).splitlines())
    system.run("dpkg -i /leaves.deb; dpkg --purge leaves")
    assert set(system.run(FILES).splitlines()) - before == {"/var/lib/left"}
