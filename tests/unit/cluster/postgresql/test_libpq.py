"""When this node logs in to another one, the server has to authenticate itself."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest

from pgpool_cluster.copying import copy_source
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import ClusterKey, Role
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import certificates
from pgpool_cluster.machine.certificates import NOTHING
from pgpool_cluster.postgresql import libpq, postgresql

ROOT = Path(__file__).parents[4]
KEY, OTHER = ClusterKey(bytes(range(32))), ClusterKey(bytes(range(1, 33)))
CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}\n", "x", "pg1")


def words(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


def every_connection() -> list[dict[str, str]]:
    found = [copy_source.dsn(CLUSTER.nodes[0], role) for role in Role]
    return [words(text) for text in (*found, postgresql.conninfo(CLUSTER, "pg2", "pg1"))]


def test_a_local_server_is_reached_through_its_socket_as_its_superuser() -> None:
    assert libpq.local(5433, "my db") == {
        "host": paths.SOCKETS, "port": "5433", "user": "postgres", "dbname": "my db",
    }  # fmt: skip


def test_a_connection_string_names_a_database_only_if_one_is_given() -> None:
    node = CLUSTER.nodes[0]
    assert "dbname" not in words(libpq.conninfo(node, Role.CHECK, libpq.APPLICATION))
    found = words(libpq.conninfo(node, Role.CHECK, libpq.APPLICATION, database="own"))
    assert found["dbname"] == "own"
    assert found["passfile"] == "/var/lib/postgresql/.pgpass"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT_CERTIFICATE", tmp_path / "sslrootcert")
    return paths.ROOT_CERTIFICATE


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_no_password_leaves_even_while_a_server_may_lack_our_certificate(root: Path, content: str | None) -> None:
    if content is not None:
        root.write_text(content)
    for connection in every_connection():
        assert connection["sslmode"] == "require"
        assert connection["channel_binding"] == "require"
        assert "sslrootcert" not in connection


def test_afterwards_the_certificate_and_its_name_are_verified(root: Path) -> None:
    root.write_text("/etc/pgpool2/cluster/authorities/3442880f.0\n")
    for connection in every_connection():
        assert connection["sslmode"] == "verify-full"
        assert connection["sslrootcert"] == "/etc/pgpool2/cluster/authorities/3442880f.0"
        assert connection["channel_binding"] == "require"


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """An impostor of pg1: its port, and the data received after it had requested a clear-text password."""
    (tmp_path / "stranger.pem").write_text(certificates.server(OTHER, CLUSTER.nodes[0], NOTHING, certified=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "stranger.pem")
    listener, told = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain, contextlib.suppress(OSError):
                plain.settimeout(5)
                plain.recv(8)
                plain.sendall(b"S")
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(4096)
                    secured.sendall(b"R" + struct.pack(">II", 8, 3))
                    told.append(secured.recv(4096))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1], told
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.mark.parametrize("verified", [False, True])
def test_an_impostor_host_gets_no_password(
    root: Path, stranger: tuple[int, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, verified: bool
) -> None:
    port, told = stranger
    if verified:
        (tmp_path / "authorities").write_text(certificates.authorities(KEY, NOTHING, alone=True))
        root.write_text(f"{tmp_path}/authorities\n")
    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.setattr(paths, "HOME", tmp_path)
    (tmp_path / ".pgpass").write_text("*:*:*:*:of-a-superuser\n")
    (tmp_path / ".pgpass").chmod(0o600)
    cluster = parse(f"nodes: {{pg1: {{address: 127.0.0.1, port: {port}}}, pg2: 10.0.0.2}}\n", "x", "pg1")
    connections = [copy_source.dsn(cluster.nodes[0], Role.RECOVERY), postgresql.conninfo(cluster, "pg2", "pg1")]
    for text in connections:
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(f"{text} dbname=postgres")
    time.sleep(0.1)
    assert not any(told), told
    assert len(told) == (0 if verified else len(connections)), "a login began at a server that had not proved itself"


def test_no_other_module_sets_the_verification_parameters() -> None:
    """A second place would be missed in a change of this one."""
    mine = {Path(libpq.__file__).name}
    for module in (ROOT / "scripts" / "pgpool_cluster").rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        if module.name not in mine:
            assert not re.search(r"""["' ](sslmode|sslrootcert|channel_binding)["']?\s*[=:]""", text), module
            assert not re.search(r"host=\{", text), f"{module} builds a connection string"
    templates = [path.name for path in (ROOT / "config-templates").iterdir() if "sslmode" in path.read_text()]
    assert templates == ["pg_service.conf.j2"]
