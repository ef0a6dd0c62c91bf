"""pgpool-II serves clients of the extended query protocol like PostgreSQL, even with errors and aborts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.cluster import APP, Cluster
from tests.cluster.conftest import Standing

CLIENT = "/srv/extended.py"
UNKNOWN = 'ERROR:  prepared statement "{}" does not exist'
SAID = {
    "copy": 'ERROR:  relation "missing" does not exist; PGRES_COPY_IN; 1; PGRES_COPY_IN; 100000; PGRES_COPY_IN; '
    'ERROR:  invalid input syntax for type integer: "wrong"; PGRES_COPY_IN; 0; PGRES_COPY_IN; '
    "ERROR:  COPY from stdin failed: enough; 100001; done; PGRES_COPY_IN; 1; 100002; done; 100002",
    "copy_out": "PGRES_COPY_OUT; [b'1', b'2', b'3']; 3; 7; PGRES_COPY_OUT; [b'1', b'2', b'3']; 3; 7; "
    "PGRES_COPY_OUT; [b'1']; ERROR:  division by zero; 7; "
    "PGRES_COPY_OUT; []; ERROR:  canceling statement due to user request; 7",
    "copy_at_once": "12GCZ; 12EZ; 12GCZ; 1EZ; 7",
    "describe": f'{UNKNOWN.format("unknown")}; ERROR:  portal "unknown" does not exist; 7; done; '
    f"{UNKNOWN.format('unknown')}; ERROR:  current transaction is aborted, commands ignored until end of transaction "
    f"block; done; {UNKNOWN.format('unknown')}; 8; done; 8",
    "discard": f"7; done; 7; done; done; 7; done; {UNKNOWN.format('named')}; done; 8; 9; 9; done; 1",
}


@pytest.fixture(scope="module")
def served(any_mode: str, standing: Standing) -> Cluster:
    """A cluster with the client on its first host, and an empty table."""
    cluster = standing.well(any_mode)
    first = cluster.hosts[0]
    first.put(CLIENT, Path(__file__).with_name("extended.py").read_text(encoding="utf-8"))
    cluster.ask("DROP TABLE IF EXISTS copied;\nCREATE TABLE copied (x int)", at=first)
    return cluster


def client(cluster: Cluster, story: str) -> str:
    """Return the shell command that makes the client run a story."""
    where = f"host={cluster.hosts[0].address} port=9999 user={APP} dbname={APP} sslmode=require"
    return f"HOME=/root python3 {CLIENT} '{where}' {story}"


@pytest.mark.parametrize("story", SAID)
def test_it_is_answered_as_by_postgresql(served: Cluster, story: str) -> None:
    assert served.hosts[0].run(client(served, story), seconds=30) == SAID[story]
    assert "down" not in {node.pgpool for node in served.status().nodes.values()}


def test_a_cancel_ends_at_once_and_in_order(cluster: Cluster) -> None:
    """libpq waits until the connection with its cancel request is closed; since 17, it uses TLS for that."""
    cluster.hosts[0].put(CLIENT, Path(__file__).with_name("extended.py").read_text(encoding="utf-8"))
    said = cluster.hosts[0].run(client(cluster, "cancel"), seconds=30)
    canceled, error, seconds = said.split("; ")
    assert (canceled, error) == ("ERROR:  canceling statement due to user request", "no error")
    assert int(seconds) < 2


def test_a_copy_whose_client_has_gone_keeps_no_locks(served: Cluster) -> None:
    first = served.hosts[0]
    first.attempt(client(served, "abandon"), seconds=30)
    served.ask("SET lock_timeout = '5s';\nDROP TABLE copied", at=first)
