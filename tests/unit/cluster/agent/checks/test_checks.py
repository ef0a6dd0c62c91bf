"""The checks of a node as a whole."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
from tests.unit.cluster.checked import POOL, Machine

from pgpool_cluster.agent.checks import checks
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine import unit_files
from pgpool_cluster.machine.network.addresses import placed
from pgpool_cluster.machine.unit_files import UnitFile
from pgpool_cluster.transport import fresh_login
from pgpool_cluster.transport.lines import OddAnswerError
from pgpool_cluster.transport.protocol import CheckAnswer


def test_a_cluster_of_two_nodes_is_reported(pg1: Machine) -> None:
    pg1.cluster = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")
    pg1.forgets("pg3")
    del pg1.problems["pg3"]
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    assert [check.what for check in pg1.failed()] == ["a node may fail"]


def test_a_witness_is_not_asked_about_postgresql(pg1: Machine) -> None:
    text = "nodes: {pg1: {address: 10.0.0.1, runs: [pgpool]}, pg2: db2.example.org, pg3: 10.0.0.3}"
    pg1.cluster = placed(parse(text, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    pg1.server, pg1.facts = None, NodeFacts("pg1", key="k", pgpool=POOL)
    found = checks.run(pg1.here)
    assert pg1.logins == {Role.CHECK}, "it knows no other role's password"
    assert [check for check in found if not check.ok] == []
    assert not [check for check in found if check.what.startswith(("PostgreSQL 17", "it belongs"))]
    assert [check for check in found if check.what == "pgpool-II runs"]


def test_a_check_that_cannot_run_fails_and_does_not_stop_the_others(
    pg1: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states(_: object) -> dict[str, UnitFile]:
        raise ServerError("systemd does not answer", hint="systemctl status")

    monkeypatch.setattr(unit_files, "states", states)
    pg1.has(inodes=0.01)
    assert [(check.what, check.fix.split(":")[0]) for check in pg1.failed()] == [
        ("all checks can run", "systemctl status"),
        ("the disk of PostgreSQL has free inodes", f"delete files on the file system of {pg1.folder / 'data'}"),
    ]


def test_the_checks_wait_at_the_same_time(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent node, whose ports all time out, takes as long as one port."""
    at_once = threading.Barrier(5, timeout=10)

    def reach(*_: object, **__: object) -> None:
        at_once.wait()
        raise TimeoutError("timed out")

    def refused(name: str, **_: object) -> str:
        at_once.wait()
        return f"ssh: {name} is silent"

    monkeypatch.setattr(socket, "create_connection", reach)
    monkeypatch.setattr(fresh_login, "refused", refused)
    monkeypatch.setattr(unit_files, "states", lambda names: at_once.wait() >= 0 and pg1.states(names))
    assert [check.what for check in pg1.failed()] == [
        what
        for name in ("pg2", "pg3")
        for what in (
            f"a new login over ssh to {name} works",
            f"{name} answers on 9999/tcp",
        )
    ]


def test_a_node_that_answers_over_ssh_but_sends_no_checks_is_named(pg1: Machine) -> None:
    pg1.forgets("pg3")
    found = checks.run(pg1.here)
    late = OperationError("pg2 is unreachable: no answer for 10 s", hint="")
    for answers, why in (({}, "it is late"), ({"pg2": late, "pg3": late}, late.message)):
        (unsent,) = checks.of_others(found, ["pg2", "pg3"], answers)
        assert (unsent.node, unsent.what, unsent.why) == ("pg2", "it sends its checks", why)
        assert unsent.fix.startswith("journalctl -u pgpool2-cluster.service, on pg2; its machine may be overloaded")
    good = Check("pg2", "it runs", True)
    assert checks.of_others(found, ["pg2", "pg3"], {"pg2": CheckAnswer((good,))}) == [good]


def test_an_answer_that_is_no_list_of_checks_is_a_check_that_fails(pg1: Machine) -> None:
    (found,) = checks.of_others([], ["pg2"], {"pg2": OddAnswerError("x", hint="y")})
    assert (found.node, found.ok) == ("pg2", False)
    assert "on pg2; install the same version of pgpool2-cluster" in found.fix
