"""The checker is silent about every history that a correct cluster can record, and finds what is changed in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drill import checker
from tests.drill.checker import Lists, check
from tests.drill.operations import FAILED, OK, UNKNOWN, Operation
from tests.drill.promises import PROMISES

PRIMARY, STANDBY = "198.18.0.10", "198.18.0.11"
NAMES = ("x", "y", "z")
STEP = 0.25


@dataclass(frozen=True)
class Recorded:
    """A history and the lists at its end."""

    history: tuple[Operation, ...]
    final: Lists


@st.composite
def recorded(draw: st.DrawFn) -> Recorded:
    """Run transactions one after the other; reads of the standby see the state of up to ten transactions before."""
    states: list[dict[str, tuple[int, ...]]] = [dict.fromkeys(NAMES, ())]
    history = []
    for number in range(draw(st.integers(5, 25))):
        now, state = number * STEP, states[-1]
        if draw(st.booleans()):
            name, outcome = draw(st.sampled_from(NAMES)), draw(st.sampled_from([OK, OK, UNKNOWN, FAILED]))
            done = outcome == OK or (outcome == UNKNOWN and draw(st.booleans()))
            state = {**state, name: (*state[name], number)} if done else state
            history.append(Operation("writer", number, now, now + STEP, outcome, appends={name: number}))
        else:
            standby = draw(st.booleans())
            back = draw(st.integers(0, 10)) if standby else 0
            seen = {
                name: states[max(0, len(states) - 1 - back)][name] for name in draw(st.sets(st.sampled_from(NAMES)))
            }
            node = STANDBY if standby else PRIMARY
            history.append(Operation("reader", number, now, now + STEP, reads=seen, node=node, standby=standby))
        states.append(state)
    return Recorded(tuple(history), states[-1])


@settings(max_examples=40)
@given(recorded())
def test_no_correct_history_is_called_broken(made: Recorded) -> None:
    for mode, promise in PROMISES.items():
        limits = replace(promise, stale_standby=45.0)
        assert check(made.history, {PRIMARY: made.final, STANDBY: made.final}, limits).broken == (), mode


@settings(max_examples=40)
@given(recorded(), st.data())
def test_an_acknowledged_value_that_disappears_is_found(made: Recorded, data: st.DataObject) -> None:
    kept = [(name, value) for one in made.history if one.acknowledged for name, value in one.appends.items()]
    if not kept:
        return
    name, value = data.draw(st.sampled_from(kept))
    final = {**made.final, name: tuple(other for other in made.final[name] if other != value)}
    found = check(made.history, {PRIMARY: final}, PROMISES["streaming_replication"])
    assert checker.LOST in {anomaly.kind for anomaly in found.broken}


@settings(max_examples=40)
@given(recorded(), st.data())
def test_a_read_whose_values_change_places_is_found(made: Recorded, data: st.DataObject) -> None:
    long = [one for one in made.history if any(len(values) > 1 for values in one.reads.values())]
    if not long:
        return
    read = data.draw(st.sampled_from(long))
    turned = replace(read, reads={name: values[::-1] for name, values in read.reads.items()})
    history = tuple(turned if one is read else one for one in made.history)
    found = check(history, {PRIMARY: made.final}, PROMISES["streaming_replication"])
    assert {anomaly.kind for anomaly in found.broken} == {checker.NOT_A_PREFIX}
