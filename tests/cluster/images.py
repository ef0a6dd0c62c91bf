"""Images of hosts: a bare server, and one with everything except the cluster package.

Neither can reach an outer network: apt installs from the archive's packages below /var/cache/apt and
from PACKAGES, an apt source with the built packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import ImageNotFound
from tests.built import Built
from tests.chroot import Chroot
from tests.clean_root import INDEX, SERVERS
from tests.host import FIRST_BOOT, LABEL, imported, own

from pgpool_deb.boxes.roots import Root

PACKAGES = "/srv/packages"
INDEXED = f"""
mkdir -p {{place}}
find {{origin}} -name '*.deb' ! -name '*-dbgsym_*' -exec cp -t {{place}} {{{{}}}} +
{INDEX}"""
"""A command that makes {place} an apt source with the packages of the folder {origin}."""
BARE = f"""
apt-get install -y -q {SERVERS}
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
echo 'ssh-keygen -q -A' >{FIRST_BOOT}
mkdir -p /var/log/journal
{INDEXED.format(place=PACKAGES, origin="/dist")}
echo 'deb [trusted=yes] file:{PACKAGES} ./' >/etc/apt/sources.list.d/built.list
printf 'Package: *\\nPin: origin ""\\nPin-Priority: 990\\n' >/etc/apt/preferences.d/built
apt-get update -q -o Dir::Etc::sourcelist=sources.list.d/built.list -o Dir::Etc::sourceparts=- \\
    -o APT::Get::List-Cleanup=0
"""
PREPARED = f"""
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get install -y -q postgresql-{{major}} pgpool2 postgresql-{{major}}-pgpool2 {{dependencies}}
rm /usr/sbin/policy-rc.d
pg_dropcluster {{major}} main
echo 'make-ssl-cert generate-default-snakeoil --force-overwrite' >>{FIRST_BOOT}
echo 'pg_createcluster {{major}} main' >>{FIRST_BOOT}
"""
DEPENDENCIES = "apt-get install -s pgpool2-cluster | sed -n '/^Inst pgpool2-cluster /d; s/^Inst \\([^ ]*\\) .*/\\1/p'"


@dataclass(frozen=True, slots=True)
class Images:
    """The names of a release's images; `major` is the version of their PostgreSQL."""

    bare: str
    prepared: str
    major: int


@contextmanager
def images(engine: docker.DockerClient, clean: Root, packages: Built, place: Path) -> Iterator[Images]:
    """Create both images of a release, and remove them at the end."""
    release, major = packages.release.name, packages.majors[-1]
    chroot = Chroot(clean, place, ((packages.folder, "/dist"),))
    chroot.run(BARE)
    file = chroot.packed(place / "image")
    with imported(engine, f"{release}-bare", file) as bare:
        chroot.remove()
        script = PREPARED.format(major=major, dependencies=f"$({DEPENDENCIES})")
        with derived(engine, bare, f"{release}-prepared", script) as prepared:
            yield Images(bare, prepared, major)


@contextmanager
def derived(engine: docker.DockerClient, origin: str, name: str, script: str) -> Iterator[str]:
    """Run a script in a container of an image, and save the container as a new image, which is removed at the end."""
    tag = own(name)
    container = engine.containers.create(origin, ["sh", "-euxc", script], network_mode="none", labels=[LABEL])
    try:
        container.start()
        status = container.wait(timeout=600)["StatusCode"]
        lines = container.logs(tail=20).decode(errors="replace")
        assert status == 0, f"the image {name} was not made:\n{lines}"
        container.commit(repository=LABEL, tag=tag)
    finally:
        container.remove(force=True, v=True)
    try:
        yield f"{LABEL}:{tag}"
    finally:
        with suppress(ImageNotFound):
            engine.images.remove(f"{LABEL}:{tag}")
