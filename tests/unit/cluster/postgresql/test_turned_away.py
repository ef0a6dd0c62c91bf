"""Each reason for a refused login has its own fix; the only one used to be `pgpoolctl apply`."""

from __future__ import annotations

import gettext

import pytest

from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.postgresql import message_catalogs, turned_away

PG2 = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1").named("pg2")
AT = 'connection to server at "10.0.0.2", port 5432 failed: '
SAID = {
    'FATAL:  permission denied for database "postgres"; DETAIL:  User does not have CONNECT privilege.':
        "on the primary: runuser -u postgres -- psql -X -p 5432 -d postgres -c "
        "'GRANT CONNECT ON DATABASE postgres TO pgpool_recovery'",
    'FATAL:  too many connections for database "postgres"': "CONNECTION LIMIT -1",
    'FATAL:  database "postgres" is not currently accepting connections': "ALLOW_CONNECTIONS true",
    'FATAL:  role "pgpool_check" is not permitted to log in': "'ALTER ROLE pgpool_recovery LOGIN'",
    'FATAL:  password authentication failed for user "pgpool_check"': "cluster.key on both",
    "FATAL:  sorry, too many clients already": "raise max_connections",
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "x"': "this node must connect from its own address",
    "FATAL:  the database system is starting up": "wait; its log on pg2",
    'SSL error: certificate verify failed': "pgpoolctl check there",
    "Connection refused; Is the server running on that host": "systemctl start postgresql",
    "timeout expired": "5432/tcp must be open",
    'FATAL:  x; DETAIL:  The database was initialized with LC_COLLATE "de_DE.UTF-8",  which is not recognized by '
    "setlocale().": "locale-gen",
    "something else": "on pg2: pgpoolctl check; pgpoolctl apply",
}  # fmt: skip


@pytest.mark.parametrize("why", SAID)
def test_a_cause_has_its_own_fix(why: str) -> None:
    assert SAID[why] in turned_away.fix(AT + why, PG2, 0, Role.RECOVERY)


def test_a_cause_has_its_own_fix_in_another_language(monkeypatch: pytest.MonkeyPatch) -> None:
    class French(gettext.NullTranslations):
        def gettext(self, message: str) -> str:
            return {'permission denied for database "%s"': "droit refusé pour la base « %s »"}.get(message, message)

    monkeypatch.setattr(message_catalogs, "languages", lambda _: [gettext.NullTranslations(), French()])
    turned_away._patterns.cache_clear()
    assert "GRANT CONNECT" in turned_away.fix(
        f"{AT}FATAL:  droit refusé pour la base « postgres »", PG2, 17, Role.CHECK
    )
    turned_away._patterns.cache_clear()
