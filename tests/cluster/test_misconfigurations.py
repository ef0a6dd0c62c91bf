"""Every misconfiguration is found by the check of its subject, with its fix, and no other check fails."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from tests.cluster.cluster import APP_PASSWORD, Cluster
from tests.cluster.misconfigurations import MISCONFIGURATIONS, PRELUDE, Misconfiguration
from tests.host import Host

FOUND_SECONDS = 30.0
"""Agents keep facts, and pgpool-II checks its nodes every few seconds."""
CLEAN_SECONDS = 90.0
"""pgpool-II may have detached a node that one of them could not reach."""
MOST_SECONDS = 3.0
RUNS = 5
TIMED = """
begin=$(date +%s%N); pgpoolctl check >/dev/null; echo $((($(date +%s%N) - begin) / 1000000))
"""


@dataclass(frozen=True, slots=True)
class Failed:
    """A check that failed."""

    node: str
    check: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.node}: {self.check}"


def failed(host: Host) -> list[Failed]:
    """Return the checks that fail, as `pgpoolctl check` on this host reports them."""
    answer = host.attempt("pgpoolctl check --json 2>/dev/null", seconds=60)
    rows = json.loads(answer.output)["checks"]
    assert answer.status == (0 if all(row["ok"] for row in rows) else 1), answer.output
    return [Failed(row["node"], row["check"], row["reason"], row["fix"]) for row in rows if not row["ok"]]


def until(host: Host, expected: Callable[[list[Failed]], str], seconds: float) -> None:
    """Run `check` until `expected` returns no objection."""
    end = time.monotonic() + seconds
    while (objection := expected(failed(host))) and time.monotonic() < end:
        time.sleep(0.5)
    assert objection == "", f"check on {host}: {objection}"


def nothing(found: Iterable[Failed]) -> str:
    return "\n".join(f"{one}: {one.reason}; fix: {one.fix}" for one in found)


def objection(fault: Misconfiguration, found: list[Failed]) -> str:
    """Return how the checks that failed differ from those that the fault must fail."""
    mine = [one for one in found if re.fullmatch(fault.fails, one.check)]
    lines = [f"{node} did not find it" for node in fault.nodes or (fault.host,) if node not in {x.node for x in mine}]
    lines += [f"{one} names another fix: {one.fix}" for one in mine if fault.fix not in one.fix]
    lines += [f"a false alarm: {one}" for one in mine if one.node not in (fault.nodes or (fault.host,))]
    others = [one for one in found if one not in mine and not any(re.fullmatch(also, str(one)) for also in fault.also)]
    return "\n".join([*lines, *(f"a false alarm: {one}: {one.reason}" for one in others)])


@pytest.fixture(scope="module")
def correct(cluster: Cluster) -> Cluster:
    """A cluster whose checks pass; every test restores that."""
    for host in cluster.hosts:
        until(host, nothing, CLEAN_SECONDS)
    return cluster


def test_a_healthy_cluster_is_checked_in_three_seconds_without_a_failure(correct: Cluster) -> None:
    times = [int(correct.hosts[0].run(TIMED)) / 1000 for _ in range(RUNS)]
    print("seconds of check:", times)
    assert min(times) <= MOST_SECONDS, times


@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, id=one.name, marks=() if one.briefly else pytest.mark.thorough) for one in MISCONFIGURATIONS],
)
def test_a_misconfiguration_fails_its_own_check_with_its_fix(correct: Cluster, fault: Misconfiguration) -> None:
    host = correct.named(fault.host)
    places = [host] if fault.by_root else [host, correct.others(host)[0]]

    def run(script: str) -> None:
        values = {"password": APP_PASSWORD, **{other.name: other.address for other in correct.hosts}}
        for name, value in values.items():
            script = script.replace(f"@{name}@", value)
        host.run(PRELUDE + script)

    run(fault.inject)
    try:
        for place in places:
            until(place, lambda found: objection(fault, found), FOUND_SECONDS)
    finally:
        run(fault.undo)
    for place in places:
        until(place, nothing, CLEAN_SECONDS)
