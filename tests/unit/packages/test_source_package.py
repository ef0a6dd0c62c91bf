"""A source package knows its relations and inputs, and lays out its files for a box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.builds.shop import package

from pgpool_deb.packages.source_package import RECIPE, SourcePackage
from pgpool_deb.upstream.sources import Source


@pytest.fixture
def native() -> SourcePackage:
    return package("pgpool2-cluster", name="trixie-cluster")


@pytest.fixture
def quilt(tmp_path: Path) -> SourcePackage:
    """A package with upstream's tarball."""
    tarball = tmp_path / "download.tar.gz"
    tarball.write_bytes(b"upstream's bytes")
    return replace(package(), orig=Source("4.7.2", tarball, "gz", "ab" * 32, True, 0, "pinned", False))


def test_dependencies_are_our_tools_and_build_depends(native: SourcePackage) -> None:
    assert native.dependencies == ("ccache", "debhelper-compat (= 13)", "libpq-dev")
    assert native.binaries == ("pgpool2-cluster",)


def test_a_package_with_a_tarball_lays_it_out_under_the_name_that_dpkg_source_requires(
    quilt: SourcePackage, tmp_path: Path
) -> None:
    place = tmp_path / "in"
    quilt.lay_out(place)
    assert {path.name for path in place.iterdir()} == {"pgpool2", "pgpool2_4.7.2.orig.tar.gz", "recipe"}
    assert (place / "pgpool2_4.7.2.orig.tar.gz").read_bytes() == b"upstream's bytes"
    assert (place / "recipe").read_bytes() == RECIPE.read_bytes()
    assert (place / "recipe").stat().st_mode & 0o100, "the box runs it"
    assert (place / "pgpool2" / "debian" / "rules").stat().st_mode & 0o777 == 0o755


def test_a_native_package_lays_out_no_tarball(native: SourcePackage, tmp_path: Path) -> None:
    place = tmp_path / "in"
    native.lay_out(place)
    assert {path.name for path in place.iterdir()} == {"pgpool2-cluster", "recipe"}


def test_the_inputs_contain_the_tarball_our_files_and_the_packages_of_the_root(
    native: SourcePackage, quilt: SourcePackage
) -> None:
    own, root = {"the build recipe", "the build environment", "debian/control", "debian/rules"}, ("gcc=14",)
    assert native.inputs(root).keys() == own | {"package gcc"}
    assert quilt.inputs(root).keys() - own == {"package gcc", "pgpool-II", "the tarball of pgpool-II"}
    assert native.inputs(root)["package gcc"] == "14"
