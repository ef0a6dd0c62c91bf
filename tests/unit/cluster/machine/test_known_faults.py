"""`check` reports the known faults of the installed pgpool2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgpool_cluster.agent.checks import check_pgpool
from pgpool_cluster.agent.checks.checklist import Checklist
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.check import Check
from pgpool_cluster.machine import known_faults
from pgpool_cluster.node.node import Here
from pgpool_deb.ground.project import Project
from pgpool_deb.packages import known_faults as made
from pgpool_deb.packages import patches

HERE = Project(Path(__file__).parents[4])
KNOWN: dict[str, Any] = json.loads(made.table(HERE))
ALL = [patch.name for patch in patches.chosen(HERE.templates("pgpool2"), "4.6.1")]
Install = Callable[..., list[Check]]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return the output of `check` for this version of pgpool2; without `listed`, it is Debian's own."""
    monkeypatch.setattr(known_faults, "TABLE", tmp_path / "table")
    monkeypatch.setattr(paths, "PATCHES", tmp_path / "patches.json")

    def check(status: str, listed: dict[str, Any] | None = None, known: dict[str, Any] = KNOWN) -> list[Check]:
        (tmp_path / "dpkg-query").write_text(f"#!/bin/sh\nprintf '{status}'\n")
        (tmp_path / "dpkg-query").chmod(0o755)
        (tmp_path / "table").write_text(json.dumps(known))
        if listed is not None:
            (tmp_path / "patches.json").write_text(json.dumps(listed))
        here = cast("Here", SimpleNamespace(me=SimpleNamespace(name="pg1")))
        found = Checklist("pg1")
        check_pgpool.of_known_faults(here, found)
        return found.checks

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("dpkg"), "versions are compared as Debian does"
    return check


def notes(found: list[Check]) -> list[str]:
    return [str(check) for check in found if check.note]


def failed(found: list[Check]) -> list[str]:
    return [check.what for check in found if not check.ok]


def test_our_package_with_all_patches_fails_nothing_and_its_advisories_are_named(checked: Install) -> None:
    found = checked("installed 4.6.1-50+deb13+1", {"patches": ALL, "upstream": []})
    assert failed(found) == []
    (note,) = notes(found)
    assert note.startswith("note  pg1: pgpool2 4.6.1-50+deb13+1 has known advisories: CVE-2026-92867, ")
    assert "fixed in 4.7.3; install a newer pgpool2" in note
    assert "apt changelog" not in note


def test_a_missing_patch_fails_if_the_cluster_relies_on_it(checked: Install) -> None:
    there = [name for name in ALL if name not in ("one-recovery", "one-write")]
    found = checked("installed 4.6.1-50+deb13+1", {"patches": there, "left_out": {"one-recovery": "", "one-write": ""}})
    assert failed(found) == ["pgpool2 4.6.1-50+deb13+1 has the patch one-recovery"]
    assert "a second recovery can begin" in next(str(check) for check in found if not check.ok)


def test_a_patch_merged_upstream_is_not_missing(checked: Install) -> None:
    there = [name for name in ALL if name != "one-recovery"]
    found = checked("installed 4.6.1-50+deb13+1", {"patches": there, "upstream": ["one-recovery"]})
    assert failed(found) == []


@pytest.mark.parametrize(
    ("version", "faulty", "not_concerned"),
    [
        ("4.6.1-2", "heartbeat-address", ""),
        ("4.6.3-1", "backend-proof", "heartbeat-address"),
        ("4.7.2-1+b2", "backend-proof", "heartbeat-address"),
    ],
)
def test_debians_own_package_is_named_with_its_missing_patches(
    checked: Install, version: str, faulty: str, not_concerned: str
) -> None:
    found = checked(f"installed {version}")
    assert f"pgpool2 {version} has the patch {faulty}" in failed(found)
    assert f"pgpool2 {version} has the patch {not_concerned}" not in failed(found)
    (note,) = notes(found)
    assert "CVE-2026-92873" in note
    assert "Debian may have fixed them in this revision: apt changelog pgpool2" in note


def test_a_fixed_version_has_no_note(checked: Install) -> None:
    assert notes(checked("installed 4.7.3-1", {"patches": ALL})) == []
    assert len(notes(checked("installed 4.3.5-1"))) == 2


@pytest.mark.parametrize("version", ["4.3.7-1", "4.4.2-1", "4.5.2-1", "4.6.2-1", "4.6.3-1.pgdg13+1", "4.6.5-1"])
def test_unpinned_releases_are_named_too(checked: Install, version: str) -> None:
    assert "CVE-2026-92867" in notes(checked(f"installed {version}"))[-1]


def test_a_branch_with_a_backport_has_no_note(checked: Install) -> None:
    known = json.loads(json.dumps(KNOWN))
    for advisory in known["advisories"]:
        advisory["backports"] = ["4.6.6"]
    assert len(notes(checked("installed 4.6.5-1", known=known))) == 1
    assert notes(checked("installed 4.6.6-1", known=known)) == []
    assert len(notes(checked("installed 4.5.9-1", known=known))) == 2


def test_a_cve_fixed_by_a_patch_is_not_open(checked: Install) -> None:
    known = json.loads(json.dumps(KNOWN))
    known["patches"][0]["mends"] = ["CVE-2026-92867"]
    (note,) = notes(checked("installed 4.6.1-50", {"patches": ALL}, known))
    assert "CVE-2026-92867" not in note
    assert "CVE-2026-92868" in note


@pytest.mark.parametrize("status", ["", "config-files 4.6.1-2", "half-configured 4.6.1-2"])
def test_a_missing_package_is_not_a_fault(checked: Install, status: str) -> None:
    assert checked(status) == []


def test_a_note_survives_the_transfer_to_another_node() -> None:
    note = Check("pg1", "pgpool2 has known advisories", True, "CVE-1", "upgrade", note=True)
    assert Check.of(note.json) == note
    assert note.json["ok"] is True
    good = Check("pg1", "x", True, "unused", "unused")
    assert str(Check.of(good.json)) == "ok    pg1: x"


def test_the_table_is_in_the_package() -> None:
    assert any(patch["relied_on"] for patch in KNOWN["patches"])
    install = HERE.path / "debian-templates" / "pgpool2-cluster" / "pgpool2-cluster.install"
    assert f"{made.NAME} usr/share/pgpool2-cluster\n" in install.read_text()
