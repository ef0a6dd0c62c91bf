"""Systems to install on, besides the clean root: one with a PostgreSQL server, and clients of a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.clean_root import DEBIANS
from tests.install.repositories import Client, seen_from

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.releases import Release

SERVER = """
apt-get install -y -q postgresql-{major} systemd iproute2 iputils-arping iputils-ping
apt-get install -y -q $({debians})
apt-get purge -y -q '*pgpool*'
"""


@pytest.fixture(scope="session")
def server(release: Release, clean: Root, packages: Built, systems: Path) -> Root:
    """The clean root with a stopped PostgreSQL, and with all dependencies of both pgpool2 packages."""
    chroot = Chroot(clean, systems / f"server-{release.name}")
    chroot.run(SERVER.format(major=packages.majors[-1], debians=DEBIANS))
    return chroot.frozen()


@pytest.fixture
def client(clean: Root, on: Callable[[Root], Chroot]) -> Client:
    """Create clean systems, each of which sees the current content of a repository's folder."""
    return lambda repository: seen_from(on(clean), repository.path)
