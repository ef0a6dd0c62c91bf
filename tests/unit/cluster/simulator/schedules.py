"""Schedules of faults: drawn from a seed, run in a world, written as one line, and shortened after a failure."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tests.unit.cluster.simulator.hosts import Allowed, Host, World
from tests.unit.cluster.simulator.machine import at_work
from tests.unit.cluster.simulator.servers import Violation

from pgpool_cluster.definition.cluster import Cluster, Mode, Node, Service
from pgpool_cluster.ground.errors import ClusterError
from pgpool_cluster.transport import protocol

FIRST_SECONDS, LAST_SECONDS = 2.0, 30.0
"""When faults begin, after the start of the cluster."""
HEALED_SECONDS = 150.0
"""Within how many seconds a cluster whose faults have ended must be healthy, or must wait for an administrator."""
SHAPES = {
    f"{databases}{'w' if witness else ''}s{synchronous}": (databases, witness, synchronous)
    for databases, witness in ((2, True), (3, False), (4, True), (5, False))
    for synchronous in (0, 1, 2)
    if synchronous < databases
}
"""Clusters by name: database nodes, `w` for a witness, and `synchronous`."""
_DRAWN = [name for name in SHAPES for _ in range(1 if name[0] in "45" else 3)]
"""The shapes, with the small ones more often, because they take less time."""
PRIMARY = -1
"""In place of a host's number: the one that is the primary when the fault begins."""
KINDS = (
    "crash", "crash", "reboot", "cut-before-save", "cut-after-save", "isolate-at-save", "isolate-at-save",
    "pause-at-save", "pause-host", "pause-server", "pause-agent", "pause-pool", "kill-server", "stop-server",
    "stop-server", "kill-agent", "kill-pool", "switchover", "switchover", "detach-node", "partition", "partition",
    "one-way", "one-way-pair", "delay", "double", "slow-disk", "slow-wal", "slow-disks", "slow-disks", "slow-disks",
    "return-at-save", "return-at-save", "return-at-save", "lose-pair", "lose-pair",
)  # fmt: skip
_CLUSTERS: dict[str, Cluster] = {}


def cluster_of(shape: str) -> Cluster:
    """Return the cluster of this shape."""
    if shape not in _CLUSTERS:
        databases, witness, synchronous = SHAPES[shape]
        nodes = [Node(i, f"pg{i + 1}", f"10.0.0.{i + 1}", 5432, 1.0, frozenset(Service)) for i in range(databases)]
        if witness:
            nodes.append(Node(databases, "w", "10.0.0.9", 5432, 1.0, frozenset({Service.PGPOOL})))
        _CLUSTERS[shape] = Cluster(
            "main", Mode.STREAMING_REPLICATION, None, tuple(nodes), (), None, None, synchronous, (), ()
        )
    return _CLUSTERS[shape]


@dataclass(frozen=True)
class Fault:
    """One fault: what happens to which host, and to the other one, from when for how many seconds."""

    kind: str
    at: float
    host: int
    other: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.at:g}:{self.host}:{self.other}:{self.seconds:g}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read what `str` writes."""
        kind, at, host, other, seconds = text.split(":")
        return cls(kind, float(at), int(host), int(other), float(seconds))


@dataclass(frozen=True)
class Schedule:
    """A run that can be repeated: the shape of the cluster, the seed of everything random, and the faults."""

    shape: str
    seed: int
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return " ".join([self.shape, str(self.seed), *map(str, self.faults)])

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `str` writes; without faults, they are drawn from the seed."""
        shape, seed, *faults = text.split()
        if not faults:
            return draw(int(seed), shape)
        return cls(shape, int(seed), tuple(map(Fault.parse, faults)))


def draw(seed: int, shape: str = "") -> Schedule:
    """Return the schedule of a seed."""
    chance = random.Random(seed * 2 + 1)
    drawn = chance.choice(_DRAWN)
    shape = shape or drawn
    count = len(cluster_of(shape).nodes)
    faults = []
    at = FIRST_SECONDS
    for _ in range(chance.choice((1, 2, 2, 3, 3, 4, 5))):
        at = round(min(LAST_SECONDS, at + chance.choice((0.0, 0.5, 3.0, 12.0, 25.0)) * chance.random()), 2)
        seconds = round(chance.choice((0.5, 4.0, 15.0, 30.0)) * (0.5 + chance.random()), 1)
        host = PRIMARY if chance.random() < 0.5 else chance.randrange(count)
        faults.append(Fault(chance.choice(KINDS), at, host, chance.randrange(1, 1 << count), seconds))
    return Schedule(shape, seed, tuple(faults))


# Running a schedule


def run(schedule: Schedule, allowed: Allowed | None = None) -> World:
    """Run a schedule to its end; raises Violation."""
    world = World(cluster_of(schedule.shape), schedule.seed, allowed or Allowed())
    with at_work(world):
        try:
            _run(world, schedule)
        finally:
            for host in world.hosts.values():
                world.end_agent(host)
    return world


def _run(world: World, schedule: Schedule) -> None:
    world.begin()
    began = world.kernel.now
    end = began
    for fault in schedule.faults:
        _plan(world, fault, began)
        end = max(end, began + fault.at + fault.seconds)
    world.kernel.run(end + 0.1)
    _heal(world)
    while any(world.blocked.values()):
        world.kernel.run(world.kernel.now + 1.0)  # a fault that a save has begun
    _converge(world)


def _heal(world: World) -> None:
    for host in world.hosts.values():
        host.cut_at_save, host.at_save = "", None
        world.boot(host)
        world.start_agent(host)


def _converge(world: World) -> None:
    """Let time pass until the cluster is healthy; run the commands that its notes name."""
    commands = 0
    until = world.kernel.now + HEALED_SECONDS
    while not world.is_healthy():
        world.kernel.run(world.kernel.now + 2.0)
        _heal(world)  # a paused save may have cut the power meanwhile
        if world.kernel.now < until and not _stuck(world):
            continue
        command = _command(world)
        if command is None:
            if world.kernel.now < until:
                continue
            raise Violation("the cluster does not become healthy, and no note names a command that helps")
        commands += 1
        if commands > 3 * len(world.hosts):
            raise Violation(f"commands without end, the last one: {' '.join(command)}")
        _order(world, *command)
        until = world.kernel.now + HEALED_SECONDS
    primary = world.primary()
    assert primary is not None
    world.check_writes(primary, "is the primary")
    world.check_kept(primary)
    world.check_pools(primary)


def _stuck(world: World) -> bool:
    """Return whether all that is missing are nodes that wait for `pgpoolctl recover`."""
    return world.primary() is not None and _command(world) is not None


def _command(world: World) -> tuple[str, str] | None:
    """Return the first command in the notes, with its verb and its node."""
    facts, primary = world.seen(), world.primary()
    for name, one in facts.nodes.items():
        if one.held and primary is not None and (one.streaming or name == primary.name):
            return "attach", name
    for name, note in world.notes().items():
        if world.hosts[name].record.copying:
            continue  # a recovery is under way
        if "waits for an administrator" in note and world.primary() is not None:
            for verb, node in re.findall(r"pgpoolctl (recover|attach) (\w+)", note):
                return verb, node
        if "systemctl start postgresql" in note:
            return "start", name
    return None


def _order(world: World, verb: str, name: str) -> None:
    """Let an administrator run a command on the node."""
    host = world.hosts[name]
    if verb == "recover" and not host.record.held:
        raise Violation(f"{name} waits for an administrator: {world.notes()[name]}")
    if verb == "start":
        world.start_unit(host)
        return
    _ask(world, host, protocol.RecoverRequest(name) if verb == "recover" else protocol.AttachRequest(name))
    world.kernel.run(world.kernel.now + 8.0)


def _ask(world: World, host: Host, request: protocol.Request[Any]) -> None:
    """Let an administrator run a command on a host."""
    agent = host.agent
    if agent is None:
        return

    def work() -> None:
        with suppress(ClusterError):
            agent.answer(request, lambda _: None)

    world.kernel.spawn(agent.process, work)


# Faults


def _plan(world: World, fault: Fault, began: float) -> None:
    world.kernel.after(began + fault.at - world.kernel.now, lambda: _begin(world, fault))


def _begin(world: World, fault: Fault) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a fault
    """Let a fault begin, and plan its end."""
    hosts = list(world.hosts.values())
    host = hosts[fault.host % len(hosts)]
    if fault.host == PRIMARY and world.newest is not None:
        host = world.newest

    def end(work: Callable[[], object]) -> None:
        def both() -> None:
            work()
            world.touch()

        world.kernel.after(fault.seconds, both)

    match fault.kind:
        case "crash":
            world.power_cut(host)
            end(lambda: world.boot(host))
        case "reboot":
            _shut_down(world, host)
            end(lambda: world.boot(host))
        case "cut-before-save" | "cut-after-save":
            host.cut_at_save = fault.kind.split("-")[1]
            end(lambda: _uncut(world, host))
        case "pause-host" | "pause-server" | "pause-agent" | "pause-pool":
            end(_pause(world, host, fault.kind))
        case "isolate-at-save" | "pause-at-save":
            host.at_save = lambda: _begin(world, _later(fault, hosts.index(host)))
        case "kill-server":
            world.servers.kill(host)
        case "stop-server":
            _stop_by_hand(world, host)
            end(lambda: world.start_unit(host))
        case "kill-agent":
            world.end_agent(host)
            end(lambda: world.start_agent(host))
        case "kill-pool":
            world.pools.end(host)
        case "switchover":
            _ask(world, host, protocol.SwitchoverRequest())
        case "detach-node":
            asked, name = hosts[fault.other % len(hosts)], (host if host in world.databases else hosts[0]).name
            _ask(world, asked, protocol.DetachRequest(name))
            end(lambda: _ask(world, asked, protocol.AttachRequest(name)))
        case "partition" | "one-way" | "one-way-pair":
            links = _links(fault, host, hosts)
            _block(world, links, 1)
            end(lambda: _block(world, links, -1))
        case "delay":
            world.late[host.name] = (0.3, 1.0, 2.0)[fault.other % 3]
            end(lambda: world.late.pop(host.name, None))
        case "double":
            world.doubles += 1
            end(lambda: _end_double(world))
        case "slow-disk":
            host.disk_seconds = 0.3 * (1 + fault.other % 8)
            end(lambda: setattr(host, "disk_seconds", 0.0))
        case "slow-disks":
            _slow_down(hosts, 0.2 * (1 + fault.other % 4))
            end(lambda: _slow_down(hosts, 0.0))
        case "return-at-save":
            world.power_cut(host)
            for other in hosts:
                other.at_save = None if other is host else lambda: world.boot(host)
            end(lambda: world.boot(host))
        case "lose-pair":
            end(_lose_pair(world, fault))
        case "slow-wal":
            host.slow = True
            end(lambda: setattr(host, "slow", False))
        case _:
            raise AssertionError(fault.kind)
    world.touch()


def _lose_pair(world: World, fault: Fault) -> Callable[[], None]:
    """Let only one standby get the last writes, lose it with the primary's server, and return how both come back."""
    primary = world.newest or world.databases[0]
    standbys = [host for host in world.databases if host is not primary]
    fast = standbys[fault.other % len(standbys)]
    slow = [host for host in standbys if host is not fast]
    for host in slow:
        host.slow = True

    def lose() -> None:
        world.power_cut(fast)
        _stop_by_hand(world, primary)
        world.touch()

    def end() -> None:
        for host in slow:
            host.slow = False
        world.boot(fast)
        world.start_unit(primary)

    world.kernel.after(min(4.0, fault.seconds / 2), lose)
    return end


def _slow_down(hosts: list[Host], seconds: float) -> None:
    for host in hosts:
        host.disk_seconds = seconds


def _later(fault: Fault, host: int) -> Fault:
    """Return the fault that a save begins: the agent is paused, or its host is cut off."""
    kind = "pause-agent" if fault.kind.startswith("pause") else "partition"
    return replace(fault, kind=kind, host=host, other=1 << host)


def _pause(world: World, host: Host, kind: str) -> Callable[[], None]:
    """Stop programs of a host, and return what resumes them."""
    paused = []
    if host.server is not None and kind in ("pause-host", "pause-server"):
        paused.append(host.server.process)
    if host.agent is not None and kind in ("pause-host", "pause-agent"):
        paused.append(host.agent.process)
    if host.pool is not None and kind in ("pause-host", "pause-pool"):
        paused.append(host.pool.process)
    for process in paused:
        process.paused += 1
    if host.server is not None and kind != "pause-pool":
        host.server.was_paused = True

    def resume() -> None:
        for process in paused:
            process.resume()
        if host.server is not None and host.server.process.runs and host.server.process.ends_on_resume:
            world.servers.kill(host)

    return resume


def _uncut(world: World, host: Host) -> None:
    host.cut_at_save = ""
    world.boot(host)


def _shut_down(world: World, host: Host) -> None:
    if host.on:
        world.servers.stop(host)
        world.power_cut(host)


def _stop_by_hand(world: World, host: Host) -> None:
    if host.server is not None and not host.server.process.paused:
        world.servers.stop(host)
        host.by_hand = True


def _end_double(world: World) -> None:
    world.doubles -= 1


def _links(fault: Fault, host: Host, hosts: list[Host]) -> list[tuple[str, str]]:
    """Return the links that a fault cuts. A partition separates the hosts of a mask from the others."""
    names = [one.name for one in hosts]
    if fault.kind == "one-way-pair":
        other = names[fault.other % len(names)]
        return [(host.name, other)] if other != host.name else []
    if fault.kind == "one-way":
        pairs = [(host.name, name) for name in names if name != host.name]
        return pairs if fault.other % 2 else [(name, mine) for mine, name in pairs]
    inside = [name for place, name in enumerate(names) if fault.other >> place & 1]
    outside = [name for name in names if name not in inside]
    return [pair for one in inside for other in outside for pair in ((one, other), (other, one))]


def _block(world: World, links: list[tuple[str, str]], by: int) -> None:
    for link in links:
        world.blocked[link] = world.blocked.get(link, 0) + by


# After a failure


def problem(schedule: Schedule, allowed: Allowed | None = None) -> str:
    """Return which invariant a schedule breaks; "" if none."""
    try:
        run(schedule, allowed)
    except Violation as violation:
        return str(violation) or type(violation).__name__
    return ""


def shortest(schedule: Schedule, allowed: Allowed | None = None, tries: int = 300) -> Schedule:
    """Return a shorter schedule that breaks an invariant as well: fewer faults, shorter ones, earlier ones."""
    kind = _kind(problem(schedule, allowed))
    changed = True
    while changed and tries > 0:
        changed = False
        for candidate in _simpler(schedule):
            tries -= 1
            if tries < 0:
                break
            if _kind(problem(candidate, allowed)) == kind:
                schedule, changed = candidate, True
                break
    return schedule


def _kind(text: str) -> str:
    return re.sub(r"\[.*?\]|pg\d+|\d+", "", text)[:60]


def _simpler(schedule: Schedule) -> list[Schedule]:
    faults = schedule.faults
    found = [faults[:place] + faults[place + 1 :] for place in range(len(faults))]
    for place, fault in enumerate(faults):
        for one in (
            replace(fault, seconds=round(fault.seconds / 2, 1)),
            replace(fault, seconds=float(int(fault.seconds))),
            replace(fault, at=float(int(fault.at))),
        ):
            if one != fault and one.seconds > 0 and one.at >= 1:
                found.append((*faults[:place], one, *faults[place + 1 :]))
    return [replace(schedule, faults=one) for one in found if one]
