"""Run `pgpoolctl converge`: collect facts, decide and act in a loop, and answer other nodes, hooks and verbs.

One thread runs the loop, and every request on the socket has its own. A thread that changes this node holds `acting`.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..configuration.rehearsal import before
from ..decision import standstill
from ..decision.actions import (
    Action,
    Attach,
    AwaitRecovery,
    Detach,
    DropAddress,
    Fence,
    Promote,
    Redirect,
    Refuse,
    StartPgpool,
    Stop,
    StopPgpool,
    TakeAddress,
    Wait,
    said,
)
from ..decision.decide import confirmed, decide
from ..decision.facts.facts import ClusterFacts
from ..decision.liveness import links
from ..decision.liveness.silence import BOOT_SECONDS
from ..decision.reports.events import EventKind
from ..decision.reports.status import differing
from ..decision.situation import Actions, Policy
from ..definition.cluster import Service
from ..ground import files, log, paths
from ..ground.errors import ClusterError, OperationError, ServerError
from ..machine import pgpool, pool_children, server, units
from ..machine.history_file import HistoryFile
from ..machine.record import Record
from ..node import recording
from ..node.history import History
from ..node.node import Here
from ..operations import act, pausing, upgrade
from ..operations.accounts.roles import Roles
from ..postgresql.database import Database
from ..recovery.vigil import Vigil
from ..transport import pulse
from ..transport.channel import notify, serving
from ..transport.peers import Peers, Progress
from ..transport.protocol import Request
from . import rights
from .answers import Answers
from .contact import Contact
from .fence_watch import FenceWatch
from .housekeeping import Housekeeping, writes
from .life_signs import LifeSigns
from .local_watch import LocalWatch
from .pool_watch import PoolWatch
from .wake import Wake
from .watchdog_news import WatchdogNews

A = TypeVar("A")
CALM_SECONDS = 2.0
BUSY_SECONDS = 0.5
PATIENCE_SECONDS = BOOT_SECONDS
"""Seconds after which pgpool-II starts without the nodes that are out of sight."""
TOLD_SECONDS = 10.0
"""Seconds that pgpool-II may take to attach a node before the agent asks again."""
LATELY_SECONDS = 10.0
"""Seconds for which an unreachable primary may only be restarting its agent, as in an upgrade."""
_QUIET = (Wait, AwaitRecovery, Refuse)
_GRAVE = (Detach, Fence, Promote, Stop, StopPgpool)
"""Actions that take a node away from clients, or replace the primary."""
_OF_PGPOOL = (Attach, Detach, Redirect, StartPgpool, StopPgpool)
_OF_CLIENTS = (Attach, DropAddress, TakeAddress)
"""Actions that only affect how clients connect. One that fails stops no other action."""
_CONFIRM_PAUSE_SECONDS = 0.5


def load() -> Here:
    """Return this node according to cluster.yml; raises ClusterError."""
    loaded = paths.file_hash()
    cluster, me = server.this_node()
    if not paths.FINGERPRINT.exists():
        before.explain()
        raise ServerError("the configuration of this node has not been applied yet", hint="pgpoolctl apply shows why")
    database = None
    if Service.POSTGRESQL in me.runs:
        database = Database(server.choose_instance(cluster, server.instances(me.port), me))
    return Here(cluster, me, database, Peers.of(cluster, me.name), Record.load(paths.RECORD), loaded)


def with_history(here: Here) -> Here:
    """Load the events of earlier runs of the agent, and keep further ones in their file."""
    here.history = History(HistoryFile(paths.HISTORY))
    return here


@dataclass(slots=True)
class Agent:
    """The program of one node. A thread that changes the node holds `acting`."""

    here: Here
    acting: threading.RLock = field(default_factory=threading.RLock)
    wake: Wake = field(default_factory=Wake)
    ended: bool = False
    renewed: bool = False
    began: float = field(default_factory=time.monotonic)
    _said: str = ""
    _tried: str = ""
    _failed: str = ""
    _wrote: dict[str, float] = field(default_factory=dict)
    """When, by the monotonic clock, nodes were last seen taking writes."""
    _attached: dict[str, float] = field(default_factory=dict)
    """When, by the monotonic clock, the agent asked pgpool-II to attach nodes that it still counts as down."""
    _contact: Contact = field(default_factory=Contact)
    _watchdog_news: WatchdogNews = field(init=False)
    _vigil: Vigil = field(init=False)
    _housekeeping: Housekeeping = field(init=False)

    def __post_init__(self) -> None:
        self._watchdog_news = WatchdogNews(self.here)
        self._vigil = Vigil(self.here)
        of_the_key = {
            "update the cluster's roles": self._lay_roles,
            "restart pgpool-II with the new cluster key": self._rekey,
        }
        self._housekeeping = Housekeeping(self.here, self._vigil, of_the_key)

    def run(self) -> None:
        """Answer and converge until SIGTERM; reload cluster.yml on SIGHUP. Raises ClusterError only at the start."""
        files.sweep(paths.STATE)
        if left := pool_children.release():
            log.warning(f"{len(left)} processes of pgpool-II were stopped, and continue: the agent was killed")
        upgrade.finish(self.here)
        self.here.answer = self.answer
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        signal.signal(signal.SIGINT, lambda *_: self._end())
        signal.signal(signal.SIGHUP, lambda *_: self._renew())
        watch = LocalWatch(self.here, self.wake.set)
        server = serving(self.answer, lambda peer: rights.is_database(self.here.cluster, peer))
        signs, fence = LifeSigns(self.here, self.wake.set), FenceWatch(self.here, self.wake.set, pulse.Feeder().feed)
        pools = PoolWatch(self.here, self.acting)
        with watch.running(), signs.running(), fence.running(), pools.running(), server:
            notify("READY=1")
            while not self.ended:
                pulse.beat()
                if self.renewed:
                    self._reload()
                busy = self.step()
                self.wake.wait(self._contact.pause(BUSY_SECONDS if busy else CALM_SECONDS))
        self.here.under_way.queue.end()
        self.here.peers.close()
        self.here.history.close()

    def _end(self) -> None:
        self.ended = True
        self.here.under_way.queue.abandon()
        self.wake.set()

    def _renew(self) -> None:
        self.renewed = True
        self.wake.set()

    def _reload(self) -> None:
        self.renewed = False
        try:
            fresh = load()
        except ClusterError as error:
            log.error(f"keeping the previous cluster.yml: {error}")
            return
        with self.acting:
            self.here.renew(fresh)
        log.info("cluster.yml was reloaded")

    def once(self) -> list[str]:
        """Run one step now, and return the texts of its actions (`said`). Raises ClusterError."""
        self.here.under_way.copies.hurry()
        self.here.under_way.returns.hurry()
        with self.acting:
            return [said(action) for action in self._step()]

    def step(self) -> bool:
        """Collect facts, decide and act once. Return whether there were actions. Errors are logged."""
        try:
            with self.acting:
                return bool(self._step())
        except ClusterError as error:
            self._fail(f"{error.message}; hint: {error.hint}")
        except psycopg2.Error as error:
            self._fail(f"PostgreSQL: {str(error).strip()}")
        except Exception:
            self._fail(traceback.format_exc())
        self.here.forget_looks()
        return False

    def _step(self) -> tuple[Action, ...]:
        here = self.here
        facts = here.look_at_all()
        here.beats.note_support({name: one.beats for name, one in facts.nodes.items() if one.reachable})
        unheard = links.unheard(here.beats.links())
        self._contact.note(here.cluster, facts, here.me.name, time.monotonic(), unheard)
        self._watchdog_news.tend(facts)
        try:
            actions = self._decided(facts)
        finally:
            here.chores.publish(self._housekeeping.keep(facts))
        return actions

    def _decided(self, facts: ClusterFacts) -> tuple[Action, ...]:
        here = self.here
        self._wrote |= {found.node: time.monotonic() for found in facts.members(here.cluster) if found.writable}
        pause = pausing.learn(here, facts)
        wanted = decide(here.cluster, here.me, facts, self._policy)
        actions = confirmed(standstill.permitted(wanted, pause), self._decide_again)
        quiet = [action for action in actions if isinstance(action, _QUIET)]
        held = tuple(action for action in wanted if pause.paused and action not in actions)
        paused = [text for text in [standstill.note(pause, held)] if text]
        note = "; ".join([*paused, *map(said, quiet), *differing(here.cluster, facts, here.me.name)])
        here.note.publish(note)
        if note or not actions:
            stuck = any(isinstance(action, AwaitRecovery | Refuse) for action in quiet)
            self._tell(note or "nothing to do on this node", stuck=stuck)
        self._do_all(action for action in self._not_asked_yet(actions) if not isinstance(action, _QUIET))
        self._failed = ""
        if len(quiet) == len(actions):
            self._tried = ""
            here.history.rest()
        return actions

    def _not_asked_yet(self, actions: Actions) -> Actions:
        """Return the actions, except attachments that this agent requested less than TOLD_SECONDS ago.

        pgpool-II queues such requests while it searches for a primary, and executes all of them afterwards, even if the
        node has failed again in the meantime.
        """
        names = {action.node for action in actions if isinstance(action, Attach)}
        since = time.monotonic() - TOLD_SECONDS
        self._attached = {name: at for name, at in self._attached.items() if name in names and at > since}
        return tuple(one for one in actions if not (isinstance(one, Attach) and one.node in self._attached))

    def _decide_again(self) -> tuple[Action, ...]:
        time.sleep(_CONFIRM_PAUSE_SECONDS)
        self.here.forget_looks()
        again = decide(self.here.cluster, self.here.me, self.here.look_at_all(), self._policy)
        return standstill.permitted(again, self.here.record.pause)

    @property
    def _policy(self) -> Policy:
        now = time.monotonic()
        lately = frozenset(name for name, at in self._wrote.items() if now - at < LATELY_SECONDS)
        contact = self._contact
        return Policy(
            automatic_return=self.here.returns_by_itself,
            exhausted=self.here.under_way.returns.exhausted,
            patient=now - self.began < PATIENCE_SECONDS,
            lately=lately,
            yields=contact.yields(now),
            alone_seconds=contact.alone_seconds(now),
            pool_away=contact.pool_away(now),
            gone=contact.gone(now),
        )

    def _lay_roles(self, facts: ClusterFacts) -> None:
        """Rewrite the roles once most nodes have the new key. The other nodes could not log in before that."""
        if not writes(self.here, facts):
            return
        roles = Roles.rendered()
        if facts.same_key(self.here.cluster, roles.key) and not roles.laid(self.here):
            log.info("updating the cluster's roles: the cluster key has changed")
            roles.lay(self.here)

    def _rekey(self, facts: ClusterFacts) -> None:
        if self.here.record.pause.paused:
            return
        key = self.here.look().key
        if facts.same_key(self.here.cluster, key) and pgpool.of_another_key(key):
            log.info("restarting pgpool-II: most nodes have the new cluster key")
            units.control("restart", paths.PGPOOL_UNIT)

    def _do_all(self, actions: Iterable[Action]) -> None:
        """Carry out the actions in order, and raise the first error at the end.

        One of _OF_CLIENTS that fails does not stop the next action. In streaming replication, the other actions for
        pgpool-II and those for the database do not stop each other either.
        """
        failed: list[ClusterError | psycopg2.Error] = []
        stopped: set[bool] = set()
        for action in actions:
            of_pgpool = isinstance(action, _OF_PGPOOL) and self.here.cluster.mode.streams
            if of_pgpool in stopped:
                continue
            try:
                self._do(action)
            except (ClusterError, psycopg2.Error) as error:
                failed.append(error)
                if not isinstance(action, _OF_CLIENTS):
                    stopped.add(of_pgpool)
        if failed:
            raise failed[0]

    def _do(self, action: Action) -> None:
        text = said(action)
        if text != self._tried:
            self._say(text, log.warning if isinstance(action, _GRAVE) else log.info)
        self._tried = text
        act.perform(self.here, action)
        if isinstance(action, Attach):
            self._attached[action.node] = time.monotonic()

    def _fail(self, text: str) -> None:
        """Log an error, but suppress consecutive duplicates. Its last line becomes this node's note."""
        self.here.note.publish(text.splitlines()[-1])
        if text != self._failed:
            self._say(text, log.warning)
        self._failed = text

    def _tell(self, text: str, *, stuck: bool) -> None:
        """Log the state of this node when it changes. `stuck`: it waits for an administrator."""
        if text != self._said:
            self._say(text, log.warning if stuck else log.info)
            if stuck:
                recording.note(self.here, EventKind.NEEDS_ADMINISTRATOR, text)
        self._said = text

    def _say(self, text: str, write: Callable[[str], None]) -> None:
        write(text)
        self._said = ""
        notify(f"STATUS={text.splitlines()[-1] if text else ''}")

    def answer(self, request: Request[A], progress: Progress, peer: str = "") -> A:
        """Handle a request from a node, a hook or a verb, and return the answer; raises ClusterError."""
        answers = Answers(self.here, self.acting, self.wake.set, self.once, self._vigil.begin)
        try:
            return answers.do(request, progress, peer)
        except psycopg2.Error as error:
            raise OperationError(
                f"PostgreSQL: {str(error).strip()}", hint="see its log; pg_lsclusters shows the path"
            ) from error
