"""The apt commands of a trial of a suite."""

from __future__ import annotations

from pgpool_deb.repository.stanzas import Stanza
from pgpool_deb.repository.trial import offered, script


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
