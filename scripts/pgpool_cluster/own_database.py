"""The database of the cluster's own roles: on every server, and theirs alone.

Health checks and the agents log in to a database. In `postgres`, a REVOKE CONNECT, a connection limit or another name
for it would take every node out of service at once. So the primary's agent makes a database for the roles; where every
node is a primary, each in service makes its own. Once every server has shown that it has it, each node lays down
configuration that goes by it, and that is remembered. A standby that is away is not waited for: it gets the database
with all else that it misses. Servers of older packages show nothing, so a cluster goes over when the last node is
upgraded. Where the database is dropped, it is made again in the next round.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from . import log, paths
from .applying import Applying
from .errors import ClusterError
from .facts import ClusterFacts
from .key import DATABASE, Role
from .node import Here, sql_errors
from .roles import create_extensions

_SECONDS = 600.0
"""For one statement: CREATE DATABASE of PostgreSQL 13 and 14 waits for a checkpoint, which may take minutes."""
_HALF_DROPPED = (-2,)
"""datconnlimit of a database whose DROP DATABASE was interrupted: it can only be dropped again."""


def make(here: Here) -> None:
    """Make the database on this node's server, as far as it is not there; its rights come last. OperationError."""
    sql_errors(lambda: _make(here))


def _make(here: Here) -> None:
    with here.server.session("postgres", seconds=_SECONDS) as cursor:
        cursor.execute(f"SET statement_timeout = '{_SECONDS:.0f}s'")
        cursor.execute("SELECT datconnlimit FROM pg_database WHERE datname = %s", (DATABASE,))
        there = cursor.fetchone()
        if there == _HALF_DROPPED:
            cursor.execute(f"DROP DATABASE {DATABASE}")
        if there in (None, _HALF_DROPPED):
            log.info(f"making the database {DATABASE}, which health checks and agents log in to")
            cursor.execute(f"CREATE DATABASE {DATABASE} OWNER postgres TEMPLATE template0")
        cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
    with here.server.session(DATABASE) as cursor:
        create_extensions(here, cursor)
        cursor.execute(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1")
        cursor.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        cursor.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(Role)}")


@dataclass(slots=True)
class OwnDatabase:
    """One node's part in it. What it keeps in memory may be lost at any time."""

    here: Here
    applying: Applying = field(default_factory=Applying, repr=False)
    _making: threading.Thread | None = field(default=None, repr=False)
    _failed: ClusterError | None = None

    def tend(self, facts: ClusterFacts, *, writes: bool) -> None:
        """Do the next step; called in each round of the agent. `writes`: this node's server makes it. ClusterError."""
        here = self.here
        if writes and not facts.of(here.me.name).own_database:
            self._make()
        if not here.record.own_database and self._everywhere(facts):
            here.remember(own_database=True)
            log.info(f"every server has the database {DATABASE}: health checks and agents log in there from now on")
        if here.record.own_database and paths.database() != DATABASE:
            self.applying.ask("where health checks log in")

    def _everywhere(self, facts: ClusterFacts) -> bool:
        """Tell whether it is on every server. Standbys that are away get it with all else that they miss."""
        found = [facts.of(node.name) for node in self.here.cluster.databases]
        if self.here.cluster.mode.streams:
            found = [one for one in found if one.up and one.member]
        return bool(found) and all(one.own_database for one in found)

    def _make(self) -> None:
        """Make it beside everything else; raises what kept the last try from it."""
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
