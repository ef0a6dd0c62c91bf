"""Render debian/ of pgpool2 for every pgpool-II, release and set of PostgreSQL majors that we package."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from debian.changelog import Changelog
from debian.deb822 import Deb822
from hypothesis import given
from hypothesis import strategies as st

from pgpool_deb.packages.debianize import Packaging, control_of, selected_patches, write
from pgpool_deb.packages.pgpool2 import render

TEMPLATES = Path(__file__).parents[3] / "debian-templates" / "pgpool2"
TRIXIE = Packaging(
    source="pgpool2",
    upstream_version="4.6.1",
    debian_version="4.6.1-50+deb13.1",
    release="trixie",
    release_number=13,
    distribution="trixie",
    majors=(17,),
    timestamp=1_795_305_600,
    changes=("pgpool-II 4.6.1.", "Built for trixie."),
)
BOOKWORM = replace(
    TRIXIE,
    upstream_version="4.3.5",
    debian_version="4.3.5-50+deb12.1",
    release="bookworm",
    release_number=12,
    distribution="bookworm",
    majors=(15,),
)
SID = replace(
    TRIXIE,
    upstream_version="4.7.2",
    debian_version="4.7.2-50+deb15.1",
    release="sid",
    release_number=15,
    distribution="unstable",
    majors=(18,),
)
BULLSEYE = replace(BOOKWORM, release="bullseye", release_number=11, debian_version="4.3.5-50+deb11.1", majors=(13,))
CHECKOUT = replace(
    SID, upstream_version="4.8~devel+git20261122.abc1234", debian_version="4.8~devel+git20261122.abc1234-50+deb15.1"
)
EVERY_PACKAGING = pytest.mark.parametrize(
    "packaging", [BULLSEYE, BOOKWORM, TRIXIE, SID, CHECKOUT], ids=lambda p: f"{p.release}-{p.upstream_version}"
)


def text(packaging: Packaging, name: str) -> str:
    return render(TEMPLATES, packaging)[name].content.decode()


def paragraphs(packaging: Packaging) -> dict[str, Deb822]:
    source, *binaries = Deb822.iter_paragraphs(text(packaging, "control"), use_apt_pkg=False)
    return {"source": source} | {binary["Package"]: binary for binary in binaries}


@EVERY_PACKAGING
def test_the_same_packaging_gives_the_same_bytes(packaging: Packaging) -> None:
    assert render(TEMPLATES, packaging) == render(TEMPLATES, packaging)


@EVERY_PACKAGING
def test_no_template_syntax_remains(packaging: Packaging) -> None:
    for name, file in render(TEMPLATES, packaging).items():
        assert not name.endswith(".j2")
        assert "{{" not in name
        assert not re.search(rb"\{%-? (if|for|end)", file.content), name


@EVERY_PACKAGING
def test_the_files_that_dpkg_needs_exist_and_rules_is_executable(packaging: Packaging) -> None:
    files = render(TEMPLATES, packaging)
    assert files.keys() >= {"changelog", "control", "copyright", "rules", "source/format", "patches/series"}
    assert files["rules"].mode == 0o755
    assert files["control"].mode == 0o644


@EVERY_PACKAGING
def test_the_changelog_can_be_parsed(packaging: Packaging) -> None:
    block = next(iter(Changelog(text(packaging, "changelog"), strict=True)))
    assert (str(block.version), block.distributions) == (packaging.debian_version, packaging.distribution)
    assert [line.strip() for line in block.changes() if line] == [f"* {change}" for change in packaging.changes]


def test_the_changelog_dates_from_the_timestamp_in_utc() -> None:
    assert " -- pgpool2-cluster maintainers" in text(TRIXIE, "changelog")
    assert text(TRIXIE, "changelog").rstrip().endswith("  Sun, 22 Nov 2026 00:00:00 +0000")


@pytest.mark.parametrize(
    ("upstream", "package", "soname"),
    [
        ("4.3.5", "libpgpool2", "libpcp.so.2"),
        ("4.6.7", "libpgpool2", "libpcp.so.2"),
        ("4.7.0", "libpgpool3", "libpcp.so.3"),
        ("4.7.1", "libpgpoolpcp3", "libpgpoolpcp.so.3"),
        ("4.8~devel+git20261122.abc1234", "libpgpoolpcp3", "libpgpoolpcp.so.3"),
    ],
)
def test_upstreams_soname_names_the_library_package(upstream: str, package: str, soname: str) -> None:
    packaging = replace(TRIXIE, upstream_version=upstream)
    assert package in paragraphs(packaging)
    assert text(packaging, f"{package}.symbols").startswith(f"{soname} {package} #MINVER#\n")


def test_the_library_conflicts_with_performance_co_pilots_only_while_names_collide() -> None:
    assert "libpcp3-dev" in paragraphs(TRIXIE)["libpgpool-dev"]["Conflicts"]
    assert "Conflicts" not in paragraphs(SID)["libpgpool-dev"]


def test_each_major_has_its_modules_package_and_build_dependency() -> None:
    packaging = replace(TRIXIE, majors=(15, 17))
    control = paragraphs(packaging)
    assert {"postgresql-15-pgpool2", "postgresql-17-pgpool2"} < control.keys()
    assert "postgresql-server-dev-15,\n postgresql-server-dev-17," in control["source"]["Build-Depends"]
    assert "PG_SUPPORTED_VERSIONS ?= 15 17\n" in text(packaging, "rules")
    assert "postgresql-15-pgpool2.lintian-overrides" in render(TEMPLATES, packaging)


def test_pg_buildext_comes_from_the_right_package_for_the_release() -> None:
    assert "postgresql-common-dev," in paragraphs(TRIXIE)["source"]["Build-Depends"]
    assert "postgresql-server-dev-all," in paragraphs(BOOKWORM)["source"]["Build-Depends"]


@EVERY_PACKAGING
def test_the_description_is_about_version_4_and_not_parallel_query(packaging: Packaging) -> None:
    description = paragraphs(packaging)["pgpool2"]["Description"]
    assert "pgpool-II 4 series" in description
    assert not re.search("parallel quer", description, re.IGNORECASE)


@pytest.mark.parametrize(
    ("packaging", "sockets", "state"),
    [
        (BOOKWORM, "socket_dir", "logdir"),
        (TRIXIE, "unix_socket_directories", "logdir"),
        (SID, "unix_socket_directories", "work_dir"),
    ],
)
def test_the_configuration_uses_the_parameter_names_of_its_version(
    packaging: Packaging, sockets: str, state: str
) -> None:
    settings = text(packaging, "pgpool.conf.settings")
    assert f"\n{sockets} = '/var/run/postgresql'\n" in settings
    assert f"\n{state} = '/var/log/postgresql'\n" in settings


@EVERY_PACKAGING
def test_the_series_names_exactly_the_existing_patches(packaging: Packaging) -> None:
    files = render(TEMPLATES, packaging)
    series = files["patches/series"].content.decode().split()
    assert {f"patches/{name}" for name in series} == {name for name in files if name.endswith(".patch")}
    assert "patches/series.in" not in files


@pytest.mark.parametrize(
    ("version", "expected"),
    [("4.3.5", ("always.patch", "old.patch")), ("4.4.0", ("always.patch", "new.patch")), ("4.7.2", ("always.patch",))],
)
def test_patches_are_chosen_by_upstream_version(version: str, expected: tuple[str, ...]) -> None:
    series = "# why\nalways.patch\nold.patch (<< 4.4~)\n\nnew.patch (>= 4.4~) (<< 4.7~)\n"
    assert selected_patches(series, version) == expected


@pytest.mark.parametrize("line", ["../x.patch", "a.patch (~ 4.4)", "a.patch 4.4", "a.patch (<< 4.4", "a.txt"])
def test_a_malformed_line_of_the_series_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not a patch with its versions"):
        selected_patches(line, "4.6.1")


def test_a_series_that_names_a_missing_patch_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "series.in").write_text("gone.patch\n")
    (tmp_path / "control.in").write_text("Source: pgpool2\n")
    with pytest.raises(ValueError, match=r"names missing patches: patches/gone\.patch"):
        render(tmp_path, TRIXIE)


@pytest.mark.parametrize("empty", [{"majors": ()}, {"changes": ()}])
def test_a_packaging_without_majors_or_changes_is_refused(empty: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        render(TEMPLATES, replace(TRIXIE, **empty))  # type: ignore[arg-type]


@given(majors=st.lists(st.integers(13, 30), min_size=1, unique=True).map(tuple))
def test_control_repeats_only_the_modules_paragraph(majors: tuple[int, ...]) -> None:
    control = control_of("Source: a\n\nPackage: b\n\nPackage: c-PGVERSION\nDepends: d-PGVERSION\n", majors)
    modules = "".join(f"\n\nPackage: c-{major}\nDepends: d-{major}" for major in majors)
    assert control == f"Source: a\n\nPackage: b{modules}\n"


def test_a_tree_is_written_with_its_modes_and_never_over_another(tmp_path: Path) -> None:
    destination = tmp_path / "pgpool2-4.6.1" / "debian"
    write(render(TEMPLATES, TRIXIE), destination)
    written = {path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file()}
    assert written == render(TEMPLATES, TRIXIE).keys()
    assert stat.S_IMODE((destination / "rules").stat().st_mode) == 0o755
    with pytest.raises(FileExistsError):
        write(render(TEMPLATES, TRIXIE), destination)
