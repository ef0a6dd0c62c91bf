"""Clients that run apt during publishes see a consistent state each time.

Not in the unit level: apt, gpg and apt-ftparchive of this machine run beside each other until all publishes are done.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from debian.debian_support import Version
from tests.serving import web
from tests.unit.repository.apt import Apt

from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
from pgpool_deb.runs.small_packages import upload

PACKAGING = str(Path(__file__).parents[3] / "packaging")
PUBLISH = f"""
import sys
from pathlib import Path
sys.path.insert(0, {PACKAGING!r})
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
publish.run(Project(Path(sys.argv[1])), publish.PublishRequest(Path(sys.argv[2]), unproved=True, install=False), print)
"""


PUBLISHES, CLIENTS, RUNS = 4, 2, 3
"""tests/install/test_apt_beside_publishes.py has many, with apt of each release."""


def test_clients_see_a_consistent_state_during_publishes(checkout: Project, tmp_path: Path) -> None:
    """Each client updates over HTTP and fetches the newest package in a loop; every publish adds a version."""
    repo = tmp_path / "repo"
    publish.run(checkout, publish.PublishRequest(repo, unproved=True, install=False), print)
    ended = threading.Event()
    seen: Counter[str] = Counter()

    def client(number: int) -> int:
        apt = Apt.new(tmp_path / f"client-{number}", repo, url)
        done = 0
        while done < RUNS or not ended.is_set():
            newest = max(apt.versions("pgpool2"), key=Version)
            deb = apt.download("pgpool2")
            assert newest in str(deb).replace("%3a", ":"), (newest, deb)
            deb.unlink()
            seen[newest] += 1
            done += 1
        return done

    with web(repo) as url, ThreadPoolExecutor(CLIENTS) as pool:
        working = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            for number in range(PUBLISHES):
                upload(checkout.dist / "trixie", f"4.7.2-{51 + number}+deb13+1")
                command = [sys.executable, "-c", PUBLISH, str(checkout.path), str(repo)]
                subprocess.run(command, check=True, capture_output=True)
        finally:
            ended.set()
        total = sum(one.result() for one in working)
    print(f"{total} runs of apt beside {PUBLISHES} publishes saw {len(seen)} states, and no error")
    assert total >= CLIENTS * RUNS
    assert len(seen) > 1
