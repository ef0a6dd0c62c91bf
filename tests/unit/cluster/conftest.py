from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.cluster.checked import NATIVE, POOL, STANDBY, Machine, make_certificate

from pgpool_cluster.agent.checks import check_certificates
from pgpool_cluster.copying import adopting, copy_source
from pgpool_cluster.definition.cluster import Tls
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import known_faults, packages, unit_files, units
from pgpool_cluster.machine.network import addresses, link_layer
from pgpool_cluster.machine.wal import archive
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import proof
from pgpool_cluster.operations.accounts import roles
from pgpool_cluster.postgresql import data_directory, server_log
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport import channel, fresh_login


@pytest.fixture(scope="session", autouse=True)
def _agents_end_soon() -> Iterator[None]:
    """Let the server of an agent's socket notice its end within 10 ms: many tests start and end one."""
    serve = channel._Server.serve_forever
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel._Server, "serve_forever", lambda self, poll_interval: serve(self, poll_interval / 20))
        yield


@pytest.fixture
def archive_folder(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    found.mkdir()
    return found


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    found = tmp_path / "pg_wal"
    found.mkdir()
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_certificate(tmp_path_factory.mktemp("certificate"), 400)


@pytest.fixture
def pg1(tmp_path: Path, certificate: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path, certificate)
    own = Tls(str(tmp_path / "own.pem"), str(tmp_path / "own.pem"), None)
    for name in ("AUTHORITIES", "CONTAINER", "DATABASE", "ROOT_CERTIFICATE", "KEY_OF_PGPOOL"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "SERVER_CERTIFICATE", tmp_path / "server.pem")
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(roles, "_PATH", tmp_path / "roles.sql")
    monkeypatch.setattr(check_certificates, "MACHINE_TLS", own)
    monkeypatch.setattr(Here, "look", lambda _: found.facts)
    monkeypatch.setattr(copy_source, "connect", found.connect)
    monkeypatch.setattr(adopting, "connect", found.connect)
    monkeypatch.setattr(socket, "create_connection", found.reach)
    monkeypatch.setattr(fresh_login, "refused", lambda name, **_: found.new_logins.get(name, ""))
    monkeypatch.setattr(addresses, "look_up", found.look_up)
    monkeypatch.setattr(addresses, "toward", lambda _: found.source and ipaddress.ip_address(found.source))
    monkeypatch.setattr(addresses, "has", lambda address: str(address) in found.own_addresses)
    monkeypatch.setattr(link_layer, "neighbours", lambda: found.neighbours)
    monkeypatch.setattr(proof, "refused", lambda node, **_: found.unproven.get(node.name, ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: found.disk)
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(f_flag=found.flags, f_files=1000, f_favail=int(1000 * found.inodes))
    )
    monkeypatch.setattr(packages, "version", lambda _: found.version)
    monkeypatch.setattr(unit_files, "states", found.states)
    monkeypatch.setattr(data_directory, "starts_by_itself", lambda _: found.starts)
    monkeypatch.setattr(pg, "configured", lambda _: found.configured)
    monkeypatch.setattr(archive, "usage", lambda _: found.usage)
    monkeypatch.setattr(archive, "is_writable", lambda _: found.archives)
    monkeypatch.setattr(units, "state", lambda _: found.unit)
    monkeypatch.setattr(server_log, "last_words", lambda _: found.last_words)
    monkeypatch.setattr(known_faults, "installed", lambda: found.installed)
    return found


@pytest.fixture
def standby(pg1: Machine) -> Machine:
    """pg1 as a healthy standby of pg2."""
    pg1.facts = replace(STANDBY, pgpool=POOL)
    return pg1


@pytest.fixture
def native(pg1: Machine) -> Machine:
    pg1.cluster = NATIVE
    pg1.clocks = {name: replace(one, file=NATIVE.fingerprint) for name, one in pg1.clocks.items()}
    return pg1
