"""apt of each release runs repeatedly during publishes, and sees a consistent state each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.chroot import Answer, Chroot
from tests.published import Publisher
from tests.serving import web

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release
from pgpool_deb.runs.small_packages import upload

pytestmark = pytest.mark.thorough
CLIENTS = 4
RUNS_PER_PUBLISH = 10
STALL = 600.0
COUNTS = "/counts"
CLIENT = f"""
find /etc/apt/sources.list /etc/apt/sources.list.d -type f -delete
{{fetch}}
cd /tmp
newest=0 number=0
while [ "$number" -lt {{runs}} ]; do
    number=$((number + 1)) before=$newest
    apt-get -q update >said 2>&1 || {{{{ cat said; exit 1; }}}}
    newest=$(apt-cache policy pgpool2 | sed -n 's/^  Candidate: //p')
    apt-get -q download pgpool2 >>said 2>&1 || {{{{ cat said; exit 1; }}}}
    if grep -E '^(Err|[WEN]:|Warning|Notice|Error)' said; then exit 1; fi
    [ "$(dpkg-deb -f pgpool2_*.deb Version)" = "$newest" ]
    dpkg --compare-versions "$newest" ge "$before"
    rm pgpool2_*.deb
    echo "$newest" | tee -a {COUNTS}/$0
done
"""
"""Prints the version of each run, and fails if a version is lower than the previous one."""


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A folder in which each client counts its runs."""
    (tmp_path / "counts").mkdir()
    return tmp_path / "counts"


@pytest.fixture
def publisher(project: Project, release: Release, tmp_path: Path) -> Iterator[Publisher]:
    (tmp_path / "repository").mkdir()
    with web(tmp_path / "repository") as url, Publisher.at(project, release, tmp_path, url) as made:
        yield made


def test_apt_sees_a_consistent_state_during_publishes(
    clean: Root, on: Callable[[Root], Chroot], publisher: Publisher, counts: Path, request: pytest.FixtureRequest
) -> None:
    """Publishes are spread over all runs of the clients."""
    runs = int(request.config.getoption("--runs"))
    each, publishes = -(-runs // CLIENTS), max(2, runs // RUNS_PER_PUBLISH)
    suite = f"{publisher.release.name}-testing"

    def publish(number: int) -> None:
        folder = publisher.place / f"upload-{number}"
        upload(folder, f"4.7.2-{50 + number}+{publisher.release.suffix}")
        publisher.publish(folder, "testing")

    def client(number: int, system: Chroot) -> Answer:
        system.binds = (*system.binds, (counts, COUNTS))
        script = CLIENT.format(fetch="\n".join(publisher.lines(suite)[:-1]), runs=each)
        return system.attempt(script.replace("$0", str(number)), network=True, stall=STALL)

    publish(0)
    with ThreadPoolExecutor(CLIENTS) as pool:
        working = [pool.submit(client, number, on(clean)) for number in range(CLIENTS)]
        for number in range(1, publishes + 1):
            while done(counts) * publishes < (number - 1) * runs and not all(one.done() for one in working):
                time.sleep(0.05)
            publish(number)
        answers = [one.result() for one in working]
    for answer in answers:
        assert answer.status == 0, answer.output
    seen = {line for answer in answers for line in answer.output.splitlines() if line.startswith("4.7.2-")}
    print(f"{done(counts)} runs of apt of {publisher.release.name} beside {publishes} publishes saw {len(seen)} states")
    assert done(counts) >= runs
    assert len(seen) > publishes // 2


def done(counts: Path) -> int:
    """Return the number of finished runs of all clients."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in counts.iterdir())
