"""Find the fix for a login that another node's PostgreSQL refuses, from its message in any language."""

from __future__ import annotations

import re
from functools import lru_cache

from ..definition.cluster import Node
from ..definition.key import Role
from ..ground import paths
from . import locales, message_catalogs, typed

_SQL = "SQL: "
"""Prefix of a fix that is a statement for the primary."""
_CAUSES: tuple[tuple[tuple[str, ...], str], ...] = (
    (('permission denied for database "%s"',), f"{_SQL}GRANT CONNECT ON DATABASE {{database}} TO {{role}}"),
    (('too many connections for database "%s"',), f"{_SQL}ALTER DATABASE {{database}} CONNECTION LIMIT -1"),
    (('database "%s" is not currently accepting connections',),
     f"{_SQL}ALTER DATABASE {{database}} ALLOW_CONNECTIONS true"),
    (('database "%s" does not exist',), "wait until {name} has caught up with the primary; see pgpoolctl status"),
    (('too many connections for role "%s"',), f"{_SQL}ALTER ROLE {{role}} CONNECTION LIMIT -1"),
    (('role "%s" is not permitted to log in',), f"{_SQL}ALTER ROLE {{role}} LOGIN"),
    (('role "%s" does not exist', 'password authentication failed for user "%s"'),
     "the same " + str(paths.CLUSTER_KEY) + " on both, and pgpoolctl apply; the primary then updates the roles"),
    (("sorry, too many clients already", "remaining connection slots are reserved for",),
     "raise max_connections under postgresql_conf: in " + str(paths.CLUSTER_YML) +
     ", or connect fewer clients to {name}"),
    (("no pg_hba.conf entry", "pg_hba.conf rejects"),
     "on {name}: pgpoolctl apply writes the cluster's lines to the top of pg_hba.conf; this node must connect from "
     "its own address in " + str(paths.CLUSTER_YML)),
    (("the database system is starting up", "the database system is shutting down",
      "the database system is in recovery mode", "the database system is not yet accepting connections"),
     "wait; its log on {name} (pg_lsclusters shows the path) shows its progress"),
    (("certificate verify failed", "does not match host name", "server does not support SSL", "channel binding"),
     "on {name}: pgpoolctl apply; pgpoolctl check there reports PostgreSQL's certificate"),
    (("Connection refused",), "on {name}: systemctl start postgresql; listen_addresses must be '*'"),
    (("timeout expired", "No route to host", "timed out", "did not answer"),
     "start {name}; {port}/tcp must be open between the nodes"),
)  # fmt: skip
_OTHERWISE = "on {name}: pgpoolctl check; pgpoolctl apply; {port}/tcp must be open between the nodes"


@lru_cache
def _patterns(major: int) -> tuple[tuple[re.Pattern[str], str], ...]:
    languages = message_catalogs.languages(major)

    def said(text: str) -> set[str]:
        return {re.escape(language.gettext(text)).replace("%s", ".*?") for language in languages}

    return tuple((re.compile("|".join(sorted(set[str]().union(*map(said, texts))))), fix) for texts, fix in _CAUSES)


def fix(why: str, node: Node, major: int, role: Role) -> str:
    """Return the fix for `why`, a message of `node`'s server about a login as `role`.

    `major`: PostgreSQL's version, 0 for English only.
    """
    absent = locales.refused(why)
    if absent:
        return f"on {node.name}: {locales.making([absent])}; systemctl restart postgresql"
    text = next((text for pattern, text in _patterns(major) if pattern.search(why)), _OTHERWISE)
    words = text.removeprefix(_SQL).format(name=node.name, port=node.port, database=paths.database(), role=role)
    return f"on the primary: {typed.psql(node.port, words)}" if text.startswith(_SQL) else words
