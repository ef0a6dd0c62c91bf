"""Two databases and a witness, whose agent counts in votes but whose postgres user has no power over the others."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import APP, APP_PASSWORD, INSTALL, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.cluster.load import ledger
from tests.host import Host, together

from pgpool_cluster.definition.key import Role

pytestmark = pytest.mark.thorough

AS_POSTGRES = "runuser -u postgres --"
PROMOTED_SECONDS = 30.0
FORBIDDEN = [
    {"do": "term", "term": 1000}, {"do": "recover", "node": "pg2", "force": True}, {"do": "switchover", "node": "pg2"},
    {"do": "role", "name": "app", "verifier": None}, {"do": "user", "name": "app", "verifier": None},
    {"do": "copy", "source": "pg1"}, {"do": "detach", "node": "pg2"}, {"do": "converge"},
    {"do": "note-pause", "pause": {"serial": 9, "paused": True, "since": 1.0, "by": "w", "reason": ""}, "file": ""},
]  # fmt: skip


@pytest.fixture(scope="module")
def pair(room: Lab, of_release: Images) -> Iterator[Cluster]:
    """A healthy cluster of two databases and a witness, with pg1 as its primary."""
    made = Cluster.of(room.boot(of_release.prepared, "pg1", "pg2", "w"))
    nodes = ", ".join(f"{host}: {{address: {host.address}}}" for host in made.hosts[:2])
    witness = f"w: {{address: {made.named('w').address}, runs: [pgpool]}}"
    text = f"nodes: {{{nodes}, {witness}}}\nclients: [{made.network}]\n"

    def install(host: Host) -> None:
        host.put("/etc/pgpool2/cluster.yml", text)
        host.put("/etc/pgpool2/cluster.key", f"{made.key}\n", mode=0o600)
        host.run(INSTALL, seconds=200)

    together(install, made.hosts)
    made.wait_healthy()
    databases = Cluster(made.hosts[:2], made.key)
    databases.add_app()
    made.named("w").put("/root/.pgpass", f"*:9999:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
    yield made
    room.remove(made.hosts)


@pytest.fixture
def witness(pair: Cluster) -> Host:
    return pair.named("w")


def said(witness: Host, request: dict[str, object], node: str) -> dict[str, object]:
    """Return the answer of a node's agent to the witness's postgres user."""
    line = json.dumps({**request, "from": "pg1", "id": 1})
    ssh = f"{AS_POSTGRES} ssh -F /etc/pgpool2/cluster/ssh_config {node} agent"
    answer = witness.run(f"{{ echo '{line}'; sleep 8; }} | timeout 20 {ssh} | grep -v progress | head -n 1")
    found = json.loads(answer)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", [Role.RECOVERY, Role.REPLICATION])
@pytest.mark.parametrize("node", ["pg1", "pg2"])
def test_the_witness_cannot_log_in_as_a_role_that_changes_anything(
    pair: Cluster, witness: Host, role: Role, node: str
) -> None:
    place = f"host={pair.named(node).address} dbname=postgres sslmode=require passfile=/var/lib/postgresql/.pgpass"
    refused = witness.attempt(f"{AS_POSTGRES} psql -wXAtqc 'SELECT 1' '{place} user={role}'")
    assert refused.status != 0
    assert "no password supplied" in refused.output, refused.output
    assert witness.run(f"{AS_POSTGRES} psql -wXAtqc 'SELECT 1' '{place} user={Role.CHECK}'") == "1"
    found = witness.attempt(f"grep -rlF {role} /var/lib/postgresql /etc/pgpool2/cluster --include=.pgpass "
                            "--include=pool_passwd --include=roles.sql")  # fmt: skip
    assert found.output == ""


@pytest.mark.parametrize("request_", FORBIDDEN, ids=lambda request: request["do"])
def test_the_witness_may_not_request_changes_of_a_node(witness: Host, request_: dict[str, object]) -> None:
    assert "may" in str(said(witness, request_, "pg2").get("error")), request_


def test_the_witness_cannot_promote_a_node(pair: Cluster, witness: Host) -> None:
    answer = said(witness, {"do": "promote", "term": 9, "excuse": [0, 0]}, "pg2")
    assert "does not confirm that it must be promoted" in str(answer.get("error")), answer
    assert pair.writable(*pair.hosts[:2]) == ["pg1"]


def test_a_flood_of_requests_from_the_witness_does_not_blind_the_others(pair: Cluster, witness: Host) -> None:
    ssh = f"{AS_POSTGRES} ssh -F /etc/pgpool2/cluster/ssh_config pg2 agent"
    look = json.dumps({"do": "look", "fresh": True, "id": 1})
    endless = f"for n in $(seq 20); do echo '{look}'; sleep 1; done"
    one = f"({{ {endless}; }} | timeout 25 {ssh}) >/dev/null 2>&1 </dev/null &"
    witness.run(f"for m in $(seq 110); do {one} sleep 0.1; done")
    for host in pair.hosts[:2]:
        status = json.loads(host.attempt("pgpoolctl status --json").output)
        assert {node["name"]: node["postgresql"] for node in status["nodes"]} == {"pg1": "up", "pg2": "up"}
    assert pair.writable(*pair.hosts[:2]) == ["pg1"]


def test_the_standby_takes_over_and_the_former_primary_returns(pair: Cluster, witness: Host) -> None:
    pg1, pg2 = pair.hosts[:2]
    pg1.kill()
    pair.until(lambda status: status.nodes["pg2"].role == "primary", "pg2 is the primary", PROMOTED_SECONDS, witness)
    pg1.start()
    pair.wait_healthy()  # it returns by itself
    refused = witness.attempt("pgpoolctl recover pg1")
    assert "on a node that runs PostgreSQL" in refused.output, refused.output
    assert pair.writable(pg1, pg2) == ["pg2"]


def test_the_witness_attaches_a_standby_that_was_stopped(pair: Cluster, witness: Host) -> None:
    standby = next(host for host in pair.hosts[:2] if host.name not in pair.writable(*pair.hosts[:2]))
    with ledger(pair, at=witness, through=witness, name="attached") as written:
        standby.run("systemctl stop 'postgresql@*'")
        pair.until(lambda status: not status.healthy, "the standby is missing", 60, witness)
        standby.run("systemctl start postgresql")
        pair.wait_healthy(90)
    assert written.acknowledged
