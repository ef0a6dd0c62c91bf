"""One command creates a database user that can log in through every pgpool-II to every node with SCRAM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.chroot import Answer
from tests.cluster.cluster import Cluster
from tests.host import Host

from pgpool_cluster.definition import key as keys

PASSWORD = "pass word'\"$\\:of-alice"  # noqa: S105 - with all that a shell, SQL or a file of colons could stumble over


@pytest.fixture(scope="module", autouse=True)
def alice(cluster: Cluster, pg2: Host) -> Iterator[None]:
    """The user alice, created on a node that is not the primary."""
    set_password(pg2, "alice", PASSWORD)
    yield
    pg2.attempt("pgpoolctl user remove alice; pgpoolctl user remove bob")


def set_password(at: Host, name: str, password: str) -> None:
    at.put("/root/password", f"{password}\n", mode=0o600)
    at.run(f"pgpoolctl user set {name} --password-stdin </root/password; rm /root/password")


def log_in(at: Host, through: Host, name: str, password: str, sql: str = "SELECT current_user") -> Answer:
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    at.put("/root/alice.pgpass", f"*:*:*:{name}:{escaped}\n", mode=0o600)
    where = f"host={through.address} port=9999 user={name} dbname=postgres sslmode=require connect_timeout=5"
    return at.attempt(f"PGPASSFILE=/root/alice.pgpass psql -XAtqw '{where}' -c '{sql}'", seconds=30)


def test_a_user_logs_in_through_every_pgpool(cluster: Cluster) -> None:
    for at in cluster.hosts:
        for through in cluster.hosts:
            answer = log_in(at, through, "alice", PASSWORD)
            assert (answer.status, answer.output) == (0, "alice"), f"{at} through {through}"


def test_every_node_lets_the_user_in(cluster: Cluster, pg1: Host) -> None:
    """Reads are spread, so forty sessions reach all nodes."""
    answers = [log_in(pg1, pg1, "alice", PASSWORD, "SELECT host(inet_server_addr())") for _ in range(40)]
    assert {answer.output for answer in answers} == {host.address for host in cluster.hosts}


def test_a_wrong_password_is_refused(pg1: Host, pg3: Host) -> None:
    answer = log_in(pg1, pg3, "alice", "wrong")
    assert answer.status != 0
    assert "authentication failed" in answer.output or "password" in answer.output


def test_the_role_is_an_ordinary_one_with_scram(pg3: Host) -> None:
    row = pg3.psql("SELECT rolcanlogin, rolsuper, rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid "
                   "WHERE rolname = 'alice'")  # fmt: skip
    assert row == "t|f|t"


def test_every_node_lists_the_same_users(cluster: Cluster, pg2: Host) -> None:
    set_password(pg2, "bob", "of-bob")
    lists = {host.run("pgpoolctl user list") for host in cluster.hosts}
    assert len(lists) == 1
    assert {"alice", "app", "bob"} <= set(lists.pop().split())


def test_a_new_password_replaces_the_old_one_at_once(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    set_password(pg3, "alice", "another one")
    for through in cluster.hosts:
        assert log_in(pg1, through, "alice", "another one").output == "alice"
        assert log_in(pg1, through, "alice", PASSWORD).status != 0
    set_password(pg3, "alice", PASSWORD)


def test_the_password_is_nowhere_in_the_journal_nor_readable(cluster: Cluster) -> None:
    for host in cluster.hosts:
        assert host.run("journalctl --no-pager -a | grep -F 'of-alice' || :") == ""
        scan = "find /etc /var/lib /run -xdev -ignore_readdir_race -type f -exec grep -lasF 'of-alice' {} + || :"
        assert host.run(scan) == ""  # ignore files that have been deleted meanwhile


def test_a_user_set_while_a_node_was_away_can_log_in_there_later(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    pg3.stop()
    set_password(pg1, "bob", "of-later-bob")
    pg3.start()
    cluster.wait_healthy()
    pg3.until("grep -q ^bob: /etc/pgpool2/cluster/pool_passwd", 30)
    assert log_in(pg1, pg3, "bob", "of-later-bob").output == "bob"


def test_a_removed_user_cannot_log_in_any_more(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    pg3.run("pgpoolctl user remove bob")
    for through in cluster.hosts:
        assert log_in(pg1, through, "bob", "of-later-bob").status != 0
    assert "bob" not in pg1.run("pgpoolctl user list").split()
    assert pg1.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'bob' AND rolcanlogin") == "0"


@pytest.mark.thorough
def test_the_longest_password_works_and_an_md5_one_is_reported(pg1: Host, pg2: Host) -> None:
    longest = "x" * keys.LONGEST_PASSWORD_CHARACTERS
    set_password(pg2, "carol", longest)
    try:
        assert log_in(pg1, pg2, "carol", longest).output == "carol"
        pg1.psql("SET password_encryption = 'md5'; ALTER ROLE carol PASSWORD 'x'")
        said = pg2.attempt("pgpoolctl check").output
        assert "carol has an md5 password in PostgreSQL" in said
        assert "fix: pgpoolctl user set carol" in said
    finally:
        pg2.run("pgpoolctl user remove carol")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("echo x | pgpoolctl user set 'bad name' --password-stdin", 2),
        ("printf '' | pgpoolctl user set carol --password-stdin", 2),
        ("pgpoolctl user remove unknown-user", 2),
        ("echo x | pgpoolctl user set pgpool_check --password-stdin", 2),
        ("echo x | pgpoolctl user set postgres --password-stdin", 2),
        ("echo x | pgpoolctl user set pg_carol --password-stdin", 2),
        ("printf %080d 1 | pgpoolctl user set carol --password-stdin", 2),
    ],
)
def test_impossible_requests_are_refused_in_two_lines(pg1: Host, command: str, status: int) -> None:
    answer = pg1.attempt(command)
    assert answer.status == status, answer.output
    _, hint = answer.output.splitlines()
    assert hint.startswith("hint: ")
