"""A fault is reported in one line with its place and a hint; dpkg succeeds, and the services keep running."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import INSTALL, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.host import Host

from pgpool_cluster.definition import key as keys

YML = "/etc/pgpool2/cluster.yml"
KEY = "/etc/pgpool2/cluster.key"
GOOD = "nodes:\n  pg1: 198.18.0.1\n  pg3: 198.18.0.3\n"
FAULTS = {
    "a tab": ("nodes:\n\tpg1: 198.18.0.1\n", f"{YML}:2: ", "spaces"),
    "an unknown key": (f"{GOOD}modes: streaming_replication\n", f"{YML}:4: ", "mode"),
    "two nodes on one address": (f"{GOOD}  pg4: 198.18.0.1\n", f"{YML}:4: ", ""),
    "a host name for a shell": ('nodes:\n  "$(touch /run/owned)": 198.18.0.1\n', f"{YML}:2: ", "host name"),
    "an address for a shell": ('nodes:\n  pg3: "$(touch /run/owned)"\n', f"{YML}:2: ", "10.0.0.1"),
    "not this machine": ("nodes: {pg8: 198.18.0.8, pg9: 198.18.0.9}\n", f"{YML}: ", "hostnamectl"),
    "no such PostgreSQL": (f"{GOOD}postgresql: 99/main\n", f"{YML}", "pg_lsclusters"),
    "no mode": (f"{GOOD}mode: master_slave\n", f"{YML}:4: ", "streaming_replication"),
    "not YAML": (f"{GOOD}clients: [10.0.0.0/8\n", f"{YML}:", ""),
    "not UTF-8": (f"{GOOD}# caf\udce9\n", f"{YML}:", "UTF-8"),
}
BRIEFLY = ("a tab", "an address for a shell", "not this machine", "not UTF-8")
"""The faults for a run without a named release, one of each kind; tests/unit covers the messages of the others."""
MAIN = "systemctl show -P MainPID pgpool2 'postgresql@*'"


serves_on = pytest.mark.usefixtures("nothing_stops")


@pytest.fixture
def nothing_stops(cluster: Cluster, pg3: Host) -> Iterator[None]:
    """pg3 keeps serving with any fault, and once that is fixed, the cluster is healthy without a further command."""
    before = pg3.run(MAIN)
    pg3.run(f"cp -p {YML} {KEY} /root")
    yield
    assert pg3.run(MAIN) == before
    pg3.run(f"cp -p /root/cluster.yml {YML}; cp -p /root/cluster.key {KEY}")
    pg3.run("[ ! -e /run/owned ]; systemctl restart pgpool2-cluster")
    cluster.wait_healthy(60)
    assert pg3.run(MAIN) == before


def two_lines(host: Host, command: str, *status: int) -> tuple[str, str]:
    """Run a command that has to fail with one line and a hint, and return both."""
    answer = host.attempt(f"{command} 2>&1 >/dev/null")
    assert answer.status in status, answer.output
    lines = answer.output.splitlines()
    assert len(lines) == 2, answer.output
    assert lines[1].startswith("hint: "), answer.output
    return lines[0], lines[1]


@serves_on
@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in BRIEFLY else pytest.mark.thorough) for fault in FAULTS]
)
def test_a_fault_in_cluster_yml_is_reported_with_its_line(pg3: Host, fault: str) -> None:
    text, where, hint = FAULTS[fault]
    coded = text.encode("utf-8", "surrogateescape").hex()
    pg3.run(f"echo {coded} | basenc --base16 -di >{YML}".replace(coded, coded.upper()))
    said = two_lines(pg3, "pgpoolctl apply", 2)
    assert where in said[0], said
    assert hint in " ".join(said)
    pg3.run("dpkg-reconfigure -f noninteractive pgpool2-cluster </dev/null")
    pg3.run("systemctl restart pgpool2-cluster || :")
    pg3.until(f"journalctl -u pgpool2-cluster --since=-1min | grep -qF {shlex.quote(said[0])}", 20)


@serves_on
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short", "too short"),
        (keys.PREFIX + "A" * 20, "cut off"),
        ("", "0 lines"),
    ],
)
def test_a_fault_in_the_key_is_reported_without_the_key(pg3: Host, text: str, reason: str) -> None:
    pg3.put(KEY, f"{text}\n", mode=0o600)
    said = two_lines(pg3, "pgpoolctl apply", 2)
    assert KEY in said[0]
    assert reason in said[0]
    assert "A" * 10 not in said[0]


def test_another_key_on_one_node_stops_nothing_and_check_reports_it(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    before = pg3.run(f"cp -p {KEY} /root; {MAIN}")
    pg3.put(KEY, f"{keys.generate()}\n", mode=0o600)
    pg3.run("pgpoolctl apply || :")
    for host in (pg1, pg3):
        host.until("pgpoolctl check | grep '^FAIL' | grep -q cluster.key", 30)
    assert pg3.run(MAIN) == before
    pg3.run(f"cp -p /root/cluster.key {KEY}; pgpoolctl apply; systemctl restart pgpool2-cluster")
    cluster.wait_healthy(60)


DOORS = {
    "login shell": ("chsh -s /usr/sbin/nologin postgres", "chsh -s /bin/bash postgres", "chsh -s /bin/bash postgres"),
    "AllowUsers": (
        "echo AllowUsers root >/etc/ssh/sshd_config.d/00-only.conf; systemctl reload ssh", "add postgres to it",
        "rm /etc/ssh/sshd_config.d/00-only.conf; systemctl reload ssh",
    ),
    "locked": (
        "echo UsePAM no >/etc/ssh/sshd_config.d/00-only.conf; systemctl reload ssh; usermod -L postgres",
        "usermod -p '*' postgres",
        "rm /etc/ssh/sshd_config.d/00-only.conf; systemctl reload ssh; usermod -p '*' postgres",
    ),
}  # fmt: skip


@serves_on
@pytest.mark.thorough
@pytest.mark.parametrize("cause", DOORS)
def test_an_obstacle_to_ssh_logins_is_reported_on_the_node_to_edit(pg1: Host, pg3: Host, cause: str) -> None:
    shut, fix, mend = DOORS[cause]
    pg3.run(shut)
    try:
        failed = pg3.attempt("pgpoolctl check | grep '^FAIL'").output
        assert [
            line for line in failed.splitlines() if "sshd accepts logins of the other nodes" in line and fix in line
        ], failed
        pg1.run("systemctl restart pgpool2-cluster")
        pg1.until("pgpoolctl status | grep '^pg3: ' | grep 'on pg3' | grep -qv 'another cluster.key is there'", 30)
    finally:
        pg3.run(mend)


@serves_on
def test_a_read_only_disk_is_reported_and_nothing_is_half_written(pg3: Host) -> None:
    pg3.run(f"echo 'pgpool: {{num_init_children: 33}}' >>{YML}; mount -o bind /etc/pgpool2 /etc/pgpool2;"
            "mount -o remount,ro,bind /etc/pgpool2")  # fmt: skip
    try:
        said = two_lines(pg3, "pgpoolctl apply", 3)
    finally:
        pg3.run("umount /etc/pgpool2")
    assert "ead-only" in said[0]


@serves_on
def test_a_full_disk_is_reported_and_nothing_is_half_written(pg3: Host) -> None:
    pg3.run("mkdir /run/small; mount -t tmpfs -o size=200k tmpfs /run/small; cp -a /etc/pgpool2/. /run/small;"
            f"mount --bind /run/small /etc/pgpool2; echo 'pgpool: {{num_init_children: 33}}' >>{YML};"
            "dd if=/dev/zero of=/etc/pgpool2/filler bs=1k 2>/dev/null || :")  # fmt: skip
    hashes = "find /etc/pgpool2/cluster -type f -exec sha256sum {} + | sort"
    before = pg3.run(hashes)
    try:
        said = two_lines(pg3, "pgpoolctl apply", 3)
        assert pg3.run(hashes) == before
    finally:
        pg3.run("umount /etc/pgpool2 /run/small; rmdir /run/small")
    assert "o space left" in said[0]


@pytest.fixture(scope="module")
def alone(room: Lab, of_release: Images) -> Iterator[Host]:
    """A host with PostgreSQL that should become a cluster of one, but cannot."""
    (booted,) = room.boot(of_release.prepared, "alone")
    yield booted
    room.remove((booted,))


def test_a_missing_postgresql_is_reported_and_fixed_by_creating_one(alone: Host, of_release: Images) -> None:
    alone.run(f"systemctl disable --now pgpool2; pg_dropcluster --stop {of_release.major} main")
    alone.run(INSTALL)
    alone.until("journalctl -u pgpool2-cluster | grep -q 'no PostgreSQL'", 30)
    said = two_lines(alone, "pgpoolctl apply", 2, 3)
    assert "no PostgreSQL" in said[0]
    assert "pg_createcluster" in said[1]


@pytest.mark.thorough
def test_a_port_in_use_is_reported_and_fixed_by_freeing_it(alone: Host, of_release: Images) -> None:
    alone.run("systemd-run -q --unit=squatter python3 -m http.server 9999")
    alone.until("python3 -c \"import socket; socket.create_connection(('127.0.0.1', 9999))\"", 10)
    alone.run(f"pg_createcluster {of_release.major} main --start; pgpoolctl apply || :")
    said = alone.until("pgpoolctl check | grep ^FAIL.*9999", 30)
    assert "fix: " in said
    alone.run("systemctl stop squatter")
    Cluster.of([alone]).wait_healthy(90)
