"""A cluster keeps running while its servers are upgraded to the next Debian release, one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from tests import built
from tests.built import Built
from tests.chroot import Answer, Chroot
from tests.cluster.cluster import Cluster
from tests.cluster.images import BARE, DEPENDENCIES, INDEXED
from tests.cluster.lab import Lab
from tests.cluster.load import Ledger, ledger
from tests.host import FIRST_BOOT, Host, imported, together

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable, State

pytestmark = pytest.mark.thorough
NEXT = "/srv/next"
"""Where a host has the next release: sources.list, apt's lists and our packages; apt's cache has the archive's."""
SERVER = f"""
apt-get install -y -q postgresql postgresql-{{major}}-pgpool2 pgpool2 $({DEPENDENCIES})
pg_dropcluster {{major}} main
echo 'make-ssl-cert generate-default-snakeoil --force-overwrite' >>{FIRST_BOOT}
echo 'pg_createcluster {{major}} main' >>{FIRST_BOOT}
"""
FETCH = f"""
mkdir -p {NEXT}/lists/partial
printf '%s\\n' {{sources}} 'deb [trusted=yes] file:{NEXT}/packages ./' >{NEXT}/sources.list
fetch='apt-get -q -y -o Dir::State::Lists={NEXT}/lists -o Dir::Etc::SourceList={NEXT}/sources.list
    -o Dir::Etc::SourceParts=- -o Acquire::Retries=3 -o Acquire::http::Timeout=30'
$fetch update
$fetch full-upgrade --download-only
$fetch install --download-only pgpool2-cluster postgresql-{{major}} postgresql-{{major}}-pgpool2
"""
UPGRADE = f"""
rm -f /etc/apt/sources.list.d/* /etc/apt/preferences.d/*
rm -rf /var/lib/apt/lists
mv {NEXT}/sources.list /etc/apt/sources.list
mv {NEXT}/lists /var/lib/apt/lists
apt-get full-upgrade -y -q </dev/null
"""
NEXT_MAJOR = """
apt-get install -y -q postgresql-{new} postgresql-{new}-pgpool2 </dev/null
pg_dropcluster --stop {new} main 2>/dev/null || :
systemctl stop pgpool2-cluster pgpool2
"""
COPIED = """
pg_dropcluster --stop {new} main 2>/dev/null || :
pg_dropcluster --stop {old} main
pg_createcluster {new} main
"""
PENDING = "SELECT coalesce(string_agg(name, ' '), '') FROM pg_settings WHERE pending_restart"
VERSION = ". /etc/os-release; echo $VERSION_CODENAME $(dpkg-query -W -f '${Version}' pgpool2)"
SERVES = "SELECT current_setting('server_version_num')::int / 10000, current_setting('port')"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The cluster after the upgrade of all its servers, the results, and the answers that clients got meanwhile."""

    cluster: Cluster
    answers: dict[str, Answer]
    account: Ledger
    before: Built
    after: Built


@pytest.fixture(scope="module")
def following(release: Release, project: Project) -> Built:
    """The packages of the next stable release."""
    table = ReleaseTable.load(project.releases)
    later = [row for row in table.releases if row.number > release.number and row.state is State.SUPPORTED]
    if not later:
        pytest.skip(f"Debian has released nothing after {release.name} yet")
    return built.built(project, later[0], built.build(project, later[:1], install=True)[later[0].name])


@pytest.fixture(scope="module")
def image(
    docker_engine: docker.DockerClient, clean: Root, packages: Built, following: Built, systems: Path
) -> Iterator[str]:
    """A server like `prepared`, with Debian's metapackage postgresql, and with the next release on its disk."""
    place = systems / f"upgrading-{packages.release.name}"
    chroot = Chroot(clean, place, ((packages.folder, "/dist"), (following.folder, "/next")))
    chroot.run(BARE + SERVER.format(major=packages.majors[-1]))
    sources = " ".join(map(shlex.quote, archive.find_archive(None).sources(following.release)))
    chroot.run(INDEXED.format(place=f"{NEXT}/packages", origin="/next"))
    chroot.run(FETCH.format(sources=sources, major=following.majors[-1]), network=True)
    file = chroot.packed(place / "image")
    with ExitStack() as until_then:
        until_then.callback(chroot.remove)
        yield until_then.enter_context(imported(docker_engine, f"{packages.release.name}-upgrading", file))


@pytest.fixture(scope="module")
def upgraded(image: str, room: Lab, packages: Built, following: Built) -> Iterator[Upgraded]:
    """Standbys first, the primary last, each while clients write through the others."""
    cluster = Cluster.of(room.boot(image, "pg1", "pg2", "pg3"))
    try:
        cluster.deploy()
        pg1, pg2, pg3 = cluster.hosts
        answers = {}
        with ledger(cluster, pg2, pg2, "upgrade") as account:
            for host in (pg3, pg1):
                answers[host.name] = host.attempt(UPGRADE, seconds=900)
                cluster.wait_healthy(180)
        answers[pg2.name] = pg2.attempt(UPGRADE, seconds=900)
        cluster.wait_healthy(180)
        yield Upgraded(cluster, answers, account, packages, following)
    finally:
        room.remove(cluster.hosts)


def test_1_nothing_is_asked(upgraded: Upgraded) -> None:
    for answer in upgraded.answers.values():
        assert answer.status == 0, answer.output[-3000:]
        assert answer.questions == []


def test_2_every_server_has_the_next_release_and_our_packages_for_it(upgraded: Upgraded) -> None:
    for host in upgraded.cluster.hosts:
        assert host.run(VERSION) == f"{upgraded.after.release.name} {upgraded.after.debian_version}"


def test_3_the_postgresql_in_use_stays_in_use(upgraded: Upgraded) -> None:
    """The next release's own server exists beside it, but does not serve yet."""
    for host in upgraded.cluster.hosts:
        assert host.psql(SERVES) == f"{upgraded.before.majors[-1]}|5432"
    assert upgraded.cluster.writable() == ["pg1"]


def test_4_clients_kept_writing_and_nothing_is_lost(upgraded: Upgraded) -> None:
    assert upgraded.account.acknowledged
    assert upgraded.account.lost(upgraded.cluster.hosts[0]) == set()
    assert len(set(upgraded.cluster.checksums().values())) == 1


def test_5_the_servers_boot_into_a_healthy_cluster(upgraded: Upgraded) -> None:
    together(Host.reboot, upgraded.cluster.hosts)
    upgraded.cluster.wait_healthy(120)


@pytest.fixture(scope="module")
def on_the_next_major(upgraded: Upgraded) -> dict[str, Answer]:
    """The output of pg_upgradecluster, after the procedure in docs/how-to/upgrade-postgresql.md."""
    cluster, words = upgraded.cluster, {"old": upgraded.before.majors[-1], "new": upgraded.after.majors[-1]}
    pg1, pg2, _ = cluster.hosts
    together(lambda host: host.run(NEXT_MAJOR.format_map(words)), cluster.hosts)
    said = {host.name: host.attempt(f"pg_upgradecluster {words['old']} main </dev/null") for host in (pg2, pg1)}
    together(lambda host: host.run(COPIED.format_map(words)), cluster.others(pg1))
    together(lambda host: host.run("systemctl start pgpool2-cluster pgpool2"), cluster.hosts)
    cluster.wait_healthy(180)
    return said


def test_6_a_standby_is_not_upgraded_alone(on_the_next_major: dict[str, Answer]) -> None:
    answer = on_the_next_major["pg2"]
    assert answer.status != 0
    assert "pg2 is not the primary" in answer.output
    assert "hint: upgrade the primary" in answer.output


def test_7_the_cluster_follows_pg_upgradecluster(upgraded: Upgraded, on_the_next_major: dict[str, Answer]) -> None:
    assert on_the_next_major["pg1"].status == 0, on_the_next_major["pg1"].output
    for host in upgraded.cluster.hosts:
        assert host.psql(SERVES) == f"{upgraded.after.majors[-1]}|5432"
        assert host.psql(PENDING) == ""
        host.run("pgpoolctl check")
    assert upgraded.cluster.writable() == ["pg1"]
    assert upgraded.account.lost(upgraded.cluster.hosts[0]) == set()
    assert len(set(upgraded.cluster.checksums().values())) == 1


def test_8_the_servers_boot_into_it_too(upgraded: Upgraded, on_the_next_major: dict[str, Answer]) -> None:
    assert on_the_next_major
    together(Host.reboot, upgraded.cluster.hosts)
    upgraded.cluster.wait_healthy(120)
