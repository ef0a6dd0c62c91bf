"""Plan the restarts of a cluster in streaming replication, and restart this node's server with few effects on clients.

`pgpoolctl restart` requests a plan and then one step after the other. Each step examines the facts again, so a plan
that is out of date does no harm. Only memory holds a restart that is under way: after a crash of the agent, pgpool-II
attaches the standby again as soon as it streams.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from ..decision import restart_plan, standstill
from ..decision.facts import matching
from ..decision.facts.facts import ClusterFacts, NodeFacts
from ..decision.reports.events import EventKind
from ..decision.restart_plan import Restartable
from ..decision.situation import rightful_primary
from ..definition.cluster import Service
from ..ground.errors import ClusterError, OperationError
from ..ground.waiting import poll
from ..node import recording
from ..node.node import Here
from ..postgresql import postgresql as pg
from ..transport.peers import Progress
from ..transport.protocol import PendingAnswer, PendingRequest, RestartPlanAnswer, RestartPlanRequest
from . import attachment, restarts

_PENDING_SECONDS = 15.0
_PLAN_SECONDS = 10.0
_READY_SECONDS = 30.0
"""Seconds that a cluster may take to become healthy after the previous step."""
_READY_PAUSE_SECONDS = 0.2
_REPLAY_SECONDS = 60.0
"""Seconds within which a standby must replay a lower value of a parameter."""
_STREAM_SECONDS = 60.0
_CATCH_UP_SECONDS = 10.0
"""Seconds that a restarted standby may take to catch up before it takes reads anyway, like any lagging standby."""
_PAUSE_SECONDS = 0.1
_STATUS = "pgpoolctl status shows every node"
_WHY = "an administrator requested it"


def plan(here: Here, request: RestartPlanRequest, progress: Progress) -> RestartPlanAnswer:
    """Plan the requested restarts. Raises OperationError if the cluster is not ready for them, or no order works."""
    if Service.POSTGRESQL not in here.me.runs:
        hint = "run the same command on a node that runs PostgreSQL"
        raise OperationError(f"{here.me.name} runs no PostgreSQL, and may not restart that of other nodes", hint=hint)
    if not here.cluster.mode.streams:
        hint = "node by node: systemctl restart postgresql; then pgpoolctl recover NODE, if pgpoolctl status names it"
        raise OperationError(f"in {here.cluster.mode}, no node can take the place of one that restarts", hint=hint)
    named = {here.cluster.named(name).name for name in request.nodes}
    if strangers := named - {node.name for node in here.cluster.databases}:
        hint = "cluster.yml lists the nodes that do"
        raise OperationError(f"{', '.join(sorted(strangers))} runs no PostgreSQL", hint=hint)
    facts = await_ready(here, progress, seconds=_PLAN_SECONDS)
    servers = _servers(here, facts)
    primary = rightful_primary(here.cluster, facts)
    if primary is None:
        raise OperationError("no primary is reachable", hint=_STATUS)
    wanted = named or set(servers)
    if request.pending:
        wanted = {name for name in wanted if servers[name].pending}
    if not wanted:
        return RestartPlanAnswer(())
    leader = servers.pop(primary.node)
    return RestartPlanAnswer(restart_plan.plan(leader, list(servers.values()), wanted, back=request.back))


def _servers(here: Here, facts: ClusterFacts) -> dict[str, Restartable]:
    """Return every server with the values of its files; raises ClusterError if one would not start again."""
    names = [node.name for node in here.cluster.databases]
    answers = here.peers.outcomes([name for name in names if name != here.me.name], PendingRequest(),
                                  seconds=_PENDING_SECONDS)  # fmt: skip
    found: dict[str, PendingAnswer | ClusterError] = {**answers, here.me.name: restarts.pending(here)}
    servers = {}
    for name in names:
        answer = found.get(name, OperationError("it does not answer", hint=_STATUS))
        if isinstance(answer, ClusterError):
            raise OperationError(f"{name}: {answer.message}", hint=answer.hint)
        if answer.fault:
            raise _never_starts(name, answer.fault, answer.fix)
        running = matching.plain(facts.of(name).settings.items())
        servers[name] = Restartable(name, running, matching.plain(answer.configured.items()), answer.parameters)
    return servers


def await_ready(here: Here, progress: Progress, *, seconds: float = _READY_SECONDS) -> ClusterFacts:
    """Wait until a node may restart, and return the facts; raises OperationError after `seconds`, or in a pause.

    The cluster must be healthy, apart from standbys that a restart with higher parameters cures.
    """
    said = False

    def look() -> ClusterFacts:
        nonlocal said
        facts = here.look_at_all(fresh=True)
        pause = standstill.latest(here.cluster, here.me.name, facts)
        if pause.paused:
            hint = "pgpoolctl resume; then the same command again"
            raise OperationError(f"no server restarts: {standstill.described(pause)}", hint=hint)
        if not said and not restart_plan.ready(here.cluster, facts):
            said = True
            progress("waiting until the cluster is healthy")
        return facts

    def is_ready(facts: ClusterFacts) -> bool:
        return restart_plan.ready(here.cluster, facts)

    facts = poll(look, until=is_ready, seconds=seconds, pause=_READY_PAUSE_SECONDS)
    if not is_ready(facts):
        hint = "pgpoolctl status shows why; pgpoolctl wait; then the same command again"
        reason = f"the cluster is not healthy after {seconds:g} s, and servers restart only in a healthy one"
        raise OperationError(reason, hint=hint)
    return facts


def refuse_unless_primary(here: Here) -> None:
    """Raise OperationError if this node is not the primary, because another one has been promoted meanwhile."""
    primary = rightful_primary(here.cluster, here.look_at_all())
    if primary is None or primary.node != here.me.name:
        raise OperationError(f"{here.me.name} is not the primary any more", hint=_STATUS)


def standby(here: Here, acting: AbstractContextManager[object], progress: Progress) -> None:
    """Restart this node's standby without clients, and return when every pgpool-II sends it reads again.

    `acting` is held only while the server restarts, so that the node can take the primary's place otherwise. Raises
    ClusterError. Then pgpool-II attaches the node as soon as it streams again.
    """
    name = here.me.name
    facts = await_ready(here, progress)
    if not facts.of(name).standby:
        raise OperationError(f"{name} is not a standby any more", hint=f"{restart_plan.ALL} {name}")
    with recording.timed(here, EventKind.RESTART, f"restart PostgreSQL of {name}, a standby", why=_WHY):
        _refuse_unstartable(here)
        _await_lower_values(here, progress)
        here.query("CHECKPOINT")  # while it still serves, so that the shutdown and the replay are short
        with here.under_way.restarting:
            _refuse_others(here)
            progress(f"detaching {name}")
            attachment.await_detached(here)
            progress(f"restarting PostgreSQL of {name}")
            with acting, here.under_way.starting:
                restarts.restart_now(here)
            here.forget_looks()
            _await_streaming(here)
        attachment.await_attached(here, progress)


def primary(here: Here, acting: AbstractContextManager[object], progress: Progress) -> None:
    """Restart this node's primary in place, and return when the cluster is healthy again; raises ClusterError.

    Its unit asks this agent for the start, like any restart by systemd, so it starts only in a new term.
    """
    name = here.me.name
    await_ready(here, progress)
    refuse_unless_primary(here)
    with recording.timed(here, EventKind.RESTART, f"restart PostgreSQL of {name}, the primary", why=_WHY):
        _refuse_unstartable(here)
        here.query("CHECKPOINT")
        progress(f"restarting PostgreSQL of {name}, the primary; clients wait")
        with acting:
            restarts.restart_now(here)
            here.forget_looks()
        await_ready(here, progress)


def _refuse_unstartable(here: Here) -> None:
    for reason, fix in restarts.unstartable(here):
        raise _never_starts(here.me.name, reason, fix)


def _never_starts(name: str, reason: str, fix: str) -> OperationError:
    hint = f"{fix}; then pgpoolctl apply on {name}"
    return OperationError(f"PostgreSQL of {name} would not start again: {reason}", hint=hint)


def _refuse_others(here: Here) -> None:
    others = restart_plan.restarting(here.look_at_all(fresh=True), here.me.name)
    if others:
        hint = "wait until it has ended; then the same command again"
        raise OperationError(f"{', '.join(others)} restarts at the same time", hint=hint)


def _await_lower_values(here: Here, progress: Progress) -> None:
    """Wait until a standby could start with its configured values, because it has replayed the primary's lower ones.

    PostgreSQL compares them with pg_control, which replay updates. Raises OperationError after 60 s.
    """
    instance = here.server.instance
    configured = pg.configured(instance)

    def low() -> dict[str, tuple[int, int]]:
        return matching.lower(configured, matching.needed(pg.control_data(instance)))

    if not low():
        return
    progress(f"waiting until {here.me.name} has replayed the lower values")
    if left := poll(low, until=lambda low: not low, seconds=_REPLAY_SECONDS, pause=_PAUSE_SECONDS):
        found = "; ".join(f"{name} = {value}, and {least} is needed" for name, (value, least) in left.items())
        hint = f"{restart_plan.PENDING} begins with the nodes that can restart; {_STATUS}"
        raise OperationError(f"PostgreSQL of {here.me.name} would not start again: {found}", hint=hint)


def _has_replayed(mine: NodeFacts, leader: NodeFacts) -> bool:
    return None not in (mine.replayed, leader.position) and mine.replayed >= leader.position  # type: ignore[operator]


def _await_streaming(here: Here) -> None:
    """Wait until this standby receives from the primary and has caught up, or lags like before for 10 s.

    Raises OperationError if it does not receive within 60 s. Its agent keeps trying.
    """
    name = here.me.name

    def receives(facts: ClusterFacts) -> NodeFacts | None:
        leader, mine = rightful_primary(here.cluster, facts), facts.of(name)
        fits = leader is not None and mine.standby and mine.streaming and mine.follows == leader.node
        return leader if fits and not mine.needs else None

    facts = poll(
        lambda: here.look_at_all(fresh=True),
        until=lambda facts: receives(facts) or facts.of(name).writable,
        seconds=_STREAM_SECONDS,
        pause=_PAUSE_SECONDS,
    )
    leader = receives(facts)
    if facts.of(name).writable:
        return  # the primary was lost meanwhile, and this node has taken its place
    if leader is None:
        raise OperationError(f"{name} has restarted, but does not receive from the primary", hint=_STATUS)
    poll(lambda: _has_replayed(here.look_at_all(fresh=True).of(name), leader),
         seconds=_CATCH_UP_SECONDS, pause=_PAUSE_SECONDS)  # fmt: skip
