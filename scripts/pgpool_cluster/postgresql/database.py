"""Collect facts about a node's PostgreSQL server, from the server or, if it is down, from its data directory."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field, replace

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

from ..decision.facts import matching, replay
from ..decision.facts.facts import Lsn, NodeFacts, Postgresql
from ..definition.cluster import Cluster
from ..definition.key import DATABASE, Role
from ..ground import paths
from ..ground.connection import Unanswered
from ..ground.errors import ServerError
from ..machine import units
from . import data_directory
from . import postgresql as pg
from .local_server import LocalServer

_LOOK_SECONDS = 1.5
"""Time limit for collecting facts; short, so that a hanging server is reported before other nodes drop this one."""
HANGING_SECONDS = 20.0
"""How long a server that does not answer counts as slow rather than hanging."""
_REFUSAL_SECONDS = 15.0
"""How long a server may reject every login after its start."""
_LOOK = f"""
SELECT pg_is_in_recovery(),
       (SELECT system_identifier FROM pg_control_system()),
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery())),
       CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_insert_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END::text,
       current_setting('primary_conninfo'),
       coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false),
       ARRAY(SELECT slot_name::text FROM pg_replication_slots
             WHERE slot_type = 'physical' AND wal_status IS DISTINCT FROM 'lost'),
       ARRAY(SELECT datname::text FROM pg_database
             WHERE datname NOT IN ('postgres', 'template0', 'template1', '{DATABASE}') ORDER BY datname),
       (SELECT count(*) FROM pg_class c WHERE c.oid >= 16384 AND relkind IN ('r', 'p', 'm') AND NOT EXISTS
              (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')),
       current_setting('synchronous_standby_names'),
       EXISTS (SELECT FROM pg_database d, pg_roles r WHERE d.datname = '{DATABASE}' AND r.rolname = '{Role.CHECK}'
               AND d.datallowconn AND d.datconnlimit = -1 AND has_database_privilege(r.oid, d.oid, 'CONNECT')),
"""  # noqa: S608 - the names are constants of this package
_WRITABLE_TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"


@dataclass(slots=True)
class Database(LocalServer):
    """The server of a node, with the facts about it."""

    _last: NodeFacts | None = field(default=None, repr=False)
    """The facts from its last answer; None if it has been down since."""
    _silent_since: float = 0.0
    """When it stopped answering, by the monotonic clock; 0 while it answers."""
    refused: str = ""
    """The server's own reason for refusing the last login; "" if it accepted the login, or is not running."""
    _refused_since: float = 0.0
    _watch: replay.Watch = field(default_factory=replay.Watch, repr=False)
    _looking: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held while facts are collected. Each collection has its own thread, and only one runs at a time (shared.py)."""

    def look(self, facts: NodeFacts, cluster: Cluster, standby_names: str | None = None) -> NodeFacts:
        """Return `facts` completed with those of this server; a server that is down raises no error.

        `standby_names`: the intended value of synchronous_standby_names, None if the cluster does not set it.
        """
        with self._looking:
            return self._look(facts, cluster, standby_names)

    def _look(self, facts: NodeFacts, cluster: Cluster, standby_names: str | None) -> NodeFacts:
        if not (self.instance.data / "PG_VERSION").exists():
            self._looks.close()
            self._last, self._silent_since, self.refused = None, 0.0, ""
            return replace(facts, postgresql=Postgresql.ABSENT)
        try:
            self._last, self._silent_since = self._asked(facts, cluster, standby_names), 0.0
            self.refused = ""
        except Unanswered:
            self._looks.close()
            return self._unanswered(facts)
        except psycopg2.Error as error:
            self._looks.close()
            self._last, self._silent_since, self._watch = None, 0.0, replay.Watch()
            state = self._why_down(error)
            now = time.monotonic()
            self._refused_since = self._refused_since if self.refused else now
            self.refused = str(error).strip() if state is Postgresql.STARTING else ""
            return self._from_files(replace(facts, postgresql=state))
        return self._last

    @property
    def shut(self) -> str:
        """Why it has refused every login for longer than a start takes; "" if it has not."""
        long = bool(self.refused) and time.monotonic() - self._refused_since > _REFUSAL_SECONDS
        lines = [line.strip() for line in self.refused.splitlines() if line.strip()]
        return "; ".join(lines[:2]) if long else ""

    def _unanswered(self, facts: NodeFacts) -> NodeFacts:
        """Return `facts` for a server that hangs: useless, but not dead, since it may resume and take writes.

        Its timeline is that of its last answer, because its file system may be the cause of the hang.
        """
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        long = now - self._silent_since > HANGING_SECONDS and not self._moving()
        hanging = replace(facts, postgresql=Postgresql.HANGING if long else Postgresql.STARTING)
        last = self._last
        if last is None:
            return self._from_files(hanging)
        hanging = replace(hanging, system=last.system, standby_signal=last.standby_signal)
        return replace(hanging, timeline=last.timeline, history=last.history)

    def _asked(self, facts: NodeFacts, cluster: Cluster, standby_names: str | None) -> NodeFacts:
        until = time.monotonic() + _LOOK_SECONDS
        try:
            (row,) = self._looks.query(self._question, (), _LOOK_SECONDS)
        except psycopg2.errors.ObjectNotInPrerequisiteState:  # its recovery has just ended
            (row,) = self._looks.query(self._question, (), until - time.monotonic())
        in_recovery, system, timeline, position, replayed, conninfo, streaming, slots, databases, tables, *rest = row
        names, own_database, *rest = rest
        if in_recovery:
            timeline = max(int(timeline), data_directory.received_timeline(self.instance.data))
        else:
            timeline = int(str(self._looks.query(_WRITABLE_TIMELINE, (), until - time.monotonic())[0][0]), 16)
        facts = self._moving_on(
            replace(facts, position=position and Lsn.parse(position), replayed=replayed and Lsn.parse(replayed)),
            replace(replay.report_of(*rest), primary=conninfo, connected=bool(streaming)),
            in_recovery=bool(in_recovery),
        )
        return replace(
            facts,
            postgresql=Postgresql.UP,
            system=int(system),
            in_recovery=bool(in_recovery),
            standby_signal=data_directory.is_standby(self.instance.data),
            timeline=timeline,
            history=data_directory.history(self.instance.data, timeline),
            follows=_followed(conninfo, cluster) if in_recovery else None,
            slots=frozenset(slots),
            databases=(*databases, *(["postgres"] if tables else [])),
            laid=standby_names in (None, names),
            own_database=bool(own_database),
        )

    @property
    def _question(self) -> str:
        return _LOOK + replay.columns(self.instance.name.major)

    def _moving_on(self, facts: NodeFacts, seen: replay.StandbyReport, *, in_recovery: bool) -> NodeFacts:
        """Return `facts`, which have its positions, completed with its progress and the settings that affect that."""
        facts = replace(facts, settings={name: seen.settings[name] for name in matching.CONTROL})
        if not in_recovery:
            self._watch = replay.Watch()
            return facts
        now, seen = time.monotonic(), replace(seen, received=facts.position, replayed=facts.replayed)
        facts = replace(facts, streaming=self._watch.hears(seen, now), stalled=self._watch.stalled(seen, now))
        if not seen.paused:
            return facts
        low = matching.lower(facts.settings, matching.needed(pg.control_data(self.instance)))
        facts = replace(facts, needs={name: least for name, (_, least) in low.items()})
        return replace(facts, stalled=replay.too_low(facts) or facts.stalled)

    def _moving(self) -> bool:
        """Return whether systemd is starting or stopping the server."""
        try:
            return units.state(self.instance.unit).moving
        except ServerError:
            return False

    def _why_down(self, error: psycopg2.Error) -> Postgresql:
        text = str(error)
        if re.search(r"starting up|shutting down|recovery mode|not yet accepting connections|too many clients", text):
            return Postgresql.STARTING
        state = units.state(self.instance.unit)
        if state.moving or (state.active == "active" and "timeout" not in text):
            return Postgresql.STARTING
        manual = not data_directory.starts_by_itself(self.instance)
        if not manual and state.restarts_with(self.instance.package):
            return Postgresql.STARTING
        by_hand = state.was_active and state.result == "success" and not paths.STOPPED.exists()
        return Postgresql.STOPPED if state.active == "inactive" and (by_hand or manual) else Postgresql.DOWN

    def _from_files(self, facts: NodeFacts) -> NodeFacts:
        control = pg.control_data(self.instance)
        if not control:
            return facts
        timeline = int(control["Latest checkpoint's TimeLineID"])
        ended = control["Database cluster state"].startswith("shut down")
        position = None
        if ended:
            start = Lsn.parse(control["Latest checkpoint location"])
            position = start.after_record(data_directory.record_length(self.instance, timeline, start))
        return replace(
            facts,
            system=int(control["Database system identifier"]),
            standby_signal=data_directory.is_standby(self.instance.data),
            timeline=timeline,
            position=position,
            history=data_directory.history(self.instance.data, timeline),
        )


def _followed(text: str, cluster: Cluster) -> str | None:
    try:
        host = psycopg2.extensions.parse_dsn(text).get("host")
    except psycopg2.Error:
        return None
    return next((node.name for node in cluster.databases if node.address == host), None)
