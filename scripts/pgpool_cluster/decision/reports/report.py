"""Define the report of `pgpoolctl status`. Its fields are the keys of `--json` (docs/reference/pgpoolctl.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..facts.diverged_report import DivergedReport
from ..facts.pause import Pause
from .events import Event


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """The use of a node's WAL archive; `oldest` and `newest` are None while it is empty."""

    files: int
    bytes: int
    used: float
    oldest: str | None
    newest: str | None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A database node. `pgpool`: its state in the leading pgpool-II. An unknown number is None.

    `link`: the answering node's link with it (LinkState); None for the answering node itself.

    Fields with a default may be missing in the report of an older agent.
    """

    name: str
    address: str
    id: int
    role: str
    postgresql: str
    pgpool: str
    lag_bytes: int | None
    timeline: int | None
    streaming: bool = False
    stalled: str = ""
    note: str = ""
    archive: ArchiveReport | None = None
    link: str | None = None
    diverged: tuple[DivergedReport, ...] = ()


@dataclass(frozen=True, slots=True)
class PgpoolReport:
    """The pgpool-II of a node. `link` is as in NodeReport."""

    name: str
    state: str
    virtual_ip: bool
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The whole cluster according to one node's facts.

    `paused`: the pause that an administrator has begun, None without one. `history`: the last events of all nodes.
    """

    cluster: str
    mode: str
    healthy: bool
    nodes: tuple[NodeReport, ...]
    pgpools: tuple[PgpoolReport, ...]
    notes: Mapping[str, str]
    paused: Pause | None = None
    history: tuple[Event, ...] = ()
