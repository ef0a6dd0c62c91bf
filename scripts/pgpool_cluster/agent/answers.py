"""Handle requests from other nodes, from the hooks of pgpool-II and PostgreSQL, and from `pgpoolctl`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never, cast

from ..configuration.users import Users
from ..decision.actions import Follow, Resume, Start, said
from ..decision.decide import decide
from ..decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from ..decision.reports import status
from ..decision.reports.events import EventKind
from ..decision.reports.report import Report
from ..decision.restart_plan import RestartKind
from ..decision.situation import Policy
from ..ground import paths
from ..ground.errors import UsageError
from ..machine import packages, pgpool
from ..node import histories, notes, recording
from ..node.node import Here
from ..operations import (
    attachment,
    pausing,
    postgresql_service,
    queueing,
    restarts,
    rolling_restart,
    switchover,
    takeover,
)
from ..operations.accounts import roles, user_lists
from ..operations.succession import new_primary, votes
from ..recovery import main_node, sessions, streaming, target, two_stages
from ..transport import protocol
from ..transport.peers import Progress
from ..transport.protocol import AnyRequest, Request
from . import rights
from .checks import checks

A = TypeVar("A")
_CHECK_SECONDS = 10.0
"""Time limit for the checks of another node, which take 2.5 s at most unless its machine is overloaded."""
_LONG_SECONDS = 120.0
_LAST_EVENTS = 3
"""The number of events in a status."""
_BY_AN_ADMINISTRATOR = "an administrator requested it"


@dataclass(frozen=True, slots=True)
class Answers:
    """The agent's handlers of requests. A handler that changes this node for a longer time holds `acting`."""

    here: Here
    acting: threading.RLock
    wake: Callable[[], None]
    once: Callable[[], list[str]]
    watch: Callable[[], None]
    """Begin a vigil (vigil.py)."""

    def do(self, request: Request[A], progress: Progress, peer: str = "") -> A:
        """Carry out `request` and return the answer. Raises ClusterError, also if `peer` may not send it (rights.py).

        `peer` is the name of the node that sent the request, or "" for a program on this node.
        """
        rights.refuse(self.here.cluster, type(request), peer)
        found = self._answer(cast("AnyRequest", request), progress, peer)
        return cast("A", found)  # mypy has checked this at `_pair`

    def _answer(self, request: AnyRequest, progress: Progress, peer: str) -> object:  # noqa: C901, PLR0911, PLR0912
        """Return the answer to a request. `_pair` lets mypy check that each answer has its request's type."""
        here = self.here
        match request:
            case protocol.LookRequest():
                return _pair(request, self._look(request))
            case protocol.NoteRequest():
                return _pair(request, protocol.NoteAnswer(notes.own(here)))
            case protocol.CheckRequest():
                return _pair(request, self._check(request))
            case protocol.ClockRequest():
                return _pair(request, self._clock())
            case protocol.TermRequest():
                return _pair(request, votes.note_term(here, request))
            case protocol.ExcuseRequest():
                return _pair(request, votes.note_excuse(here, request))
            case protocol.PromoteRequest():
                return _pair(request, self._promote(request, peer))
            case protocol.FollowRequest():
                return _pair(request, self._follow(request, peer))
            case protocol.GoOnRequest():
                return _pair(request, self._go_on(request))
            case protocol.RecoverRequest():
                return _pair(request, self._recover(request, progress))
            case protocol.SwitchoverRequest():
                return _pair(request, self._switchover(request, progress))
            case protocol.QueueRequest():
                return _pair(request, queueing.answer(here, request))
            case protocol.EndQueueRequest():
                return _pair(request, self._end_queue(request))
            case protocol.StartRequest():
                return _pair(request, self._start(request))
            case protocol.AttachRequest():
                return _pair(request, attachment.attach(here, request))
            case protocol.DetachRequest():
                return _pair(request, attachment.detach(here, request))
            case protocol.TakeBackRequest():
                return _pair(request, self._take_back(request))
            case protocol.LetGoRequest():
                return _pair(request, self._let_go(request))
            case protocol.HoldRequest():
                return _pair(request, self._hold(request))
            case protocol.NotePauseRequest():
                return _pair(request, self._note_pause(request))
            case protocol.HistoryRequest():
                return _pair(request, self._history(request))
            case protocol.RoleRequest():
                return _pair(request, self._role(request))
            case protocol.UserRequest():
                return _pair(request, user_lists.change(here, request, progress))
            case protocol.UsersRequest():
                return _pair(request, self._users(request, peer))
            case protocol.WatchRequest():
                return _pair(request, self._watch())
            case protocol.PcpRecoveryRequest():
                return _pair(request, self._pcp_recovery(request))
            case protocol.CopyRequest():
                return _pair(request, self._copy(request, progress))
            case protocol.TakeUpRequest():
                return _pair(request, self._take_up(request, progress))
            case protocol.WhyRequest():
                return _pair(request, self._why(request))
            case protocol.CancelActiveRequest():
                return _pair(request, protocol.CancelActiveAnswer(sessions.cancel_active(here, request.since)))
            case protocol.StandingRequest():
                return _pair(request, pgpool.standing(here.cluster))
            case protocol.SilentRequest():
                return _pair(request, protocol.SilentAnswer(here.under_way.mute.value))
            case protocol.StatusRequest():
                return _pair(request, self._status())
            case protocol.PauseRequest():
                return _pair(request, pausing.change(here, request))
            case protocol.ClusterHistoryRequest():
                return _pair(request, histories.of_cluster(here, request.most, request.since))
            case protocol.WaitingRequest():
                return _pair(request, protocol.WaitingAnswer(str(restarts.waiting(here) or "")))
            case protocol.PendingRequest():
                return _pair(request, restarts.pending(here))
            case protocol.RestartPlanRequest():
                return _pair(request, rolling_restart.plan(here, request, progress))
            case protocol.RestartRequest():
                return _pair(request, self._restart(request, progress))
            case protocol.ConvergeRequest():
                return _pair(request, protocol.ConvergeAnswer(tuple(self.once())))
            case protocol.FailoverRequest():
                return _pair(request, self._failover(request, progress))
            case protocol.MayStartRequest():
                return _pair(request, self._may_start(request))
            case protocol.FirstStageRequest():
                return _pair(request, self._first_stage(request, progress))
            case protocol.SecondStageRequest():
                return _pair(request, self._second_stage(request, progress))
            case _:
                assert_never(request)

    # Between nodes

    def _look(self, request: protocol.LookRequest) -> NodeFacts:
        if request.fresh:
            self.here.forget_looks()
        return self.here.look()

    def _promote(self, request: protocol.PromoteRequest, peer: str) -> protocol.Done:
        """Promote this node if a database node asks; if a witness asks, decide by this node's own facts."""
        if request.excuse is not None:  # otherwise, an administrator requested it
            takeover.refuse_in_a_pause(self.here)
        if rights.is_database(self.here.cluster, peer):
            new_primary.become_primary(self.here, request.term, request.excuse)
        else:
            takeover.take_over(self.here)
        self.wake()
        return protocol.Done()

    def _follow(self, request: protocol.FollowRequest, peer: str) -> protocol.Done:
        here = self.here
        action = Follow(here.me.name, here.cluster.named(request.primary).name, request.term)
        if not rights.is_database(here.cluster, peer):
            takeover.refuse_undecided(here, action)
        postgresql_service.follow(here, action)
        here.forget_looks()
        self.wake()  # this node's pgpool-II must send writes to the new primary, too
        return protocol.Done()

    def _go_on(self, request: protocol.GoOnRequest) -> protocol.Done:
        gone = request.node
        takeover.go_on(self.here, None if gone is None else self.here.cluster.named(gone))
        return protocol.Done()

    def _check(self, request: protocol.CheckRequest) -> protocol.CheckAnswer:
        """Run the checks here and, at the same time, on the other nodes."""
        if not request.all:
            return protocol.CheckAnswer(tuple(checks.run(self.here)))
        peers = self.here.peers
        with ThreadPoolExecutor(max_workers=1) as worker:
            asked = worker.submit(
                lambda: peers.outcomes(list(peers.peers), protocol.CheckRequest(), seconds=_CHECK_SECONDS)
            )
            found = checks.run(self.here)
            answers = asked.result()
        return protocol.CheckAnswer((*found, *checks.of_others(found, peers.peers, answers)))

    def _clock(self) -> protocol.ClockAnswer:
        """Answer from files and memory, so that a server that hangs does not delay the time."""
        file, package = self.here.cluster.fingerprint, packages.version(paths.PACKAGE)
        return protocol.ClockAnswer(time.time(), paths.laid_fingerprint(), file, package)

    # Hooks

    def _failover(self, request: protocol.FailoverRequest, progress: Progress) -> protocol.FailoverAnswer:
        failed = self.here.cluster.backend(request.failed)
        return protocol.FailoverAnswer(
            tuple(said(action) for action in takeover.fail_over(self.here, failed, progress))
        )

    def _may_start(self, request: protocol.MayStartRequest) -> protocol.MayStartAnswer:
        """Decide whether the unit may start this node's server now. Only the rightful primary may start as primary."""
        here = self.here
        if here.database is None or request.instance != here.database.instance.unit.split("@")[1].split(".")[0]:
            return protocol.MayStartAnswer(go=True)
        if here.under_way.starting or here.record.system is None:
            return protocol.MayStartAnswer(go=True)
        here.forget_looks()
        facts = here.look_at_all()
        pausing.learn(here, facts)  # a start is permitted as without a pause, and the claim must name the latest one
        mine = replace(facts.of(here.me.name), postgresql=Postgresql.DOWN)
        if mine.half_copied:
            return protocol.MayStartAnswer(go=False, why=f"its copy of {here.record.copying} is incomplete")
        policy = Policy(automatic_return=here.returns_by_itself)
        actions = decide(here.cluster, here.me, ClusterFacts({**facts.nodes, here.me.name: mine}), policy)
        for action in actions:
            if isinstance(action, Resume):
                new_primary.permit(here, action)
        go = any(isinstance(action, Start | Resume) for action in actions)
        return protocol.MayStartAnswer(go, "; ".join(said(action) for action in actions))

    # Verbs

    def _recover(self, request: protocol.RecoverRequest, progress: Progress) -> protocol.Done:
        """Rebuild this node, or forward the request to the node that it names."""
        here = self.here
        name = here.cluster.named(request.node).name
        if name != here.me.name:
            return here.peers.ask(name, request, seconds=_LONG_SECONDS, progress=progress)
        here.server  # noqa: B018 - raises on a node without one
        with recording.timed(here, EventKind.RECOVER, f"recover {name}{' by a new copy' if request.force else ''}"):
            if here.cluster.mode.streams:
                self._recover_standby(request, progress)
            else:
                two_stages.rebuild(here, progress, force=request.force)
                self.wake()
                attachment.await_attached(here, progress)
        return protocol.Done()

    def _recover_standby(self, request: protocol.RecoverRequest, progress: Progress) -> None:
        with self.acting:
            streaming.recover(self.here, progress, force=request.force)
        if request.attach:
            attachment.await_attached(self.here, progress)
        self.wake()

    # Recovery in two stages

    def _watch(self) -> protocol.Done:
        self.watch()
        return protocol.Done()

    def _pcp_recovery(self, request: protocol.PcpRecoveryRequest) -> protocol.Done:
        self.watch()
        self.here.peers.ask_all(protocol.WatchRequest(), seconds=1)
        two_stages.pcp_recovery(self.here, self.here.cluster.named(request.node).name)
        return protocol.Done()

    def _first_stage(self, request: protocol.FirstStageRequest, progress: Progress) -> protocol.Done:
        """Run recovery_1st_stage_command. With streaming replication there is only this stage."""
        name = self.here.cluster.backend(request.backend).name
        if self.here.cluster.mode.streams:
            return self._recover(protocol.RecoverRequest(name, attach=False), progress)
        main_node.first_stage(self.here, name, progress)
        return protocol.Done()

    def _second_stage(self, request: protocol.SecondStageRequest, progress: Progress) -> protocol.Done:
        main_node.second_stage(self.here, self.here.cluster.backend(request.backend).name, progress)
        return protocol.Done()

    def _copy(self, request: protocol.CopyRequest, progress: Progress) -> protocol.Done:
        with self.acting:
            target.copy(self.here, self.here.cluster.named(request.source).name, progress)
        return protocol.Done()

    def _take_up(self, request: protocol.TakeUpRequest, progress: Progress) -> protocol.Done:
        # Do not take `acting`: clients are waiting, and the loop does not act on a node in recovery.
        source = self.here.cluster.named(request.source).name
        target.take_up(self.here, source, request.position, request.term, progress)
        self.wake()
        return protocol.Done()

    def _why(self, request: protocol.WhyRequest) -> protocol.Done:
        self.here.under_way.rebuilding.fail(request.why)
        return protocol.Done()

    def _switchover(self, request: protocol.SwitchoverRequest, progress: Progress) -> protocol.SwitchoverAnswer:
        """Change the primary, or forward the request to the present primary."""
        here = self.here
        wanted = here.cluster.named(request.node).name if request.node else None
        if request.accept_loss:
            return self._take_over(request, wanted or here.me.name, progress)
        here.forget_looks()
        primary, target = switchover.choose(here.cluster, here.look_at_all(), wanted)
        if primary.node != here.me.name:
            request = replace(request, node=target.node)
            return here.peers.ask(primary.node, request, seconds=_LONG_SECONDS, progress=progress)
        what = f"switchover from {primary.node} to {target.node}"
        with self.acting, recording.timed(here, EventKind.SWITCHOVER, what, why=_BY_AN_ADMINISTRATOR):
            switchover.run(here, target, progress, drain=queueing.bounded(request.drain))
        self.wake()
        progress("waiting for pgpool-II")
        attachment.await_redirected(here, target.node)  # it detaches the other nodes
        if here.record.pause.paused:
            attachment.attach_standbys(here, target.node)
        attachment.await_attached(here, progress)
        return protocol.SwitchoverAnswer(target.node)

    def _end_queue(self, request: protocol.EndQueueRequest) -> protocol.Done:
        queueing.end(self.here, request)
        return protocol.Done()

    def _take_over(
        self, request: protocol.SwitchoverRequest, name: str, progress: Progress
    ) -> protocol.SwitchoverAnswer:
        """Accept this node's data, as an administrator decided, or forward the request to the node that it names."""
        if name != self.here.me.name:
            return self.here.peers.ask(name, request, seconds=_LONG_SECONDS, progress=progress)
        what = f"accept the data of {name}, without later writes of other nodes"
        with self.acting, recording.timed(self.here, EventKind.ACCEPT_LOSS, what, why=_BY_AN_ADMINISTRATOR):
            switchover.accept_loss(self.here, progress)
        self.wake()
        return protocol.SwitchoverAnswer(name)

    def _restart(self, request: protocol.RestartRequest, progress: Progress) -> protocol.Done:
        """Restart this node's server, or forward the request to the node whose server restarts."""
        here, step = self.here, request.step
        name = here.cluster.named(step.node).name
        if name != here.me.name:
            return here.peers.ask(name, request, seconds=_LONG_SECONDS, progress=progress)
        match step.kind:
            case RestartKind.STANDBY:
                rolling_restart.standby(here, self.acting, progress)
            case RestartKind.PRIMARY:
                rolling_restart.primary(here, self.acting, progress)
            case RestartKind.SWITCHOVER:
                rolling_restart.await_ready(here, progress)
                rolling_restart.refuse_unless_primary(here)
                self._switchover(protocol.SwitchoverRequest(step.successor), progress)
                rolling_restart.await_ready(here, progress)
        self.wake()
        return protocol.Done()

    def _start(self, request: protocol.StartRequest) -> protocol.Done:
        """Run pgpool_remote_start: start the server of the node, if it is down."""
        host = request.host
        node = next((node for node in self.here.cluster.databases if host in (node.address, node.name)), None)
        if node is None:
            raise UsageError(
                f"no node has the name or address {host}", hint="cluster.yml lists the addresses of the nodes"
            )
        if self.here.under_way.drain.take_primary(node.name):  # its server is running already, and clients are waiting
            return protocol.Done()
        if node != self.here.me:
            return self.here.peers.ask(node.name, request, seconds=_LONG_SECONDS)
        if not self.here.look().up:
            postgresql_service.start(self.here, Start(node.name))
        return protocol.Done()

    def _take_back(self, request: protocol.TakeBackRequest) -> protocol.Done:
        pgpool.attach(self.here.cluster, self.here.cluster.named(request.node), wait=True)
        self.here.forget_looks()
        return protocol.Done()

    def _let_go(self, request: protocol.LetGoRequest) -> protocol.Done:
        attachment.let_go(self.here, self.here.cluster.named(request.node))
        self.here.forget_looks()
        return protocol.Done()

    def _hold(self, request: protocol.HoldRequest) -> protocol.Done:
        here = self.here
        changed = here.record.held is not request.hold
        here.remember(held=request.hold)
        if changed:
            kind = EventKind.HOLD if request.hold else EventKind.RELEASE
            text = f"{'keep clients off' if request.hold else 'let clients use'} {here.me.name}"
            recording.note(here, kind, text, why=_BY_AN_ADMINISTRATOR)
        return protocol.Done()

    def _note_pause(self, request: protocol.NotePauseRequest) -> protocol.NotePauseAnswer:
        answer = votes.note_pause(self.here, request)
        self.wake()
        return answer

    def _history(self, request: protocol.HistoryRequest) -> protocol.HistoryAnswer:
        events, shortened = self.here.history.recent(request.most, request.since)
        return protocol.HistoryAnswer(events, shortened)

    def _status(self) -> Report:
        here = self.here
        found = status.report(here.cluster, here.look_at_all(), notes.of_all(here), here.beats.links())
        pause, last = here.record.pause, histories.of_cluster(here, _LAST_EVENTS).events
        return replace(found, paused=pause if pause.paused else None, history=last)

    def _role(self, request: protocol.RoleRequest) -> protocol.Done:
        roles.set_role(self.here, user_lists.role_name(request.name), request.verifier)
        return protocol.Done()

    def _users(self, request: protocol.UsersRequest, peer: str) -> protocol.UserList:
        if request.new is not None:
            rights.refuse(self.here.cluster, protocol.UserRequest, peer)
            user_lists.store_users(user_lists.users_in(request.new))
            self.here.forget_looks()
        return user_lists.listed(Users.load(paths.USERS))


def _pair(request: Request[A], answer: A) -> A:
    """Return the answer. mypy accepts only an answer of the request's type."""
    del request
    return answer
