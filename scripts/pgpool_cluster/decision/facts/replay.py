"""Detect a stalled standby: it no longer receives messages from its primary, or no longer replays what it receives.

A stopped walreceiver still reports that it streams, and a standby with paused replay still receives. So this module
checks that positions and times change, by the node's own monotonic clock. Pure, except for the state in `Watch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import matching
from .facts import Lsn, NodeFacts

PAUSED = "its replay is paused"
RESTARTING = "an administrator has its PostgreSQL restarted"
"""The reason of a node that takes no reads because `pgpoolctl restart` restarts its server."""
STILL_SECONDS = 10.0
"""How long replay may make no progress while there is WAL to replay."""
APART_SECONDS = 30.0
"""How long a standby may be disconnected from its primary, which may just be restarting."""
_HALF_RECORD_SECONDS = 30.0
"""The same as STILL_SECONDS if the WAL ends at a page boundary, possibly within a record. The primary's background
writer logs something every 15 s, which brings the rest of the record."""
_PAGE_BYTES = 8192
_TIMEOUT_FACTOR = 1.5
"""Limit of silence as a multiple of wal_receiver_timeout: the walreceiver requests a reply from an idle primary after
half that time, and exits after all of it."""
_LEAST_SILENCE_SECONDS = 15.0
_DEFAULT_DELAY_SECONDS = 30.0
"""Used in place of an unlimited max_standby_streaming_delay."""

_TIMES = ("max_standby_streaming_delay", "recovery_min_apply_delay", "wal_receiver_timeout")
_NAMES = ", ".join(f"'{name}'" for name in (*matching.CONTROL, *_TIMES))
COLUMNS = f"""
       CASE WHEN pg_is_in_recovery() THEN {{paused}} ELSE false END,
       (SELECT latest_end_lsn::text FROM pg_stat_wal_receiver),
       (SELECT last_msg_receipt_time::text FROM pg_stat_wal_receiver),
       coalesce((SELECT wait_event_type IN ('Lock', 'BufferPin', 'Buffer') OR wait_event LIKE 'RecoveryConflict%'
                 FROM pg_stat_activity WHERE backend_type = 'startup' LIMIT 1), false),
       (SELECT json_object_agg(name, setting::int) FROM pg_settings WHERE name IN ({_NAMES}))
"""  # noqa: S608 - names from above


def columns(major: int) -> str:
    """Return the columns to query from a server of this major version; `report_of` takes their values."""
    paused = "pg_get_wal_replay_pause_state() <> 'not paused'" if major > 13 else "pg_is_wal_replay_paused()"
    return COLUMNS.format(paused=paused)


@dataclass(frozen=True, slots=True)
class StandbyReport:
    """A standby's report about itself.

    `heard`: the time of the last message from the primary, as text. `sent`: the end of the primary's WAL in that
    message. `conflict`: replay is waiting for a client's query. `settings`: integers; times are in ms.
    """

    paused: bool
    sent: Lsn | None
    heard: str | None
    conflict: bool
    settings: Mapping[str, int]
    received: Lsn | None = None
    replayed: Lsn | None = None
    primary: str | None = None
    connected: bool = False

    @property
    def end(self) -> Lsn | None:
        """The end of the WAL to replay, as far as the standby knows."""
        known = [place for place in (self.sent, self.received) if place is not None]
        return max(known, default=None)


def report_of(paused: Any, sent: Any, heard: Any, conflict: Any, settings: Any) -> StandbyReport:  # noqa: ANN401 - from psycopg2
    """Return the values of `columns`."""
    return StandbyReport(bool(paused), sent and Lsn.parse(sent), heard, bool(conflict), settings or {})


@dataclass(slots=True)
class _Since:
    """Measures how long a value has been unchanged."""

    value: object = None
    began: float | None = None

    def unchanged(self, value: object, now: float) -> float:
        if self.began is None or value != self.value:
            self.value, self.began = value, now
        return now - self.began


@dataclass(slots=True)
class Watch:
    """The history of a standby's reports."""

    _still: _Since = field(default_factory=_Since)
    _silent: _Since = field(default_factory=_Since)
    _apart: _Since = field(default_factory=_Since)

    def hears(self, one: StandbyReport, now: float) -> bool:
        """Return whether messages arrive from the primary; an idle one has to send some (_TIMEOUT_FACTOR)."""
        return one.connected and self._silent.unchanged((one.primary, one.heard), now) <= _most_silence(one)

    def stalled(self, one: StandbyReport, now: float) -> str:
        """Return in a few words why the standby is stalled; "" if it is not. `now`: seconds of the monotonic clock."""
        hears = self.hears(one, now)
        apart = self._apart.unchanged((one.primary, one.connected), now)
        pending = None not in (one.replayed, one.end) and one.end > one.replayed  # type: ignore[operator]
        still = self._still.unchanged((one.replayed, pending), now)
        if one.paused:
            return PAUSED
        if not one.connected:
            return f"it has not received anything for {APART_SECONDS:g} s" if apart > APART_SECONDS else ""
        if not hears:
            return f"its walreceiver has received nothing from the primary for {_most_silence(one):g} s"
        limit = _most_still(one)
        return f"it has replayed none of the received WAL for {limit:g} s" if pending and still > limit else ""


def _most_silence(one: StandbyReport) -> float:
    timeout = one.settings.get("wal_receiver_timeout", 0) / 1000
    return max(_LEAST_SILENCE_SECONDS, _TIMEOUT_FACTOR * timeout) if timeout else float("inf")


def _most_still(one: StandbyReport) -> float:
    """Return how many seconds replay may make no progress; PostgreSQL's own settings allow some waits."""
    limit = STILL_SECONDS + max(0.0, one.settings.get("recovery_min_apply_delay", 0) / 1000)
    if one.conflict:
        delay = one.settings.get("max_standby_streaming_delay", -1) / 1000
        return limit + (delay if delay >= 0 else _DEFAULT_DELAY_SECONDS)
    return max(limit, _HALF_RECORD_SECONDS) if one.end is not None and one.end.bytes % _PAGE_BYTES == 0 else limit


def too_low(found: NodeFacts) -> str:
    """Return the parameters that stop a standby's replay, each with its value and the required one; "" if none does."""
    low = matching.lower(found.settings, found.needs)
    return ", ".join(f"{name} is {has} on {found.node}, and {least} is needed" for name, (has, least) in low.items())


def hint(found: NodeFacts) -> str:
    """Return what to do about a stalled standby."""
    if found.stalled == RESTARTING:
        return "it takes reads again once it has caught up"
    if found.needs:
        return matching.raising(found.node, found.needs)
    if found.stalled == PAUSED:
        return f"on {found.node}, as postgres: psql -c 'SELECT pg_wal_replay_resume()'"
    return f"on {found.node}: ps -u postgres -o pid,stat,wchan,args and PostgreSQL's log; systemctl restart postgresql"
