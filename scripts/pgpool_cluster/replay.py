"""Whether a standby moves: it hears from its primary, and replays what it receives. Pure, but for what it remembers.

A walreceiver that is stopped goes on saying that it streams, and replay that is paused goes on receiving. So what
counts is that something changes, by the monotonic clock of the node itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import matching
from .facts import Lsn, NodeFacts

PAUSED = "its replay is paused"
STILL_SECONDS = 10.0
"""How long replay may stand still while there is WAL to replay."""
APART_SECONDS = 30.0
"""How long a standby may be without a connection to its primary, which may just be restarting."""
_HALF_RECORD_SECONDS = 30.0
"""A primary may have sent WAL up to the end of a page, in the middle of a record; its background writer logs something
every 15 s, and the rest goes with that."""
_PAGE = 8192
_PINGS = 1.5
"""times wal_receiver_timeout: an idle primary is asked for a sign of life after half of it, and the walreceiver ends
after all of it."""
_LEAST_SILENCE = 15.0
_DEFAULT_DELAY = 30.0

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
    """Return what a look asks a server of this major version for; `seen` takes the values."""
    paused = "pg_get_wal_replay_pause_state() <> 'not paused'" if major > 13 else "pg_is_wal_replay_paused()"
    return COLUMNS.format(paused=paused)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a standby says of itself. `heard`: the time of the last message from the primary, as text.

    `sent`: the end of the primary's WAL as it was told. `conflict`: replay waits for a client's query. `settings`:
    integers, of times in ms.
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
        """The end of the WAL that there is to replay, as far as the standby knows."""
        known = [place for place in (self.sent, self.received) if place is not None]
        return max(known, default=None)


def seen(paused: Any, sent: Any, heard: Any, conflict: Any, settings: Any) -> Seen:  # noqa: ANN401 - from psycopg2
    """Return the values of `columns`."""
    return Seen(bool(paused), sent and Lsn.parse(sent), heard, bool(conflict), settings or {})


@dataclass(slots=True)
class _Since:
    """How long something has been the same."""

    value: object = None
    began: float | None = None

    def unchanged(self, value: object, now: float) -> float:
        if self.began is None or value != self.value:
            self.value, self.began = value, now
        return now - self.began


@dataclass(slots=True)
class Watch:
    """What is remembered of a standby from look to look."""

    _still: _Since = field(default_factory=_Since)
    _silent: _Since = field(default_factory=_Since)
    _apart: _Since = field(default_factory=_Since)

    def hears(self, one: Seen, now: float) -> bool:
        """Tell whether messages come from the primary; an idle one is asked for them (_PINGS)."""
        return one.connected and self._silent.unchanged((one.primary, one.heard), now) <= _most_silence(one)

    def stalled(self, one: Seen, now: float) -> str:
        """Return why the standby does not move, in a few words; "" if it does. `now`: seconds, monotonic."""
        hears = self.hears(one, now)
        apart = self._apart.unchanged((one.primary, one.connected), now)
        pending = None not in (one.replayed, one.end) and one.end > one.replayed  # type: ignore[operator]
        still = self._still.unchanged((one.replayed, pending), now)
        if one.paused:
            return PAUSED
        if not one.connected:
            return f"it has not received anything for {APART_SECONDS:g} s" if apart > APART_SECONDS else ""
        if not hears:
            return f"its walreceiver has not heard from the primary for {_most_silence(one):g} s"
        limit = _most_still(one)
        return f"it has not replayed anything of what it received for {limit:g} s" if pending and still > limit else ""


def _most_silence(one: Seen) -> float:
    timeout = one.settings.get("wal_receiver_timeout", 0) / 1000
    return max(_LEAST_SILENCE, _PINGS * timeout) if timeout else float("inf")


def _most_still(one: Seen) -> float:
    """Return for how long replay may stand still, in seconds: PostgreSQL itself bounds some of its waits."""
    limit = STILL_SECONDS + max(0.0, one.settings.get("recovery_min_apply_delay", 0) / 1000)
    if one.conflict:
        delay = one.settings.get("max_standby_streaming_delay", -1) / 1000
        return limit + (delay if delay >= 0 else _DEFAULT_DELAY)
    return max(limit, _HALF_RECORD_SECONDS) if one.end is not None and one.end.bytes % _PAGE == 0 else limit


def too_low(found: NodeFacts) -> str:
    """Return which parameters keep a standby from replaying, with both values; "" if none does."""
    low = matching.lower(found.settings, found.needs)
    return ", ".join(f"{name} is {has} on {found.node}, and {least} is needed" for name, (has, least) in low.items())


def hint(found: NodeFacts) -> str:
    """Return what to do about a standby that is stalled."""
    if found.needs:
        return matching.raising(found.node, found.needs)
    if found.stalled == PAUSED:
        return f"on {found.node}, as postgres: psql -c 'SELECT pg_wal_replay_resume()'"
    return f"on {found.node}: ps -u postgres -o pid,stat,wchan,args and PostgreSQL's log; systemctl restart postgresql"
