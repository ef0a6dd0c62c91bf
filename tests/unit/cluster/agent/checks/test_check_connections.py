"""Faults between two nodes, each found by its own check."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import replace

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.checked import Break, Machine, check_of

from pgpool_cluster.agent.checks import checks
from pgpool_cluster.copying import copy_source
from pgpool_cluster.decision.liveness.links import LinkState
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground import paths
from pgpool_cluster.machine.network import addresses
from pgpool_cluster.transport import fresh_login


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: (m.forgets("pg3"), m.problems.update(pg3="Connection refused")),
                     "pg3 answers over ssh", "Connection refused", "on pg3: systemctl start ssh", id="ssh"),
        pytest.param(lambda m: m.forgets("pg3"), "pg3 answers over ssh", "no answer", "pg3", id="no reason"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], key="other")),
                     "pg2 has this node's cluster.key", "its key differs", f"copy {paths.CLUSTER_KEY}", id="key"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], file="other")),
                     "pg2 has this node's cluster.yml", "nodes, mode or synchronous differ",
                     f"the same {paths.CLUSTER_YML} on both", id="cluster.yml"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], clock=60.0)), "the clock of pg2 agrees",
                     "the clocks differ by 60.0 s", "apt install chrony", id="ahead"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], clock=-60.0)), "the clock of pg2 agrees",
                     "the clocks differ by 60.0 s", "apt install chrony", id="behind"),
        pytest.param(lambda m: m.resolved.update({"db2.example.org": ("10.0.0.9",)}),
                     "db2.example.org resolves to the address in use for pg2", "db2.example.org is 10.0.0.9 now",
                     "/etc/hosts or DNS",
                     id="moved"),
        pytest.param(lambda m: m.resolved.update({"db2.example.org": ()}),
                     "db2.example.org resolves to the address in use for pg2", "is not found", "/etc/hosts or DNS",
                     id="no name"),
        pytest.param(lambda m: m.refused_logins.update({"10.0.0.3": "FATAL:  sorry, too many clients already\n"}),
                     "PostgreSQL of pg3 accepts logins from this node", "too many clients", "raise max_connections",
                     id="login"),
        pytest.param(lambda m: m.unproven.update(pg3="its certificate is not the cluster's"),
                     "PostgreSQL of pg3 presents a valid certificate", "its certificate is not",
                     "on pg3: pgpoolctl apply", id="proof"),
        pytest.param(lambda m: m.beats.lose("pg2"), "heartbeats from pg2 arrive", "the last one arrived 7 s ago",
                     "open 9695/udp between the nodes in both directions", id="link lost"),
        pytest.param(lambda m: m.beats.lose("pg2", LinkState.NEVER, heard=-math.inf), "heartbeats from pg2 arrive",
                     "none has arrived", "open 9695/udp", id="no link yet"),
        pytest.param(lambda m: m.beats.lose("pg3", heard=0.0), "heartbeats from pg3 arrive",
                     "they arrive, but pg3 receives none of this node", "in both directions", id="one way"),
        pytest.param(lambda m: m.beats.lose("pg3", refused="it was made with another key"),
                     "heartbeats from pg3 arrive", "was refused: it was made with another key",
                     f"copy {paths.CLUSTER_KEY}", id="another key for heartbeats"),
        pytest.param(lambda m: m.closed.update({("10.0.0.3", 9999): OSError(111, "Connection refused")}),
                     "pg3 answers on 9999/tcp", "Connection refused", "on pg3: systemctl status pgpool2",
                     id="pool port"),
        pytest.param(lambda m: m.new_logins.update(pg3="ssh: This account is currently not available."),
                     "a new login over ssh to pg3 works", "currently not available",
                     "on pg3: chsh -s /bin/bash postgres", id="new login"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], package="0.1")),
                     "pg2 has this node's version of pgpool2-cluster", "it has 0.1, this node 0.2",
                     "apt install pgpool2-cluster", id="version"),
        pytest.param(lambda m: m.closed.update({("10.0.0.3", 9999): TimeoutError("timed out")}),
                     "pg3 answers on 9999/tcp", "timed out", "open 9999/tcp", id="blocked pool port"),
    ],
)  # fmt: skip
def test_a_fault_between_two_nodes_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix
    assert found.node == "pg1"


def test_a_socket_that_cannot_be_opened_is_the_reason_for_a_lost_link(pg1: Machine) -> None:
    assert pg1.beats is not None
    pg1.beats.unbound = "Address already in use"
    assert pg1.failed() == [], "while links are up"
    pg1.beats.lose("pg2")
    (check,) = pg1.failed()
    assert "cannot open its socket: Address already in use" in check.why
    assert "ss -lunp 'sport = 9695'" in check.fix


@pytest.mark.parametrize("state", [LinkState.UNSUPPORTED, LinkState.UNKNOWN])
def test_a_node_that_sends_no_heartbeats_fails_no_check(state: LinkState, pg1: Machine) -> None:
    assert pg1.beats is not None
    pg1.beats.lose("pg2", state)
    found = [check.what for check in checks.run(pg1.here)]
    assert "heartbeats from pg3 arrive" in found
    assert "heartbeats from pg2 arrive" not in found
    pg1.beats = None
    assert not [check for check in checks.run(pg1.here) if "heartbeats" in check.what], "this node sends none itself"


def test_a_machine_without_its_own_address_is_reported_once(pg1: Machine) -> None:
    """For example with IPv6 switched off; each connection from another address would be reported as well."""
    pg1.has(own_addresses=set(), source="10.0.0.9")
    (found,) = pg1.failed()
    assert (found.what, found.why) == ("this machine has the address 10.0.0.1", "no interface has it")
    assert "disable_ipv6" in found.fix


def test_a_node_that_does_not_answer_over_ssh_is_reported_once(pg1: Machine) -> None:
    pg1.forgets("pg3")
    pg1.problems.update(pg3="Connection refused")
    pg1.new_logins.update(pg3="Connection refused")
    assert [check.what for check in pg1.failed()] == ["pg3 answers over ssh"]


def test_a_node_of_an_older_package_reports_no_version(pg1: Machine) -> None:
    pg1.clocks["pg2"] = replace(pg1.clocks["pg2"], package="")
    assert pg1.failed() == []


def test_a_database_node_logs_in_to_the_others_as_the_role_that_copies_need(pg1: Machine) -> None:
    checks.run(pg1.here)
    assert pg1.logins == {Role.RECOVERY}


def test_a_host_that_does_not_reply_takes_at_most_3_seconds(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login, a port and a name server each had 5 s of their own, one after the other."""
    limits: list[float] = []

    def connect(*, until: float, **_: object) -> None:
        limits.append(until - time.monotonic())
        raise psycopg2.OperationalError("the server did not answer within 2.0 s")

    def reach(*_: object, timeout: float) -> None:
        limits.append(timeout)
        raise TimeoutError("timed out")

    def look_up(hosts: Iterable[str], *, seconds: float) -> dict[str, tuple[object, ...]]:
        limits.append(2 * seconds)
        return pg1.look_up(hosts, seconds=seconds)

    ended = threading.Event()
    pg1.clocks.clear()
    pg1.problems = dict.fromkeys(pg1.problems, "ssh: connect to host: Connection timed out")

    monkeypatch.setattr(copy_source, "connect", connect)
    monkeypatch.setattr(fresh_login, "refused", lambda *_, **__: ended.wait(60))
    monkeypatch.setattr(socket, "create_connection", reach)
    monkeypatch.setattr(addresses, "look_up", look_up)
    failed = pg1.failed()
    ended.set()
    assert len(limits) == 2 + 2 + 1
    assert max(limits) <= 2.5
    assert [check.what for check in failed] == [
        *(f"{name} answers over ssh" for name in ("pg2", "pg3")),
        *(
            what
            for name in ("pg2", "pg3")
            for what in (
                f"PostgreSQL of {name} accepts logins from this node",
                f"{name} answers on 9999/tcp",
            )
        ),
    ]
    assert [check.fix for check in (failed[0], failed[2])] == [
        f"start pg2; {port}/tcp must be open between the nodes" for port in (22, 5432)
    ]


def test_small_differences_between_clocks_are_tolerated(pg1: Machine) -> None:
    pg1.clocks = {name: replace(one, clock=1.5) for name, one in pg1.clocks.items()}
    assert pg1.failed() == []


def test_each_node_that_sees_this_one_at_another_address_is_named(pg1: Machine) -> None:
    pg1.source = "192.0.2.1"
    failed = pg1.failed()
    assert [check.what for check in failed] == [
        f"this node connects to {name} from its own address" for name in ("pg2", "pg3")
    ]
    assert failed[0].why == "it connects from 192.0.2.1, not 10.0.0.1"
    assert "ip route get 10.0.0.2" in failed[0].fix
    pg1.source = None
    assert pg1.failed() == [], "without a route, other checks fail"
