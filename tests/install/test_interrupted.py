"""The machine crashes while dpkg is working: dpkg --configure -a completes the rest without loss or questions.

dpkg reports each state before it starts the next step; at that point, all processes are killed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.built import Built
from tests.chroot import Chroot
from tests.install.test_removal import FILES
from tests.install.test_upgrade import CONFIGURATION, EDIT, ours

from pgpool_deb.boxes.roots import Root

pytestmark = pytest.mark.thorough
DIED = """
mkfifo /tmp/words
dpkg --force-confdef --force-confold --status-fd 9 {what} 9>/tmp/words >/tmp/dpkg.log 2>&1 &
while read -r word; do
    case $word in "{moment}"*) touch /tmp/died; kill -9 -1 ;; esac
done </tmp/words
"""
"""All processes that the script has started are killed at `moment`; the script itself continues to its end."""
REPAIR = "dpkg --configure -a"
STATES = "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' '*pgpool*' | grep -v '^un '"
MOMENTS = (
    "processing: install: pgpool2",
    "status: pgpool2: half-configured",
    "status: pgpool2-cluster: half-configured",
)
"""The first is when the libraries are unpacked; dpkg may not have recorded anything about them yet."""
LATER = """
rm -rf /later; mkdir /later
for deb in {debs}; do
    dpkg-deb -R "$deb" /tree
    sed -i 's/^Version: .*/&+later/; s/(= [^)]*)/(>= 0)/g' /tree/DEBIAN/control
    dpkg-deb -b /tree /later >/dev/null
    rm -r /tree
done
"""


def whole(packages: Built) -> str:
    return f"{packages.debs} {packages.cluster_deb}"


def die(system: Chroot, what: str, moment: str) -> None:
    system.attempt(DIED.format(what=what, moment=moment))
    assert system.attempt("rm /tmp/died /tmp/words").status == 0, (
        f"{moment} did not come: {system.run('cat /tmp/dpkg.log')}"
    )


@pytest.fixture(scope="module")
def ready(server: Root, on: Callable[[Root], Chroot], packages: Built) -> Root:
    """The server with all dependencies of the packages, but without the packages."""
    system = on(server)
    system.run(f"apt-get install -y -q {whole(packages)}; apt-get purge -y -q '*pgpool*'")
    return system.frozen()


@pytest.fixture(scope="module")
def expected(ready: Root, on: Callable[[Root], Chroot], packages: Built) -> str:
    """The files of an uninterrupted installation."""
    system = on(ready)
    system.run(f"dpkg -i {whole(packages)}")
    return system.run(FILES)


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_installation_is_completed(
    ready: Root, on: Callable[[Root], Chroot], packages: Built, expected: str, moment: str
) -> None:
    system = on(ready)
    die(system, f"-i {whole(packages)}", moment)
    assert system.run(f"{STATES} | grep -vc '^ii '") != "0"
    answer = system.attended(f"{REPAIR} && dpkg -i {whole(packages)}")
    assert (answer.status, answer.questions) == (0, []), answer.output
    assert system.run(FILES).splitlines() == expected.splitlines()


@pytest.mark.parametrize("moment", ["status: pgpool2: unpacked", "status: pgpool2: half-configured"])
def test_an_upgrade_is_completed_and_keeps_edits(
    ready: Root, on: Callable[[Root], Chroot], packages: Built, moment: str
) -> None:
    system = on(ready)
    system.run(ours(packages))
    system.run(EDIT)
    edited = system.run(CONFIGURATION)
    system.run(LATER.format(debs=packages.debs))
    die(system, "-i /later/*.deb", moment)
    # The old pgpool2 needs the old library, but the new one may already be there; and a package that was being unpacked
    # has to be reinstalled, as dpkg --audit says. In both cases the same command as before completes the upgrade.
    answer = system.attended(f'{REPAIR} && [ -z "$(dpkg --audit)" ] || dpkg -i /later/*.deb')
    assert (answer.status, answer.questions) == (0, []), answer.output
    assert system.run(CONFIGURATION) == edited
    assert system.run(f"{STATES} | grep -v '^ii ' || :") == ""


def test_a_removal_is_completed(ready: Root, on: Callable[[Root], Chroot], packages: Built) -> None:
    system = on(ready)
    before = system.run(FILES)
    system.run(f"dpkg -i {whole(packages)}")
    die(system, "--purge pgpool2-cluster", "status: pgpool2-cluster: half-installed")
    # apt purges a half-installed package only at the second attempt.
    answer = system.attended(f'{REPAIR} && dpkg --purge pgpool2-cluster && apt-get purge -y -q "*pgpool*"')
    assert (answer.status, answer.questions) == (0, []), answer.output
    assert system.run(FILES).splitlines() == before.splitlines()
