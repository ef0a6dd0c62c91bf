"""A cluster from only the three lines of a repository's page, then its upgrades and downgrades.

Three servers without any of our packages install them over HTTP from a web server in their network. Clients write
meanwhile, through the nodes that are not being changed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import docker
import pytest
from tests.built import Built
from tests.clean_root import ALONE, YES
from tests.cluster.cluster import Cluster
from tests.cluster.images import PACKAGES, Images, derived
from tests.cluster.lab import Lab
from tests.cluster.load import Ledger, ledger
from tests.host import Host, together
from tests.published import Publisher, later, of_the_how_to, rebuilt

from pgpool_deb.ground.project import Project
from pgpool_deb.repository import keyring

pytestmark = pytest.mark.thorough
HOUR = 3600
PLACE = "/srv/repository"
KNOWS_NOTHING = f"""
rm -r {PACKAGES} /etc/apt/sources.list.d/built.list /etc/apt/preferences.d/built
{ALONE}{YES}apt-get update -q
"""
SERVES = "systemd-run -q --unit=web --working-directory={place} python3 -m http.server --bind {address} 80"
UPGRADE = "apt-get update && apt-get upgrade </dev/null"
UNATTENDED = "/etc/apt/apt.conf.d/52pgpool"
VERSIONS = "dpkg-query -W -f '${Package} ${Version}\\n' '*pgpool*' | grep -v -e keyring -e ' $'"


@dataclass(frozen=True, slots=True)
class Shop:
    """A repository served by the host `web`; `early` is its state of an hour ago."""

    publisher: Publisher
    web: Host
    packages: Built
    early: str

    @property
    def suite(self) -> str:
        return self.packages.release.name

    def serve(self) -> None:
        """Copy the repository to the web server in the order of the how-to: immutable files first, then the rest."""
        later_on = [path.name for path in self.publisher.folder.iterdir() if path.name not in ("pool", "snapshot")]
        for names in (["pool"], ["snapshot"], sorted(later_on)):
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name in names:
                    tar.add(self.publisher.folder / name, name)
            self.web.container.put_archive(PLACE, packed.getvalue())

    def at(self, state: str) -> str:
        """Return the command that makes a server see an earlier state, by default the current one."""
        place = f"{self.publisher.url}/snapshot/{state}" if state else self.publisher.url
        return f"sed -i 's,^URIs: .*,URIs: {place},' {keyring.SOURCES} && apt-get update"

    @property
    def built(self) -> set[str]:
        """The versions on a server with the built packages."""
        return self._versions(self.packages.debian_version, self._cluster_version)

    @property
    def later(self) -> set[str]:
        return self._versions(later(self.packages.debian_version), later(self._cluster_version))

    @property
    def install_as_built(self) -> str:
        """The command that installs the built packages, whatever is installed now."""
        return f"apt-get install {' '.join(sorted(one.replace(' ', '=') for one in self.built))} </dev/null"

    @property
    def _cluster_version(self) -> str:
        return self.packages.one_of_cluster(".dsc").stem.partition("_")[2]

    def _versions(self, pgpool: str, cluster: str) -> set[str]:
        libraries = (name.partition("_")[0] for name in self.packages.files if name.startswith("libpgpool"))
        (library,) = {name for name in libraries if not name.endswith(("-dev", "-dbgsym"))}
        names = ("pgpool2", library, f"postgresql-{self.packages.majors[-1]}-pgpool2")
        return {*(f"{name} {pgpool}" for name in names), f"pgpool2-cluster {cluster}"}


@pytest.fixture(scope="module")
def shop(
    room: Lab, of_release: Images, project: Project, packages: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """The packages as built, published an hour ago."""
    (web,) = room.boot(of_release.prepared, "web")
    place = tmp_path_factory.mktemp("shop")
    with Publisher.at(project, packages.release, place, f"http://{web.address}") as publisher:
        made = Shop(publisher, web, packages, publisher.publish(packages.folder, "stable", age=HOUR))
        web.run(f"mkdir {PLACE}")
        made.serve()
        web.run(SERVES.format(place=PLACE, address=web.address))
        yield made
    room.remove((web,))


@pytest.fixture(scope="module")
def bare(docker_engine: docker.DockerClient, of_release: Images, packages: Built) -> Iterator[str]:
    """The image of a server that can install Debian's packages, and does not know ours."""
    with derived(docker_engine, of_release.bare, f"{packages.release.name}-stranger", KNOWS_NOTHING) as made:
        yield made


@pytest.fixture(scope="module")
def bought(room: Lab, bare: str, shop: Shop) -> Iterator[Cluster]:
    """Preseed the answers, then run the three lines, on all servers in parallel."""
    hosts = room.boot(bare, "pg1", "pg2", "pg3")
    cluster = Cluster.of(hosts)
    cluster.seed()
    lines = "\n".join(shop.publisher.lines(shop.suite))
    together(lambda host: host.run(lines, seconds=900), hosts)
    yield cluster
    room.remove(hosts)


def versions(host: Host) -> set[str]:
    return set(host.run(VERSIONS).splitlines())


def while_clients_write(cluster: Cluster, host: Host, what: str, script: str) -> None:
    """Run a script on a host while clients write through the others, without a failed write."""
    with ExitStack() as stack:
        accounts: dict[Host, Ledger] = {}
        for other in cluster.others(host):
            accounts[other] = stack.enter_context(ledger(cluster, other, other, f"{what} {host} {other}"))
        host.run(script, seconds=900)
        cluster.wait_healthy(120)
    cluster.replayed()
    for through, account in accounts.items():
        told = f"{what} on {host}, through {through}: {len(account.acknowledged)} rows"
        print(f"{told}, {account.longest_gap:.1f} s the longest time without one")
        assert account.errors == "", (host, through, account.errors)
        for node in cluster.hosts:
            assert account.lost(node) == set(), (host, through, node)


def test_1_the_lines_alone_make_a_healthy_cluster(bought: Cluster, shop: Shop) -> None:
    bought.wait_healthy(180)
    for host in bought.hosts:
        assert versions(host) == shop.built
        status = bought.status(host)
        assert [node.role for node in status.nodes.values()] == ["primary", "standby", "standby"], status.text
        answer = host.attempt("pgpoolctl check")
        assert answer.status == 0, answer.output
    assert bought.writable() == ["pg1"]


def test_2_rows_written_through_any_node_are_on_all(bought: Cluster) -> None:
    bought.add_app()
    bought.ask("CREATE TABLE written (through text)", at=bought.hosts[0])
    for host in bought.hosts:
        bought.ask(f"INSERT INTO written VALUES ('{host}')", at=bought.hosts[0], through=host)  # noqa: S608
    assert len(set(bought.checksums().values())) == 1
    rows = bought.hosts[2].psql("SELECT through FROM written ORDER BY 1", database="app")
    assert rows.split() == [host.name for host in bought.hosts]


def test_3_every_node_is_upgraded_without_failures_on_the_others(bought: Cluster, shop: Shop) -> None:
    """The primary comes last, as in the how-to."""
    shop.publisher.publish(rebuilt(shop.packages.folder, shop.publisher.place / "later"), "stable")
    shop.serve()
    for host in reversed(bought.hosts):
        while_clients_write(bought, host, "upgrade", UPGRADE)
        assert versions(host) == shop.later
    assert bought.writable() == ["pg1"]


def test_4_the_earlier_version_is_installed_again(bought: Cluster, shop: Shop) -> None:
    host = bought.hosts[2]
    command = shop.publisher.older(shop.suite, shop.packages.debian_version)
    while_clients_write(bought, host, "older", f"{command} </dev/null")
    assert versions(host) & shop.built == {one for one in shop.built if one.startswith(("pgpool2 ", "libpgpool"))}


def test_5_a_server_sees_the_state_of_an_hour_ago(bought: Cluster, shop: Shop) -> None:
    host = bought.hosts[1]
    host.run(shop.at(shop.early))
    seen = host.run("apt-cache policy pgpool2 | grep -c 'snapshot/'; apt-cache madison pgpool2")
    assert later(shop.packages.debian_version) not in seen
    while_clients_write(bought, host, "snapshot", shop.install_as_built)
    assert versions(host) == shop.built
    host.run(shop.at(""))


def test_6_all_upgrade_themselves_at_once(bought: Cluster, shop: Shop, project: Project) -> None:
    """unattended-upgrades, with the setting of the how-to."""
    (setting,) = of_the_how_to(project, UNATTENDED)
    together(lambda host: host.run(shop.install_as_built, seconds=900), bought.hosts)
    bought.wait_healthy(180)
    assert [versions(host) for host in bought.hosts] == [shop.built] * 3
    together(lambda host: host.run("apt-get install unattended-upgrades </dev/null"), bought.hosts)
    together(lambda host: host.put(UNATTENDED, setting), bought.hosts)
    said = together(lambda host: host.run("apt-get update; unattended-upgrade -v 2>&1", seconds=900), bought.hosts)
    assert [versions(host) for host in bought.hosts] == [shop.later] * 3, said
    bought.wait_healthy(180)
    assert bought.writable() == ["pg1"]
    assert len(set(bought.checksums().values())) == 1
