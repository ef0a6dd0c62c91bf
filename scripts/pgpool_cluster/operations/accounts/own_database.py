"""The database of the cluster's own roles, which exists on every server and which no other role can use.

Health checks and agents must log in to some database. If they used `postgres`, a REVOKE CONNECT, a connection limit
or a rename there would take every node out of service at once. So the primary's agent creates a database for the
roles; if every node is a primary, each node in service creates its own. Once every server has reported that it has the
database, each node applies a configuration that uses it, and remembers that. The nodes do not wait for a standby that
is away, because replication brings the database. Servers of older packages do not report the database, so the cluster
changes over when the last node is upgraded. If the database is dropped, the next round creates it again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ...decision.facts.facts import ClusterFacts
from ...definition.key import DATABASE, Role
from ...ground import log, paths
from ...ground.errors import ClusterError
from ...node.node import Here, sql_errors
from ..applying import Applying
from .roles import create_extensions

_STATEMENT_SECONDS = 600.0
"""Time limit for a statement: CREATE DATABASE in PostgreSQL 13 and 14 waits for a checkpoint, possibly for minutes."""
_HALF_DROPPED = (-2,)
"""datconnlimit of a database whose DROP DATABASE was interrupted: it can only be dropped again."""


def make(here: Here) -> None:
    """Create the database on this node's server unless it exists; set its rights last. Raises OperationError."""
    sql_errors(lambda: _make(here))


def _make(here: Here) -> None:
    with here.server.session("postgres", seconds=_STATEMENT_SECONDS) as cursor:
        cursor.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS:.0f}s'")
        cursor.execute("SELECT datconnlimit FROM pg_database WHERE datname = %s", (DATABASE,))
        there = cursor.fetchone()
        if there == _HALF_DROPPED:
            cursor.execute(f"DROP DATABASE {DATABASE}")
        if there in (None, _HALF_DROPPED):
            log.info(f"creating the database {DATABASE}, which health checks and agents log in to")
            cursor.execute(f"CREATE DATABASE {DATABASE} OWNER postgres TEMPLATE template0")
        cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
    with here.server.session(DATABASE) as cursor:
        create_extensions(here, cursor)
        cursor.execute(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1")
        cursor.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        cursor.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(Role)}")


@dataclass(slots=True)
class OwnDatabase:
    """One node's part in creating the database; its state in memory may be lost at any time."""

    here: Here
    applying: Applying = field(default_factory=Applying, repr=False)
    _making: threading.Thread | None = field(default=None, repr=False)
    _failed: ClusterError | None = None

    def tend(self, facts: ClusterFacts, *, writes: bool) -> None:
        """Do the next step; the agent calls this in each round. `writes`: this node creates it. Raises ClusterError."""
        here = self.here
        if writes and not facts.of(here.me.name).own_database:
            self._make()
        if not here.record.own_database and self._everywhere(facts):
            here.remember(own_database=True)
            log.info(f"every server has the database {DATABASE}: health checks and agents log in there from now on")
        if here.record.own_database and paths.database() != DATABASE:
            self.applying.ask("the database for health checks")

    def _everywhere(self, facts: ClusterFacts) -> bool:
        """Return whether every server has it; standbys that are away do not count, because replication brings it."""
        nodes = [facts.of(node.name) for node in self.here.cluster.databases]
        if self.here.cluster.mode.streams:
            nodes = [node for node in nodes if node.up and node.member]
        return bool(nodes) and all(node.own_database for node in nodes)

    def _make(self) -> None:
        """Create it in a background thread; raises the error of the previous try."""
        if self._making is None or not self._making.is_alive():
            failed, self._failed = self._failed, None
            self._making = threading.Thread(target=self._work, daemon=True)
            self._making.start()
            if failed is not None:
                raise failed

    def _work(self) -> None:
        try:
            make(self.here)
        except ClusterError as error:
            self._failed = error
        self.here.forget_looks()
