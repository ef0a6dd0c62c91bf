"""Rows of releases.toml, the choice of releases, and errors for wrong rows."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.releases import ReleaseTable, State, machine_release

REAL = Path(__file__).parents[3] / "packaging" / "releases.toml"
PACKAGING = "[packaging]\nrevision = 50\ndate = 2026-11-22\n"
ROW = '[release.trixie]\nnumber = 13\nstate = "supported"\npostgresql = [17]\nsuites = ["trixie"]\n'


def table(tmp_path: Path, text: str) -> ReleaseTable:
    path = tmp_path / "releases.toml"
    path.write_text(text, encoding="utf-8")
    return ReleaseTable.load(path)


def test_the_projects_own_table_lists_the_four_releases_with_their_majors() -> None:
    listed = {release.name: release.postgresql for release in ReleaseTable.load(REAL).releases}
    assert listed.items() >= {"bookworm": (15,), "trixie": (17,), "forky": (18,), "sid": (18,)}.items()


def test_another_release_needs_only_another_row(tmp_path: Path) -> None:
    row = '[release.bullseye]\nnumber = 11\nstate = "archived"\npostgresql = [13]\nsuites = ["bullseye"]\n'
    bullseye = table(tmp_path, REAL.read_text(encoding="utf-8") + row).named("bullseye")
    assert (bullseye.number, bullseye.state, bullseye.postgresql) == (11, State.ARCHIVED, (13,))
    assert bullseye.distribution == "bullseye"
    assert bullseye.check_valid_until


def test_our_versions_sort_as_documented() -> None:
    """They sort above Debian's own for the same upstream version, below its next one, and by release."""
    whole = ReleaseTable.load(REAL)
    ours = [f"4.6.1-{whole.revision.of(release)}" for release in sorted(whole.releases, key=lambda r: r.number)]
    rising = ["4.6.1-2", "4.6.1-2+deb13u1", *ours, "4.6.2-1"]
    for lower, higher in pairwise(rising):
        assert subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher], check=False).returncode == 0, higher


def test_the_machines_own_release_is_the_default_and_the_stable_one_elsewhere() -> None:
    whole = ReleaseTable.load(REAL)
    assert [release.name for release in whole.select((), "bookworm")] == ["bookworm"]
    assert [release.name for release in whole.select((), "noble")] == [whole.stable.name]
    assert whole.stable.state is State.SUPPORTED


def test_releases_are_chosen_once_and_in_the_order_they_are_named() -> None:
    chosen = ReleaseTable.load(REAL).select(["sid", "trixie", "sid"], "bookworm")
    assert [release.name for release in chosen] == ["sid", "trixie"]


def test_an_unknown_release_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown release: potato") as raised:
        ReleaseTable.load(REAL).named("potato")
    assert "trixie" in raised.value.hint


def test_the_newest_supported_release_is_stable() -> None:
    whole = ReleaseTable.load(REAL)
    archived = tuple(replace(release, state=State.ARCHIVED) for release in whole.releases)
    with pytest.raises(UsageError, match="no supported release"):
        _ = replace(whole, releases=archived).stable


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (ROW, "packaging"),
        (PACKAGING, "release"),
        (PACKAGING + ROW.replace("13", '"thirteen"'), "release.trixie.number"),
        (PACKAGING + ROW.replace("supported", "cherished"), "release.trixie.state"),
        (PACKAGING + ROW.replace("[17]", "[]"), "release.trixie.postgresql"),
        (PACKAGING + ROW.replace("[17]", "[7]"), "release.trixie.postgresql.0"),
        (PACKAGING + ROW.replace('["trixie"]', '["../trixie;"]'), "release.trixie.suites.0"),
        (PACKAGING + ROW + "colour = 'red'\n", "release.trixie.colour"),
        (PACKAGING + ROW.replace("trixie]", "Trixie_X]", 1), "release.Trixie_X"),
        (PACKAGING + "[release", "releases.toml"),
    ],
)
def test_an_error_in_the_table_names_file_and_key(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(UsageError) as raised:
        table(tmp_path, text)
    assert raised.value.message.startswith(str(tmp_path / "releases.toml"))
    assert place in raised.value.message
    assert "\n" not in raised.value.message.split(":")[0]


def test_a_missing_table_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        ReleaseTable.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ID=debian\nVERSION_CODENAME=trixie\n", "trixie"),
        ('VERSION_CODENAME="trixie"\n', "trixie"),
        ("ID=debian\n", ""),
        ("# a comment\n\n", ""),
    ],
)
def test_os_release_names_the_machines_release(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(text, encoding="utf-8")
    assert machine_release(path) == name


def test_without_os_release_the_machine_has_no_release(tmp_path: Path) -> None:
    assert machine_release(tmp_path / "none") == ""
