"""When servers are verified: during an upgrade, after it, and during a key change."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.unit.cluster.nodes import primary, seen, standby
from tests.unit.cluster.threads import AT_ONCE

from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Cluster, Tls
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import certificates, units
from pgpool_cluster.machine.certificates import NOTHING, Laid
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import applying, proof
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport.peers import Peers

KEY = ClusterKey(bytes(range(32)))
NEW = ClusterKey(bytes(range(1, 33)))
STRANGER = ClusterKey(bytes(range(2, 34)))
NAMES = ("pg1", "pg2", "pg3")


@dataclass(slots=True)
class Wire:
    """Three database nodes on this machine; `shows` has the PEM that each node presents, "" for no TLS."""

    folder: Path
    listeners: dict[str, socket.socket] = field(default_factory=dict)
    shows: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        ports = {name: listener.getsockname()[1] for name, listener in self.listeners.items()}
        nodes = ", ".join(f"{name}: {{address: 127.0.0.{i + 1}, port: {ports[name]}}}" for i, name in enumerate(NAMES))
        return parse(f"nodes: {{{nodes}}}\n", "x", "pg1")

    def show(self, key: ClusterKey, *names: str) -> None:
        for name in names or NAMES:
            node = self.cluster.named(name)
            self.shows[name] = certificates.server(key, node, NOTHING, certified=True)

    def serve(self, name: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listeners[name].accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self._answer(name, connection)

    def _answer(self, name: str, connection: socket.socket) -> None:
        assert connection.recv(8) == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
        self.asked.append(name)
        if not self.shows[name]:
            connection.sendall(b"N")
            return
        place = self.folder / f"{name}.pem"
        place.write_text(self.shows[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place)
        connection.sendall(b"S")
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(tmp_path)
    for number, name in enumerate(NAMES):
        made.listeners[name] = socket.create_server((f"127.0.0.{number + 1}", 0))
    made.show(KEY)
    threads = [threading.Thread(target=made.serve, args=(name,), daemon=True) for name in NAMES]
    for thread in threads:
        thread.start()
    yield made
    for listener, thread in zip(made.listeners.values(), threads, strict=True):
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()  # a late accept() could use the next test's socket, which gets the same number
        listener.close()


@dataclass(slots=True)
class Node2:
    """pg2, a standby of pg1, with its files and its clock."""

    here: Here
    work: proof.Proof
    now: float = 0.0
    applied: int = 0
    conninfo: str = ""
    reloads: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def round(self, facts: ClusterFacts, *, seconds: float = 60.0) -> None:
        self.now += seconds
        self.work.tend(facts)


@pytest.fixture
def pg2(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node2:
    for name in ("AUTHORITIES", "SERVER_CERTIFICATE", "ROOT_CERTIFICATE", "FINGERPRINT", "RECORD"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    here = Here(wire.cluster, wire.cluster.named("pg2"), None, Peers({}), Record())
    node = Node2(here, proof.Proof(here))
    monkeypatch.setattr(applying, "_GATHER_SECONDS", 0)
    monkeypatch.setattr(applying, "threading", AT_ONCE)
    monkeypatch.setattr(time, "monotonic", lambda: node.now)

    def control(verb: str) -> None:
        assert verb == "apply"
        node.applied += 1
        node.done.set()

    def query(_: Here, sql: str, *__: object) -> list[tuple[str]]:
        node.reloads += sql == "SELECT pg_reload_conf()"
        if sql.startswith("ALTER SYSTEM"):
            node.conninfo = sql.partition("'")[2].rstrip("'")
        return [(node.conninfo,)]

    monkeypatch.setattr(units, "control", control)
    monkeypatch.setattr(Here, "query", query)
    lay(node, KEY)
    return node


def lay(node: Node2, key: ClusterKey) -> None:
    """Do what `apply` would do on this node with its current record."""
    record, before = node.here.record, Laid.here()
    alone, certified = record.proven == key.fingerprint, record.certified == key.fingerprint
    paths.AUTHORITIES.write_text(certificates.authorities(key, before, alone=alone))
    paths.SERVER_CERTIFICATE.write_text(certificates.server(key, node.here.me, before, certified=certified))
    paths.ROOT_CERTIFICATE.write_text(f"{paths.AUTHORITIES}\n" if record.proven else "\n")
    paths.FINGERPRINT.write_text(f"{key.fingerprint}\n")


def facts(*keys: ClusterKey) -> ClusterFacts:
    found = (primary("pg1"), standby("pg2", "pg1"), standby("pg3", "pg1"))
    return seen(*(replace(one, key=key.fingerprint) for one, key in zip(found, keys or (KEY,) * 3, strict=True)))


def test_a_server_that_presents_its_old_certificate_is_reloaded(wire: Wire, pg2: Node2) -> None:
    wire.show(STRANGER, "pg2")
    pg2.round(facts())
    before = pg2.reloads
    pg2.round(facts())
    assert pg2.reloads == before + 1
    wire.show(KEY, "pg2")
    pg2.round(facts())
    assert pg2.reloads == before + 1


def test_an_older_node_is_reached_until_it_presents_a_certificate_too(wire: Wire, pg2: Node2) -> None:
    wire.show(STRANGER, "pg3")  # like the machine's own from ssl-cert
    for _ in range(3):
        pg2.round(facts())
    assert pg2.here.record.proven == ""
    assert "sslmode=require channel_binding=require" in pg2.conninfo
    assert wire.asked.count("pg1") == 1, "a server that has proved itself is not asked again"
    wire.show(KEY, "pg3")
    pg2.round(facts())
    assert pg2.here.record.proven == KEY.fingerprint
    assert pg2.done.wait(5)
    lay(pg2, KEY)
    pg2.round(facts())
    assert "sslmode=verify-full" in pg2.conninfo
    assert f"sslrootcert={paths.AUTHORITIES}" in pg2.conninfo
    pg2.round(facts())
    assert pg2.applied == 1


@pytest.mark.parametrize("shown", [STRANGER, None])
def test_verification_is_never_reverted(wire: Wire, pg2: Node2, shown: ClusterKey | None) -> None:
    pg2.round(facts())
    lay(pg2, KEY)
    if shown is None:
        wire.shows = dict.fromkeys(NAMES, "")
    else:
        wire.show(shown)
    pg2.round(facts())
    assert pg2.here.record.proven == KEY.fingerprint
    assert "verify-full" in pg.conninfo(wire.cluster, "pg2", "pg1")


def test_a_node_that_is_away_is_waited_for(wire: Wire, pg2: Node2) -> None:
    known = facts()
    pg2.round(seen(known.of("pg1"), known.of("pg2"), replace(known.of("pg3"), reachable=False)))
    assert pg2.here.record.proven == ""
    assert "pg3" not in wire.asked


def test_another_node_at_the_address_is_rejected(wire: Wire) -> None:
    """One authority signs all nodes' certificates; the name in them distinguishes the nodes."""
    wire.shows["pg3"] = wire.shows["pg1"]
    why = proof.refused(wire.cluster.named("pg3"), pem=certificates.authorities(KEY, NOTHING, alone=True))
    assert "certificate is not the cluster's" in why
    assert "IP address mismatch" in why


def test_a_server_without_tls_is_not_verified(wire: Wire) -> None:
    wire.shows["pg3"] = ""
    assert proof.refused(wire.cluster.named("pg3"), pem=certificates.authorities(KEY, NOTHING, alone=True))


def test_another_key_takes_over_step_by_step(wire: Wire, pg2: Node2) -> None:
    pg2.round(facts())
    lay(pg2, KEY)
    old = paths.SERVER_CERTIFICATE.read_text()

    lay(pg2, NEW)
    pg2.round(facts(KEY, NEW, KEY))
    assert paths.SERVER_CERTIFICATE.read_text() == old, "nodes with the old key could not check another one"
    assert Laid.here().count == 2
    assert "verify-full" in pg.conninfo(wire.cluster, "pg2", "pg1")
    pg2.done.clear()

    pg2.round(facts(KEY, NEW, NEW))
    assert pg2.here.record.certified == NEW.fingerprint
    assert pg2.done.wait(5)
    lay(pg2, NEW)
    assert Laid.here().of_first
    assert Laid.here().count == 2, "pg1 still shows the old authority's"

    wire.show(NEW)
    pg2.round(facts(NEW, NEW, NEW))
    assert pg2.here.record.proven == NEW.fingerprint
    lay(pg2, NEW)
    assert Laid.here().count == 1


def test_an_administrators_own_authority_is_used(wire: Wire, pg2: Node2, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(certificates.authorities(STRANGER, NOTHING, alone=True))
    pg2.here.cluster = replace(wire.cluster, tls=Tls("/etc/ssl/db.pem", "/etc/ssl/db.key", str(tmp_path / "ca.pem")))
    pg2.round(facts())
    assert pg2.here.record.proven == ""
    wire.show(STRANGER)
    pg2.round(facts())
    assert pg2.here.record.proven == str(tmp_path / "ca.pem")


def test_a_round_costs_little(pg2: Node2) -> None:
    """One round of the agent may use 20 ms of processor time in total."""
    pg2.round(facts())
    lay(pg2, KEY)
    pg2.round(facts())
    began = time.process_time()
    for _ in range(20):
        pg2.round(facts())
    assert (time.process_time() - began) / 20 < 0.005
