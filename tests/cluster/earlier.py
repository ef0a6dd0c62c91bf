"""Packages that the current ones replace: of an earlier commit, of an earlier pgpool-II, or Debian's own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tests.host import Host, together
from tests.package.builds import started
from tests.package.caches import over_users_roots

from pgpool_deb.ground.releases import Release

EARLIER = "/srv/earlier"
INSTALL_FROM = (
    "apt-get install -y -q --reinstall --allow-downgrades "
    "$(ls {folder}/*.deb | grep -vE -- '-dbgsym_|postgresql-[0-9]+-pgpool2_') "
    "{folder}/postgresql-$(ls /etc/postgresql)-pgpool2_*.deb </dev/null"
)
DEBIANS = "apt-get install -y -q --allow-downgrades $(ls /var/cache/apt/archives/*pgpool2_*.deb) </dev/null"
OURS = "apt-get install -y -q pgpool2 'postgresql-*-pgpool2' pgpool2-cluster </dev/null"


def built_by(checkout: Path, cache: Path, release: Release, *words: str) -> bytes:
    """Run build-deb in another checkout, over an empty cache folder, and return a tar of the packages."""
    cache.mkdir()
    with started(checkout, over_users_roots(cache), "--release", release.name, *words) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for file in (checkout / "dist" / release.name).glob("*.deb"):
            tar.add(file, f"{Path(EARLIER).name}/{file.name}")
    return made.getvalue()


def install(hosts: tuple[Host, ...], packages: bytes) -> None:
    """Install the result of `built_by` on all hosts in parallel."""
    for host in hosts:
        host.container.put_archive(str(Path(EARLIER).parent), packages)
    together(lambda host: host.run(INSTALL_FROM.format(folder=EARLIER)), hosts)
