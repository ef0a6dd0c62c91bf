"""Whatever happens to the nodes, and in whatever order they decide: they become healthy, or name a helpful command.

The agents are the package's own code, in a world in memory (world.py). hypothesis draws the stories. A further test
covers all states in which three nodes can have stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.world import QUIET, Data, World, at_work, hands, make_cluster

from pgpool_cluster.decision.situation import rightful_primary
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground.errors import ClusterError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.transport.protocol import PauseRequest

NATIVE = Mode.NATIVE_REPLICATION
STREAMING = Mode.STREAMING_REPLICATION
in_any_story = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


# The expected end


def come_back(world: World, boots: Sequence[str], turns: Sequence[str]) -> None:
    """Power on every host, one after the other, and let all take turns until they rest; then run their commands."""
    for host in world.hosts.values():
        host.slow, host.applies = False, True
    for name in boots:
        world.boot(name)
        for other in turns:
            world.step(other)
    rests(world, turns)
    world.story.append("rest")
    tried = 0
    while not world.is_healthy():
        assert world.serves() or wishes(world), f"no node serves\n{world.shown()}"
        assert helped(world, turns), f"no command helps\n{world.shown()}"
        tried += 1
        assert tried <= 4 * len(world.hosts), f"commands without end\n{world.shown()}"
    nothing_is_lost(world)


def rests(world: World, turns: Sequence[str]) -> None:
    """Let all take turns until nothing changes, even after the agents stop waiting for hosts that may be booting."""
    world.settle(turns)
    for host in world.hosts.values():
        host.patient = False
    done = world.settle(turns)
    busy = {name: actions for name, actions in done.items() if any(not isinstance(one, QUIET) for one in actions)}
    assert not (busy and world.is_healthy()), f"never done: {busy}\n{world.shown()}"


def helped(world: World, turns: Sequence[str]) -> bool:
    """Run the first command in the notes that changes something; return False if there is none."""
    answers = []
    for verb, name in world.commands():
        before = world.state()
        answers.append(world.command(verb, name))
        rests(world, turns)
        if world.state() != before:
            return True
    world.story.append(f"commands answered: {answers or 'none is named'}")
    return False


def wishes(world: World) -> bool:
    """Return whether an administrator stopped a server, so that no node may be left to serve."""
    return any(host.by_hand for host in world.databases)


def nothing_is_lost(world: World) -> None:
    if world.cluster.mode.streams:
        primary = [host for host in world.databases if host.data and not host.data.standby]
        missing = world.acknowledged - (primary[0].data or Data()).writes
        assert not (world.promised and missing), f"lost: {missing}\n{world.shown()}"
        return
    for host in world.databases:
        missing = world.acknowledged - (host.data or Data()).writes
        assert not missing, f"lost on {host.name}: {missing}\n{world.shown()}"
    kept = {tuple(sorted(host.data.writes)) for host in world.databases if host.data}
    assert len(kept) == 1, f"nodes differ\n{world.shown()}"


def one_primary(world: World) -> None:
    if world.cluster.mode.streams:
        writable = [one.node for one in world.seen().members(world.cluster) if one.writable]
        assert len(writable) <= 1, f"two primaries\n{world.shown()}"


# Stories

Event = Callable[[World], None]


@dataclass(frozen=True)
class Told:
    """An event, with its description."""

    text: str
    work: Event

    def __call__(self, world: World) -> None:
        world.story.append(self.text)
        self.work(world)
        one_primary(world)

    def __repr__(self) -> str:
        return self.text


def chosen(world: World, mask: int) -> list[str]:
    names = list(world.hosts)
    return [name for place, name in enumerate(names) if mask >> place & 1] or names


def named(world: World, place: int) -> str:
    return list(world.hosts)[place % len(world.hosts)]


def database(world: World, place: int) -> str:
    return world.databases[place % len(world.databases)].name


masks = st.integers(0, 31)
"""A set of hosts; the empty set means all."""
places = st.integers(0, 4)


def give_up(world: World, name: str) -> None:
    """Give a node up if it is down: pgpool-II's health check does, or with streaming, the agents' next turns do."""
    if not world.cluster.mode.streams:
        world.check(name)
        return
    for other in world.hosts:
        if other != name:
            world.step(other)


def cut(mask: int) -> Told:
    return Told(f"power cut of {mask:05b}", lambda world: world.cut(chosen(world, mask)))


def cut_in_step(place: int, effects: int, mask: int) -> Told:
    """Power fails while an agent acts."""

    def work(world: World) -> None:
        name = named(world, place)
        world.cut_during(chosen(world, mask), effects, lambda: world.step(name))

    return Told(f"power cut of {mask:05b} in step of {place} after {effects}", work)


def cut_in_recovery(place: int, effects: int, mask: int) -> Told:
    """Power fails during an administrator's recovery."""

    def work(world: World) -> None:
        name = database(world, place)
        if world.hosts[name].on:
            world.cut_during(chosen(world, mask), effects, lambda: world.command("recover", name))

    return Told(f"power cut of {mask:05b} in recovery of {place} after {effects}", work)


def cut_in_check(place: int, effects: int, mask: int) -> Told:
    """Power fails while the others give a node up and continue without it."""

    def work(world: World) -> None:
        world.cut_during(chosen(world, mask), effects, lambda: give_up(world, database(world, place)))

    return Told(f"power cut of {mask:05b} while {place} is given up after {effects}", work)


def write_cut_short(reached: int, mask: int) -> Told:
    def work(world: World) -> None:
        world.write_cut_short(chosen(world, reached).__contains__, chosen(world, mask))

    return Told(f"power cut of {mask:05b} in a write that {reached:05b} got", work)


def shut_down(mask: int) -> Told:
    return Told(f"shutdown of {mask:05b}", lambda world: world.shut_down(chosen(world, mask)))


def boot(place: int, early: bool) -> Told:
    return Told(f"boot of {place}{' early' * early}", lambda world: world.boot(named(world, place), early=early))


def step(place: int) -> Told:
    def work(world: World) -> None:
        world.step(named(world, place))

    return Told(f"step of {place}", work)


def turns(impatient: bool) -> Told:
    def work(world: World) -> None:
        for host in world.hosts.values():
            host.patient &= not impatient
        world.settle(list(world.hosts))

    return Told(f"all take turns{', impatient' * impatient}", work)


def check(place: int) -> Told:
    return Told(f"{place} is given up", lambda world: give_up(world, database(world, place)))


def write(reached: int) -> Told:
    return Told(f"write that {reached:05b} got", lambda world: world.write(chosen(world, reached).__contains__))


def crash(place: int) -> Told:
    return Told(f"server of {place} crashes", lambda world: world.crash(database(world, place)))


def stop(place: int) -> Told:
    """An administrator stops a server."""

    def work(world: World) -> None:
        host = world.hosts[database(world, place)]
        if host.up:
            world._end_server(host)
            host.by_hand = True

    return Told(f"systemctl stop on {place}", work)


def slow(mask: int) -> Told:
    """From now on these hosts receive WAL late, and the others at once."""

    def work(world: World) -> None:
        for name, host in world.hosts.items():
            host.slow = name in chosen(world, mask)

    return Told(f"{mask:05b} receive late", work)


def lose(mask: int, *, crashes: bool = False) -> Told:
    """The primary and these hosts fail together, by power or crash; they are given up, the primary last."""

    def work(world: World) -> None:
        primary = rightful_primary(world.cluster, world.seen())
        others = [name for place, name in enumerate(world.hosts) if mask >> place & 1]
        gone = list(dict.fromkeys([*others, *([primary.node] if primary else [])]))
        if crashes:
            for name in gone:
                world.crash(name)
        else:
            world.cut(gone)
        for host in world.databases:
            if host.name in others:
                give_up(world, host.name)
        if primary:
            give_up(world, primary.node)

    return Told(f"the primary and {mask:05b} are lost{', servers only' * crashes}", work)


def no_apply(mask: int) -> Told:
    """From now on `apply` fails on these hosts, as with a faulty cluster.yml."""

    def work(world: World) -> None:
        for name, host in world.hosts.items():
            host.applies = name not in chosen(world, mask)

    return Told(f"apply fails on {mask:05b}", work)


def command(verb: str, place: int) -> Told:
    def work(world: World) -> None:
        if world.hosts[database(world, place)].on:
            world.command(verb, database(world, place))

    return Told(f"{verb} {place}", work)


events = st.one_of(
    st.builds(cut, masks),
    st.builds(shut_down, masks),
    st.builds(boot, places, st.booleans()),
    st.builds(write, masks),
    st.builds(step, places),
    st.builds(turns, st.booleans()),
    st.builds(check, places),
    st.builds(cut_in_step, places, st.integers(0, 12), masks),
    st.builds(cut_in_recovery, places, st.integers(0, 12), masks),
    st.builds(cut_in_check, places, st.integers(0, 12), masks),
    st.builds(write_cut_short, masks, masks),
    st.builds(slow, masks),
    st.builds(no_apply, masks),
    st.builds(lose, masks, crashes=st.booleans()),
    st.builds(crash, places),
    st.builds(stop, places),
    st.builds(command, st.sampled_from(["detach", "attach", "recover"]), places),
)
orders = st.permutations(range(6))


def pause(place: int, *, paused: bool = True) -> Told:
    """An administrator pauses the cluster, or ends the pause, if enough nodes answer."""

    def work(world: World) -> None:
        name = database(world, place)
        if world.hosts[name].on:
            with suppress(ClusterError):
                world.on(name, PauseRequest(paused, "root@pg1"))

    return Told(f"{'pause' if paused else 'resume'} on {place}", work)


with_pauses = st.one_of(events, st.builds(pause, places), st.builds(pause, places, paused=st.booleans()))


def told(world: World, story: Sequence[Told], boots: Sequence[int], order: Sequence[int]) -> None:
    names = list(world.hosts)
    with at_work(world):
        for event in story:
            event(world)
        come_back(world, [names[place] for place in boots if place < len(names)],
                  [names[place] for place in order if place < len(names)])  # fmt: skip


counts = st.tuples(st.integers(1, 5), st.booleans(), st.booleans())
"""The number of database nodes, whether there is a witness, and whether nodes return by themselves."""


@pytest.mark.parametrize("mode", Mode)
@in_any_story
@given(counts, st.lists(events, max_size=8), st.tuples(orders, orders))
def test_every_story_ends_well(
    mode: Mode, count: tuple[int, bool, bool], story: list[Told], order: tuple[list[int], list[int]]
) -> None:
    cluster = make_cluster(mode, count[0], witness=count[1])
    world = World.healthy(replace(cluster, automatic_return=count[2]))
    told(world, story, *order)


@pytest.mark.parametrize("mode", Mode)
@in_any_story
@given(counts, st.lists(with_pauses, max_size=8), st.tuples(orders, orders))
def test_every_story_with_pauses_ends_well_after_them(
    mode: Mode, count: tuple[int, bool], story: list[Told], order: tuple[list[int], list[int]]
) -> None:
    world = World.healthy(make_cluster(mode, count[0], witness=count[1]))
    names = list(world.hosts)
    with at_work(world):
        for event in (pause(0), *story):
            event(world)
        for name in names:
            world.boot(name)
        world.on("pg1", PauseRequest(False, "root@pg1"))
    told(world, (), *order)
    assert {host.record.pause.paused for host in world.hosts.values()} == {False}, world.shown()


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("count", range(1, 6))
def test_new_servers_become_a_cluster(mode: Mode, count: int) -> None:
    world = World.fresh(make_cluster(mode, count))
    with at_work(world):
        rests(world, list(world.hosts))
        assert world.is_healthy(), world.shown()


# All states in which three nodes can have stopped

IN_ORDER, CRASHED, HALF, OUT, OUT_CRASHED = "in order", "crashed", "half copied", "out of service", "out and crashed"
HELD = "held"
ORDERS = list(itertools.permutations(range(3)))


def ended(mode: Mode, states: Sequence[str]) -> World:
    """Return three hosts without power in these states; the first one with complete data was the primary."""
    world = World.healthy(make_cluster(mode, len(states)))
    latest = 2 if OUT in states or OUT_CRASHED in states else 1
    first = next(place for place, state in enumerate(states) if state in (IN_ORDER, CRASHED))
    names = list(world.hosts)
    shared = Data(log=((1, 0), (1, 1)), slots=frozenset(names) - {names[first]})
    if latest == 2 and mode.streams:
        shared = replace(shared, timeline=2, log=((1, 0), (1, 1), (2, 0)))
    world.acknowledged = {1}
    for place, (host, state) in enumerate(zip(world.hosts.values(), states, strict=True)):
        out = state in (OUT, OUT_CRASHED)
        standby = mode.streams and place != first and not out
        host.data = replace(shared, standby=standby, follows=names[first] if standby else None)
        host.record = Record(7000, latest, latest if not standby else 0, standbys_came=world.cluster.synchronous > 0)
        host.names = world.names_wanted(host)
        if out:
            told = any(state in (OUT, OUT_CRASHED) for state in states[:place])  # most nodes have recorded the term
            host.data = replace(host.data, log=((1, 0),), timeline=1)
            host.record = replace(host.record, term=latest if told else 1, led=1)
        if state == HALF:
            host.record = replace(host.record, led=0, copying=names[first])
            host.data = replace(host.data, whole=mode is not STREAMING, standby=True, follows=names[first])
        host.record = replace(host.record, held=state == HELD)
        host.data.crashed = state in (CRASHED, OUT_CRASHED, HALF)
        world._off(host)
    return world


def every_end(mode: Mode) -> Iterator[tuple[str, ...]]:
    states = (IN_ORDER, CRASHED, HALF, OUT, HELD if mode.streams else OUT_CRASHED)
    for ends in itertools.product(states, repeat=3):
        former = sum(state in (OUT, OUT_CRASHED) for state in ends)
        if {IN_ORDER, CRASHED} & set(ends) and not (mode.streams and former > 1):
            yield ends


@pytest.mark.parametrize("boots", ORDERS, ids=lambda boots: "".join(str(place + 1) for place in boots))
@pytest.mark.parametrize("mode", [STREAMING, NATIVE])  # snapshot isolation uses the same code
def test_three_nodes_come_back_however_they_ended(mode: Mode, boots: tuple[int, ...]) -> None:
    failed = {}
    for ends in every_end(mode):
        try:
            told(ended(mode, ends), [], boots, ORDERS[0])
        except AssertionError as error:
            failed[ends] = str(error)
    worst = next(iter(failed.values()), "")
    assert not failed, f"{len(failed)} of {len(list(every_end(mode)))}: {list(failed)}\n{worst}"


# Stories that once failed

ALL = 0


SEEN: dict[str, tuple[Mode, int, list[Told], tuple[int, ...]]] = {
    "a power cut of all, booted pg3, pg1, pg2": (NATIVE, 3, [write(ALL), cut(ALL)], (2, 0, 1)),
    "a power cut in snapshot isolation": (Mode.SNAPSHOT_ISOLATION, 3, [write(ALL), cut(ALL)], (2, 0, 1)),
    "a power cut with one out of service": (
        NATIVE, 3, [write(ALL), cut(0b010), check(1), write(ALL), boot(1, False), turns(True), cut(ALL)], (2, 0, 1),
    ),
    "a power cut with a pgpool-II that runs, without a quorum": (NATIVE, 2, [crash(1), cut(0b01), turns(True)], (0, 1)),
    "a recover of the main node": (NATIVE, 3, [write(ALL), command("recover", 0), write(ALL), cut(ALL)], (0, 1, 2)),
    "power goes between a claim and the promotion": (STREAMING, 3, [stop(0), cut_in_step(1, 4, ALL)], (0, 1, 2)),
    "a minority went on writing": (NATIVE, 3, [shut_down(0b110), write(ALL), shut_down(ALL)], (0, 1, 2)),
    "a crashed node starts before one that ended in order": (
        NATIVE, 3, [shut_down(0b001), write_cut_short(ALL, 0b110)], (1, 2, 0),
    ),
    "streaming, a power cut of all": (STREAMING, 3, [write(0b010), cut(ALL)], (2, 0, 1)),
    "streaming, the primary's death and then all": (
        STREAMING, 3, [write(0b010), cut(0b001), check(0), write(ALL), cut(ALL)], (0, 1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("seen", SEEN)
def test_earlier_failures_end_well(seen: str) -> None:
    mode, count, story, boots = SEEN[seen]
    told(World.healthy(make_cluster(mode, count)), story, boots, ORDERS[0])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("place", range(3))
def test_recovering_a_healthy_node_changes_nothing(mode: Mode, place: int) -> None:
    world = World.healthy(make_cluster(mode, 3))
    with at_work(world):
        before = world.state()
        world.command("recover", database(world, place))
        assert world.state() == before, world.shown()


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("cut_off", [0, 0b010, 0b001], ids=["all", "the target", "the main node"])
def test_power_may_fail_at_any_moment_of_a_recovery(mode: Mode, cut_off: int) -> None:
    """This includes the moment when the copy has become a primary and pgpool-II has not attached it yet."""
    for effects, boots in itertools.product(range(16), [(0, 1, 2), (2, 0, 1)]):
        lost = [write(ALL), cut(0b010), check(1), write(ALL), boot(1, False), turns(True)]
        again = cut_in_recovery(1, effects, cut_off)
        told(World.healthy(make_cluster(mode, 3)), [*lost, again, write(ALL)], boots, ORDERS[0])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("failed", [0, 1])
def test_power_may_fail_at_any_moment_of_a_failover(mode: Mode, count: int, failed: int) -> None:
    """This includes the moment between the claim of a term and the start of its leader."""
    for effects, lost in itertools.product(range(10), (ALL, 0b01, 0b10)):
        told(World.healthy(make_cluster(mode, count)),
             [write(ALL), crash(failed), cut_in_check(failed, effects, lost)], ORDERS[0], ORDERS[0])  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("ends", [(CRASHED,) * 3, (CRASHED, IN_ORDER, IN_ORDER), (IN_ORDER, CRASHED, OUT)], ids=str)
def test_power_may_fail_again_while_nodes_start(mode: Mode, ends: tuple[str, ...]) -> None:
    for effects, place in itertools.product(range(6), range(3)):
        begin = [boot(one, False) for one in range(3)]
        told(ended(mode, ends), [*begin, cut_in_step(place, effects, ALL)], ORDERS[0], ORDERS[0])
