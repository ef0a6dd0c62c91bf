"""From Debian's own pgpool2 to a cluster to the purge, after which only PostgreSQL's data stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import INSTALL, Cluster
from tests.cluster.earlier import DEBIANS, OURS
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.host import Host

PURGE = "apt-get purge -y -q '*pgpool*' </dev/null"
BOOKKEEPING = (
    r"^/(proc|sys|dev|run|tmp|root|var/(cache|log/(journal|apt|dpkg.log|postgresql/postgresql|alternatives)"
    r"|lib/(dpkg|apt|ucf|systemd|postgresql/[0-9]+|polkit-1)))(/|-|$)"
)
STATE = f"""
echo files
find / -xdev -ignore_readdir_race | grep -vE '{BOOKKEEPING}' | grep -v __pycache__ | sort
find /etc -type f ! -name ld.so.cache ! -name '*-' -exec sha256sum {{}} + | sort -k 2
echo users
cut -d : -f 1 /etc/passwd /etc/group
echo units
systemctl list-units --all --no-legend --plain --type=service,socket,timer '*pgpool*'
systemctl list-unit-files --no-legend '*pgpool*' || :
echo packets
nft list tables
echo run
find /run -ignore_readdir_race -name '*pgpool*' | sort
echo processes
cat /proc/[0-9]*/comm 2>/dev/null | sort -u | grep -E 'pgpool|python' || :
"""
REMOVE = """
began=$(date +%s)
apt-get remove -y -q pgpool2-cluster </dev/null >/root/remove.log
journalctl -q --since=@$began JOB_TYPE=stop JOB_RESULT=done -o json --output-fields=UNIT |
    sed -n 's/.*"UNIT"[ :]*"\\([^"]*\\)".*/\\1/p'
"""
"""A command that prints the stopped units in order."""


@pytest.fixture(scope="module")
def host(room: Lab, of_release: Images) -> Iterator[Host]:
    (booted,) = room.boot(of_release.prepared, "alone")
    booted.run("apt-get purge -y -q '*pgpool*'; rm -rf /etc/pgpool2")
    yield booted
    room.remove((booted,))


@pytest.fixture(scope="module")
def story(host: Host) -> dict[str, str]:
    """The state of the host at each step of the packages' life."""
    cluster = Cluster.of([host])
    host.psql("CREATE TABLE kept AS SELECT 42 AS answer")
    found = {"before": host.run(STATE)}
    host.run(DEBIANS)
    found["version"] = host.run("dpkg-query -W -f '${Version}' pgpool2")
    host.run(INSTALL)
    cluster.wait_healthy(60)
    cluster.add_app()
    found["over Debian's"] = cluster.ask("SELECT 1", at=host)
    host.run(OURS)
    cluster.wait_healthy(60)
    found["over ours"] = cluster.ask("SELECT 2", at=host)
    found["installed"] = host.run(STATE)
    found["order"] = host.run(REMOVE)
    found["removed"] = host.run(STATE)
    host.run(f"{INSTALL}; pgpoolctl wait --timeout 60")
    found["again"] = cluster.ask("SELECT 3", at=host)
    host.run(PURGE)
    found["purged"] = host.run(STATE)
    return found


def test_the_package_works_on_top_of_debians_own_pgpool2_and_of_ours(story: dict[str, str]) -> None:
    assert "-50+" not in story["version"], "this was not Debian's"
    assert (story["over Debian's"], story["over ours"]) == ("1", "2")


def test_a_removed_package_stops_and_a_reinstalled_one_serves_as_before(story: dict[str, str]) -> None:
    left = story["removed"].partition("\nunits\n")[2].splitlines()
    units = [line for line in left if "pgpool2" in line and (" active " in line or " activating " in line)]
    assert units == []
    assert "table inet pgpool2_cluster" not in left
    processes = story["removed"].partition("\nprocesses\n")[2].splitlines()
    assert [name for name in processes if "pgpool" in name] == []
    assert "/etc/pgpool2/cluster.key" in story["removed"]
    assert story["again"] == "3"


def test_the_agent_stops_first_and_the_firewall_last(story: dict[str, str]) -> None:
    """The agent would restart pgpool-II and rewrite deleted files; no port may be open without its rules."""
    ended = [unit for unit in story["order"].splitlines() if "pgpool2" in unit and "@" not in unit]
    assert ended == [
        "pgpool2-cluster.service",
        "pgpool2-cluster-control.socket",
        "pgpool2.service",
        "pgpool2-cluster-firewall.service",
    ]
    assert not [unit for unit in story["order"].splitlines() if unit.startswith("postgresql")]


def test_the_purge_leaves_nothing_behind(story: dict[str, str]) -> None:
    before, installed, purged = (story[moment].splitlines() for moment in ("before", "installed", "purged"))
    assert "/etc/pgpool2/cluster.key" in installed
    assert "\n".join(sorted(set(purged) - set(before))) == ""
    assert "\n".join(sorted(set(before) - set(purged))) == ""


def test_postgresql_keeps_running_with_its_data(host: Host, story: dict[str, str]) -> None:
    assert story
    assert host.psql("SELECT answer FROM kept") == "42"
    host.run("systemctl restart postgresql")
    host.until("systemctl is-active 'postgresql@*'", 30)
    assert host.psql("SELECT answer FROM kept; SHOW synchronous_standby_names; SHOW primary_slot_name") == "42"
