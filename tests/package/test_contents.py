"""The packages have the expected contents: files and their modes, dependencies, scripts, symbols, parameters."""

from __future__ import annotations

from tests.built import Built

from pgpool_deb.ground.project import Project
from pgpool_deb.runs import contents


def test_the_contents_are_the_expected_ones(packages: Built, project: Project) -> None:
    """`./invoke contents` shows the same differences; --accept records intended ones."""
    file = contents.place(project, packages.release.name, packages.version)
    assert file.exists(), f"./invoke contents --release {packages.release.name} --accept"
    result = contents.describe(contents.chosen(packages.folder))
    assert contents.compare(file.read_text(encoding="utf-8").splitlines(), result) == []
