"""Connect the package's code to a simulated world instead of a machine."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_cluster.agent import agent, answers, contact, life_signs
from pgpool_cluster.copying import copy_source, copying, keeping
from pgpool_cluster.decision import fencing
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.divergence import own_stretches
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.reports.status import differing
from pgpool_cluster.decision.situation import Policy, rightful_primary
from pgpool_cluster.definition.cluster import Cluster, Node
from pgpool_cluster.ground import log, paths, waiting
from pgpool_cluster.ground.errors import ClusterError, OperationError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node import last_facts, node, recording, retries
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, pgpool_service, queueing, switchover
from pgpool_cluster.operations.succession import synchrony
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.postgresql import postmaster, server_log

from .beats import Beats
from .hosts import Host, World
from .kernel import Kernel, Time
from .servers import position_of

_KERNELS: list[Kernel] = []
_WORLDS: list[World] = []
_MOST_KEPT = 20_000
LONG_COPY_SECONDS = 30.0
"""How long one copy of five takes."""
_SAVE = Record.save


@contextmanager
def at_work(world: World) -> Iterator[World]:
    """Set the world for the package's code during the block; only within `machine`."""
    _KERNELS.insert(0, world.kernel)
    _WORLDS.insert(0, world)
    try:
        yield world
    finally:
        _KERNELS.pop(0)
        _WORLDS.pop(0)


def _here() -> Host:
    return _WORLDS[0].current_host()


_JOIN_SECONDS = 60.0


class _Serve:
    """paths.SERVE of the host whose agent runs."""

    def exists(self) -> bool:
        return _here().serve

    def touch(self) -> None:
        _here().serve = True

    def unlink(self, missing_ok: bool = False) -> None:
        del missing_ok
        _here().serve = False


class _Threads:
    """A stand-in for `threading`: background work is another task of the same agent."""

    def Thread(self, target: Callable[..., object], args: tuple[Any, ...] = (), **_: object) -> Any:  # noqa: N802
        over: list[bool] = []

        def work() -> None:
            try:
                target(*args)
            finally:
                over.append(True)

        def start() -> None:
            world = _WORLDS[0]
            task, watching = world.kernel.current, world.beating.sender
            process = task.process if task is not None else watching and watching.agent and watching.agent.process
            if not process:  # the world has ended, and the stack of a task is unwound
                over.append(True)
                return
            world.kernel.spawn(process, work)

        return SimpleNamespace(start=start, join=lambda: waiting.poll(lambda: over, seconds=_JOIN_SECONDS, pause=0.01))


def _control(verb: str, unit: str = "") -> None:
    world, host = _WORLDS[0], _here()
    if verb == "apply":
        world.kernel.sleep(0.3)
        record = host.agent.here.record if host.agent else host.record
        host.standby_names = world.cluster.standby_names(came=record.standbys_came, dropped=record.dropped)
        world.servers.reload(host)
    if unit == paths.PGPOOL_UNIT:
        world.kernel.sleep(0.3)
        if verb in ("restart", "stop"):
            world.pools.end(host)
        if verb != "stop":
            world.pools.start(host)


def _state(_: str) -> UnitState:
    pool = _here().pool
    return UnitState("active" if pool else "failed", "success", was_active=pool is not None, seconds=5)


def _start(server: Any, **_: object) -> None:
    world, host = _WORLDS[0], server.host
    if host.data is None or not host.data.whole:
        raise OperationError("PostgreSQL does not start", hint="its log")
    world.servers.start(host)
    for _attempt in range(20):
        if host.server is not None and host.server.answers:
            return
        world.kernel.sleep(0.1)
    raise OperationError("PostgreSQL does not answer", hint="its log")


def _stop(server: Any) -> None:
    world, host = _WORLDS[0], server.host
    world.kernel.sleep(0.1)
    world.servers.stop(host)
    if host.server is not None:
        world.kernel.sleep(5.0)
        if host.server is not None:
            raise OperationError("PostgreSQL does not stop", hint="its log")


def _kill(_: object) -> bool:
    """Kill the server of the host whose agent runs, as postmaster.kill does."""
    _WORLDS[0].kernel.sleep(0.02)
    _WORLDS[0].servers.kill(_here())
    return True


def _stop_server(here: Here) -> None:
    if _here().server is not None:
        _stop(here.server)


def _keep(here: Here, source: str) -> str:
    """Keep the writes in the WAL that only this node has, with the conditions of keeping.keep."""
    host, data = _here(), _here().data
    if data is None or here.record.system is None or here.record.copying:
        return ""
    try:
        theirs = keeping._source(here, source)
    except ClusterError as error:
        raise keeping.NotKeptError(error.message, hint=error.hint) from error
    for one in own_stretches(theirs, data.timeline, data.history, here.record.origins):
        for place, (timeline, number) in enumerate(data.log):
            begins, ends = position_of(place), position_of(place + 1)
            if timeline == one.timeline and begins >= one.start and (one.end is None or ends <= one.end):
                host.kept.add(number)
    return ""


def _copy(copy: copying._Copy, *, rewind: bool) -> None:
    """pg_basebackup or pg_rewind, with the steps of copying.py around it, in the same order."""
    world, here = _WORLDS[0], copy.here
    host, source = world.hosts[here.me.name], world.hosts[copy.upstream.name]

    def answers() -> bool:
        running = source.server
        accepts = running is not None and running.answers and running.process.runs
        return accepts and world.linked_both(host.name, source.name)

    if not answers() or source.data is None:
        raise OperationError(f"cannot copy from {source.name}", hint="psql")
    source.data.slots |= {host.node.slot}
    copy._begin("copying")
    if host.data is not None:
        host.data.whole = False
    world.kernel.sleep(world.random.uniform(0.5, 3.0) if world.random.random() < 0.8 else LONG_COPY_SECONDS)
    if not answers() or (rewind and source.data.standby):
        raise OperationError("the connection was lost", hint="run the same command to start again")
    if rewind and host.data and (host.data.timeline, host.data.history) == (source.data.timeline, source.data.history):
        host.data.whole = True  # pg_rewind sees the same timeline, and changes nothing
    else:
        host.data = source.data.copy()
    host.data.standby, host.data.follows = True, source.name
    with here.under_way.starting:
        pg.start(here.server)
    copying.await_streaming(here, source.name)
    here.remember(copying="" if copy.member else source.name)
    here.under_way.copies.end()
    here.under_way.returns.end()


def _remembered(work: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the results of a pure function by the identity of its arguments, which are kept as well."""
    kept: dict[tuple[object, ...], tuple[object, Any]] = {}

    def find(*arguments: Any) -> Any:
        key = tuple([one if isinstance(one, _BY_VALUE) else id(one) for one in arguments])
        entry = kept.get(key)
        if entry is None:
            if len(kept) > _MOST_KEPT:
                kept.clear()
            entry = kept[key] = (arguments, work(*arguments))
        return entry[1]

    return find


_BY_VALUE = (str, Policy)


def _decided() -> Callable[..., Any]:
    """Return `decide`, whose results are kept. Of the time without a majority, it only asks whether a fence is due."""
    kept = _remembered(decide)

    def find(cluster: Cluster, me: Node, facts: ClusterFacts, policy: Policy | None = None) -> Any:
        if policy is not None and policy.alone_seconds:
            due = fencing.FENCE_SECONDS if policy.alone_seconds >= fencing.FENCE_SECONDS else 0.0
            policy = replace(policy, alone_seconds=due)
        return kept(cluster, me, facts, policy)

    return find


def _one_object() -> Callable[..., ClusterFacts]:
    """Return a constructor that returns the same object for the same facts."""
    kept: dict[tuple[int, ...], ClusterFacts] = {}
    nothing: dict[str, NodeFacts] = {}

    def find(nodes: dict[str, NodeFacts] = nothing) -> ClusterFacts:
        key = tuple([id(found) for found in nodes.values()])
        facts = kept.get(key)
        if facts is None:
            if len(kept) > _MOST_KEPT:
                kept.clear()
            facts = kept[key] = ClusterFacts(nodes)
        return facts

    return find


def _once(pure: property) -> property:
    """Compute a property of an unchangeable cluster only once."""
    kept: dict[int, tuple[Cluster, object]] = {}
    compute = pure.fget
    assert compute is not None

    def find(cluster: Cluster) -> object:
        entry = kept.get(id(cluster))
        if entry is None:
            entry = kept[id(cluster)] = (cluster, compute(cluster))
        return entry[1]

    return property(find)


def _refusal(one: Node, _: object) -> str:
    world, host = _WORLDS[0], _WORLDS[0].hosts[one.name]
    running = host.server
    good = running is not None and running.answers and running.process.runs
    return "" if good and world.linked_both(_here().name, one.name) else "it does not answer"


def _pcp(verb: str) -> Callable[..., None]:
    def work(_: Cluster, one: Node, *, wait: bool = False) -> None:
        host = _here()
        _WORLDS[0].pools.pcp(host, verb, one.name)
        if wait and not waiting.poll(lambda: host.pool is not None and host.pool.up[one.name], seconds=5.0, pause=0.1):
            raise OperationError(f"pgpool-II has not attached {one.name}", hint="")

    return work


def _rewindable(here: Here) -> bool:
    return not here.record.copying


def _saves_durably() -> bool:
    """Return whether the package syncs a record, and the folder of its file, before a save is over."""
    synced: list[bool] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
        _SAVE(Record(), Path(folder, "record"))
    return synced[-2:] == [False, True]


@contextmanager
def machine() -> Iterator[None]:
    """Replace what the package's code does to a machine."""
    time, threads = Time(_KERNELS), _Threads()
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    decided = _decided()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "saves_durably", _saves_durably())
        for module in (act, agent, answers, contact, last_facts, node, queueing, recording, synchrony, waiting):
            patch.setattr(module, "time", time)
        patch.setattr(retries, "monotonic", time.monotonic)
        patch.setattr(retries, "time", time.monotonic)
        patch.setattr(life_signs, "time", SimpleNamespace(monotonic=lambda: _WORLDS[0].beating.now))
        for module in (act, life_signs, queueing, synchrony):
            patch.setattr(module, "threading", threads)
        for module in (agent, answers, switchover):
            patch.setattr(module, "decide", decided)
        for name in ("fingerprint", "databases", "pgpools", "majority", "names_standbys"):
            patch.setattr(Cluster, name, _once(vars(Cluster)[name]))
        patch.setattr(node, "ClusterFacts", _one_object())
        patch.setattr(node, "Heartbeats", Beats)
        patch.setattr(ClusterFacts, "members", _remembered(ClusterFacts.members))
        patch.setattr(synchrony, "rightful_primary", _remembered(rightful_primary))
        patch.setattr(agent, "differing", _remembered(differing))
        patch.setattr(log, "_write", nothing)
        patch.setattr(log, "entry", nothing)
        patch.setattr(agent, "notify", nothing)
        patch.setattr(Record, "save", lambda record, _: _WORLDS[0].save(record))
        patch.setattr(paths, "SERVE", _Serve())
        patch.setattr(paths, "laid_file", lambda: "")
        patch.setattr(units, "control", _control)
        patch.setattr(units, "state", _state)
        patch.setattr(units, "hang_up", nothing)
        patch.setattr(units, "last_words", lambda _: "")
        for verb in ("attach", "detach", "redirect"):
            patch.setattr(pgpool, verb, _pcp(verb))
        patch.setattr(pgpool, "listens", lambda *_, **__: True)
        patch.setattr(pgpool, "port", lambda _: 5433)
        patch.setattr(pg, "start", _start)
        patch.setattr(pg, "halt", _stop)
        patch.setattr(pg, "stop", _stop)
        patch.setattr(postmaster, "runs", lambda _: _here().server is not None)
        patch.setattr(postmaster, "kill", _kill)
        patch.setattr(pg, "conninfo", lambda cluster, _, source: f"host={cluster.named(source).address} port=5432")
        patch.setattr(server_log, "last_words", lambda _: "")
        patch.setattr(copying._Copy, "clone", lambda copy: _copy(copy, rewind=False))
        patch.setattr(copying._Copy, "rewind", lambda copy: _copy(copy, rewind=True))
        patch.setattr(copying, "_rewindable", _rewindable)
        patch.setattr(copying, "_stop_server", _stop_server)
        patch.setattr(keeping, "keep", _keep)
        patch.setattr(copy_source, "refusal", _refusal)
        patch.setattr(pgpool_service, "_LISTEN_SECONDS", 20.0)
        yield
