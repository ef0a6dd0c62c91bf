"""The apt commands of a trial of a suite."""

from __future__ import annotations

from pgpool_deb.repository.stanzas import Stanza
from pgpool_deb.repository.trial import fault_of, offered, script


def stanza(package: str, version: str) -> Stanza:
    return Stanza.parse(f"Package: {package}\nVersion: {version}\nFilename: pool/{package}_{version}.deb")


def test_the_newest_version_is_tried_after_the_previous_one_and_debug_symbols_are_not() -> None:
    versions = ("4.7.2-50+deb13+1", "4.7.10-50+deb13+1", "4.6.1-50+deb13+1")
    stanzas = [stanza("pgpool2", version) for version in versions]
    offer = offered([*stanzas, stanza("pgpool2-dbgsym", versions[0]), stanza("libpgpool-dev", versions[0])])
    assert offer.newest == {"libpgpool-dev": versions[0], "pgpool2": versions[1]}
    assert offer.before == {"pgpool2": versions[0]}
    steps = [line for line in script(offer).splitlines() if line.startswith("$apt ")]
    assert steps == [
        "$apt update",
        f"$apt install pgpool2={versions[0]}",
        f"$apt install libpgpool-dev={versions[0]} pgpool2={versions[1]}",
        "$apt purge libpgpool-dev pgpool2",
    ]


def test_without_a_previous_version_the_newest_is_installed() -> None:
    text = script(offered([stanza("pgpool2", "4.7.2-50+deb13+1")]))
    assert "STEP install the newest version" in text
    assert "previous" not in text


APT_3 = """STEP apt reads the suite
E: of an earlier step
STEP install the newest version
The following packages have unmet dependencies:
 pgpool2 : Depends: libpq5 (>= 15) but it is not going to be installed
           Depends: pgpool2-common but it is not installable or
                    other but it is not installable
E: Unable to satisfy dependencies. Reached two conflicting assignments:
"""


def test_the_dependency_that_no_package_can_meet_is_the_fault() -> None:
    """apt 3 lists the dependencies of a rejected package too, in any order."""
    expected = "pgpool2 : Depends: pgpool2-common but it is not installable or other but it is not installable"
    assert fault_of(APT_3.splitlines()) == f"install the newest version: {expected}"


def test_a_dependency_that_could_be_met_is_the_fault_if_there_is_no_other() -> None:
    lines = ["STEP one", " pgpool2 : Depends: libpq5 (>= 18) but 17 is to be installed", "E: you have held packages"]
    assert fault_of(lines) == "one: pgpool2 : Depends: libpq5 (>= 18) but 17 is to be installed"


def test_the_first_error_of_the_last_step_is_the_fault() -> None:
    assert (
        fault_of(["STEP one", "E: old", "STEP two", "dpkg: error processing", "E: then"])
        == "two: dpkg: error processing"
    )
    assert fault_of(["STEP one"]) == "one: it failed"
    assert fault_of(["E: no root"]) == "prepare the root: no root"
