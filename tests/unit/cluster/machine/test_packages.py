"""Versions of packages, by dpkg-query."""

from __future__ import annotations

import pytest

from pgpool_cluster.ground import programs
from pgpool_cluster.ground.programs import ProgramError
from pgpool_cluster.machine import packages


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("installed 0.2.0+deb13+1", "0.2.0"),
        ("installed 0.2.0~deb12u1", "0.2.0"),
        ("installed 0.2.0-1", "0.2.0-1"),
        ("half-installed 0.2.0", ""),
        ("", ""),
    ],
)
def test_a_version_is_without_the_release_it_was_built_for(
    printed: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "run", lambda *_, **__: printed)
    assert packages.version("pgpool2-cluster") == version


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise ProgramError("dpkg-query", "no packages found")

    monkeypatch.setattr(programs, "run", run)
    assert packages.version("pgpool2-cluster") == ""
