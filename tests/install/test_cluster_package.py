"""The cluster package without systemd: its questions, its maintainer scripts, and the files left after removal.

tests/cluster covers clusters of booted servers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.install.test_removal import FILES
from tests.install.test_upgrade import DEBIANS

from pgpool_deb.boxes.roots import Root

KEY = "31f2a6c95e0d4b7788c1a0e9d3f4b5526f7e8d9c0b1a29384756aabbccddeeff"
OWN = "find /etc /usr/share/pgpool2-cluster /var/lib/pgpool2-cluster /var/lib/postgresql -type f"
STATE = f"{OWN} -printf '%p %u:%g %m\\n' | sort; {OWN} | sort | xargs sha256sum"
REMEMBERED = ("deb-systemd-helper", ".target.wants")
"""debhelper's record of enabled units, which the purge deletes."""


def answers(**known: str) -> str:
    """Return a script that gives debconf these answers beforehand."""
    types = {"key": "password", "mode": "select"}
    lines = [f"pgpool2-cluster pgpool2-cluster/{name} {types.get(name, 'string')} {it}" for name, it in known.items()]
    text = "\n".join(lines)
    return f"debconf-set-selections <<'ANSWERS'\n{text}\nANSWERS\n"


def install(packages: Built) -> str:
    return f"apt-get install -y -q {packages.cluster_deb}"


@pytest.fixture(scope="module")
def life(server: Root, on: Callable[[Root], Chroot], packages: Built) -> dict[str, str]:
    """Observations during the life of an installation on a server that already has the dependencies."""
    system = on(server)
    system.run(f"apt-get install -y -q {packages.debs}; {install(packages)}; apt-get purge -y -q pgpool2-cluster")
    story = {"before": system.run(FILES)}
    system.run(answers(clients="10.0.0.0/24", key=KEY))
    system.run(install(packages))
    story["cluster.yml"] = system.run("cat /etc/pgpool2/cluster.yml")
    story["cluster.key"] = system.run("cat /etc/pgpool2/cluster.key; stat -c '%U %a' /etc/pgpool2/cluster.key")
    story["debconf"] = system.run(f"grep -rlF {KEY} /var/cache/debconf || :")
    story["readable"] = system.run(f"grep -rlF {KEY} /etc /var /run /tmp 2>/dev/null || :")
    story["installed"] = system.run(STATE)
    system.run("for turn in 1 2 3; do dpkg-reconfigure -f noninteractive pgpool2-cluster; done")
    story["reconfigured"] = system.run(STATE)
    system.run(f"dpkg -i {packages.cluster_deb}")
    story["upgraded"] = system.run(STATE)
    story["commands"] = system.run("pgpoolctl --help; ls -l /usr/bin/pgpoolctl /usr/lib/pgpool2-cluster")
    system.run("apt-get remove -y -q pgpool2-cluster")
    story["removed"] = system.run(FILES)
    system.run("apt-get purge -y -q pgpool2-cluster")
    story["purged"] = system.run(FILES)
    story["left in debconf"] = system.run("debconf-show pgpool2-cluster")
    return story


def test_the_answers_are_written_to_the_two_files(life: dict[str, str]) -> None:
    assert "clients: [10.0.0.0/24]" in life["cluster.yml"]
    assert life["cluster.key"].split() == [f"pgpool2-cluster-words-2:{KEY}", "root", "600"]


def test_the_key_is_only_in_its_file(life: dict[str, str]) -> None:
    assert life["debconf"] == ""
    assert life["readable"] == "/etc/pgpool2/cluster.key"


@pytest.mark.parametrize("moment", ["reconfigured", "upgraded"])
def test_reconfiguration_and_reinstallation_change_nothing(life: dict[str, str], moment: str) -> None:
    assert life[moment] == life["installed"]


def test_the_command_and_the_hooks_exist(life: dict[str, str]) -> None:
    assert life["commands"].startswith("usage: pgpoolctl")
    assert "/usr/bin/pgpoolctl -> ../share/pgpool2-cluster/pgpoolctl" in life["commands"]


def test_the_removal_keeps_cluster_yml_and_the_key(life: dict[str, str]) -> None:
    left = set(life["removed"].splitlines()) - set(life["before"].splitlines())
    assert {"/etc/pgpool2/cluster.yml", "/etc/pgpool2/cluster.key"} <= left
    conffile = "/etc/postgresql-common/pg_upgradecluster.d/pgpool2-cluster"  # dpkg keeps this conffile until the purge
    own = ("/etc/pgpool2/cluster", "/var/lib/pgpool2-cluster", "/run/", conffile)
    assert [path for path in left if not path.startswith(own) and not any(word in path for word in REMEMBERED)] == []


def test_the_purge_leaves_nothing_behind(life: dict[str, str]) -> None:
    before, purged = (set(life[moment].splitlines()) for moment in ("before", "purged"))
    assert (sorted(purged - before), sorted(before - purged)) == ([], [])
    assert life["left in debconf"] == ""


def test_invalid_answers_are_reported_and_leave_no_half_configured_package(
    server: Root, on: Callable[[Root], Chroot], packages: Built
) -> None:
    system = on(server)
    output = system.run(answers(nodes="pg1=10.0.0.1 $(reboot)=10.0.0.2", key=KEY) + install(packages))
    assert "hint:" in output
    assert "Traceback" not in output
    assert system.run("dpkg-query -W -f '${db:Status-Abbrev}' pgpool2-cluster") == "ii"
    assert system.run("ls /etc/pgpool2/cluster.yml /etc/pgpool2/cluster.key 2>/dev/null || :") == ""
    assert system.run(f"grep -rlF {KEY} /var/cache/debconf || :") == ""


def test_it_accepts_debians_own_pgpool2(server: Root, on: Callable[[Root], Chroot], packages: Built) -> None:
    system = on(server)
    system.run(DEBIANS)
    debians = system.run("dpkg-query -W -f '${Version}' pgpool2")
    system.run(f"{install(packages)} --no-install-recommends")
    assert system.run("dpkg-query -W -f '${Version}' pgpool2") == debians
    assert system.run("dpkg --audit") == ""
    assert "cluster/" in system.run("ls -F /etc/pgpool2")
