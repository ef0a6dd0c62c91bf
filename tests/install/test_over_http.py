"""A server without our packages installs them from a repository over HTTP, upgrades them, and goes back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.clean_root import ALONE, YES
from tests.published import Publisher, later, of_the_how_to, rebuilt
from tests.serving import web

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import keyring

HOUR = 3600
LONG_AGO = 40 * 24 * HOUR
"""Longer than the validity of a state."""
ONE = "apt-get update -q -o Dir::Etc::SourceList={} -o Dir::Etc::SourceParts=- -o APT::Get::List-Cleanup=0"
"""Makes apt query one source only, and keep the lists of the others."""
NEWER_LIST = "/etc/apt/sources.list.d/newer.list"
COMPLAINTS = ("W:", "E:", "N:", "Warning", "Notice", "Audit", "Error")
AUDITED = "apt-get update --audit >/said 2>&1 || apt-get update >/said 2>&1; cat /said"
"""bookworm's apt has no --audit."""
VERSION = "dpkg-query -W -f '${Version}' pgpool2"
PREFERENCES = "/etc/apt/preferences.d/pgpool"
UNATTENDED = "/etc/apt/apt.conf.d/52pgpool"
NEWER = f"""
mkdir -p /srv/newer/tree
dpkg-deb -R /var/cache/apt/archives/pgpool2_*.deb /srv/newer/tree
sed -i 's/^Version: .*/Version: 99-1/' /srv/newer/tree/DEBIAN/control
dpkg-deb -Znone -b /srv/newer/tree /srv/newer >/dev/null
cd /srv/newer
(dpkg-deb -f *.deb; echo Filename: $(ls *.deb); echo "SHA256: $(sha256sum *.deb | cut -d ' ' -f 1)") >Packages
echo 'deb [trusted=yes] file:/srv/newer ./' >{NEWER_LIST}
{ONE.format(NEWER_LIST)}
"""
"""Gives Debian a pgpool2 that is newer than ours."""


@dataclass(frozen=True, slots=True)
class Shop:
    """A repository with the built packages in the states `old` and `early`, and later ones in the current state."""

    publisher: Publisher
    suite: str
    old: str
    early: str
    built: str
    later: str

    @property
    def fetch(self) -> str:
        """The lines that make apt trust and read the suite."""
        return "\n".join(self.publisher.lines(self.suite)[:-1])

    @property
    def install(self) -> str:
        return self.publisher.lines(self.suite)[-1]

    def at(self, state: str) -> str:
        """Return the command that makes a server see an earlier state, by default the current one."""
        place = f"{self.publisher.url}/snapshot/{state}" if state else self.publisher.url
        return f"sed -i 's,^URIs: .*,URIs: {place},' {keyring.SOURCES}"


@pytest.fixture(scope="module")
def shop(project: Project, packages: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("shop")
    (place / "repository").mkdir()
    suite = packages.release.name
    with web(place / "repository") as url, Publisher.at(project, packages.release, place, url) as publisher:
        old, early = (publisher.publish(packages.folder, "stable", age=age) for age in (LONG_AGO, HOUR))
        publisher.publish(rebuilt(packages.folder, place / "later"), "stable")
        yield Shop(publisher, suite, old, early, packages.debian_version, later(packages.debian_version))


@pytest.fixture(scope="module")
def stranger(clean: Root, on: Callable[[Root], Chroot], project: Project, shop: Shop) -> Root:
    """A server without PostgreSQL that can install Debian's packages; with the pin, if Debian's pgpool2 is newer."""
    system = on(clean)
    system.run(f"{ALONE}{YES}apt-get update -q")
    prefer(system, project, shop)
    return system.frozen()


@pytest.fixture(scope="module")
def customer(stranger: Root, on: Callable[[Root], Chroot], shop: Shop) -> Root:
    """The server after the three lines."""
    system = on(stranger)
    answer = system.attempt(f"exec 2>&1\n{shop.fetch}\n{shop.install}", network=True)
    assert answer.status == 0, answer.output
    assert complaints(answer.output) == []
    return system.frozen()


@pytest.fixture(scope="module")
def dated(stranger: Root, on: Callable[[Root], Chroot], shop: Shop) -> Root:
    """The server with pgpool-II of an hour ago, and with lists that have a later version."""
    system = on(stranger)
    system.run(
        f"{shop.fetch}\n{shop.at(shop.early)}\napt-get update\napt-get install pgpool2\n{shop.at('')}\napt-get update",
        network=True,
    )
    assert system.run(VERSION) == shop.built
    return system.frozen()


@pytest.fixture
def reader(server: Root, on: Callable[[Root], Chroot], project: Project, shop: Shop) -> Chroot:
    """A server with the lists of Debian's archive and of our repository; with the pin, if Debian's pgpool2 is newer."""
    system = on(server)
    prefer(system, project, shop)
    system.run(f"{YES}{shop.fetch}\n{ONE.format(keyring.SOURCES)}", network=True)
    return system


def prefer(system: Chroot, project: Project, shop: Shop) -> None:
    """Write the how-to's pin if Debian's pgpool2 is newer than ours, as in forky and sid since October 2026."""
    newer = system.attempt(f"dpkg --compare-versions '{candidate(system)}' gt {shop.later}").status == 0
    if newer:
        here, _ = of_the_how_to(project, PREFERENCES)
        system.run(written(PREFERENCES, here))


def complaints(output: str) -> list[str]:
    """Return apt's complaints, except that about the format of the root's own sources.list (apt 3)."""
    lines = [line for line in output.splitlines() if line.startswith(COMPLAINTS)]
    return [line for line in lines if "modernize" not in line]


def candidate(system: Chroot) -> str:
    found = re.search(r"Candidate: (\S+)", system.run("apt-cache policy pgpool2"))
    assert found
    return found[1]


def debians(system: Chroot, shop: Shop) -> str:
    """Return Debian's version of pgpool2."""
    rows = [line.split(" | ") for line in system.run("apt-cache madison pgpool2").splitlines()]
    (version,) = {version.strip() for _, version, place in rows if shop.publisher.url not in place}
    return version


def written(path: str, content: str) -> str:
    return f"cat >{path} <<'END'\n{content}END\n"


# -- the lines to paste ------------------------------------------------------------------------------------------------


def test_the_three_lines_of_the_page_suffice_on_a_new_server(
    customer: Root, on: Callable[[Root], Chroot], shop: Shop
) -> None:
    system = on(customer)
    assert system.run(VERSION) == shop.later
    assert f"{shop.publisher.url} {shop.suite}/main" in system.run("apt-cache policy pgpool2")
    system.run("pgpoolctl --help; pg_lsclusters -h | grep main")
    assert complaints(system.run(AUDITED, network=True)) == []


def test_purging_the_repositorys_package_leaves_nothing_behind(customer: Root, on: Callable[[Root], Chroot]) -> None:
    system = on(customer)
    system.run(
        f"apt-get purge {keyring.NAME}; test ! -e {keyring.SOURCES}; test ! -e /usr/share/keyrings/{keyring.NAME}.gpg"
    )


# -- older versions and states -----------------------------------------------------------------------------------------


def test_an_older_version_is_installed_by_the_command_of_the_page(
    customer: Root, on: Callable[[Root], Chroot], shop: Shop
) -> None:
    system = on(customer)
    system.run(shop.publisher.older(shop.suite, shop.built), network=True)
    assert system.run(VERSION) == shop.built
    system.run("apt-get upgrade", network=True)
    assert system.run(VERSION) == shop.later


def test_an_older_version_is_installed_on_a_new_server(
    stranger: Root, on: Callable[[Root], Chroot], shop: Shop
) -> None:
    system = on(stranger)
    system.run(f"{shop.fetch}\napt-get update", network=True)
    assert candidate(system) == shop.later
    assert f"Inst pgpool2 ({shop.built} " in system.run(f"{shop.publisher.older(shop.suite, shop.built)} --simulate")


def test_a_server_sees_a_state_of_an_hour_ago(stranger: Root, on: Callable[[Root], Chroot], shop: Shop) -> None:
    system = on(stranger)
    answer = system.attempt(f"exec 2>&1\n{shop.fetch}\n{shop.at(shop.early)}\napt-get update", network=True)
    assert (answer.status, complaints(answer.output)) == (0, []), answer.output
    assert candidate(system) == shop.built
    assert shop.later not in system.run("apt-cache madison pgpool2")


def test_an_expired_state_is_accepted_on_request(stranger: Root, on: Callable[[Root], Chroot], shop: Shop) -> None:
    system = on(stranger)
    answer = system.attempt(f"exec 2>&1\n{shop.fetch}\n{shop.at(shop.old)}\napt-get update", network=True)
    assert "expired" in answer.output
    assert answer.status != 0
    system.run(f"echo 'Check-Valid-Until: no' >>{keyring.SOURCES}; apt-get update", network=True)
    assert candidate(system) == shop.built


# -- unattended-upgrades -----------------------------------------------------------------------------------------------


def test_unattended_upgrades_install_a_later_version_once_configured(
    dated: Root, on: Callable[[Root], Chroot], project: Project, shop: Shop
) -> None:
    system = on(dated)
    system.run("apt-get install unattended-upgrades")
    assert "pgpool2" not in system.run("unattended-upgrade --dry-run -v 2>&1", network=True)
    (setting,) = of_the_how_to(project, UNATTENDED)
    system.run(written(UNATTENDED, setting))
    output = system.run("unattended-upgrade --dry-run -v 2>&1", network=True)
    assert re.search(r"Packages that will be upgraded: .*\bpgpool2\b", output), output
    assert system.run(VERSION) == shop.built
    system.run("unattended-upgrade -v 2>&1", network=True)
    assert system.run(VERSION) == shop.later


# -- only from our repository, and from Debian again -------------------------------------------------------------------


def test_the_pin_prefers_this_repository_even_if_debian_has_a_newer_pgpool(
    reader: Chroot, project: Project, shop: Shop
) -> None:
    reader.run(f"rm -f {PREFERENCES}")
    reader.run(NEWER)
    assert candidate(reader) == "99-1"
    here, _ = of_the_how_to(project, PREFERENCES)
    reader.run(written(PREFERENCES, here))
    assert candidate(reader) == shop.later
    reader.run("apt-get install pgpool2", network=True)
    assert reader.run(VERSION) == shop.later


def test_the_other_pin_returns_a_server_to_debians_packages(reader: Chroot, project: Project, shop: Shop) -> None:
    assert debians(reader, shop) != shop.later
    reader.run("apt-get install pgpool2", network=True)
    assert reader.run(VERSION) == shop.later
    _, back = of_the_how_to(project, PREFERENCES)
    reader.run(written(PREFERENCES, back))
    assert candidate(reader) == debians(reader, shop)
    reader.run("apt-get install pgpool2")
    assert reader.run(VERSION) == debians(reader, shop)
